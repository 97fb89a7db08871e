"""Several trained runs that speak as one.

An ensemble is a `Run` that has parts. It answers with the mean of all models' distributions over
the next word, see `decoding.mean_of_distributions`; each keeps its own attention.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from show_attend_tell import config
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.images import Picture, read_image
from show_attend_tell.errors import UserError
from show_attend_tell.inference.decoding import DecodeFunction, make_decode
from show_attend_tell.inference.run import Run
from show_attend_tell.runs.inputs import load_inputs
from show_attend_tell.settings import Decode

RESULTS = Path("runs") / "ensemble"  # where the results of ensembles go
_LONGEST = 100  # characters of a folder's name

# An image as one run reads it, or as each run of an ensemble does.
Images = UInt8[np.ndarray, "S S 3"] | tuple[UInt8[np.ndarray, "S S 3"], ...]


def ensemble(runs: Sequence[Run]) -> Run:
    """An ensemble of runs; of one run, that run.

    Its settings, task and data are those of the first run. Its results go to
    `runs/ensemble/A+B`, with the names of the runs' folders; of packaged models, to
    `runs/ensemble/pretrained/A+B`.

    Raises:
      UserError: two runs have different vocabularies or tasks.
    """
    first, *others = runs
    for other in others:
        if other.task.verb != first.task.verb:
            raise UserError(
                f"{other.workdir}: a run on {other.task.noun}, {first.workdir} one on "
                f"{first.task.noun}; an ensemble has one kind"
            )
        if (other.settings.picture is None) != (first.settings.picture is None):
            raise UserError(
                f"{other.workdir} and {first.workdir}: only one of them looks at pictures beside "
                "its sentences; an ensemble has one kind"
            )
        if tuple(other.vocabulary.words) != tuple(first.vocabulary.words):
            raise UserError(
                f"{other.workdir}: its vocabulary ({len(other.vocabulary)} words) is not that of "
                f"{first.workdir} ({len(first.vocabulary)}); an ensemble needs runs that share one"
            )
    if not others:
        return first
    return dataclasses.replace(first, workdir=_folder(runs), parts=tuple(runs))


def _folder(runs: Sequence[Run]) -> Path:
    folders = [run.workdir.resolve() for run in runs]
    name = "+".join(folder.name for folder in folders)
    usual = {folder.parent for folder in folders} == {RESULTS.parent.resolve()}
    packaged = all(run.workdir.parent == RESULTS.parent / "pretrained" for run in runs)
    if not (usual or packaged) or len(set(folders)) < len(folders) or len(name) > _LONGEST:
        # It may stand for other runs, too.
        paths = "\n".join(map(str, folders))
        name = f"{name[:_LONGEST]}-{hashlib.sha256(paths.encode()).hexdigest()[:8]}"
    return RESULTS / "pretrained" / name if packaged else RESULTS / name


def contexts_of(run: Run, decoding: Decode) -> tuple[str, ...]:
    """What the steps of each run read: its own context, unless another than the first's is asked.

    Runs trained in different ways read different things, so one setting cannot fit all.
    """
    own = decoding.context == run.decoding.context
    others = (other.decoding.context if own else decoding.context for other in run.others)
    return decoding.context, *others


def decode_of(run: Run, decoding: Decode, *, per_token: bool = False) -> DecodeFunction:
    """The function that decodes a run or an ensemble, see `make_decode`."""
    models = [member.model for member in run.members]
    return make_decode(models, decoding, contexts_of(run, decoding), per_token=per_token)


def weights_of(run: Run) -> Any:
    """The parameters that the function from `decode_of` takes."""
    return tuple(member.params for member in run.members) if run.others else run.params


def inputs_of(run: Run, examples: ExampleSource) -> Any:
    """The inputs of all examples that the function from `decode_of` takes, in batches."""
    found = tuple(
        load_inputs(one.settings, one.task, examples, one.encoder, one.source_vocabulary)
        for one in run.members
    )
    return found if run.others else found[0]


def read_for(run: Run, picture: Picture) -> Images:
    """A picture as the encoders read it.

    Raises:
      UserError: it cannot be read.
    """
    read = {size: read_image(picture, size) for size in {one.image_size for one in run.members}}
    images = tuple(read[one.image_size] for one in run.members)
    return images if run.others else images[0]


def described(run: Run, decoding: Decode) -> dict[str, Any]:
    """What a score file says of the runs of an ensemble that captioned so; of one run, nothing."""
    if not run.others:
        return {}
    contexts = contexts_of(run, decoding)
    members = [
        {
            "run": str(one.workdir),
            "step": one.step,
            "seed": one.settings.seed,
            "config_digest": config.digest(one.settings),
            "context": context,
        }
        for one, context in zip(run.members, contexts, strict=True)
    ]
    return {"ensemble": members}
