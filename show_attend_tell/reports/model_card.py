"""The card of a model on the Hugging Face hub, generated from what its run recorded."""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from show_attend_tell import hub
from show_attend_tell.data.load import terms_of
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.split_scores import further_options, in_words
from show_attend_tell.files import parse_json
from show_attend_tell.inference.run import Run
from show_attend_tell.printable import markdown as escaped
from show_attend_tell.printable import printable
from show_attend_tell.reports import markdown
from show_attend_tell.reports.results_tables import SCORES
from show_attend_tell.runs.folder import UNKNOWN, RunFolder
from show_attend_tell.runs.record import without_places
from show_attend_tell.settings import Decode

SOURCES = "https://arxiv.org/abs/1502.03044"


def model_card(run: Run, repo: str, pictures: Sequence[str] = ()) -> str:
    """The card as Markdown, with the metadata that the hub reads.

    It says how to load the model, how it was made, the terms of its data, its scores with the
    commands that measured them, and its limits.

    Args:
      run: loaded from the folder of the run or of an exported model.
      repo: OWNER/NAME that it is for.
      pictures: paths within the repository of pictures of attention. Only those of generated data
        may be shown to anyone, see `may_be_shown`.

    Raises:
      UserError: a score file is damaged.
    """
    folder = RunFolder(run.workdir)
    record, trained_on = folder.record(), folder.trained_on()
    parts = [
        _metadata(run, trained_on, record),
        f"# {repo.partition('/')[2]}",
        _what_it_is(run),
        _usage(run, repo),
        _facts(run, record),
        _terms(run, trained_on),
        _scores(run, repo),
        _limits(run, trained_on),
    ]
    if pictures:
        shown = "\n".join(f"![Attention for each word]({path})" for path in pictures)
        parts.insert(4, f"Where it looks for each word, on generated pictures:\n\n{shown}")
    return "\n\n".join(parts) + "\n"


def may_be_shown(run: Run) -> bool:
    """Whether pictures of the run's data may be shown: they, and all that earlier runs were
    trained on, are generated.
    """
    names = [*RunFolder(run.workdir).trained_on(), run.settings.data.name]
    return all(terms_of(name).generated for name in names)


def _metadata(run: Run, trained_on: Sequence[str], record: Mapping[str, Any]) -> str:
    licences = [terms.licence for terms in map(terms_of, trained_on) if terms.licence]
    lines = ["library_name: show-attend-tell"]
    lines.append(f"pipeline_tag: {'translation' if run.task.reads_words else 'image-to-text'}")
    if licences:
        lines.append("license: other")
        named = [licence for licence in licences if licence != "other"]
        lines += [f"license_name: {named[0]}"] if named else []
    origin = hub.parsed(_origin(record)) if _origin(record).startswith(hub.PREFIX) else None
    if origin is not None:
        lines.append(f"base_model: {json.dumps(origin.repo)}")
    lines += ["tags:", *(f"- {tag}" for tag in ("jax", "flax", "visual-attention", "lstm"))]
    return "\n".join(["---", *lines, "---"])


def _what_it_is(run: Run) -> str:
    kind = "Translates sentences" if run.task.reads_words else "Captions images"
    picture = run.settings.picture
    beside = f", and {picture.kind} attention to a picture beside them" if picture else ""
    return (
        f"{kind} with {run.settings.attention.kind} attention{beside} "
        f"([Xu et al. 2015]({SOURCES})), and shows where it looked for each "
        f"{run.task.token.removesuffix('s')}. This card was generated from the records of the run."
    )


def _usage(run: Run, repo: str) -> str:
    given = "'A sentence .'" if run.task.reads_words else "photo.jpg"
    if run.settings.picture is not None:
        given += " --picture photo.jpg"
    for group in ("encoder", "picture"):  # weights of networks that the model lacks
        weights = getattr(getattr(run.settings, group), "weights", "")
        if weights:
            on_hub = hub.is_repo(weights) and not Path(weights).exists()
            given += f" --config.{group}.weights={weights if on_hub else 'FILE'}"
    lines = [
        "```bash",
        "pip install 'show-attend-tell[hub]'",
        f"show-attend-tell {run.task.verb} --pretrained {repo} {given}",
        "```",
    ]
    if not run.task.reads_words:
        lines += [
            "",
            "```python",
            "import show_attend_tell",
            "",
            f'model = show_attend_tell.load("{repo}")',
            '[seen] = model.caption(["photo.jpg"])',
            "```",
        ]
    return "\n".join(lines)


def _facts(run: Run, record: Mapping[str, Any]) -> str:
    settings, encoder = run.settings, run.settings.encoder
    trained = getattr(encoder, "trainable_from", "all")
    size = getattr(encoder, "image_size", None)
    parts = [encoder.name, f"{size} pixels" if size else "", "trained" if trained else "frozen"]
    inputs = "".join(f", {part}" for part in parts if part).removeprefix(", ")
    training = [f"step {run.step:,}", f"seed {settings.seed}"]
    used = record.get("data")
    count = used.get("train", {}).get("images") if isinstance(used, dict) else None
    if isinstance(count, int):
        training.insert(0, f"{count:,} {run.task.noun}")
    if isinstance(record.get("seconds"), int | float):
        training.append(f"{record['seconds'] / 60:.1f} minutes")
    for key in ("device", "commit"):
        if record.get(key):
            training.append(f"{'commit ' if key == 'commit' else ''}{record[key]}")
    rows = [
        ["Encoder", inputs],
        ["Decoder", f"LSTM of {settings.decoder.hidden} units, {settings.attention.score} score"],
        ["Vocabulary", f"{len(run.vocabulary):,} {run.task.token}"],
        ["Decoding", _decoding(dataclasses.asdict(settings.decode))],
        ["Training", ", ".join(training)],
    ]
    if isinstance(record.get("splits_drawn"), str):
        rows.append(["Splits", record["splits_drawn"]])
    if _origin(record):
        rows.append(["Started from", _origin(record)])
    lines = ["## How it was made", "", *markdown.table(["", ""], rows), ""]
    lines += [*_command(record, "train", "--workdir RUN", _needs_folder(run)), ""]
    lines.append(
        "`config.json` has all settings. The weights are in half precision, without those of a "
        "frozen encoder, which come from its own package or file."
    )
    return "\n".join(lines)


def _origin(record: Mapping[str, Any]) -> str:
    """The run or the model that the weights started from: a folder by its name only."""
    begun = record.get("init_from")
    name = str(begun.get("workdir") or "") if isinstance(begun, dict) else ""
    return name if name.startswith(hub.PREFIX) else Path(name).name


def _terms(run: Run, trained_on: Sequence[str]) -> str:
    lines, own = ["## Data and terms", ""], run.settings.data.name
    for name in trained_on:
        if name == UNKNOWN:
            lines.append("- An earlier run, whose data were not recorded: their terms are unknown.")
            continue
        terms = terms_of(name)
        lines.append(f"- `{escaped(name)}`: {terms.title}. {terms.text}")
        repo = getattr(run.settings.data, "repo", "") if name == own else ""
        if hub.is_dataset(repo):
            lines[-1] += f" They are those of `{escaped(repo)}` on the hub: see its card."
    lines += ["", "The model contains no example of them. The program has its own licence."]
    return "\n".join(lines)


def _scores(run: Run, repo: str) -> str:
    found = [(path, _read(path)) for path in sorted(run.workdir.glob("*.scores.json"))]
    of_run = [record for _, record in found if not record.get("overridden")]
    records = [record for record in of_run if record.get("step") == run.step]
    lines = ["## Scores", ""]
    if not records:
        return "\n".join([*lines, f"None were measured. `evaluate --pretrained {repo}` does it."])
    names = [n for n in SCORES if any(n in record["scores"] for record in records)]
    head = ["split", run.task.noun, "decoding", *names]
    lines += markdown.table(head, [_row(record, names) for record in records])
    likelihoods = (_likelihood(record) for record in records)
    lines += ["", *dict.fromkeys(line for line in likelihoods if line)]
    place = (f"--pretrained {repo}", _needs_folder(run))
    commands = dict.fromkeys(
        line for r in records for line in _command(r, "evaluate", *place)[1:-1]
    )
    return "\n".join([*lines, "", "Measured by:", "", "```bash", *commands, "```"])


def _row(record: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Split, number of examples, decoding, and the named scores."""
    split = ", ".join(filter(None, [str(record["split"]), record.get("language")]))
    cells = [split, f"{record['images']:,}", _decoding(record["decoding"])]
    for name in names:
        (unit, pattern), value = SCORES[name], record["scores"].get(name)
        cells.append("—" if value is None else pattern.format(value / unit))
    return cells


def _likelihood(record: Mapping[str, Any]) -> str:
    measured, grounding = record.get("likelihood"), record.get("grounding")
    parts = []
    if measured:
        least = "" if measured["kind"] == "exact" else "at most "
        of = " ".join(filter(None, [record["split"], record.get("language"), "references"]))
        parts.append(f"Perplexity of the {of}: {least}{measured['perplexity']:.2f}.")
    if grounding and grounding.get("prior"):
        parts.append(
            f"For {grounding['prior']['pointing']:.1%} of the phrases of human captions, the place "
            "with the largest α lies in a box of the named thing."
        )
    return " ".join(parts)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
        _row(record, tuple(SCORES))
        _likelihood(record)
        return record
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a score file; evaluate again, or remove it") from error


def _decoding(values: Mapping[str, Any]) -> str:
    penalty, further = f"{values['length_penalty']:g}", in_words(further_options(Decode(**values)))
    return f"beam {values['beam']}, length penalty {penalty}, {values['context']} context{further}"


def _needs_folder(run: Run) -> bool:
    """Whether the data of the run have to be given: they are not generated or on the hub."""
    data = run.settings.data
    return not terms_of(data.name).generated and not getattr(data, "repo", "")


def _command(record: Mapping[str, Any], verb: str, instead: str, folder: bool) -> list[str]:
    """The recorded command as a block, if it is of this verb.

    What names a run or a place of the machine goes; `instead` names the model, and FOLDER the
    reader's copy of the data, if `folder` asks for one.
    """
    words = record.get("command")
    if not isinstance(words, list) or verb not in words:
        return []
    arguments = map(str, words[words.index(verb) + 1 :])
    kept = without_places(arguments, also=("--workdir", "--pretrained"))
    asked = record.get("decoding", {}).get("neighbours")
    if asked and "--neighbours" not in kept:
        kept += ["--neighbours", str(asked)]  # an exported config asks none
    line = f"show-attend-tell {verb} {instead} {shlex.join(kept)}".strip()
    if folder:
        line += " --config.data.manual_dir=FOLDER"
    return ["```bash", printable(line), "```"]


def _limits(run: Run, trained_on: Sequence[str]) -> str:
    known = [terms_of(name) for name in trained_on]
    lines = ["## Limits", ""]
    if all(terms.generated for terms in known):
        lines.append("- It knows generated data only, and says nothing useful about others.")
    else:
        lines += [
            f"- It knows what its training data show, in {len(run.vocabulary):,} "
            f"{run.task.token}, and describes everything else in these terms.",
            "- It has the biases of its data and of the people who wrote them. Do not use it for "
            "decisions about people.",
        ]
    lines.append(
        "- Attention is part of the computation, not an explanation of it. Each map is drawn on "
        "its own scale."
    )
    if run.settings.reward.samples:
        lines.append(
            "- It was rewarded for n-grams that references share, so it repeats safe phrases."
        )
    return "\n".join(lines)
