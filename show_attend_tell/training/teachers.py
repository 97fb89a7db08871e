"""The teachers of a run (`loss.teachers`), see `objectives.distillation`."""

from pathlib import Path
from typing import Any

from show_attend_tell import config
from show_attend_tell.data.base_task import Task
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.inference.run import load_run
from show_attend_tell.models.captioner import speaking
from show_attend_tell.objectives.distillation import Teacher
from show_attend_tell.runs import packaged
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.settings import Settings
from show_attend_tell.training.warm_start import identified


def folder_of(name: str) -> Path:
    """The folder of a teacher.

    Raises:
      UserError: it is not on this machine, or holds no run.
    """
    if packaged.on_hub(name) is not None:
        raise UserError(
            f"config.loss.teachers: {name} is no folder here and no packaged model "
            f"({', '.join(packaged.names())}); fetch it into a folder first"
        )
    folder = packaged.find(name)
    if not RunFolder(folder).has_config:
        raise UserError(
            f"config.loss.teachers: {name} holds no trained run; name a run's or an exported "
            f"model's folder, or a packaged model ({', '.join(packaged.names())})"
        )
    return folder


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
        read = ("picture.",) if task.reads_words else ("encoder.", "data.languages")
        differ = [
            key
            for key in config.changes(theirs, settings)
            if key.startswith(read) and key not in ("encoder.weights", "picture.weights")
        ]
        if differ:
            raise UserError(
                f"config.loss.teachers: {name} was trained with other values of "
                f"{', '.join(differ)}, so it reads other inputs; choose another teacher, or use "
                "its values"
            )


def load(
    settings: Settings, vocabulary: AnyVocabulary, source: AnyVocabulary | None
) -> tuple[tuple[Teacher, ...], list[dict[str, Any]]]:
    """The teachers, and what identifies each of them, for run.json.

    Args:
      settings: of the run that learns.
      vocabulary: of its output.
      source: of its input, if that is text.

    Raises:
      UserError: a teacher cannot be loaded, or has another vocabulary.
    """
    teachers, origins = [], []
    for name in settings.loss.teachers:
        folder = folder_of(name)
        run = load_run(folder)
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
        seconds = RunFolder(folder).record().get("seconds")
        origins.append(identified(name, folder, run) | {"seconds": seconds})
    return tuple(teachers), origins
