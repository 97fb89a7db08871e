"""Orbax checkpoints of the whole training state, and of the best weights.

For export, weights also go to a safetensors file.
"""

import contextlib
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from show_attend_tell import devices, files
from show_attend_tell.errors import UserError

WEIGHTS = "weights.safetensors"
_UNTOUCHED = 3600.0  # seconds after which nobody writes an unfinished checkpoint any more
_log = logging.getLogger(__name__)


class Checkpoints:
    """Numbered checkpoints in a folder, each a pytree of arrays and a JSON record.

    A save is complete or absent (Orbax writes to a temporary name and renames). The newest `keep`
    stay. An unreadable checkpoint is reported, and the one before it is used.
    """

    def __init__(self, folder: Path, *, keep: int):
        import orbax.checkpoint as ocp  # slow to import, and exported models need none of it

        from show_attend_tell.literal import LiteralPath

        files.check_name(folder)
        _ignore_closed_loops()
        self._folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(LiteralPath(self._folder), options=options)
        self._args = ocp.args
        self._damaged: list[int] = []  # steps after the one that was restored

    def steps(self) -> list[int]:
        """The saved steps, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, arrays: Any, record: dict[str, Any]) -> None:
        """Starts to write `arrays` and the JSON-able `record`.

        Damaged checkpoints that `restore` has passed over go, and those of this step or later ones:
        training that begins again has not reached them. Orbax saves no step but after its last,
        and does not say so.

        Raises:
          UserError: it cannot be written (for example, the disk is full).
        """
        args = self._args.Composite(
            arrays=self._args.StandardSave(arrays), record=self._args.JsonSave(record)
        )
        superseded = {*self._damaged, *(saved for saved in self.steps() if saved >= step)}
        self._damaged.clear()
        try:
            for saved in sorted(superseded):
                self._manager.delete(saved)
            self._manager.save(step, args=args)
        except Exception as error:
            raise self._unwritable(error) from error

    def wait(self) -> None:
        """Blocks until all saves are on disk.

        Raises:
          UserError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritable(error) from error

    def restore(
        self, like: Any, *others: Any, warn: Callable[[str], object] = _log.warning
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest readable checkpoint as (step, arrays, record); None if there is none.

        The arrays are replicated on every device, whatever devices they were saved from.

        Args:
          like: a pytree of the same structure, shapes and dtypes as was saved.
          others: further such pytrees, tried in turn, for checkpoints of earlier versions.
          warn: called with a line for each checkpoint that cannot be read.

        Raises:
          UserError: there are checkpoints, but none can be read.
        """
        steps, reasons = self.steps(), list[str]()
        damaged: list[int] = []
        for step in reversed(steps):
            reasons = []
            for form in (like, *others):
                args = self._args.Composite(
                    arrays=self._args.StandardRestore(_abstract(form)),
                    record=self._args.JsonRestore(),
                )
                try:
                    restored = self._manager.restore(step, args=args)
                except Exception as error:  # Orbax and TensorStore raise many kinds
                    reasons.append(_reason(error))
                else:
                    self._damaged = damaged
                    return step, restored["arrays"], restored["record"]
            damaged.append(step)
            warn(f"warning: checkpoint {self._folder / str(step)} cannot be read: {reasons[0]}")
        if steps:
            raise UserError(
                f"{self._folder}: none of its checkpoints can be read ({reasons[0]}); they may be "
                "damaged, or belong to another config or version: put a copy of them back, or "
                "train in another --workdir"
            )
        return None

    def close(self) -> None:
        """Waits for pending writes and releases the folder."""
        self.wait()
        self._manager.close()

    def _unwritable(self, error: Exception) -> UserError:
        return UserError(
            f"{self._folder}: a checkpoint could not be written ({_reason(error)}); "
            "see to room and permissions there, or choose another --workdir: earlier checkpoints "
            "are kept"
        )


def remove_unfinished(folder: Path, *, alone: bool) -> None:
    """Removes what a killed process has left of a checkpoint that it was writing.

    Args:
      folder: of checkpoints.
      alone: whether no other process can be writing there; otherwise only what nobody has written
        to for an hour goes.
    """
    for path in folder.glob("*.orbax-checkpoint-tmp"):
        with contextlib.suppress(OSError):  # not ours to remove, or another process was faster
            newest = max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
            if alone or time.time() > newest + _UNTOUCHED:
                shutil.rmtree(path)


@lru_cache(maxsize=1)  # once is enough
def _ignore_closed_loops() -> None:
    """Drops the tracebacks that Python would print after a failed save or restore.

    Orbax closes its event loop at the first error. TensorStore then tells the loop how its other
    reads and writes ended, which fails.
    """
    show = sys.unraisablehook

    def show_others(found: "sys.UnraisableHookArgs") -> None:
        error = found.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            show(found)

    sys.unraisablehook = show_others


def _abstract(tree: Any) -> Any:
    """Shapes and dtypes, to lie on every device."""
    # With a sharding Orbax rejects an array of another shape; without one it hands it over.
    sharding = devices.everywhere()
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _reason(error: Exception) -> str:
    """What went wrong, in a line: for an error of the system its name, else the first line."""
    stated = re.search(r"os_error_code='(\d+)'", str(error))  # of TensorStore
    number = int(stated[1]) if stated else getattr(error, "errno", None)
    if isinstance(number, int):
        return os.strerror(number)
    return str(error).strip().splitlines()[0][:200] if str(error) else repr(error)


def in_half(params: Any, source: Path) -> Any:
    """Parameters in half precision, as in exported models.

    Raises:
      UserError: a weight is not finite in half precision; the message names `source`.
    """
    arrays = {}
    for keys, value in flatten_dict(params).items():
        with np.errstate(over="ignore"):
            arrays[keys] = np.asarray(value).astype(np.float16)
        if not np.isfinite(arrays[keys]).all():
            name = ".".join(map(str, keys))
            raise UserError(f"{source}: {name} has weights beyond half precision's range")
    return unflatten_dict(arrays)


def fits_half(params: Any) -> bool:
    """Whether `in_half` accepts the parameters, so that they can be exported."""
    try:
        in_half(params, Path())
    except UserError:
        return False
    return True


def write_weights(path: Path, params: Any, step: int) -> None:
    """Writes parameters in half precision, atomically.

    Raises:
      UserError: a weight is not finite in half precision.
    """
    flat: dict[Any, Any] = dict(flatten_dict(in_half(params, path)))
    arrays = {".".join(map(str, keys)): value for keys, value in flat.items()}
    content = safetensors.numpy.save(arrays, {"step": str(step)})
    with files.replacing(path) as file:
        file.write(content)


def read_weights(path: Path, like: Any) -> tuple[int, Any]:
    """The step and the parameters that `write_weights` wrote, in float32.

    Args:
      like: parameters whose names and shapes the file must match exactly.

    Raises:
      UserError: the file is missing, damaged, or has other weights.
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            step = int((file.metadata() or {}).get("step", 0))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # AttributeError: NumPy lacks the tensor's format.
    except (OSError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        instead = files.stands_in(files.start_of(path))
        why = (
            f"it is {instead}" if instead else f"not readable weights ({error}); export them again"
        )
        raise UserError(f"{path}: {why}") from error
    flat: dict[Any, Any] = dict(flatten_dict(like))
    keys_of = {".".join(map(str, keys)): keys for keys in flat}
    shapes = {name: flat[keys].shape for name, keys in keys_of.items()}
    found = {name: value.shape for name, value in arrays.items()}
    wrong = sorted({name for name, _ in shapes.items() ^ found.items()})
    if wrong:
        raise UserError(
            f"{path}: its weights do not fit the config ({', '.join(wrong[:3])}"
            f"{', ...' if len(wrong) > 3 else ''}); export both again"
        )
    params = {keys_of[name]: value.astype(np.float32) for name, value in arrays.items()}
    return step, unflatten_dict(params)
