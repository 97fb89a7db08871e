"""Giving trained models and their records to others: in a folder, or on the Hugging Face hub.

`pretrained` says what the folder of a model holds.
"""

import json
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from show_attend_tell import config, files, hub
from show_attend_tell.data.images import read_picture
from show_attend_tell.data.load import SPLITS
from show_attend_tell.errors import UserError
from show_attend_tell.files import parse_json
from show_attend_tell.inference.captioning import attention_records, caption_files
from show_attend_tell.inference.run import Run, load_run
from show_attend_tell.models.captioner import split_weights
from show_attend_tell.runs import packaged
from show_attend_tell.runs.checkpoint import WEIGHTS, write_weights
from show_attend_tell.runs.folder import CENTRES, SOURCE, TARGET, RunFolder
from show_attend_tell.runs.record import without_places
from show_attend_tell.settings import Settings

# What `compare` and readers need from a run: neither weights nor pictures.
RECORDS = (
    "run.json",
    "vocabulary.json",
    "source_vocabulary.json",
    CENTRES,
    "metrics.jsonl",
    "gradient_variance*.json",
    "*.captions.json",
    "*.scores.json",
    "attention/*/statistics.json",
)
# Of a repository on the hub: folders that `push` adds, and how many pictures it draws.
RECORDED, PICTURES, DRAWN = "records", "pictures", 3


def export(run: Run, folder: Path) -> int:
    """Writes a run's weights in half precision, its config and its vocabulary to `folder`.

    What was measured about its encoder goes there, too.

    The config no longer names the paths of data or the run that the weights started from, nor asks
    similar training pictures, which stay behind.

    Returns:
      The size of the weights file in bytes.

    Raises:
      UserError: the folder holds a run or its records, or a weight does not fit half precision.
    """
    if RunFolder(folder).begun:
        raise UserError(f"{folder}: the folder of a run; export to another one")
    if (folder / "metrics.jsonl").exists():
        raise UserError(f"{folder}: holds the records of a run; export to another folder")
    trained_on = RunFolder(run.workdir).trained_on() if _is_run(run) else []
    folder.mkdir(parents=True, exist_ok=True)
    # Without the frozen weights, which the encoder named in the config supplies.
    trained, _ = split_weights(run.model, run.params)
    write_weights(folder / WEIGHTS, trained, run.step)  # first: it refuses some weights
    # What is written only where a model has it must not stay from an earlier export.
    for name in packaged.OPTIONAL:
        (folder / name).unlink(missing_ok=True)
    settings = config.without_origins(_shareable(run.settings))
    settings = config.replaced(settings, {"decode.neighbours": 0})
    config.save(settings, folder / "config.json")
    if trained_on[:-1]:
        RunFolder(folder).update_record({"trained_on": trained_on})
    run.vocabulary.save(folder / TARGET)
    if run.source_vocabulary is not None:
        run.source_vocabulary.save(folder / SOURCE)
    if run.centres is not None:
        RunFolder(folder).record_centres(run.centres)
    return (folder / WEIGHTS).stat().st_size


def publish(workdir: Path, folder: Path) -> list[Path]:
    """Writes a run's records to `folder`, so that `compare` can make its page without the run.

    The records are config, curves, captions, scores and attention statistics. They contain no
    weights, no pictures, no paths of data and nothing about files of one's own that were attended.
    Those that the folder had of the run are replaced.

    Returns:
      The files written.

    Raises:
      UserError: the folder holds a run, or records of a run with another config; `workdir` holds
        none, or a record is damaged.
    """
    if RunFolder(folder).begun:
        raise UserError(f"{folder}: the folder of a run; publish to another one")
    settings = _shareable(RunFolder(workdir).settings())
    if RunFolder(folder).has_config and _shareable(RunFolder(folder).settings()) != settings:
        raise UserError(
            f"{folder}: holds another model or the records of another run; publish to another "
            "folder, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config.save(settings, folder / "config.json")
    written = [folder / "config.json"]
    found = {path.relative_to(workdir): path for path in _records(workdir)}
    records = {name: _published(path) for name, path in found.items() if not _of_own_files(name)}
    for path in _records(folder):
        if path.relative_to(folder) not in records:
            path.unlink()
    for path, text in records.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(target, text)
        written.append(target)
    return written


def _records(workdir: Path) -> list[Path]:
    return sorted(path for pattern in RECORDS for path in workdir.glob(pattern))


def _of_own_files(record: Path) -> bool:
    """Whether a record, relative to the run, is of maps of no split: it names its user's files."""
    folder, *inside = record.parts
    return folder == "attention" and inside[0].partition(".")[0] not in SPLITS


def _published(path: Path) -> str:
    """The content of a record as it is published."""
    try:
        text = path.read_text(encoding="utf-8")
        content = _without_places(parse_json(text)) if path.suffix == ".json" else None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: damaged ({error}); make it again, or move it away to publish the others"
        ) from error
    if content is None:
        return text
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


def push(
    workdir: Path,
    repo: str,
    *,
    overrides: Sequence[str] = (),
    weights: str = "best",
    private: bool = False,
) -> str:
    """Puts a run or an exported model on the Hugging Face hub, in one commit.

    See `write_repository` for what it holds. Log in first, with `hf auth login` or HF_TOKEN.

    Args:
      workdir: of the run.
      repo: OWNER/NAME; created if it does not exist. A model of this program there is replaced.
      overrides: of its config.
      weights: `best` or `last`.
      private: whether only its owner may see it.

    Returns:
      Its name with the commit, which `load` takes.

    Raises:
      UserError: as `write_repository`, and as `hub.upload`.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "model"
        write_repository(workdir, repo, folder, overrides=overrides, weights=weights)
        replaced = (*packaged.NEEDED, *packaged.OPTIONAL, f"{RECORDED}/", f"{PICTURES}/")
        done = hub.upload(folder, repo, private=private, needed=packaged.NEEDED, replaced=replaced)
    return str(done)


def write_repository(
    workdir: Path,
    repo: str,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    weights: str = "best",
) -> int:
    """Writes what `push` uploads: the exported model, its published records, and a model card.

    If all its data are generated, a few pictures of attention are drawn for the card. Those of
    photographs are not, since their terms do not let everybody show them.

    Args:
      workdir, repo, overrides, weights: see `push`.
      folder: to write; absent or empty.

    Returns:
      The size of the files in bytes.

    Raises:
      UserError: `repo` is no OWNER/NAME, the folder is not empty, the run has no such weights, or
        one of its files is damaged.
    """
    from show_attend_tell.reports.model_card import may_be_shown, model_card  # Matplotlib

    if not hub.is_repo(repo):
        raise UserError(f"{repo}: not the name of a repository; write OWNER/NAME")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: not empty; choose another folder")
    run = load_run(workdir, overrides, weights=weights)
    export(run, folder)
    publish(workdir, folder / RECORDED)
    drawn = _draw_examples(run, folder / PICTURES) if may_be_shown(run) else []
    paths = [path.relative_to(folder).as_posix() for path in drawn]
    files.write_text(folder / "README.md", model_card(run, repo, paths))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _draw_examples(run: Run, folder: Path) -> list[Path]:
    """Draws attention over the first test images; none if the data are no images."""
    from show_attend_tell.reports.attention_pictures import draw_attention

    examples = run.task.pictures(run.task.load("test"))
    if examples is None:
        return []
    folder.mkdir()
    drawn = []
    subjects = [run.task.subject(example) for example in islice(examples, DRAWN)]
    for batch in caption_files(run, subjects, run.decoding):
        records = attention_records(run, run.decoding, batch.subjects, batch.captions)
        for record, subject in zip(records, batch.subjects, strict=True):
            assert subject.picture is not None
            drawn.append(folder / f"{len(drawn) + 1}.png")
            draw_attention(drawn[-1], read_picture(subject.picture, 512), record)
    return drawn


def _is_run(run: Run) -> bool:
    return RunFolder(run.workdir).has_config  # a packaged model's results lie elsewhere


def _shareable(settings: Settings) -> Settings:
    """Settings that name no path of this machine; of the run that they start from, its name."""
    settings = packaged.without_files(settings, {"train.init_from"})
    [origin] = without_places([settings.train.init_from])
    return config.replaced(settings, {"train.init_from": origin})


def _without_places(content: Any) -> Any:
    """A record whose commands no longer name paths of data, of earlier runs or of a home."""
    if isinstance(content, list):
        return [_without_places(value) for value in content]
    if not isinstance(content, dict):
        return content
    content = {key: _without_places(value) for key, value in content.items()}
    if isinstance(content.get("command"), list):
        content["command"] = without_places(map(str, content["command"]))
    if isinstance(content.get("workdir"), str):
        [content["workdir"]] = without_places([content["workdir"]])
    return content
