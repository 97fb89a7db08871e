"""What several verbs share: how they are added, and how they name a run or an experiment."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from show_attend_tell.errors import UserError
from show_attend_tell.files import user_path
from show_attend_tell.printable import printable

if TYPE_CHECKING:
    from show_attend_tell.inference.run import Run
    from show_attend_tell.reports.tables import Table
    from show_attend_tell.settings import Decode

OVERRIDES = "Further --config.KEY=VALUE arguments override single settings."
EXPERIMENT = "NAME[:VARIANT]"
EXPERIMENT_HELP = "an installed experiment, or FILE.py[:VARIANT]"

Verbs = argparse._SubParsersAction
VerbFunction = Callable[[argparse.Namespace, Sequence[str]], None]


def add_verb(
    verbs: Verbs, name: str, run: VerbFunction, help: str, *, overrides: bool = True
) -> argparse.ArgumentParser:
    """A verb's parser. `overrides`: whether it takes --config.KEY=VALUE arguments."""
    added = verbs.add_parser(
        name,
        help=help,
        description=help,
        epilog=OVERRIDES if overrides else None,
        allow_abbrev=False,
    )

    def checked(arguments: argparse.Namespace, given: Sequence[str]) -> None:
        if given and not overrides:
            raise UserError(f"{given[0]}: {name} takes no overrides")
        run(arguments, given)

    added.set_defaults(run=checked)
    return added


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """The option that names an experiment."""
    parser.add_argument("--config", required=True, metavar=EXPERIMENT, help=EXPERIMENT_HELP)


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """The option that leaves progress out."""
    parser.add_argument(
        "--quiet", action="store_true", help="show warnings, errors and results, but no progress"
    )


# Options that change one setting of `decode` each.
_DECODING: tuple[tuple[str, type, str], ...] = (
    ("beam", int, "beam size; 1 is greedy"),
    ("length_penalty", float, "exponent of the length"),
    (
        "context",
        str,
        "what a step reads: expected, argmax, sample or mixture; evaluate reports a hard run with "
        "expected or mixture, and with argmax",
    ),
    ("n_best", int, "captions to report for each input"),
    ("min_length", int, "least tokens of a caption, its end included"),
    ("no_repeat", int, "N: no caption says the same N tokens in a row twice; 0: any may"),
    ("neighbours", int, "N similar training pictures that help --consensus to choose"),
    ("groups", int, "groups of diverse beam search"),
    ("diversity", float, "nats that a word costs for each use in an earlier group"),
    ("search", str, "beam, or sample: captions drawn word by word"),
    ("temperature", float, "of sample"),
    ("top_k", int, "most probable words that sample draws from; 0: all"),
    ("top_p", float, "probability of the nucleus that sample draws from; 1: all words"),
    ("seed", int, "of what --search sample and --context sample draw"),
)


def add_trackers(parser: argparse.ArgumentParser) -> None:
    """The options that name trackers and what they may show."""
    group = parser.add_argument_group(
        "trackers",
        "metrics.jsonl and TensorBoard files are always written. Trackers get the same curves, the "
        "settings, and validation's first captions with their attention maps.",
    )
    group.add_argument(
        "--tracker",
        action="append",
        default=[],
        metavar="NAME",
        help="wandb, trackio or mlflow, each an extra of the same name; may be repeated",
    )
    group.add_argument(
        "--tracker-pictures",
        default="local",
        metavar="WHICH",
        help="trackers that may show pictures and sentences of the data set: local, those that "
        "keep them on this machine; all; or none. Many data sets may not be passed on; without "
        "them, only maps and captions are shown (default: local)",
    )


def tracker_options(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The words that `add_trackers` made of; none if there are no trackers."""
    if not arguments.tracker:
        return ()
    named = [word for name in arguments.tracker for word in ("--tracker", name)]
    return (*named, "--tracker-pictures", arguments.tracker_pictures)


def add_run(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """The options that name a trained run, or several as an ensemble, and how it decodes."""
    which = parser.add_mutually_exclusive_group(required=default is None)
    several = "; given several times, an ensemble"
    which.add_argument(
        "--workdir",
        type=user_path,
        action="append",
        help=f"folder of a trained run or an exported model{several}",
    )
    packaged = "a model that comes with the package, or OWNER/NAME[@REVISION] on the hub"
    which.add_argument(
        "--pretrained",
        metavar="NAME",
        action="append",
        help=(f"{packaged} (default: {default})" if default else packaged) + several,
    )
    parser.add_argument(
        "--language",
        metavar="CODE",
        help="of the captions, one of the run's config.data.languages (default: the first; "
        "evaluate: all)",
    )
    parser.set_defaults(otherwise=default)
    search = parser.add_argument_group(
        "how captions are searched for", "settings of config.decode; default: the config's"
    )
    for name, kind, text in _DECODING:
        metavar = {int: "N", float: "X", str: "NAME"}[kind]
        search.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)
    search.add_argument(
        "--consensus",
        action=argparse.BooleanOptionalAction,
        help="of the captions found, take that which agrees most with the others",
    )


def load(arguments: argparse.Namespace, overrides: Sequence[str]) -> tuple["Run", "Decode"]:
    """The run or ensemble named by `add_run`'s options, and its decoding settings."""
    from show_attend_tell import pretrained
    from show_attend_tell.inference.ensemble import ensemble
    from show_attend_tell.inference.run import load_run

    if arguments.workdir is not None:
        runs = [load_run(folder, overrides) for folder in arguments.workdir]
    else:
        names = arguments.pretrained or [arguments.otherwise]
        runs = [pretrained.load(name, overrides) for name in names]
    if arguments.language is not None:
        runs = [run.speaking(arguments.language) for run in runs]
    names = (*(name for name, *_ in _DECODING), "consensus")
    given = {name: getattr(arguments, name) for name in names}
    changed = {name: value for name, value in given.items() if value is not None}
    if changed.get("consensus") is False:
        changed.setdefault("neighbours", 0)
    if len(runs) == 1:
        return runs[0], _decoding_like(runs[0], changed).decoding
    # Each run checks whether it can decode like that, and reads what it is told to.
    runs = [_decoding_like(run, changed) for run in runs]
    whole = ensemble(runs)
    return whole, whole.decoding


def _decoding_like(run: "Run", changed: dict[str, Any]) -> "Run":
    """The run, decoding with the options that were given.

    Raises:
      UserError: they do not fit each other, or one would change nothing but the names of files.
    """
    decode = dataclasses.replace(run.decoding, **changed)
    # Not a check of the settings: configs may keep a value for another search.
    if "diversity" in changed and decode.groups == 1:
        raise UserError(
            f"--diversity {decode.diversity:g}: there is only one group; add --groups of at least "
            "2, or leave it out"
        )
    if "seed" in changed and "sample" not in (decode.search, decode.context):
        raise UserError(
            f"--seed {decode.seed}: nothing is drawn; add --search sample or --context sample, or "
            "leave it out"
        )
    return dataclasses.replace(run, settings=dataclasses.replace(run.settings, decode=decode))


def print_table(table: "Table", *, dense: bool = False) -> None:
    """Prints a table of `reports` with its title and its notes.

    Args:
      table: to print.
      dense: no lines between columns, so that ten fit into a narrow terminal.
    """
    from rich import box
    from rich import table as rich_tables

    from show_attend_tell.terminal import Terminal

    shown = rich_tables.Table(title=table.title)
    if dense:
        shown.box, shown.show_edge, shown.padding = box.SIMPLE_HEAD, False, 0
    for k, name in enumerate(table.head):
        shown.add_column(name, justify="right" if k else "left")
    for row in table.cells:
        shown.add_row(*(f"{cell.text} {cell.small}".strip() for cell in row))
    console = Terminal(highlight=False)
    console.print(shown)
    for note in table.notes:
        console.print(note)


def say(*lines: object, error: bool = False) -> None:
    """Prints lines, each as printable text; `error`: to the standard error."""
    for line in lines:
        print(printable(line), file=sys.stderr if error else sys.stdout, flush=True)
