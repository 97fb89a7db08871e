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
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from show_attend_tell import files, hub
from show_attend_tell.data.base_task import expect
from show_attend_tell.data.images import Picture, naming, read_picture
from show_attend_tell.data.sentence_task import tidied
from show_attend_tell.data.subject import Subject
from show_attend_tell.errors import UserError
from show_attend_tell.inference import ensemble as ensembles
from show_attend_tell.inference.attention_record import AttentionRecord
from show_attend_tell.inference.captioning import (
    attention_records,
    caption_images,
)
from show_attend_tell.inference.captioning import translate as translate_sentences
from show_attend_tell.inference.ensemble import read_for
from show_attend_tell.inference.run import Run, load_run
from show_attend_tell.runs import packaged
from show_attend_tell.settings import Decode

PACKAGED = packaged.PACKAGED
_log = logging.getLogger(__name__)
# Where the results of packaged models go: apart from `runs/NAME`, which a run may be called.
RESULTS = Path("runs") / "pretrained"
HUB_RESULTS = Path("runs") / "hub"
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
        self._made = list(records)  # those of the pictures, whatever becomes of the list

    def _repr_html_(self) -> str | None:
        """The view, which needs no server: the page in a frame that can reach nothing else.

        None of an ensemble, since the view shows a single run.
        """
        if self._run.others:
            return None
        from show_attend_tell.explorer.notebook import view  # only notebooks need it
        from show_attend_tell.explorer.page import frame

        names, pictures, made = self._names, self._pictures, self._made
        shown = view(self._run, names[:VIEWED], pictures[:VIEWED], made[:VIEWED])
        count = len(made)
        note = f"<p>The first {VIEWED} of {count} pictures.</p>" if count > VIEWED else ""
        return note + frame(shown, "captions and attention", HEIGHT)


class Model(Run):
    """A run that captions pictures, or translates sentences, itself."""

    def speaking(self, language: str) -> "Model":
        """The same model in one of its languages, see `Run.speaking`."""
        return _model(super().speaking(language))

    def caption(
        self,
        pictures: Sequence[Picture | str] | np.ndarray,
        decoding: Decode | None = None,
    ) -> Captions:
        """Captions pictures, see `pretrained.caption`."""
        return caption(self, pictures, decoding)

    def translate(
        self,
        sentences: Sequence[str],
        decoding: Decode | None = None,
        picture: Picture | str | None = None,
    ) -> list[AttentionRecord]:
        """Translates sentences, see `pretrained.translate`."""
        return translate(self, sentences, decoding, picture)


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
    run: Run,
    pictures: Sequence[Picture | str] | np.ndarray,
    decoding: Decode | None = None,
) -> Captions:
    """Captions pictures: the words, and where the model looked for each token.

    Args:
      run: from `load`.
      pictures: files (JPEG, PNG, WebP, BMP, GIF), encoded images, or RGB arrays (H, W, 3) of uint8;
        or an array (N, H, W, 3).
      decoding: how to search for captions; None: as in the model's config. For another beam pass
        `dataclasses.replace(run.decoding, beam=3)`.

    Returns:
      A list with one record per picture: `text`, `tokens` (T), `alpha` (T, L) with L row by row of
      `grid`, and more. A notebook shows it as an interactive view.

    Raises:
      UserError: a picture cannot be read (the message names it), or the run translates sentences.
    """
    expect(run.task, "caption", run.workdir)
    if isinstance(pictures, str | Path | bytes) or getattr(pictures, "ndim", 4) < 4:
        raise UserError("one picture was given; give a list of pictures")
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


def translate(
    run: Run,
    sentences: Sequence[str],
    decoding: Decode | None = None,
    picture: Picture | str | None = None,
) -> list[AttentionRecord]:
    """Translates sentences: the words, and where the model looked for each token.

    A warning of the logger counts those of which only the beginning was read
    (`data.max_source_length`).

    Args:
      run: from `load`, of a model of sentences.
      sentences: to translate.
      decoding: how to search for translations; None: as in the model's config.
      picture: that all sentences describe, for a model that looks at one.

    Returns:
      One record per sentence: `text`, `tokens` (T), `source` (L), `alpha` (T, L), and more.

    Raises:
      UserError: a sentence is empty, the picture cannot be read, or the run captions pictures.
    """
    expect(run.task, "translate", run.workdir)
    decoding = decoding or run.decoding
    texts = tidied(sentences) if sentences else []
    seen = files.user_path(picture) if isinstance(picture, str) else picture
    found, cut = translate_sentences(run, texts, decoding, seen)
    if cut:
        _log.warning(
            "%d of %d sentences were cut (config.data.max_source_length)", len(cut), len(texts)
        )
    subjects = [Subject(f"sentence {i}", text=text) for i, text in enumerate(texts, 1)]
    return attention_records(run, decoding, subjects, found)


def draw(record: AttentionRecord, picture: Picture | str | None = None) -> Image.Image:
    """Draws a caption's attention over its picture. A notebook shows it; `.save(path)` stores it.

    Args:
      record: from `caption`, or from `translate`, whose alignment is drawn.
      picture: the captioned picture; none for a translation.
    """
    # Matplotlib takes long to import: not all who load a model draw.
    from show_attend_tell.reports.attention_pictures import alignment_picture, attention_picture

    if record.source:
        return alignment_picture(record)
    if picture is None:
        raise UserError(f"{record.image_id}: give the picture over which to draw")
    source = files.user_path(picture) if isinstance(picture, str) else picture
    return attention_picture(read_picture(source, 512), record)
