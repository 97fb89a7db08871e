"""The attention module: scores of every place, and how a context is read out of them.

One module for every variant. A grid of an image's annotation vectors and the row of a sentence's
are attended to alike; soft attention reads the expected annotation vector, hard attention one
sampled vector.

Scores e_ti of the state h (h_{t-1} or h_t) that attends, for an annotation vector a_i:
    additive    v^T tanh(U a_i + W h + b)   Bahdanau et al. 2015, A.1.2; Xu et al. 2015, eq. 4
    concat      v^T tanh(W_a [h; a_i])      Luong et al. 2015, section 3.1: additive, whose U and W
                                            are two parts of one matrix, drawn as one, without b
    dot         h^T a_i                     the same; needs H = D
    general     h^T W_a a_i                 the same
    scaled_dot  (W_q h)^T (W_k a_i) / sqrt(A)  Vaswani et al. 2017, eq. 1
Windows (Luong et al. 2015, section 3.2), D here being the window's `reach`:
    global      all places
    local_m     those within D of p_t = t; p_t stays at the last place once a sentence is over
    local_p     those within D of p_t = S sigmoid(v_p^T tanh(W_p h)), S places; alpha is multiplied
                by exp(-(i - p_t)^2 / 2 sigma^2) with sigma = D/2, so that it sums to less than 1.
                On a grid p_t has two coordinates. With hard attention alpha is normalised again,
                or it would be no distribution.

Symbols: B inputs, R caption rows of an input, L places (locations of an image, positions of a
sentence), D annotation features, H units of the decoder's LSTM, A attention units, K coordinates of
a place (2 on a grid, 1 in a sentence).
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

SCORES = ("additive", "concat", "dot", "general", "scaled_dot")
WINDOWS = ("global", "local_m", "local_p")
# Log-weight of a place that is not attended to: its exponential is exactly 0, as is 0 times it.
_NEVER = -1e9


def matmul(x: Float[Array, "*S I"], matrix: Float[Array, "I J"]) -> Float[Array, "*S J"]:
    """x times the matrix, in the matrix's number format, summed in float32."""
    return jnp.matmul(x.astype(matrix.dtype), matrix, preferred_element_type=jnp.float32)


class Annotations(NamedTuple):
    """The annotation vectors a of each input: the grid of an image, the row of a sentence."""

    vectors: Float[Array, "B L D"]
    mask: Bool[Array, "B L"] | None = None  # False at padding; None: there is none


class Attention(nnx.Module):
    """The parameters of a score function and a window; see the module.

    The share U a_i of the annotation vectors does not depend on the step: `keys` computes it once
    for an input, and all captions of the input share it.

    Args:
      features, hidden, units: D, H, A.
      score, window: of `SCORES` and `WINDOWS`.
      coordinates: K; of `local_p` alone.
      temperature: divides the scores before the softmax, over 0; 1 is the papers'. With
        infinity all scores are 0 and alpha is uniform.
      dtype: of products with matrices. Additive scores and the softmax are in float32.

    Raises:
      ValueError: `dot` where D is not H.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        units: int,
        *,
        score: str = "additive",
        window: str = "global",
        coordinates: int = 1,
        temperature: float = 1.0,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if score == "dot" and features != hidden:
            raise ValueError(f"score 'dot' of {features} features and {hidden} units")
        self.temperature = temperature
        self.dtype = dtype
        linear = partial(nnx.Linear, use_bias=False, rngs=rngs)
        # U (or W_a, W_k), which meets the annotation vectors, and W (or W_q), which meets h.
        key = partial(linear, features, dtype=dtype)
        if score == "concat":  # drawn as parts of one matrix of D + H inputs
            whole = features + hidden
            self.key = key(units, kernel_init=_as_part(features, whole))
            self.query = linear(hidden, units, kernel_init=_as_part(hidden, whole))
        elif score in ("additive", "scaled_dot"):
            self.key = key(units, use_bias=score == "additive")
            self.query = linear(hidden, units)
        else:
            self.key = key(hidden) if score == "general" else None
            self.query = None
        self.score = linear(units, 1) if score in ("additive", "concat") else None
        local = window == "local_p"
        self.centre = linear(hidden, units) if local else None
        self.centre_score = linear(units, coordinates) if local else None

    def keys(self, annotations: Float[Array, "B L D"]) -> Float[Array, "B L A"]:
        """What `scores_of_query` compares a query with.

        For additive scores exp(2 (U a_i + b)), the inputs' share of tanh's argument; for the others
        the vectors (B, L, H) whose products with h are the scores.
        """
        keys = annotations if self.key is None else self.key(annotations)
        if self.score is not None:
            return _exp_twice(keys.astype(jnp.float32))
        scale = 1.0 / self.temperature
        if self.query is not None:  # (W_q h)^T (W_k a) is h^T (W_q^T W_k a): nothing for a step
            scale /= math.sqrt(keys.shape[-1])
            keys = matmul(keys, self.query.kernel[...].astype(self.dtype).T)
        return (scale * keys).astype(self.dtype)


def _as_part(inputs: int, whole: int):
    """The default initialiser, with the deviation that it has in a matrix of `whole` inputs."""
    return nnx.initializers.variance_scaling(inputs / whole, "fan_in", "truncated_normal")


def scores_of_query(
    v: Float[Array, " A"] | None, query: Float[Array, "B R A"], keys: Float[Array, "B L A"]
) -> Float[Array, "B R L"]:
    """The scores e_t: unnormalised log-probabilities of the places.

    Args:
      v: of additive scores, over the temperature; None where scores are products.
      query: W h of additive scores, else h.
      keys: of `Attention.keys`.
    """
    if v is not None:
        return _additive_scores(_exp_twice(query), keys, v)
    query = query.astype(keys.dtype)
    return jnp.einsum("bra,bla->brl", query, keys, preferred_element_type=jnp.float32)


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


class Window(NamedTuple):
    """The places that a step may attend to."""

    places: Float[Array, "L K"]
    centre: Float[Array, "B R K"]  # p_t
    reach: int  # D
    gaussian: bool
    renormalise: bool  # whether alpha, within the Gaussian, is normalised again


class Choice(NamedTuple):
    """What decides the location that hard attention reads at a step.

    `noise` is Gumbel noise for a sample of alpha, or zeros for its most probable location. Rows
    with `expected` read the expectation instead, as soft attention does.
    """

    noise: Float[Array, "B R *T L"]
    expected: Bool[Array, "B R"]


def log_weights(
    scores: Float[Array, "B R L"],
    mask: Bool[Array, "B L"] | None = None,
    window: Window | None = None,
) -> Float[Array, "B R L"]:
    """log alpha: of the softmax of the scores over the places that the mask and the window leave.

    The others have weight 0 and no gradient. Within a Gaussian window (see the module) alpha sums
    to less than 1, unless the window says otherwise.
    """
    allowed = None if mask is None else mask[:, None]
    gaussian = None
    if window is not None:
        away = window.places[None, None] - window.centre[:, :, None]
        near = (jnp.abs(away) <= window.reach).all(axis=-1)
        allowed = near if allowed is None else near & allowed
        if window.gaussian:
            gaussian = -2.0 * jnp.square(away / window.reach).sum(axis=-1)  # sigma = reach / 2
    if gaussian is not None and window.renormalise:
        scores, gaussian = scores + gaussian, None
    if allowed is not None:
        scores = jnp.where(allowed, scores, _NEVER)
    log_alpha = jax.nn.log_softmax(scores, axis=-1)
    return log_alpha if gaussian is None else log_alpha + gaussian


def read_context(
    log_alpha: Float[Array, "B R L"],
    annotations: Float[Array, "B L D"],
    choice: Choice | None = None,
) -> tuple[Float[Array, "B R D"], Int[Array, "B R"]]:
    """The context, before the gate beta, and the location s_t.

    The context is sum_i alpha_i a_i without a choice (deterministic soft attention, Xu et al. 2015,
    eq. 13), and a_s with one (stochastic hard attention, eq. 8-9). s = argmax(log alpha + noise) is
    a sample of alpha for Gumbel noise. No gradient flows through s.
    """
    alpha = jnp.exp(log_alpha)
    if choice is None:
        location = jnp.argmax(log_alpha, axis=-1)
        weights = alpha
    else:
        location = jnp.argmax(log_alpha + choice.noise, axis=-1)
        sampled = jax.nn.one_hot(location, log_alpha.shape[-1], dtype=alpha.dtype)
        weights = jnp.where(choice.expected[..., None], alpha, sampled)
    weights = weights.astype(annotations.dtype)
    context = jnp.einsum("brl,bld->brd", weights, annotations, preferred_element_type=jnp.float32)
    return context, location
