"""Steps that are decided from outside: the word that a step says, the place that it reads.

Symbols: B inputs, K beams, T steps, M places, the null place included.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from show_attend_tell.models.attention import Choice

FREE = -1  # instead of a word or a place: the model decides
_DECIDES = 1e10  # noise that outweighs every log alpha


class GivenSteps(NamedTuple):
    """What is decided from outside, at every step."""

    words: Int[Array | np.ndarray, "B T"]  # ids, or FREE
    places: Int[Array | np.ndarray, "B T"]  # to read, or FREE


def choice_of(
    context: str, noise: Float[Array, "B K M"], places: Int[Array, " B"] | None = None
) -> Choice | None:
    """What decides the places that one step of every beam reads.

    Args:
      context: as in `settings.Decode`.
      noise: added to log alpha by contexts that read one place.
      places: the given place of each input, or FREE; None: no place is given.
    """
    expects = context in ("expected", "mixture")
    if places is None:
        return None if expects else Choice(noise, jnp.zeros(noise.shape[:2], bool))
    decided = jax.nn.one_hot(places, noise.shape[-1])[:, None]  # zeros where FREE
    free = jnp.broadcast_to((places < 0)[:, None], noise.shape[:2])
    return Choice(noise + _DECIDES * decided, free & expects)
