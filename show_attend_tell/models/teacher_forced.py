"""What a decoder computes over given captions."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from show_attend_tell.models import product_form
from show_attend_tell.models.sight import Look


class TeacherForced(NamedTuple):
    """See the module. Under jit, what is not used costs nothing.

    Symbols as in `decoder`.
    """

    logits: Float[Array, "B R T V"]
    log_alpha: Float[Array, "B R T L"]
    location: Int[Array, "B R T"]
    beta: Float[Array, "B R T"]
    previous_h: Float[Array, "B R T H"]  # h_{t-1}
    mean_annotation: Float[Array, "B D"]
    factors: product_form.Factors | None  # of all steps, N = R T; None without a product form
    embedded: Float[Array, "B R T E"]  # the input words
    h: Float[Array, "B R T H"]  # h_t, or Luong's h~_t: what the output sees
    look: Look | None = None  # at a picture beside the sentence

    @property
    def alpha(self) -> Float[Array, "B R T L"]:
        """Attention weights."""
        return jnp.exp(self.log_alpha)
