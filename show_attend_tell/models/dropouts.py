"""Dropouts that take something from an image as a whole, not from its places or steps one by one.

Symbols: B images, E features.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

# Folded into keys that other dropouts use, too.
_SCENE, _PLACE = 0x5CE, 0x91A


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
