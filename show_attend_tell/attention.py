"""The attention module: scores of every location, and how a context is read out of them.

Soft attention reads the expected annotation vector, hard attention one sampled vector.

Symbols: B images, R caption rows of an image, L locations, D annotation features, H units of the
decoder's LSTM, A attention units.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int


def product(x: Float[Array, "*S I"], matrix: Float[Array, "I J"]) -> Float[Array, "*S J"]:
    """x times the matrix, in the matrix's number format, summed in float32."""
    return jnp.matmul(x.astype(matrix.dtype), matrix, preferred_element_type=jnp.float32)


class AttentionWeights(NamedTuple):
    """W and v of the score; v is divided by the temperature."""

    query: Float[Array, "H A"]
    score: Float[Array, " A"]


class Attention(nnx.Module):
    """Additive attention f_att (Xu et al. 2015, eq. 4–6; Bahdanau et al. 2015, A.1.2).

    e_ti = v^T tanh(U a_i + W h_{t-1} + b). The part U a_i does not depend on the step: `keys`
    computes it once for an image, and all captions of the image share it.

    Args:
      features, hidden, units: D, H, A.
      temperature: divides the scores before the softmax, over 0; 1 is the paper's. With
        infinity all scores are 0 and alpha is uniform.
      dtype: of products with U and W. Scores and the softmax are in float32.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        units: int,
        *,
        temperature: float = 1.0,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.temperature = temperature
        self.dtype = dtype
        self.key = nnx.Linear(features, units, dtype=dtype, rngs=rngs)
        self.query = nnx.Linear(hidden, units, use_bias=False, rngs=rngs)
        self.score = nnx.Linear(units, 1, use_bias=False, rngs=rngs)

    def keys(self, annotations: Float[Array, "B L D"]) -> Float[Array, "B L A"]:
        """exp(2 (U a_i + b)) for every location, the images' share of tanh's argument."""
        return _exp_twice(self.key(annotations).astype(jnp.float32))

    def weights(self) -> AttentionWeights:
        """What every step multiplies by."""
        return AttentionWeights(
            self.query.kernel[...].astype(self.dtype),
            self.score.kernel[...][:, 0] / self.temperature,
        )


def attention_scores(
    weights: AttentionWeights,
    h: Float[Array, "B R H"],
    keys: Float[Array, "B L A"],
    tap: Float[Array, "B R A"] | None = None,
) -> Float[Array, "B R L"]:
    """The scores e_t (unnormalised log-probabilities of the locations).

    `tap`, zeros, is added to W h: see `recurrence.Taps`.
    """
    query = product(h, weights.query)
    return scores_of_query(weights.score, query if tap is None else query + tap, keys)


def scores_of_query(
    v: Float[Array, " A"], query: Float[Array, "B R A"], keys: Float[Array, "B L A"]
) -> Float[Array, "B R L"]:
    """`attention_scores` where W h is at hand."""
    return _additive_scores(_exp_twice(query), keys, v)


def _exp_twice(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    # Bounded so that no product of two is 0 times infinity. Activations stay far below 40.
    return jnp.exp(2 * jnp.clip(x, -40, 40))


@jax.custom_vjp
def _additive_scores(
    query: Float[Array, "B R A"], keys: Float[Array, "B L A"], v: Float[Array, " A"]
) -> Float[Array, "B R L"]:
    # tanh(x + y) = 1 - 2 / (1 + e^2x e^2y): a division for each activation where a tanh, the most
    # of a step's element-wise work, takes several times as long. Infinite products give 1, too.
    # A sum, not a product with v: XLA then never writes the activations out.
    ratios = v[None, None, None] / (1 + keys[:, None] * query[:, :, None])
    return v.sum() - 2 * ratios.sum(axis=-1)


def _additive_scores_forward(query, keys, v):
    return _additive_scores(query, keys, v), (query, keys, v)


def _additive_scores_backward(residuals, d_scores):
    # The (B, R, L, A) activations are by far the largest intermediate of a step. Each of the three
    # sums over them computes them anew, so that a caller who wants one alone pays for no other.
    # With r = 1 / (1 + k q), dr/dk = -r (1 - r) / k, and q likewise.
    query, keys, v = residuals
    ratios = 1 / (1 + keys[:, None] * query[:, :, None])
    d_v = d_scores.sum() - 2 * (d_scores[..., None] * ratios).sum(axis=(0, 1, 2))
    d_query = jnp.einsum("brl,brla->bra", d_scores, ratios * (1 - ratios))

    def add_row(d_keys, row):  # on CPUs XLA's own sum over rows takes several times as long
        query, d_scores = row
        ratios = 1 / (1 + keys * query[:, None])
        return d_keys + d_scores[..., None] * ratios * (1 - ratios), None

    rows = query.swapaxes(0, 1), d_scores.swapaxes(0, 1)
    d_keys, _ = jax.lax.scan(add_row, jnp.zeros_like(keys), rows)
    twice_v = 2 * v[None, None]
    return twice_v * d_query / query, twice_v * d_keys / keys, d_v


_additive_scores.defvjp(_additive_scores_forward, _additive_scores_backward)


class Choice(NamedTuple):
    """What decides the location that hard attention reads at a step.

    `noise` is Gumbel noise for a sample of alpha, or zeros for its most probable location. Rows
    with `expected` read the expectation instead, as soft attention does.
    """

    noise: Float[Array, "B R *T L"]
    expected: Bool[Array, "B R"]


def read_context(
    scores: Float[Array, "B R L"],
    annotations: Float[Array, "B L D"],
    choice: Choice | None = None,
) -> tuple[Float[Array, "B R D"], Int[Array, "B R"]]:
    """The context, before the gate beta, and the location s_t.

    With alpha = softmax(scores), the context is sum_i alpha_i a_i without a choice (deterministic
    soft attention, Xu et al. 2015, eq. 13), and a_s with one (stochastic hard attention, eq. 8-9).
    s = argmax(scores + noise) is a sample of alpha for Gumbel noise, and needs neither alpha nor
    its logarithm. No gradient flows through s.
    """
    alpha = jax.nn.softmax(scores, axis=-1)
    if choice is None:
        location = jnp.argmax(scores, axis=-1)
        weights = alpha
    else:
        location = jnp.argmax(scores + choice.noise, axis=-1)
        sampled = jax.nn.one_hot(location, scores.shape[-1], dtype=alpha.dtype)
        weights = jnp.where(choice.expected[..., None], alpha, sampled)
    weights = weights.astype(annotations.dtype)
    context = jnp.einsum("brl,bld->brd", weights, annotations, preferred_element_type=jnp.float32)
    return context, location
