"""What a frozen encoder (or the image decoder) gives for a data set, computed once, kept on disk.

A cache is a folder with one .npy array, opened as a read-only memory map, and `manifest.json`,
which says what the array was computed from. The folder's name holds a hash of that, so other
weights, another size or another version of the data set is another folder, and nothing stale is
ever read. While it is computed the array is `partial.npy` and `progress.json` counts the rows that
are safely on disk; it gets its final name when it is whole.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float16, UInt8
from numpy.lib import format as npy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from show_attend_tell import files
from show_attend_tell.encoders.base import Encoder
from show_attend_tell.errors import UserError
from show_attend_tell.images import read_image

DECODE_BATCH = 64
SYNC_SECONDS = 5.0


def cached_annotations(
    examples: Any, encoder: Encoder, cache_dir: Path, *, batch_size: int = 16, progress: bool = True
) -> Float16[np.ndarray, "N L D"]:
    """Annotation vectors a of all examples in half precision, computed where not cached yet.

    Args:
        examples: a data set split with `ids` and `fingerprint`, in whose order the rows are.
        encoder: the frozen encoder; its `fingerprint()` keys the cache.
        cache_dir: folder of all caches.
        batch_size: images the network takes at a time.
        progress: whether to show a bar with images/s.

    Returns:
        Read-only memory map (N, L, D).

    Raises:
        UserError: for an unreadable image, a value that is not finite in half precision, or a full
            disk. What was computed before is kept, and the next call goes on from there.
    """
    height, width = encoder.grid
    return _cached_array(
        cache_dir,
        {"encoder": encoder.fingerprint(), "data": examples.fingerprint},
        examples.ids,
        (height * width, encoder.features),
        np.float16,
        lambda start: _encode(examples, encoder, start, batch_size),
        progress,
    )


def decoded_images(
    examples: Any, size: int, cache_dir: Path, *, progress: bool = True
) -> UInt8[np.ndarray, "N S S 3"]:
    """Images of all examples at S = `size`, as a trainable encoder takes them.

    Arguments, cache and errors are those of `cached_annotations`.

    Returns:
        Read-only memory map (N, S, S, 3) of RGB values.
    """
    return _cached_array(
        cache_dir,
        {"encoder": {"name": "images", "image_size": size}, "data": examples.fingerprint},
        examples.ids,
        (size, size, 3),
        np.uint8,
        lambda start: _decode(examples, size, start, DECODE_BATCH),
        progress,
    )


def _decode(examples: Any, size: int, start: int, batch_size: int) -> Iterator[np.ndarray]:
    """Images from number `start` on in batches (b, S, S, 3), the next ones decoded by threads."""

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
    images = grain.MapDataset.range(start, len(examples)).map(read).to_iter_dataset(ahead)
    return iter(images.batch(batch_size))


@partial(jax.jit, static_argnums=0)
def annotate(graph: nnx.GraphDef, state: Any, images: jax.Array) -> tuple[jax.Array, ...]:
    """Annotation vectors (B, L, D) in half precision, and which images' are finite (B,)."""
    annotations = nnx.merge(graph, state)(images).astype(jnp.float16)
    return annotations, jnp.isfinite(annotations).all(axis=(1, 2))


def _encode(
    examples: Any, encoder: nnx.Module, start: int, batch_size: int
) -> Iterator[np.ndarray]:
    """Annotation vectors (b, L, D) from image `start` on."""
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
    for images in _decode(examples, encoder.image_size, start, batch_size):
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


def _cached_array(
    cache_dir: Path,
    key: Mapping[str, Any],
    image_ids: list[str],
    row_shape: tuple[int, ...],
    dtype: type,
    produce: Callable[[int], Iterator[np.ndarray]],
    progress: bool,
) -> np.ndarray:
    """The array of `key` from its cache; `produce(n)` computes the blocks from row n on."""
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
    try:
        array = _open(folder, text, shape, dtype)
        if array is None:
            folder.mkdir(parents=True, exist_ok=True)
            with files.locked(folder / "lock"):
                array = _open(folder, text, shape, dtype)  # another process may have made it
                if array is None:
                    _write(folder, text, shape, dtype, produce, progress)
                    array = _open(folder, text, shape, dtype)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot keep the feature cache"
            f" ({error.strerror or error}); free some space or choose another cache folder;"
            " finished images are kept"
        ) from error
    return array


def _open(folder: Path, manifest: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """The finished array of a folder, or None where there is none or it is not whole."""
    path = folder / "array.npy"
    if not path.exists():
        return None
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        size = array.offset + array.nbytes
        whole = array.shape == shape and array.dtype == dtype and path.stat().st_size == size
        whole = whole and (folder / "manifest.json").read_text(encoding="utf-8") == manifest
    except (ValueError, EOFError, FileNotFoundError):
        whole = False
    if not whole:
        logging.warning("%s: does not match its manifest, it is computed again", path)
        return None
    return array


def _write(
    folder: Path,
    manifest: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    produce: Callable[[int], Iterator[np.ndarray]],
    progress: bool,
) -> None:
    """Computes the array, from where an earlier attempt stopped, and gives it its final name."""
    header = io.BytesIO()
    npy.write_array_header_1_0(
        header, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    unfinished, counter = folder / "partial.npy", folder / "progress.json"

    done = _finished_rows(folder, manifest, len(header.getvalue()), row_bytes)
    need, free = (shape[0] - done) * row_bytes, shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{folder}: the feature cache needs {need / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are"
            " free; free some space or choose another cache folder"
        )
    if not done:
        # An old count must not vouch for rows that are about to be written.
        counter.unlink(missing_ok=True)
    files.write_text(folder / "manifest.json", manifest)

    # Plain writes: on a full disk a memory map would end the process with SIGBUS, without a word.
    with (
        open(unfinished, "r+b" if done else "wb") as file,
        _bar(shape[0], done, progress) as update,
    ):
        file.write(header.getvalue())
        file.truncate(file.seek(len(header.getvalue()) + done * row_bytes))

        def sync() -> None:
            os.fsync(file.fileno())
            files.write_text(counter, json.dumps({"rows": done}))

        synced = time.monotonic()
        try:
            for block in produce(done) if done < shape[0] else ():
                if block.shape[1:] != shape[1:] or block.dtype != dtype:
                    raise ValueError(f"rows {block.dtype}{block.shape[1:]}, not {dtype}{shape[1:]}")
                file.write(np.ascontiguousarray(block).data)
                file.flush()
                done += len(block)
                update(done)
                if time.monotonic() > synced + SYNC_SECONDS:
                    sync()
                    synced = time.monotonic()
        finally:
            sync()
    if done != shape[0]:
        raise ValueError(f"{done} rows were computed, not {shape[0]}")
    os.replace(unfinished, folder / "array.npy")
    counter.unlink()


def _finished_rows(folder: Path, manifest: str, header_bytes: int, row_bytes: int) -> int:
    """How many rows an earlier attempt left safely on disk; 0 where in doubt."""
    try:
        rows = int(json.loads((folder / "progress.json").read_text(encoding="utf-8"))["rows"])
        size = (folder / "partial.npy").stat().st_size
        same = (folder / "manifest.json").read_text(encoding="utf-8") == manifest
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0
    return rows if same and rows >= 0 and size >= header_bytes + rows * row_bytes else 0


@contextmanager
def _bar(total: int, start: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields the function to tell it how many images are done."""
    columns = (
        TextColumn("Reading images" if total > start else "Finishing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, disable=not shown) as bar:
        task = bar.add_task("", total=total, completed=start, rate=0.0)
        yield lambda done: bar.update(
            task, completed=done, rate=(done - start) / (time.monotonic() - began)
        )


def _readable(fingerprint: Any) -> str:
    """A short name for a folder or a message, out of what identifies a data set or an encoder."""
    if isinstance(fingerprint, Mapping):
        parts = [str(fingerprint[k]) for k in ("name", "split", "image_size") if k in fingerprint]
        fingerprint = "-".join(parts)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", str(fingerprint))[:60]
