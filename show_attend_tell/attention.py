"""The attention module: scores of every location, and how a context is read out of them.

Symbols: B images, R caption rows of an image, L locations, D annotation features, H units of the
decoder's LSTM, A attention units.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Attention(nnx.Module):
    """Additive attention f_att (Xu et al. 2015, eq. 4–6; Bahdanau et al. 2015, A.1.2).

    e_ti = v^T tanh(U a_i + W h_{t-1} + b). The part U a_i does not depend on the step: `keys`
    computes it once for an image, and all captions of the image share it.
    """

    def __init__(self, features: int, hidden: int, units: int, *, rngs: nnx.Rngs):
        self.key = nnx.Linear(features, units, rngs=rngs)
        self.query = nnx.Linear(hidden, units, use_bias=False, rngs=rngs)
        self.score = nnx.Linear(units, 1, use_bias=False, rngs=rngs)

    def keys(self, annotations: Float[Array, "B L D"]) -> Float[Array, "B L A"]:
        """U a_i + b for every location."""
        return self.key(annotations)

    def scores(
        self, h: Float[Array, "B R H"], keys: Float[Array, "B L A"]
    ) -> Float[Array, "B R L"]:
        """The scores e_t (unnormalised log-probabilities of the locations)."""
        query = self.query(h)
        # The tanh activations (B, R, L, A) are by far the largest intermediate of a step:
        # keeping them for every step costs more memory traffic than computing them again.
        return _additive_scores(query, keys, self.score.kernel[...][:, 0])


@jax.checkpoint
def _additive_scores(
    query: Float[Array, "B R A"], keys: Float[Array, "B L A"], v: Float[Array, " A"]
) -> Float[Array, "B R L"]:
    # A sum, not a product with v: XLA then never writes the (B, R, L, A) activations out.
    return jnp.sum(jnp.tanh(keys[:, None] + query[:, :, None]) * v[None, None, None], axis=-1)


def soft_context(
    scores: Float[Array, "B R L"], annotations: Float[Array, "B L D"]
) -> tuple[Float[Array, "B R D"], Float[Array, "B R L"]]:
    """The deterministic read-out (Xu et al. 2015, eq. 5 and 13): the expected annotation vector.

    Returns the context sum_i alpha_i a_i (before the gate beta) and alpha = softmax(e).
    """
    alpha = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("brl,bld->brd", alpha, annotations), alpha
