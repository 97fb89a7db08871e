"""Trackers by name: Weights & Biases, trackio and MLflow.

Each belongs to a library of its own, which is imported only where the tracker is asked for. A
project is called `PROJECT` there, unless the library's own environment variable names another.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from show_attend_tell.errors import UserError, installing
from show_attend_tell.integrations.mlflow_tracker import MLflow
from show_attend_tell.integrations.trackio_tracker import Trackio
from show_attend_tell.integrations.wandb_tracker import WeightsAndBiases
from show_attend_tell.runs.tracking import Tracker

# Which trackers may show pictures of the data set; `local`: those that keep them on this machine.
PICTURES = ("local", "all", "none")

_CLASSES: dict[str, Callable[[Any, str], Tracker]] = {
    kind.name: kind for kind in (WeightsAndBiases, Trackio, MLflow)
}
TRACKERS = tuple(_CLASSES)


def make_trackers(names: Sequence[str], pictures: str = "local") -> list[Tracker]:
    """Trackers that are not started yet, each once.

    Args:
      names: of `TRACKERS`.
      pictures: one of `PICTURES`.

    Raises:
      UserError: an unknown name, or a library that is not installed.
    """
    if pictures not in PICTURES:
        raise UserError(f"--tracker-pictures {pictures}: choose one of {', '.join(PICTURES)}")
    unknown = [name for name in names if name not in _CLASSES]
    if unknown:
        raise UserError(f"--tracker {unknown[0]}: choose one of {', '.join(TRACKERS)}")
    return [_CLASSES[name](_library(name), pictures) for name in dict.fromkeys(names)]


def _library(name: str) -> Any:
    """The library of a tracker, which has the same name."""
    try:
        library = importlib.import_module(name)
    except ImportError:
        library = None
    # A folder ./wandb that the library once wrote can be imported, too; it has no file.
    if getattr(library, "__file__", None) is None:
        raise UserError(f"--tracker {name}: needs the library {name}; {installing(name)}")
    return library
