"""Caches of a captioner's inputs: annotation vectors of a frozen encoder, or images.

Symbols: N images, B images of a batch, b rows of a block; L, D and S as in `models.encoders.base`.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float16, UInt8

from show_attend_tell import programs
from show_attend_tell.data.examples import Example, ExampleSource
from show_attend_tell.data.images import read_image
from show_attend_tell.data.row_cache import RowCache
from show_attend_tell.errors import UserError
from show_attend_tell.models import native
from show_attend_tell.models.encoders.base import ImageEncoder
from show_attend_tell.models.encoders.pooling import pack, packed_size

DECODE_BATCH = 64


def annotation_cache(
    examples: ExampleSource[Example],
    encoder: ImageEncoder,
    cache_dir: Path,
    *,
    batch_size: int = 16,
) -> RowCache:
    """The cache of the annotation vectors a of all examples, (N, L, D) in half precision.

    It is (N, n), packed rows, if the encoder pools some sections (see `models.encoders.pooling`).
    Loading it raises UserError for an image that cannot be read, and for a value that is not finite
    in half precision.

    Args:
      examples: a split of a data set; the rows are in its order.
      encoder: the frozen encoder.
      cache_dir: folder of all caches.
      batch_size: images that the network processes at a time.
    """
    key = {"encoder": encoder.fingerprint(), "data": examples.fingerprint}
    return RowCache.keyed(
        cache_dir,
        _label(key),
        key,
        ids=examples.ids,
        row_shape=row_shape(encoder),
        dtype=np.float16,
        produce=lambda start, stop: _encode(examples, encoder, start, stop, batch_size),
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def image_cache(examples: ExampleSource[Example], size: int, cache_dir: Path) -> RowCache:
    """The cache of the images of all examples, (N, S, S, 3) RGB values 0 to 255.

    Loading it raises UserError for an image that cannot be read.

    Args:
      examples: a split of a data set; the rows are in its order.
      size: S, side of the images in pixels.
      cache_dir: folder of all caches.
    """
    key = {"encoder": {"name": "images", "image_size": size}, "data": examples.fingerprint}
    return RowCache.keyed(
        cache_dir,
        _label(key),
        key,
        ids=examples.ids,
        row_shape=(size, size, 3),
        dtype=np.uint8,
        produce=lambda start, stop: _decode(examples, size, start, stop, DECODE_BATCH),
        process=jax.process_index(),
        processes=jax.process_count(),
    )


@partial(jax.jit, static_argnums=0)
def annotate(
    graph: nnx.GraphDef, state: Any, images: UInt8[Array, "B S S 3"]
) -> tuple[Float16[Array, "B L D"], Bool[Array, " B"]]:
    """Annotation vectors of images in half precision, and whether they are finite, by image.

    Args:
      graph, state: of the encoder, as `nnx.split` returns them.
      images: RGB values 0 to 255.
    """
    annotations = nnx.merge(graph, state)(images).astype(jnp.float16)
    return annotations, jnp.isfinite(annotations).all(axis=(1, 2))


def annotate_one(
    encoder: ImageEncoder, image: UInt8[np.ndarray, "S S 3"]
) -> Float16[np.ndarray, "1 L D"]:
    """`annotate` of one image, for a process that encodes only a few: it starts much faster.

    On a CPU the network's layers are programs of their own. Layers of the same shapes share one,
    and `programs` keeps them for the next process. Of an ensemble, several networks compile and
    compute at the same time.
    """
    if jax.default_backend() != "cpu":
        return np.asarray(annotate(*nnx.split(encoder), image[None])[0])
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = encoder.in_pieces(jax.device_put(image[None]), _apply, threads.map)
        return np.asarray(found).astype(np.float16)


def _apply(module: nnx.Module, arrays: Any) -> Any:
    """Calls a frozen module by a program that all modules of its structure share."""
    graph, state = nnx.split(module)
    weights = nnx.to_pure_dict(state)

    @jax.jit
    def function(weights: Any, arrays: Any) -> Any:
        with native.without():  # a compiler of C++ would take longer than all else
            return nnx.merge(graph, weights)(arrays)

    return programs.compiled(structure(graph), function, weights, arrays)(weights, arrays)


@lru_cache(maxsize=256)
def structure(graph: nnx.GraphDef) -> str:
    """A text that tells the structures of models apart, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(graph))


def as_inputs(
    encoder: ImageEncoder, annotations: Float16[np.ndarray, "b L D"]
) -> Float16[np.ndarray, "b ..."]:
    """A frozen encoder's annotation vectors as a model's inputs: packed if it pools some."""
    return pack(annotations, encoder.sections, encoder.pooled) if encoder.pooled else annotations


def row_shape(encoder: ImageEncoder) -> tuple[int, ...]:
    """The shape of a frozen encoder's annotation vectors as a model's input, see `as_inputs`."""
    places = math.prod(encoder.grid)
    if encoder.pooled:
        return (packed_size(encoder.sections, encoder.pooled, places),)
    return (places, encoder.features)


def _decode(
    examples: ExampleSource[Example], size: int, start: int, stop: int, batch_size: int
) -> Iterator[UInt8[np.ndarray, "b S S 3"]]:
    """Images `start` to `stop` - 1; threads decode the next ones ahead."""

    import grain  # slow to import, and one picture needs none of it

    def read(index: int) -> np.ndarray:
        example = examples[index]  # reports damaged records itself
        try:
            image = read_image(example.image, size, example.window)
        except UserError as error:
            raise UserError(
                f"image {examples.ids[index]} of {_readable(examples.fingerprint)} cannot be"
                f" read ({error}); build the data set again"
            ) from error
        return image[:, ::-1] if example.mirrored else image

    threads = min(16, os.cpu_count() or 1)
    ahead = grain.ReadOptions(threads, max(2 * batch_size, threads))
    images = grain.MapDataset.range(start, stop).map(read).to_iter_dataset(ahead)
    return iter(images.batch(batch_size))


def _encode(
    examples: ExampleSource[Example], encoder: ImageEncoder, start: int, stop: int, batch_size: int
) -> Iterator[Float16[np.ndarray, "b ..."]]:
    """The rows of images `start` to `stop` - 1."""
    graph, state = nnx.split(encoder)

    def fetch(first: int, count: int, annotations: Array, finite: Array) -> np.ndarray:
        for image_id, good in zip(examples.ids[first : first + count], finite, strict=False):
            if not good:
                raise UserError(
                    f"image {image_id}: the encoder's output is not finite in half precision;"
                    " check its weights"
                )
        return as_inputs(encoder, np.asarray(annotations)[:count])

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


def _label(key: Mapping[str, Any]) -> str:
    return f"{_readable(key['data'])}-{_readable(key['encoder'])}"


def _readable(fingerprint: Mapping[str, Any]) -> str:
    """A short name of a data set or an encoder, for folders and messages."""
    parts = [str(fingerprint[k]) for k in ("name", "split", "image_size") if k in fingerprint]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts))[:60]
