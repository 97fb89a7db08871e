"""Arrays that are expensive to compute, kept on disk, and resumed where an attempt ended.

A cache is a folder that holds the rows of one array, in files of at most `SHARD_ROWS` rows.
`rows-FIRST.npy` is a finished file, opened as a read-only memory map. `manifest.json` says what the
array was computed from, and the folder's name has a hash of that: other sources have another
folder, so a stale array is never read. While a file is being computed it is `partial-FIRST.npy`,
and `progress-FIRST.json` counts the rows that are safely on disk. Processes of one job share the
files among them.

Symbols: N rows of the whole array; n rows of a part.
"""

import hashlib
import io
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from numpy.lib import format as npy
from numpy.typing import DTypeLike

from show_attend_tell import files
from show_attend_tell.errors import UserError
from show_attend_tell.files import parse_json

SHARD_ROWS = 16_384  # with 49 x 1280 half-precision numbers a row, 2 GB
SYNC_SECONDS = 5.0

# Computes the blocks (n, ...) of the rows from one number up to, not including, another.
Produce = Callable[[int, int], Iterator[np.ndarray]]

_log = logging.getLogger(__name__)


class Rows:
    """The rows of several arrays (memory maps) as if they were one array; reads a few at a time.

    Attributes:
      shape, dtype, ndim: as of an array.
    """

    def __init__(self, parts: Sequence[Shaped[np.ndarray, "n ..."]]):
        """Joins parts of equal dtype and row shape."""
        self._parts = parts
        self._first = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self._first[-1]), *parts[0].shape[1:])
        self.dtype, self.ndim = parts[0].dtype, parts[0].ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int[np.ndarray, " n"]) -> Shaped[np.ndarray, "n ..."]:
        """A copy of some rows, which shares no memory with others.

        Raises:
          IndexError: a row is outside 0 .. N-1.
        """
        numbers = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"rows {numbers.min()} to {numbers.max()} of {len(self)}")
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        part_of = np.searchsorted(self._first, numbers, side="right") - 1
        for k in np.unique(part_of):
            found[part_of == k] = self._parts[k][numbers[part_of == k] - self._first[k]]
        return found


class ChosenRows(Rows):
    """Some rows of an array; reads a few at a time."""

    def __init__(self, rows: Shaped[np.ndarray, "n ..."] | Rows, numbers: Int[np.ndarray, " m"]):
        """Takes the array, and which of its rows are meant."""
        self._rows, self._numbers = rows, numbers
        self.shape = (len(numbers), *rows.shape[1:])
        self.dtype, self.ndim = rows.dtype, rows.ndim

    def __getitem__(self, rows: slice | Int[np.ndarray, " n"]) -> Shaped[np.ndarray, "n ..."]:
        """A copy of some rows; see `Rows`."""
        return np.array(self._rows[self._numbers[rows]])


@dataclass(frozen=True)
class RowCache:
    """An array on disk: what it is, how it is computed, and where its files lie.

    Attributes:
      folder: of its files.
      manifest: the text of `manifest.json`.
      shape: (N, ...), of the whole array.
      dtype: of its values.
      produce: computes rows.
      process: number of this process in its job, from 0.
      processes: number of processes that compute files.
    """

    folder: Path
    manifest: str
    shape: tuple[int, ...]
    dtype: np.dtype
    produce: Produce
    process: int = 0
    processes: int = 1
    # Whether a version of `manifest.json` (inode, time of change, size) is this array's: with the
    # ids of millions of images it is too large to read for every file of rows.
    _read: dict[tuple[int, int, int], bool] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def keyed(
        cls,
        folder: Path,
        label: str,
        key: Mapping[str, Any],
        *,
        ids: Sequence[str],
        row_shape: tuple[int, ...],
        dtype: DTypeLike,
        produce: Produce,
        process: int = 0,
        processes: int = 1,
    ) -> "RowCache":
        """The cache of an array that a key identifies.

        Args:
          folder: of all caches.
          label: begins the name of this cache's folder.
          key: everything that the values depend on, except `ids`; JSON-able.
          ids: of the N rows, in order.
          row_shape: shape of a row.
          dtype, produce, process, processes: see `RowCache`.
        """
        dtype, shape = np.dtype(dtype), (len(ids), *row_shape)
        content = {**key, "shape": list(shape), "dtype": dtype.name, "image_ids": list(ids)}
        manifest = json.dumps(content, sort_keys=True)
        digest = hashlib.sha256(manifest.encode()).hexdigest()[:12]
        place = folder / f"{label}-{digest}"
        return cls(place, manifest, shape, dtype, produce, process, processes)

    @property
    def size(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def finished(self) -> int:
        """Number of rows that are on disk already."""
        rows = 0
        for shard in self._shards():
            rows += shard.rows if shard.open() is not None else shard.begun()
        return rows

    def load(self, *, progress: bool = True) -> Rows:
        """The array; computes the rows that are missing.

        Args:
          progress: whether to show a bar with images/s.

        Raises:
          UserError: the disk is full or cannot be written; or whatever `produce` raises. Finished
            rows are kept, and the next call resumes there.
        """
        shards = self._shards()
        # Each process begins with files of its own, then takes or awaits those of the others.
        numbers = range(len(shards))
        own = numbers[self.process :: self.processes]
        order = [*own, *(k for k in numbers if k not in own)]
        parts: dict[int, np.ndarray] = {}
        try:
            for k in order:
                opened = shards[k].open()
                if opened is not None:
                    parts[k] = opened
            missing = [k for k in order if k not in parts]
            if missing:
                self._claim()
                rows = sum(shards[k].rows - shards[k].begun() for k in missing)  # to compute
                check_room(self.folder, rows * (self.size // self.shape[0]))
                shown = progress and self.process == 0
                with _bar(self.shape[0], self.shape[0] - rows, shown) as update:
                    for k in missing:
                        parts[k] = shards[k].made(update)
        except OSError as error:
            raise UserError(
                f"{error.filename or self.folder}: cannot keep the feature cache"
                f" ({error.strerror or error}); see to room and permissions there, or choose"
                " another cache folder; finished images are kept"
            ) from error
        return Rows([parts[k] for k in numbers])

    def is_described(self) -> bool:
        """Whether the files in the folder are of this array."""
        path = self.folder / "manifest.json"
        try:
            stat = path.stat()
        except FileNotFoundError:
            return False
        version = stat.st_ino, stat.st_mtime_ns, stat.st_size
        if version not in self._read:
            self._read[version] = path.read_text(encoding="utf-8") == self.manifest
        return self._read[version]

    def _claim(self) -> None:
        """Makes the folder this array's, and deletes what another array left there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with files.locked(self.folder / "lock"):
            if not self.is_described():
                for path in (*self.folder.glob("*.npy"), *self.folder.glob("progress-*.json")):
                    path.unlink()
                files.write_text(self.folder / "manifest.json", self.manifest)

    def _shards(self) -> list["_Shard"]:
        starts = range(0, self.shape[0], SHARD_ROWS)
        return [_Shard(self, first, min(SHARD_ROWS, self.shape[0] - first)) for first in starts]


def check_room(folder: Path, need: int) -> None:
    """Checks that a result of `need` bytes has room where `folder` lies.

    Raises:
      UserError: fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{folder}: the feature cache needs {need / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are"
            " free; free some space or choose another cache folder"
        )


@dataclass(frozen=True)
class _Shard:
    """One file of a cache: `rows` rows from number `first` on."""

    cache: RowCache
    first: int
    rows: int

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self.rows, *self.cache.shape[1:])

    def _path(self, name: str) -> Path:
        stem, dot, suffix = name.partition(".")
        return self.cache.folder / f"{stem}-{self.first:07d}{dot}{suffix}"

    def open(self) -> np.ndarray | None:
        """The finished rows; None where there are none or the file is not whole."""
        path = self._path("rows.npy")
        if not path.exists():
            return None
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            size = array.offset + array.nbytes
            whole = array.shape == self._shape and array.dtype == self.cache.dtype
            whole = whole and path.stat().st_size == size and self.cache.is_described()
        except (AttributeError, ValueError, EOFError, FileNotFoundError):
            array, whole = None, False
        if not whole:
            _log.warning("%s: does not match its manifest; it is computed again", path)
        return array if whole else None

    def begun(self) -> int:
        """Number of rows that an earlier attempt left safely on disk; 0 when in doubt."""
        try:
            rows = int(parse_json(self._path("progress.json").read_text(encoding="utf-8"))["rows"])
            size = self._path("partial.npy").stat().st_size
            same = self.cache.is_described()
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0
        needed = len(self._header()) + rows * self._row_bytes()
        return rows if same and 0 <= rows <= self.rows and size >= needed else 0

    def made(self, update: Callable[[int], None]) -> np.ndarray:
        """The rows, computed unless another process has done so.

        Args:
          update: called with the number of rows that are new since the last call.
        """
        known = self.begun()  # rows that the bar counts already
        with files.locked(self._path("lock")):
            array = self.open()
            if array is None:
                self._write(update)
                array = self.open()
            else:
                update(self.rows - known)
        assert array is not None
        return array

    def _header(self) -> bytes:
        header, dtype = io.BytesIO(), self.cache.dtype
        content = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": self._shape}
        npy.write_array_header_1_0(header, content)
        return header.getvalue()

    def _row_bytes(self) -> int:
        return math.prod(self._shape[1:]) * self.cache.dtype.itemsize

    def _write(self, update: Callable[[int], None]) -> None:
        """Computes the rows, from where an earlier attempt stopped, and names the finished file."""
        header, row_bytes = self._header(), self._row_bytes()
        shape, dtype = self._shape, self.cache.dtype
        unfinished, counter = self._path("partial.npy"), self._path("progress.json")
        done = self.begun()
        if not done:
            # An old count must not vouch for rows that are about to be written.
            counter.unlink(missing_ok=True)

        # Plain writes: on a full disk a memory map would end the process with SIGBUS, without a
        # message.
        with open(unfinished, "r+b" if done else "wb") as file:
            file.write(header)
            file.truncate(file.seek(len(header) + done * row_bytes))

            def sync() -> None:
                os.fsync(file.fileno())
                files.write_text(counter, json.dumps({"rows": done}))

            synced = time.monotonic()
            blocks = self.cache.produce(self.first + done, self.first + self.rows)
            try:
                for block in blocks if done < self.rows else ():
                    if block.shape[1:] != shape[1:] or block.dtype != dtype:
                        got = f"{block.dtype}{block.shape[1:]}"
                        raise ValueError(f"rows {got}, not {dtype}{shape[1:]}")
                    file.write(np.ascontiguousarray(block).data)
                    file.flush()
                    done += len(block)
                    update(len(block))
                    if time.monotonic() > synced + SYNC_SECONDS:
                        sync()
                        synced = time.monotonic()
            finally:
                sync()
        if done != self.rows:
            raise ValueError(f"{done} rows were computed, not {self.rows}")
        os.replace(unfinished, self._path("rows.npy"))
        counter.unlink()


@contextmanager
def _bar(total: int, start: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields the function that adds to the number of finished images."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from show_attend_tell.terminal import Terminal

    columns = (
        TextColumn("Reading images" if total > start else "Finishing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=Terminal(stderr=True), disable=not shown) as bar:
        task, done = bar.add_task("", total=total, completed=start, rate=0.0), 0

        def update(more: int) -> None:
            nonlocal done
            done += more
            rate = done / (time.monotonic() - began)
            bar.update(task, completed=start + done, rate=rate)

        yield update
