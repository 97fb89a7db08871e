"""Dropouts: of single features, and of what belongs to an image as a whole.

Symbols: B images, E features.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

# Folded into keys that other dropouts use, too.
_SCENE, _PLACE = 0x5CE, 0x91A


class Dropout(nnx.Module):
    """Dropout of single features, each decided by few random bits.

    On CPUs random bits cost more than all else that dropout does. With 8 bits, rates are multiples
    of 1/256, at most 255/256: 0.2 becomes 0.199. What is left is scaled by the exact rate.

    Args:
      rate: probability of losing a feature, in [0, 1).
      bits: for each feature, 8 or 32. With 32 it is `nnx.Dropout`.
    """

    def __init__(self, rate: float, bits: int):
        self.rate, self.bits = rate, bits

    def __call__(
        self, x: Float[Array, "*S"], key: PRNGKeyArray | None, paths: int = 1, axis: int = 1
    ) -> Float[Array, "*S"]:
        """Drops features of x; without a key none.

        Args:
          x: of any shape.
          key: of the draws.
          paths: N, where `axis` holds N times the same rows, one time after the other: all of them
            lose the same features.
          axis: of the rows.
        """
        if key is None or not self.rate:
            return x
        shape = list(x.shape)
        if paths > 1:
            shape[axis] //= paths
        if self.bits == 32:
            kept, scaled = jax.random.bernoulli(key, 1 - self.rate, shape), x / (1 - self.rate)
        else:
            lost = min(255, max(1, round(256 * self.rate)))
            size = math.prod(shape)
            words = jax.random.bits(key, (-(-size // 4),))
            octets = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:size]
            kept, scaled = octets.reshape(shape) >= jnp.uint8(lost), x * (256 / (256 - lost))
        if paths > 1:
            kept = jnp.concatenate([kept] * paths, axis)
        return jnp.where(kept, scaled, 0.0)


def withheld(
    vectors: Float[Array, "B E"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "B E"]:
    """Zeros for a share of the images; without a key for none.

    What is left is not scaled up: an image has its vector, or not.
    """
    if key is None:
        return vectors
    kept = jax.random.bernoulli(jax.random.fold_in(key, _SCENE), 1 - rate, (len(vectors), 1))
    return jnp.where(kept, vectors, 0.0)


def shared_dropout(
    vectors: Float[Array, "B *S E"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "B *S E"]:
    """Dropout that takes the same features from all places and steps of an image.

    Otherwise what the output makes of an image's places could not be computed once for all steps.

    Args:
      vectors: places or steps of images.
      rate: probability of losing a feature; what is left is divided by 1 - `rate`.
      key: None: nothing is dropped.
    """
    if key is None or not rate:
        return vectors
    shape = (len(vectors), *(1,) * (vectors.ndim - 2), vectors.shape[-1])
    kept = jax.random.bernoulli(jax.random.fold_in(key, _PLACE), 1 - rate, shape)
    return jnp.where(kept, vectors / (1 - rate), 0.0)
