"""The teachers of a run (`loss.teachers`), see `objectives.distillation`."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from show_attend_tell.data.base_task import Task
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.files import listed, within
from show_attend_tell.inference.run import load_run
from show_attend_tell.models.captioner import speaking
from show_attend_tell.objectives.distillation import Teacher
from show_attend_tell.runs import packaged
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.settings import Settings
from show_attend_tell.training.warm_start import differing, identified, same_file

Origins = Sequence[Mapping[str, Any]]


def folder_of(name: str) -> Path:
    """The folder of a teacher.

    Raises:
      UserError: it is not on this machine, or has no trained weights.
    """
    known = f"or a packaged model ({', '.join(packaged.names())})"
    if packaged.on_hub(name) is not None:
        raise UserError(
            f"config.loss.teachers: {name} is no folder here; name a run's or an exported model's "
            f"folder, {known}"
        )
    folder = RunFolder(packaged.find(name))
    if folder.exported_weights is None and not (folder.path / "best").is_dir():
        raise UserError(
            f"config.loss.teachers: {name} has no weights of a trained run; train it first, or "
            f"name another run's or an exported model's folder, {known}"
        )
    return folder.path


def check(settings: Settings, task: Task) -> None:
    """Rejects teachers that read something else than the run, or attend in another way.

    Raises:
      UserError: the message names the teacher, and what differs.
    """
    for name in settings.loss.teachers:
        theirs = RunFolder(folder_of(name)).settings()
        if theirs.draws_places:
            raise UserError(
                f"config.loss.teachers: {name} has hard attention; choose teachers with soft "
                "attention"
            )
        # Words may be read by other networks; what is known of pictures is read by all.
        of_words = ("picture.", "data.source", "data.target")
        read = of_words if task.reads_words else ("encoder.", "data.languages")
        differ = differing(theirs, settings, read)
        if differ:
            raise UserError(
                f"config.loss.teachers: {name} was trained with other values of "
                f"{', '.join(differ)}, so it reads or says something else; choose another teacher, "
                "or use its values"
            )


def load(
    settings: Settings,
    task: Task,
    folder: RunFolder,
    vocabulary: AnyVocabulary,
    source: AnyVocabulary | None,
) -> tuple[tuple[Teacher, ...], Origins]:
    """The teachers, and what identifies each of them and its weights, for run.json.

    Args:
      settings: of the run that learns, with the checksums of its encoders' weights.
      task, folder: its own. A finished run needs no teachers any more.
      vocabulary: of its output.
      source: of its input, if that is text.

    Raises:
      UserError: a teacher cannot be loaded, has another vocabulary, reads other inputs, or has
        other weights than when the run began.
    """
    record = folder.record()
    if record.get("finished"):
        return (), []
    check(settings, task)
    teachers, origins = [], []
    for name in settings.loss.teachers:
        where = folder_of(name)
        run = load_run(where, same_file(where, settings))
        for theirs, ours, side in (
            (run.vocabulary, vocabulary, ""),
            (run.source_vocabulary, source, "source "),
        ):
            if theirs is not None and (ours is None or tuple(theirs.words) != tuple(ours.words)):
                raise UserError(
                    f"config.loss.teachers: the {side}vocabulary of {name} is not this run's; "
                    "choose teachers that were trained on the same data"
                )
        teachers.append(Teacher.of(speaking(run.model, None), run.params))
        seconds = RunFolder(where).record().get("seconds")
        of_weights = {"weights": _digest(run.params), "seconds": seconds}
        origins.append(identified(name, where, run) | of_weights)
    begun = listed(record, "teachers") if folder.begun else []
    for before, now in zip(begun, origins, strict=False):
        if within(before, "weights") not in (None, now["weights"]):
            raise UserError(
                f"config.loss.teachers: {now['workdir']} has other weights than when "
                f"{folder.path} began; restore them, or choose another --workdir"
            )
    return tuple(teachers), origins


def _digest(params: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]
