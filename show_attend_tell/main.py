"""The command line: show-attend-tell VERB."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from show_attend_tell.errors import UserError

if TYPE_CHECKING:
    from show_attend_tell.evaluate import Decoding, Run

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
OVERRIDES = "Further --config.KEY=VALUE arguments override single values of the config."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit status: 0, 2 for a user's error, 130 when interrupted."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    unknown = [r for r in rest if r.startswith("-") and not r.startswith("--config.")]
    if unknown or (rest and arguments.verb == "quickstart"):
        parser.error(f"{(unknown or rest)[0]}: no such option; try {arguments.verb} --help")
    try:
        _quiet()
        arguments.run(arguments, rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        # What no module foresaw: a full disk, a folder without permission.
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "show-attend-tell",
        description="Image captioning with visual attention (Xu et al. 2015).",
        epilog="show-attend-tell VERB --help explains a verb.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            name, help=help, description=help, epilog=OVERRIDES, allow_abbrev=False
        )
        added.set_defaults(run=run)
        return added

    quickstart = verb(
        "quickstart",
        _quickstart,
        "Train, evaluate and draw attention maps on the generated data set: a few minutes.",
    )
    quickstart.epilog = None
    quickstart.add_argument("--workdir", type=Path, default=Path("runs/quickstart"))

    train = verb("train", _train, "Train an experiment, or resume it where its workdir stands.")
    train.add_argument(
        "--config", required=True, metavar="FILE.py[:VARIANT]", help="experiment file"
    )
    train.add_argument("--workdir", type=Path, required=True, help="folder of the run")

    evaluate = verb("evaluate", _evaluate, "Caption a split with a trained run and score it.")
    _add_run_arguments(evaluate)
    evaluate.add_argument("--split", default="test", help="train, val or test (default: test)")

    caption = verb("caption", _caption, "Caption image files and draw their attention.")
    _add_run_arguments(caption)
    caption.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    caption.add_argument("--out", type=Path, help="folder of the pictures (default: W/captions)")

    attend = verb(
        "attend", _attend, "Dump attention maps (.npz and .png) and their statistics (JSON)."
    )
    _add_run_arguments(attend)
    attend.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="instead of a split")
    attend.add_argument("--split", default="val", help="train, val or test (default: val)")
    attend.add_argument("--num", type=int, default=16, help="images to draw (default: 16)")
    attend.add_argument("--out", type=Path, help="folder (default: W/attention)")
    return parser


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a trained run")
    parser.add_argument("--beam", type=int, help="beam size; 1 is greedy (default: the config's)")
    parser.add_argument(
        "--length-penalty", type=float, help="exponent of the length (default: the config's)"
    )


def _quiet() -> None:
    """Libraries' start-up notices are not this program's output; compiled code is kept."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax
    import platformdirs
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(platformdirs.user_cache_dir("show_attend_tell")) / "jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _train(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell import config as configs
    from show_attend_tell.train import train

    train(configs.from_file(arguments.config, overrides), arguments.workdir)


def _load(arguments: argparse.Namespace, overrides: Sequence[str]) -> tuple["Run", "Decoding"]:
    from show_attend_tell.evaluate import load_run

    run = load_run(arguments.workdir, overrides)
    changed = {"beam": arguments.beam, "length_penalty": arguments.length_penalty}
    changed = {name: value for name, value in changed.items() if value is not None}
    return run, dataclasses.replace(run.decoding, **changed)


def _evaluate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.evaluate import caption_split, score_split

    run, decoding = _load(arguments, overrides)
    examples, captions = caption_split(run, arguments.split, decoding)
    _print_scores(score_split(run, arguments.split, decoding, examples, captions))


def _print_scores(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    decoding = record["decoding"]
    table = Table(
        title=f"{record['split']}: {record['images']} images, beam {decoding['beam']}, "
        f"length penalty {decoding['length_penalty']}"
    )
    table.add_column("score")
    table.add_column("value", justify="right")
    for name, value in record["scores"].items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)


def _caption(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.evaluate import caption_files

    run, decoding = _load(arguments, overrides)
    captions = caption_files(run, arguments.images, decoding)
    folder = arguments.out or arguments.workdir / "captions"
    for path, caption in zip(arguments.images, captions, strict=True):
        picture = _draw(run, folder, path.stem, path, caption)
        print(f"{path}: {caption.text}\n    {picture}")


def _attend(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.evaluate import caption_files, caption_split

    run, decoding = _load(arguments, overrides)
    folder = arguments.out or arguments.workdir / "attention"
    if arguments.images:
        captions = caption_files(run, arguments.images, decoding)
        shown = [(path.stem, path, ()) for path in arguments.images]
    else:
        examples, captions = caption_split(run, arguments.split, decoding)
        shown = [(e.image_id, e.image, e.boxes) for e in examples]
    _dump(run, folder, shown, captions, arguments.num)


def _quickstart(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    raise NotImplementedError


if __name__ == "__main__":
    sys.exit(main())
