"""Trained models that can be handed on: a small folder each.

    weights.safetensors    the weights in half precision, and the step of training they are of
    config.json            how the model was trained and decodes
    vocabulary.json        its words; of sentences source_vocabulary.json, too
    README.md              the model card, of those that come with the package

Nothing in it can hold code. `inference.run.load_run` reads such a folder as it reads a run's.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from show_attend_tell import config, files
from show_attend_tell.data.images import Picture, read_image, read_picture
from show_attend_tell.data.task import Subject, expect
from show_attend_tell.errors import UserError
from show_attend_tell.inference.attention_record import AttentionRecord
from show_attend_tell.inference.captioning import attention_records, caption_images
from show_attend_tell.inference.run import Run, load_run
from show_attend_tell.models.captioner import split_weights
from show_attend_tell.reports.attention_pictures import attention_picture
from show_attend_tell.runs.checkpoint import WEIGHTS, write_weights
from show_attend_tell.runs.folder import SOURCE, TARGET, RunFolder
from show_attend_tell.settings import Decode

# What `compare` and a reader need of a run; neither weights nor pictures.
RECORDS = (
    "run.json",
    "vocabulary.json",
    "source_vocabulary.json",
    "metrics.jsonl",
    "gradient_variance.json",
    "*.captions.json",
    "*.scores.json",
    "attention/*/statistics.json",
)
PACKAGED = Path(__file__).parent / "pretrained_models"


def names() -> tuple[str, ...]:
    """The models that come with the package."""
    return tuple(sorted(path.parent.name for path in PACKAGED.glob(f"*/{WEIGHTS}")))


def load(model: str | Path, overrides: Sequence[str] = ()) -> Run:
    """A model that comes with the package, or one in a folder: a run or an exported model.

    Args:
      model: a name of `names()`, whose results are then written to `runs/NAME`; or the folder.
      overrides: of its config, as on the command line: `--config.decode.beam=3`.

    Raises:
      UserError: there is no such model, or a file of it is damaged.
    """
    if str(model) in names():
        return dataclasses.replace(
            load_run(PACKAGED / model, overrides), workdir=Path("runs") / model
        )
    if Path(model).is_dir():
        return load_run(Path(model), overrides)
    known = ", ".join(names()) or "none come with this version"
    raise UserError(f"{model}: neither a folder nor a model of the package ({known})")


def caption(
    run: Run, pictures: Sequence[Picture | str], decoding: Decode | None = None
) -> list[AttentionRecord]:
    """Captions pictures: the words, and for each token where the model looked.

    Args:
      run: from `load`.
      pictures: files (JPEG, PNG, WebP, BMP, GIF), encoded images, or RGB arrays (H, W, 3) of uint8.
      decoding: how captions are searched for; None is as the model's config says. For another beam
        pass `dataclasses.replace(run.decoding, beam=3)`.

    Returns:
      One record for each: `text`, `tokens` (T), `alpha` (T, L), L row by row of `grid`, and more.

    Raises:
      UserError: a picture cannot be read (it is named), or the run translates sentences.
    """
    expect(run.task, "caption", run.workdir)
    decoding = decoding or run.decoding
    sources = [Path(p) if isinstance(p, str) else p for p in pictures]
    images = [read_image(source, run.image_size) for source in sources]
    captions = caption_images(run, images, decoding)
    names = [s.name if isinstance(s, Path) else f"picture {i}" for i, s in enumerate(sources)]
    subjects = [Subject(name, source) for name, source in zip(names, sources, strict=True)]
    return attention_records(run, decoding, subjects, captions)


def draw(record: AttentionRecord, picture: Picture | str) -> Image.Image:
    """The attention of a caption over its picture, which a notebook shows; `.save(path)` keeps it.

    Args:
      record: from `caption`.
      picture: the one that it was made of.
    """
    source = Path(picture) if isinstance(picture, str) else picture
    return attention_picture(read_picture(source, 512), record)


def export(run: Run, folder: Path) -> int:
    """Writes a run's weights, in half precision, with its config and words to `folder`.

    The config no longer says where data lay on disk and which run the weights started from.

    Returns:
      The size of the weights' file in bytes.

    Raises:
      UserError: the folder holds a run, or a weight does not fit half precision.
    """
    if RunFolder(folder).begun:
        raise UserError(f"{folder}: the folder of a run; export to another one")
    folder.mkdir(parents=True, exist_ok=True)
    # Without the frozen ones, which the encoder that the config names brings along.
    trained, _ = split_weights(run.model, run.params)
    write_weights(folder / WEIGHTS, trained, run.step)
    settings = config.replaced(config.without_places(run.settings), {"train.init_from": ""})
    config.save(settings, folder / "config.json")
    run.vocabulary.save(folder / TARGET)
    if run.source_vocabulary is not None:
        run.source_vocabulary.save(folder / SOURCE)
    return (folder / WEIGHTS).stat().st_size


def publish(workdir: Path, folder: Path) -> list[Path]:
    """Writes a run's records to `folder`, from which `compare` makes its page without the run.

    The records are config, curves, captions, scores and statistics of attention: no weights, no
    pictures, and no places of data.

    Returns:
      The files written.

    Raises:
      UserError: the folder holds a run, or `workdir` does not.
    """
    if RunFolder(folder).begun:
        raise UserError(f"{folder}: the folder of a run; publish to another one")
    settings = config.without_places(RunFolder(workdir).settings())
    folder.mkdir(parents=True, exist_ok=True)
    config.save(settings, folder / "config.json")
    written = [folder / "config.json"]
    for path in sorted(path for pattern in RECORDS for path in workdir.glob(pattern)):
        target = folder / path.relative_to(workdir)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            content = _without_places(json.loads(text))
            text = json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"
        files.write_text(target, text)
        written.append(target)
    return written


def _without_places(content: Any) -> Any:
    """A record whose command does not say where files lay."""
    if not isinstance(content, dict):
        return content
    places = tuple(f"--config.{name}=" for name in (*config.PLACES, "train.init_from"))
    content = {key: _without_places(value) for key, value in content.items()}
    if isinstance(content.get("command"), list):
        content["command"] = [a for a in content["command"] if not a.startswith(places)]
    return content
