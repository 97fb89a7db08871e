"""What a frozen encoder (or the image decoder) gives for a data set, computed once, kept on disk.

A cache is a folder with the rows of one array in files of at most `SHARD_ROWS` rows,
`rows-FIRST.npy`, opened as read-only memory maps, and `manifest.json`, which says what the array
was computed from. The folder's name holds a hash of that, so other weights, another size or another
version of the data set is another folder, and nothing stale is ever read. While a file is computed
it is `partial-FIRST.npy`, and `progress-FIRST.json` counts the rows that are safely on disk; it
gets its final name when it is whole. Processes of one job share the files out among them.
"""

import hashlib
import io
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int, Shaped
from numpy.lib import format as npy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from show_attend_tell import files
from show_attend_tell.data.images import read_image
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Encoder

DECODE_BATCH = 64
SHARD_ROWS = 16_384  # of 49 x 1280 half-precision numbers 2 GB
SYNC_SECONDS = 5.0


class Rows:
    """Rows of several arrays (memory maps) as if they were one array; read a few at a time.

    Attributes:
        shape, dtype, ndim: as of an array.
    """

    def __init__(self, parts: Sequence[Shaped[np.ndarray, "n ..."]]):
        self._parts = parts
        self._first = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self._first[-1]), *parts[0].shape[1:])
        self.dtype, self.ndim = parts[0].dtype, parts[0].ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int[np.ndarray, " n"]) -> Shaped[np.ndarray, "n ..."]:
        """A copy of some rows, which no other access shares."""
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        place = np.searchsorted(self._first, rows, side="right") - 1
        for k in np.unique(place):
            found[place == k] = self._parts[k][rows[place == k] - self._first[k]]
        return found


@dataclass(frozen=True)
class Cache:
    """The cached array of a split: what it is, how it is computed, and where it lies or is to lie.

    Attributes:
        folder: of its files.
        manifest: the text of `manifest.json`.
        shape: (N, ...), of the whole array.
        dtype: of its values.
        produce: computes the blocks of the rows from one number on, up to another.
    """

    folder: Path
    manifest: str
    shape: tuple[int, ...]
    dtype: np.dtype
    produce: Callable[[int, int], Iterator[np.ndarray]]

    @property
    def size(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def finished(self) -> int:
        """How many rows are on disk already."""
        rows = 0
        for shard in self._shards():
            rows += shard.rows if shard.open() is not None else shard.begun()
        return rows

    def load(self, *, progress: bool = True) -> Rows:
        """The array, whose rows are computed where they are not there yet.

        Args:
            progress: whether to show a bar with images/s.

        Raises:
            UserError: for an unreadable image, a value that is not finite in half precision, or a
                full disk. What was computed before is kept, and the next call goes on from there.
        """
        shards = self._shards()
        # Each process begins with files of its own, then waits for those of the others.
        own = slice(jax.process_index(), None, jax.process_count())
        numbers = list(range(len(shards)))
        order = [*numbers[own], *(k for k in numbers if k not in numbers[own])]
        try:
            parts: dict[int, Any] = {k: shards[k].open() for k in order}
            missing = [k for k in order if parts[k] is None]
            if missing:
                self._claim()
                rows = sum(shards[k].rows - shards[k].begun() for k in missing)  # to compute
                check_room(self.folder, rows * (self.size // self.shape[0]))
                shown = progress and jax.process_index() == 0
                with _bar(self.shape[0], self.shape[0] - rows, shown) as update:
                    for k in missing:
                        parts[k] = shards[k].made(update)
        except OSError as error:
            raise UserError(
                f"{error.filename or self.folder}: cannot keep the feature cache"
                f" ({error.strerror or error}); free some space or choose another cache folder;"
                " finished images are kept"
            ) from error
        return Rows([parts[k] for k in range(len(shards))])

    def is_described(self) -> bool:
        """Whether what lies in the folder is this array, or a part of it."""
        path = self.folder / "manifest.json"
        return path.exists() and path.read_text(encoding="utf-8") == self.manifest

    def _claim(self) -> None:
        """Makes the folder this array's; what another one left there goes."""
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
    """Refuses work whose result has no room.

    Raises:
        UserError: fewer than `need` bytes are free where `folder` lies.
    """
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{folder}: the feature cache needs {need / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are"
            " free; free some space or choose another cache folder"
        )


def annotation_cache(
    examples: Any, encoder: Encoder, cache_dir: Path, *, batch_size: int = 16
) -> Cache:
    """The cache of the annotation vectors a of all examples, (N, L, D) in half precision.

    Args:
        examples: a data set split with `ids` and `fingerprint`, in whose order the rows are.
        encoder: the frozen encoder; its `fingerprint()` keys the cache.
        cache_dir: folder of all caches.
        batch_size: images the network takes at a time.
    """
    height, width = encoder.grid
    return _cache(
        cache_dir,
        {"encoder": encoder.fingerprint(), "data": examples.fingerprint},
        examples.ids,
        (height * width, encoder.features),
        np.float16,
        lambda start, stop: _encode(examples, encoder, start, stop, batch_size),
    )


def image_cache(examples: Any, size: int, cache_dir: Path) -> Cache:
    """The cache of the images of all examples at S = `size`, (N, S, S, 3) RGB values, as a trained
    encoder takes them. Arguments are those of `annotation_cache`."""
    return _cache(
        cache_dir,
        {"encoder": {"name": "images", "image_size": size}, "data": examples.fingerprint},
        examples.ids,
        (size, size, 3),
        np.uint8,
        lambda start, stop: _decode(examples, size, start, stop, DECODE_BATCH),
    )


def _decode(
    examples: Any, size: int, start: int, stop: int, batch_size: int
) -> Iterator[np.ndarray]:
    """Images number `start` to `stop` in batches (b, S, S, 3), the next ones decoded by threads."""

    def read(index: int) -> np.ndarray:
        try:
            example = examples[index]
            image = read_image(example.image, size, example.window)
            return image[:, ::-1] if example.mirrored else image
        except Exception as error:
            why = " ".join(str(error).split())
            raise UserError(
                f"image {examples.ids[index]} of {_readable(examples.fingerprint)} cannot be"
                f" read ({why}); build the data set again"
            ) from error

    threads = min(16, os.cpu_count() or 1)
    ahead = grain.ReadOptions(threads, max(2 * batch_size, threads))
    images = grain.MapDataset.range(start, stop).map(read).to_iter_dataset(ahead)
    return iter(images.batch(batch_size))


@partial(jax.jit, static_argnums=0)
def annotate(graph: nnx.GraphDef, state: Any, images: jax.Array) -> tuple[jax.Array, ...]:
    """Annotation vectors (B, L, D) in half precision, and which images' are finite (B,)."""
    annotations = nnx.merge(graph, state)(images).astype(jnp.float16)
    return annotations, jnp.isfinite(annotations).all(axis=(1, 2))


def _encode(
    examples: Any, encoder: nnx.Module, start: int, stop: int, batch_size: int
) -> Iterator[np.ndarray]:
    """Annotation vectors (b, L, D) of images number `start` to `stop`."""
    graph, state = nnx.split(encoder)

    def fetch(first, count, annotations, finite):
        for image_id, good in zip(examples.ids[first : first + count], finite, strict=False):
            if not good:
                raise UserError(
                    f"image {image_id}: the encoder's output is not finite in half precision;"
                    " check its weights"
                )
        return np.asarray(annotations)[:count]

    # Batch n is fetched and written after batch n+1 is dispatched: the device never waits.
    dispatched = None
    for images in _decode(examples, encoder.image_size, start, stop, batch_size):
        count = len(images)
        # The last batch gets the shape of the others, so that nothing compiles twice.
        images = np.resize(images, (batch_size, *images.shape[1:]))
        following = (start, count, *annotate(graph, state, images))
        start += count
        if dispatched is not None:
            yield fetch(*dispatched)
        dispatched = following
    if dispatched is not None:
        yield fetch(*dispatched)


def _cache(
    cache_dir: Path,
    key: Mapping[str, Any],
    image_ids: list[str],
    row_shape: tuple[int, ...],
    dtype: type,
    produce: Callable[[int, int], Iterator[np.ndarray]],
) -> Cache:
    dtype, shape = np.dtype(dtype), (len(image_ids), *row_shape)
    manifest = {
        **key,
        "shape": list(shape),
        "dtype": dtype.name,
        "image_ids": list(image_ids),
    }
    text = json.dumps(manifest, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = cache_dir / f"{_readable(key['data'])}-{_readable(key['encoder'])}-{digest}"
    return Cache(folder, text, shape, dtype, produce)


@dataclass(frozen=True)
class _Shard:
    """One file of a cache."""

    cache: Cache
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
            whole = False
        if not whole:
            logging.warning("%s: does not match its manifest, it is computed again", path)
            return None
        return array

    def begun(self) -> int:
        """How many rows an earlier attempt left safely on disk; 0 where in doubt."""
        try:
            rows = int(json.loads(self._path("progress.json").read_text(encoding="utf-8"))["rows"])
            size = self._path("partial.npy").stat().st_size
            same = self.cache.is_described()
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0
        needed = len(self._header()) + rows * self._row_bytes()
        return rows if same and 0 <= rows <= self.rows and size >= needed else 0

    def made(self, update: Callable[[int], None]) -> np.ndarray:
        """The rows, computed unless another process has done so; `update` is told their number."""
        known = self.begun()  # which the bar counts already
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
        """Computes the rows, from where an earlier attempt stopped; then gives them their name."""
        header, row_bytes = self._header(), self._row_bytes()
        shape, dtype = self._shape, self.cache.dtype
        unfinished, counter = self._path("partial.npy"), self._path("progress.json")
        done = self.begun()
        if not done:
            # An old count must not vouch for rows that are about to be written.
            counter.unlink(missing_ok=True)

        # Plain writes: on a full disk a memory map would end the process with SIGBUS, without a
        # word.
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
    """A progress bar; yields the function to tell it how many more images are done."""
    columns = (
        TextColumn("Reading images" if total > start else "Finishing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, disable=not shown) as bar:
        task, done = bar.add_task("", total=total, completed=start, rate=0.0), 0

        def update(more: int) -> None:
            nonlocal done
            done += more
            rate = done / (time.monotonic() - began)
            bar.update(task, completed=start + done, rate=rate)

        yield update


def _readable(fingerprint: Any) -> str:
    """A short name for a folder or a message, out of what identifies a data set or an encoder."""
    if isinstance(fingerprint, Mapping):
        parts = [str(fingerprint[k]) for k in ("name", "split", "image_size") if k in fingerprint]
        fingerprint = "-".join(parts)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", str(fingerprint))[:60]
