"""Trained models for sharing. Each is a small folder:

    weights.safetensors    the weights in half precision, and their training step
    config.json            how the model was trained and how it decodes
    vocabulary.json        its words; a translation model also has source_vocabulary.json
    centres.json           where its encoder looks, if that was measured for this model
    run.json               data of earlier runs that the weights started from, if these were others
    README.md              the model card, of packaged models and those on the Hugging Face hub
    records/, pictures/    what `push` adds for readers; nothing of it is loaded

None of the files that are loaded can contain code. `inference.run.load_run` reads such a folder
like a run's.
"""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from show_attend_tell import config, files, hub
from show_attend_tell.data.base_task import expect
from show_attend_tell.data.images import Picture, naming, read_picture
from show_attend_tell.data.subject import Subject
from show_attend_tell.errors import UserError
from show_attend_tell.files import parse_json
from show_attend_tell.inference import ensemble as ensembles
from show_attend_tell.inference.attention_record import AttentionRecord
from show_attend_tell.inference.captioning import (
    attention_records,
    caption_files,
    caption_images,
)
from show_attend_tell.inference.ensemble import read_for
from show_attend_tell.inference.run import Run, load_run
from show_attend_tell.models.captioner import split_weights
from show_attend_tell.runs import packaged
from show_attend_tell.runs.checkpoint import WEIGHTS, write_weights
from show_attend_tell.runs.folder import CENTRES, SOURCE, TARGET, RunFolder
from show_attend_tell.runs.record import without_places
from show_attend_tell.settings import Decode, Settings

# What `compare` and readers need from a run: neither weights nor pictures.
RECORDS = (
    "run.json",
    "vocabulary.json",
    "source_vocabulary.json",
    CENTRES,
    "metrics.jsonl",
    "gradient_variance.json",
    "*.captions.json",
    "*.scores.json",
    "attention/*/statistics.json",
)
PACKAGED = packaged.PACKAGED
# Where the results of packaged models go: apart from `runs/NAME`, which a run may be called.
RESULTS = Path("runs") / "pretrained"
HUB_RESULTS = Path("runs") / "hub"
# Of a repository on the hub: folders that `push` adds, and how many pictures it draws.
RECORDED, PICTURES, DRAWN = "records", "pictures", 3
# Of the view in a notebook: pictures, about 0.2 MB each, and its height in pixels.
VIEWED, HEIGHT = 24, 760


def names() -> tuple[str, ...]:
    """The models that come with the package."""
    return packaged.names(PACKAGED)


class Captions(list[AttentionRecord]):
    """Captions of pictures: a list of records, which a notebook shows as an interactive view.

    Args:
      run: that made them.
      names, pictures: what was captioned.
      records: one for each.
    """

    def __init__(
        self,
        run: Run,
        names: Sequence[str],
        pictures: Sequence[Picture],
        records: Sequence[AttentionRecord],
    ):
        super().__init__(records)
        self._run, self._names, self._pictures = run, names, pictures

    def _repr_html_(self) -> str | None:
        """The view, which needs no server: the page in a frame that can reach nothing else.

        None of an ensemble, since the view shows a single run.
        """
        if self._run.others:
            return None
        from show_attend_tell.explorer.notebook import view  # only notebooks need it
        from show_attend_tell.explorer.page import frame

        shown = view(self._run, self._names[:VIEWED], self._pictures[:VIEWED])
        more = len(self) - VIEWED
        note = f"<p>The first {VIEWED} of {len(self)} pictures.</p>" if more > 0 else ""
        return note + frame(shown, "captions and attention", HEIGHT)


class Model(Run):
    """A run that captions pictures itself."""

    def speaking(self, language: str) -> "Model":
        """The same model in one of its languages, see `Run.speaking`."""
        return _model(super().speaking(language))

    def caption(
        self, pictures: Sequence[Picture | str], decoding: Decode | None = None
    ) -> Captions:
        """Captions pictures, see `pretrained.caption`."""
        return caption(self, pictures, decoding)


def load(model: str | Path, overrides: Sequence[str] = ()) -> Model:
    """A model of the package, one in a folder (a run or an exported model), or one on the hub.

    Args:
      model: a name from `names()`, whose results go to `runs/pretrained/NAME`; a folder; or
        OWNER/NAME on the Hugging Face hub, whose results go to `runs/hub/OWNER/NAME`. A folder
        comes before the hub, unless the name begins with `hub:`. OWNER/NAME@REVISION chooses a
        branch, a tag or a commit. The extra `hub` fetches models; with HF_HUB_OFFLINE=1 those that
        were fetched before are used.
      overrides: of its config, as on the command line: `--config.decode.beam=3`.

    Raises:
      UserError: there is no such model, it cannot be fetched, or one of its files is damaged.
    """
    if str(model) in names():
        return _model(load_run(PACKAGED / model, overrides), workdir=RESULTS / model)
    folder = files.user_path(model)
    if folder.is_dir() and not str(model).startswith(hub.PREFIX):
        return _model(load_run(folder, overrides))
    name = packaged.on_hub(str(model))
    if name is not None:
        found = packaged.fetch(name)
        results = HUB_RESULTS / name.repo
        return _model(load_run(found.folder, overrides), workdir=results, origin=str(found.name))
    known = ", ".join(names()) or "none come with this version"
    raise UserError(
        f"{model}: neither a folder, nor a model of the package; name one of those ({known}), or "
        "hub:OWNER/NAME"
    )


def ensemble(models: Sequence[Run]) -> Model:
    """Models that speak as one, with the mean of their distributions over the next word.

    Args:
      models: from `load`; they share a vocabulary. The maps of captions are the first one's.

    Raises:
      UserError: their vocabularies differ.
    """
    return _model(ensembles.ensemble(models))


def _model(run: Run, **changes: Any) -> Model:
    return Model(**{f.name: getattr(run, f.name) for f in dataclasses.fields(run)} | changes)


def caption(
    run: Run, pictures: Sequence[Picture | str], decoding: Decode | None = None
) -> Captions:
    """Captions pictures: the words, and where the model looked for each token.

    Args:
      run: from `load`.
      pictures: files (JPEG, PNG, WebP, BMP, GIF), encoded images, or RGB arrays (H, W, 3) of uint8.
      decoding: how to search for captions; None: as in the model's config. For another beam pass
        `dataclasses.replace(run.decoding, beam=3)`.

    Returns:
      A list with one record per picture: `text`, `tokens` (T), `alpha` (T, L) with L row by row of
      `grid`, and more. A notebook shows it as an interactive view.

    Raises:
      UserError: a picture cannot be read (the message names it), or the run translates sentences.
    """
    expect(run.task, "caption", run.workdir)
    decoding = decoding or run.decoding
    sources = [files.user_path(p) if isinstance(p, str) else p for p in pictures]
    names = [s.name if isinstance(s, Path) else f"picture {i}" for i, s in enumerate(sources)]
    images = []
    for name, source in zip(names, sources, strict=True):
        with naming(name):
            images.append(read_for(run, source))
    found = caption_images(run, images, decoding)
    subjects = [Subject(name, source) for name, source in zip(names, sources, strict=True)]
    records = attention_records(run, decoding, subjects, found)
    asked = dataclasses.replace(run, settings=dataclasses.replace(run.settings, decode=decoding))
    return Captions(asked, names, sources, records)


def draw(record: AttentionRecord, picture: Picture | str) -> Image.Image:
    """Draws a caption's attention over its picture. A notebook shows it; `.save(path)` stores it.

    Args:
      record: from `caption`.
      picture: the captioned picture.
    """
    # Matplotlib takes long to import: not all who load a model draw.
    from show_attend_tell.reports.attention_pictures import attention_picture

    source = files.user_path(picture) if isinstance(picture, str) else picture
    return attention_picture(read_picture(source, 512), record)


def export(run: Run, folder: Path) -> int:
    """Writes a run's weights in half precision, its config and its vocabulary to `folder`.

    What was measured about its encoder goes there, too.

    The config no longer names the paths of data or the run that the weights started from, nor asks
    similar training pictures, which stay behind.

    Returns:
      The size of the weights file in bytes.

    Raises:
      UserError: the folder holds a run, or a weight does not fit half precision.
    """
    if RunFolder(folder).begun:
        raise UserError(f"{folder}: the folder of a run; export to another one")
    folder.mkdir(parents=True, exist_ok=True)
    # What is written only where a model has it must not stay from an earlier export.
    for name in packaged.OPTIONAL:
        (folder / name).unlink(missing_ok=True)
    # Without the frozen weights, which the encoder named in the config supplies.
    trained, _ = split_weights(run.model, run.params)
    write_weights(folder / WEIGHTS, trained, run.step)
    settings = config.without_origins(_shareable(run.settings))
    settings = config.replaced(settings, {"decode.neighbours": 0})
    config.save(settings, folder / "config.json")
    trained_on = RunFolder(run.workdir).trained_on() if _is_run(run) else []
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
    weights, no pictures and no paths of data.

    Returns:
      The files written.

    Raises:
      UserError: the folder holds a run, `workdir` does not, or a record is damaged.
    """
    if RunFolder(folder).begun:
        raise UserError(f"{folder}: the folder of a run; publish to another one")
    settings = _shareable(RunFolder(workdir).settings())
    folder.mkdir(parents=True, exist_ok=True)
    config.save(settings, folder / "config.json")
    written = [folder / "config.json"]
    for path in sorted(path for pattern in RECORDS for path in workdir.glob(pattern)):
        target = folder / path.relative_to(workdir)
        text = _published(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(target, text)
        written.append(target)
    return written


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
