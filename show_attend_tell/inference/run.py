"""A trained run, loaded and ready to describe images or sentences."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import nnx

from show_attend_tell import config, devices
from show_attend_tell.data import vocabulary as vocabularies
from show_attend_tell.data.base_task import Task
from show_attend_tell.data.task import task_of
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.models.captioner import (
    Captioner,
    all_weights,
    frozen_weights,
    speaking,
    trained_weights,
)
from show_attend_tell.models.encoders import Encoder, ImageEncoder
from show_attend_tell.runs.build import build_captioner, build_encoder
from show_attend_tell.runs.checkpoint import in_half, read_weights
from show_attend_tell.runs.folder import SOURCE, TARGET, RunFolder
from show_attend_tell.runs.record import provenance
from show_attend_tell.settings import Decode, Settings


@dataclasses.dataclass(frozen=True, eq=False)  # can be a key
class Run:
    """A trained run.

    Attributes:
      workdir: where results are written.
      settings, task: of its experiment.
      vocabulary: of its output.
      source_vocabulary: of its input, if that is text.
      encoder: the encoder, even if it is frozen and so not part of `model`.
      model: the structure of the model; see `fresh_weights` for initial weights.
      params: all weights that the model needs, including frozen ones.
      step: the training step at which the weights were saved.
      centres: where the encoder looks, if that was measured for this run (see
        `runs.measuring.Measured`); then `encoder` has its `shift`.
      usual_length: `decode.max_length` before overrides; None: as in `settings`.
      overridden: settings that overrides changed, by dotted name, but for those of `decode` and
        those that say where data, weights and other runs lie.
      origin: the repository on the hub that it came from, with its commit; None for other runs.
      parts: the runs of an ensemble, see `inference.ensemble`; empty for a single run. What knows
        no ensembles, such as the explorer, asks the first run only.
    """

    workdir: Path
    settings: Settings
    task: Task
    vocabulary: AnyVocabulary
    source_vocabulary: AnyVocabulary | None
    encoder: Encoder
    model: Captioner
    params: dict[str, Any]
    step: int
    centres: dict[str, Any] | None = None
    usual_length: int | None = None
    overridden: dict[str, Any] = dataclasses.field(default_factory=dict)
    origin: str | None = None
    parts: tuple["Run", ...] = ()

    def __repr__(self) -> str:
        # Not the weights, which fill a notebook.
        kind, words = self.settings.attention.kind, len(self.vocabulary)
        if self.settings.picture is not None:
            kind += f" and, to pictures, {self.settings.picture.kind}"
        where = self.origin or self.workdir.as_posix()
        return f"<Run {where}: {kind} attention, {words} {self.task.token}, step {self.step}>"

    @property
    def members(self) -> tuple["Run", ...]:
        """The runs of an ensemble; or only this run."""
        return self.parts or (self,)

    @property
    def others(self) -> tuple["Run", ...]:
        """The further runs of an ensemble; empty for a single run."""
        return self.parts[1:]

    @property
    def image_size(self) -> int:
        """Side of the square images that the encoder reads, in pixels."""
        return cast(ImageEncoder, self.encoder).image_size

    @property
    def decoding(self) -> Decode:
        """The decoding settings of its experiment."""
        return self.settings.decode

    @property
    def language(self) -> str:
        """The language that its captions are in, where it could speak others; else empty."""
        return self.task.language

    @property
    def changes(self) -> dict[str, Any]:
        """What overrides changed; for an ensemble, in any of its runs. See `overridden`."""
        return {name: value for one in self.members for name, value in one.overridden.items()}

    def speaking(self, language: str) -> "Run":
        """The same run in one of its languages.

        Raises:
          UserError: it does not speak it, or knows no languages.
        """
        task, model = self.task.speaking(language), self.model
        if task.languages:
            model = speaking(model, task.languages.index(language))
        parts = tuple(part.speaking(language) for part in self.parts)
        return dataclasses.replace(self, task=task, model=model, parts=parts)

    def provenance(self) -> dict[str, Any]:
        """What every figure of the run carries with it; see `runs.record.provenance`.

        `overridden` names the settings that were not the run's own, if there are any.
        """
        model = {"model": self.origin} if self.origin else {}
        overridden = {"overridden": sorted(self.changes)} if self.changes else {}
        return provenance(self.settings) | model | overridden


def load_run(
    workdir: Path, overrides: Sequence[str] = (), *, weights: str = "best", half: bool = True
) -> Run:
    """Loads a run, or a model that `sharing.export` wrote. It speaks its first language.

    Args:
      workdir: its folder.
      overrides: of its settings, as on the command line.
      weights: `best`, or `last` for a finished run. An exported model has only one set.
      half: whether to round weights to half precision, so that a run captions and scores exactly
        like the model exported from it.

    Raises:
      UserError: the folder holds no run, the run has no such weights yet, a file is damaged, an
        override is not understood, or a weight does not fit half precision.
    """
    folder = RunFolder(workdir)
    settings = folder.settings(overrides)
    saved = folder.settings() if overrides else settings
    vocabulary, source = vocabularies.load(workdir / TARGET), None
    task = task_of(settings.data)
    if task.reads_words:
        source = vocabularies.load(workdir / SOURCE)
    encoder = build_encoder(settings, 0 if source is None else len(source))
    centres = folder.centres()
    if centres is not None:
        cast(ImageEncoder, encoder).shift = float(centres["shift"])
    model = _structure(settings, encoder, len(vocabulary))
    step, params = _read_weights(folder, trained_weights(model), weights, half)
    run = Run(
        workdir=workdir,
        settings=settings,
        task=task,
        vocabulary=vocabulary,
        source_vocabulary=source,
        encoder=encoder,
        model=model,
        params=all_weights(params, devices.replicate(frozen_weights(model))),
        step=step,
        centres=centres,
        usual_length=saved.decode.max_length if overrides else None,
        overridden=_overridden(saved, settings),
    )
    return run.speaking(task.languages[0]) if task.languages else run


def mark_of(changes: Mapping[str, Any]) -> str:
    """What names of results end in that other settings than the run's own led to.

    So these leave the usual results as they are, and `compare` passes over them.

    Args:
      changes: by dotted name, see `Run.changes`; "-overridden=DIGEST" stands for them.

    Returns:
      The end of a name; empty if there are no changes.
    """
    if not changes:
        return ""
    values = json.dumps(dict(changes), sort_keys=True)
    return f"-overridden={hashlib.sha256(values.encode()).hexdigest()[:8]}"


def fresh_weights(run: Run) -> dict[str, Any]:
    """The weights that training began with, before its first step."""
    model = build_captioner(run.settings, run.encoder, len(run.vocabulary))
    return all_weights(trained_weights(model), run.params)


def _overridden(saved: Settings, settings: Settings) -> dict[str, Any]:
    """What overrides made of a run's saved settings, see `Run.overridden`."""
    values, places = dict(config.flatten(settings)), {*config.PLACES, *config.ORIGINS}
    changed = [name for name in config.differences(saved, settings) if name not in places]
    return {name: values[name] for name in changed if not name.startswith("decode.")}


def _structure(settings: Settings, encoder: Encoder, words: int) -> Captioner:
    """The model, without initial weights if possible: to draw them takes seconds."""
    if encoder.trained:  # its frozen stages have weights that no file holds
        return build_captioner(settings, encoder, words)
    return nnx.eval_shape(lambda: build_captioner(settings, encoder, words))


def _read_weights(
    run: RunFolder, like: dict[str, Any], which: str, half: bool
) -> tuple[int, dict[str, Any]]:
    if run.exported_weights is not None:
        return read_weights(run.exported_weights, like)
    folder = run.path / which
    remedy = "train to the end" if which == "last" else "train at least one epoch"
    if not folder.is_dir():
        raise UserError(f"{folder}: not there; {remedy} first")
    kept = run.weights(which)
    restored = kept.restore(like)
    kept.close()
    if restored is None:
        raise UserError(f"{folder}: no weights in it; {remedy} first")
    step, params, _ = restored
    if half:
        params = jax.tree.map(lambda x: x.astype(np.float32), in_half(params, folder))
    return step, params
