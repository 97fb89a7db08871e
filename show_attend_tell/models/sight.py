"""A second attention, over the picture that a sentence describes.

A decoder that translates attends to the words of the source; with sight it attends to the places of
a picture, too. Both attentions see the same state, each has its own parameters, and either may be
soft or hard. What the step reads is the sum of both contexts, each with its gate: z_t = beta_t
z^words_t + beta'_t P z^picture_t ("parallel" combination, Libovický et al. 2018, arXiv:1811.04716,
with the gate of Xu et al. 2015, section 4.2.1).

Symbols as in `attention`; P places of the picture, F features of its annotation vectors.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell import settings
from show_attend_tell.models.attention import (
    Attention,
    Choice,
    log_weights,
    read_context,
    scores_of_query,
)
from show_attend_tell.models.dropouts import Dropout, withheld
from show_attend_tell.models.products import Linear, matmul


class Seen(NamedTuple):
    """The picture as the steps need it: computed once, shared by captions and beams."""

    annotations: Float[Array, "B P D"]
    keys: Float[Array, "B P A"]


class SightWeights(NamedTuple):
    """What every step computes with."""

    query: Float[Array, "H A"]
    score: Float[Array, " A"]
    gate: Float[Array, "H 1"]
    gate_bias: Float[Array, ""]


class Look(NamedTuple):
    """How a step looked at the picture."""

    log_alpha: Float[Array, "*T B R P"]
    beta: Float[Array, "*T B R"]
    location: Int[Array, "*T B R"]


class Sight(nnx.Module):
    """The parameters of the second attention.

    Args:
      options: of the picture.
      picture: F.
      attention: units and temperature; the score is additive.
      features: D, what the decoder reads.
      sizes: of the decoder.
      dtype: number format of products.

    Attributes:
      hard: whether training samples the places that steps read.
    """

    def __init__(
        self,
        options: settings.Picture,
        picture: int,
        attention: settings.Attention,
        features: int,
        sizes: settings.Decoder,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.dtype, hidden = dtype, sizes.hidden
        self.projection = Linear(picture, features, use_bias=False, dtype=dtype, rngs=rngs)
        plain = settings.Attention(units=attention.units, temperature=attention.temperature)
        self.attention = Attention(plain, features=features, hidden=hidden, dtype=dtype, rngs=rngs)
        self.gate = nnx.Linear(hidden, 1, rngs=rngs)
        self.dropout = Dropout(options.dropout, sizes.dropout_bits)
        self.withheld, self.hard = options.withheld, options.kind == "hard"

    def seen(self, picture: Float[Array, "B P F"], key: PRNGKeyArray | None = None) -> Seen:
        """What the steps need of a picture. A `key` switches dropout on.

        Of a picture of zeros nothing is read: it stands for none.
        """
        a = jnp.tanh(self.projection(self.dropout(picture.astype(jnp.float32), key)))
        if key is not None:
            a = withheld(a.reshape(len(a), -1), self.withheld, key).reshape(a.shape)
        return Seen(a.astype(self.dtype), self.attention.keys(a))

    def weights(self) -> SightWeights:
        """The parameters of the steps, in the right format."""
        attention = self.attention
        assert attention.query is not None and attention.score is not None
        assert self.gate.bias is not None
        return SightWeights(
            jnp.asarray(attention.query.kernel[...], self.dtype),
            attention.score.kernel[...][:, 0] / attention.temperature,
            self.gate.kernel[...],
            self.gate.bias[...][0],
        )


def look(
    weights: SightWeights, seen: Seen, h: Float[Array, "B R H"], choice: Choice | None
) -> tuple[Float[Array, "B R D"], Look]:
    """The gated context that the state h reads from the picture, and how it looked."""
    scores = scores_of_query(weights.score, matmul(h, weights.query), seen.keys)
    log_alpha = log_weights(scores)
    context, location = read_context(log_alpha, seen.annotations, choice)
    beta = jax.nn.sigmoid((h @ weights.gate)[..., 0] + weights.gate_bias)
    return beta[..., None] * context, Look(log_alpha, beta, location)
