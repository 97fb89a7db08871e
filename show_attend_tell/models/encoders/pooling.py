"""Sections of annotation vectors that are equal at all places, and rows that hold them once.

A decoder that takes a vector of the whole scene from some of an encoder's stages reads only their
mean over the places. An encoder that pools these sections repeats the mean at every place, so that
a model reads them like all others. In a packed row the mean is there once: first the local features
of all places in reading order, then the pooled ones.

Symbols: L places, F features of a place, n = L * F_local + F_pooled numbers of a packed row.
"""

from collections.abc import Collection, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Sections = Sequence[tuple[str, int]]


def pooled_features(sections: Sections, pooled: Collection[str]) -> int:
    """F_pooled, the number of features that are equal at all places."""
    return sum(size for name, size in sections if name in pooled)


def packed_size(sections: Sections, pooled: Collection[str], places: int) -> int:
    """n, the length of a packed row.

    Args:
        sections: of an annotation vector, see `Encoder`.
        pooled: names of those that are equal at all places.
        places: L.
    """
    once = pooled_features(sections, pooled)
    return places * (sum(size for _, size in sections) - once) + once


def pack(
    a: Float[np.ndarray, "B L F"], sections: Sections, pooled: Collection[str]
) -> Float[np.ndarray, "B n"]:
    """Packed rows of annotation vectors; pooled features are those of the first place.

    Args:
        a: annotation vectors.
        sections, pooled: see `packed_size`.
    """
    is_pooled = _by_feature(sections, pooled)
    return np.concatenate([a[..., ~is_pooled].reshape(len(a), -1), a[:, 0, is_pooled]], axis=1)


def unpack(
    rows: Float[Array, "B n"], sections: Sections, pooled: Collection[str], places: int
) -> Float[Array, "B L F"]:
    """The annotation vectors of packed rows, with the sections in their order.

    Args:
        rows: see `pack`.
        sections, pooled, places: see `packed_size`.
    """
    once = pooled_features(sections, pooled)
    local, mean = jnp.split(rows, [rows.shape[1] - once], axis=1)
    local = local.reshape(len(rows), places, -1)
    mean = jnp.broadcast_to(mean[:, None], (len(rows), places, once))
    found = []
    for name, size in sections:
        if name in pooled:
            section, mean = jnp.split(mean, [size], axis=-1)
        else:
            section, local = jnp.split(local, [size], axis=-1)
        found.append(section)
    return jnp.concatenate(found, axis=-1)


def only_local(
    a: Float[np.ndarray, "B L F"], sections: Sections, pooled: Collection[str]
) -> Float[np.ndarray, "B L F_local"]:
    """Annotation vectors without their pooled sections."""
    return a[..., ~_by_feature(sections, pooled)] if pooled else a


def _by_feature(sections: Sections, pooled: Collection[str]) -> np.ndarray:
    """Whether each of the F features is pooled."""
    return np.repeat([name in pooled for name, _ in sections], [size for _, size in sections])
