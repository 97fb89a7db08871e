"""The attention module: how every place is scored, and how a context is read.

One module serves all variants: it attends alike to the grid of an image's annotation vectors and to
those of a sentence's words. Soft attention reads the expected annotation vector, hard attention one
sampled vector.

Scores e_ti of an annotation vector a_i, for the state h (h_{t-1} or h_t) that attends:
    additive    v^T tanh(U a_i + W h + b)   Bahdanau et al. 2015, A.1.2; Xu et al. 2015, eq. 4
    concat      v^T tanh(W_a [h; a_i])      Luong et al. 2015, section 3.1: additive without b, and
                                            with U and W initialised as parts of one matrix
    dot         h^T a_i                     the same section; needs H = D
    general     h^T W_a a_i                 the same section
    scaled_dot  (W_q h)^T (W_k a_i) / sqrt(A)  Vaswani et al. 2017, eq. 1
Windows (Luong et al. 2015, section 3.2), where D is the window's `reach`:
    global      all places
    local_m     those within D of p_t = t; once a sentence is over, p_t stays at its last place
    local_p     those within D of p_t = S sigmoid(v_p^T tanh(W_p h)), S being the number of places.
                alpha is multiplied by exp(-(i - p_t)^2 / 2 sigma^2) with sigma = D/2, so its sum is
                less than 1. On a grid p_t has two coordinates. Hard attention needs a distribution
                to sample from, so it normalises alpha again.

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
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models import native
from show_attend_tell.models.products import Linear, combine, compare, matmul
from show_attend_tell.models.sparse import entmax, sparsemax
from show_attend_tell.models.straight_through import Relaxation, straight_through

# Log-weight of a place that is not attended to. Its exponential is exactly 0; it is finite, so that
# 0 times it is 0 and not NaN.
_NEVER = -1e9


READ_OUTS = {"sparsemax": sparsemax, "entmax": entmax}


class Annotations(NamedTuple):
    """The annotation vectors a of each input.

    There is one for each place of an image or a sentence, or for some of them.
    """

    vectors: Float[Array, "B L D"]
    mask: Bool[Array, "B L"] | None = None  # False at padding; None: there is none
    numbers: Int[Array, "B L"] | None = None  # of the places, in reading order; None: all
    picture: Float[Array, "B P F"] | None = None  # beside a sentence: see `models.sight`

    def some(self, share: float, key: PRNGKeyArray) -> "Annotations":
        """A share of the places of each image, drawn anew for each key.

        Training on some of the places costs less, as in masked autoencoders (He et al. 2022,
        arXiv:2111.06377).
        """
        if share == 1:
            return self
        assert self.mask is None  # images have no padding
        count, locations = self.vectors.shape[:2]
        noise = jax.random.uniform(key, (count, locations))
        _, drawn = jax.lax.top_k(noise, max(1, round(share * locations)))
        numbers = jnp.sort(drawn, axis=-1)
        vectors = jnp.take_along_axis(self.vectors, numbers[..., None], axis=1)
        return self._replace(vectors=vectors, numbers=numbers)


class Attention(nnx.Module):
    """The parameters of a score function and a window; see the module.

    The term U a_i of an annotation vector does not depend on the step: `keys` computes it once for
    an input, and all captions of the input share it.

    Args:
      options: score, window, units and temperature. Kind `none` makes the temperature infinite, so
        that all scores are 0 and alpha is uniform: the context is the mean annotation vector.
      features: D.
      hidden: H.
      coordinates: K; only `local_p` uses it.
      grid: (h, w) of the places; only a position code uses it.
      dtype: number format of products with matrices. Additive scores and the softmax stay in
        float32.

    Raises:
      UserError: score `dot` where D is not H.
    """

    def __init__(
        self,
        options: settings.Attention,
        *,
        features: int,
        hidden: int,
        coordinates: int = 1,
        grid: tuple[int, int] | None = None,
        dtype: str | jnp.dtype = "float32",
        rngs: nnx.Rngs,
    ):
        score, units = options.score, options.units
        if score == "dot" and features != hidden:
            raise UserError(
                f"config.attention.score 'dot' multiplies {features} features by the {hidden} "
                f"units of the state: set config.decoder.projection={hidden} and leave "
                "config.attention.keys empty"
            )
        self.temperature = math.inf if options.kind == "none" else options.temperature
        self.dtype = jnp.dtype(dtype)
        linear = partial(Linear, use_bias=False, rngs=rngs)
        # `key` is U (or W_a, W_k), for annotation vectors; `query` is W (or W_q), for h.
        key = partial(linear, features, dtype=self.dtype)
        if score == "concat":  # initialised as parts of one matrix of D + H inputs
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
        local = options.window == "local_p"
        self.centre = linear(hidden, units) if local else None
        self.centre_score = linear(units, coordinates) if local else None
        size = hidden if self.key is None else self.key.out_features
        self.grid = grid
        self.position = linear(POSITION_FEATURES, size) if options.position_code else None
        # Additive scores compare sums inside of tanh, all others products: 0 is a neutral key.
        self.null_key = nnx.Param(jnp.zeros(size)) if options.null_place else None

    def keys(
        self, annotations: Float[Array, "B L D"], numbers: Int[Array, "B L"] | None = None
    ) -> Float[Array, "B L A"]:
        """What `scores_of_query` compares a query with.

        Additive scores: exp(2 (U a_i + b)), the annotation vectors' part of tanh's argument. All
        others: the vectors (B, L, H) whose products with h are the scores.

        Args:
          annotations: of the places.
          numbers: of the places, for the position code; None: all.
        """
        keys = annotations if self.key is None else self.key(annotations)
        if self.position is not None:
            assert self.grid is not None
            code = self.position(position_code(self.grid))
            keys = keys + (code[None] if numbers is None else code[numbers])
        return self._compared(keys)

    def with_null_place(
        self,
        annotations: Float[Array, "B L D"],
        keys: Float[Array, "B L A"],
        mask: Bool[Array, "B L"] | None,
    ) -> tuple[Float[Array, "B M D"], Float[Array, "B M A"], Bool[Array, "B M"] | None]:
        """The same with one place more, the last: a learned key and a vector of zeros.

        A step that needs no place attends there, as to the sentinel of Lu et al. 2017
        (arXiv:1612.01887).
        """
        assert self.null_key is not None
        images = len(annotations)
        key = self._compared(self.null_key[...][None, None])
        key = jnp.broadcast_to(key, (images, 1, key.shape[-1]))
        annotations = jnp.pad(annotations, ((0, 0), (0, 1), (0, 0)))
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (0, 1)), constant_values=True)
        return annotations, jnp.concatenate([keys, key], axis=1), mask

    def _compared(self, keys: Float[Array, "B L A"]) -> Float[Array, "B L _"]:
        """The form of keys that `scores_of_query` takes."""
        if self.score is not None:
            return _exp_twice(keys.astype(jnp.float32))
        scale = 1.0 / self.temperature
        if self.query is not None:  # (W_q h)^T (W_k a) = h^T (W_q^T W_k a): no work for a step
            scale /= math.sqrt(keys.shape[-1])
            keys = matmul(keys, self.query.kernel[...].astype(self.dtype).T)
        return (scale * keys).astype(self.dtype)


# Of `position_code`: sines and cosines of three frequencies along both axes, and both coordinates.
POSITION_FEATURES = 14


def position_code(grid: tuple[int, int]) -> Float[Array, "L 14"]:
    """A code of each place of a grid (h, w): where its middle lies, down and across."""
    height, width = grid
    down = (jnp.arange(height) + 0.5) / height
    across = (jnp.arange(width) + 0.5) / width
    y, x = (v.reshape(-1) for v in jnp.meshgrid(down, across, indexing="ij"))
    waves = [f(k * jnp.pi * v) for v in (y, x) for k in (1, 2, 4) for f in (jnp.sin, jnp.cos)]
    return jnp.stack([*waves, 2 * y - 1, 2 * x - 1], axis=-1)


def _as_part(inputs: int, whole: int):
    """The default initialiser, with the standard deviation of a matrix of `whole` inputs."""
    return nnx.initializers.variance_scaling(inputs / whole, "fan_in", "truncated_normal")


def scores_of_query(
    v: Float[Array, " A"] | None, query: Float[Array, "B R A"], keys: Float[Array, "B L A"]
) -> Float[Array, "B R L"]:
    """The scores e_t: unnormalised log-probabilities of the places.

    Args:
      v: of additive scores, divided by the temperature; None for scores that are products.
      query: W h for additive scores, else h.
      keys: see `Attention.keys`.
    """
    if v is not None:
        return _additive_scores(_exp_twice(query), keys, v)
    return compare(query, keys)


def _exp_twice(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    # Bounded so that no product of two is 0 times infinity. Activations stay far below 40.
    return jnp.exp(2 * jnp.clip(x, -40, 40))


@jax.custom_vjp
def _additive_scores(
    query: Float[Array, "B R A"], keys: Float[Array, "B L A"], v: Float[Array, " A"]
) -> Float[Array, "B R L"]:
    # tanh(x + y) = 1 - 2 / (1 + e^2x e^2y): one division for each activation. A tanh takes several
    # times as long and would be most of a step's element-wise work. Infinite products give 1, too.
    # A sum, not a matrix product with v: XLA then never writes the activations out.
    ratios = v[None, None, None] / (1 + keys[:, None] * query[:, :, None])
    return v.sum() - 2 * ratios.sum(axis=-1)


def _additive_scores_forward(query, keys, v):
    return _additive_scores(query, keys, v), (query, keys, v)


def _additive_scores_backward(residuals, d_scores):
    # The (B, R, L, A) activations are by far the largest intermediate of a step. Each of the sums
    # recomputes them, so that a caller who wants only one does not pay for the others.
    # With r = 1 / (1 + k q), dr/dk = -r (1 - r) / k, and q likewise.
    query, keys, v = residuals
    of_query = _query_sums(query, keys, d_scores)
    of_keys, of_v = native.memory_sums(query, keys, d_scores, _memory_sums)
    twice_v = 2 * v[None, None]
    d_v = d_scores.sum() - 2 * of_v.sum(axis=0)
    return twice_v * of_query / query, twice_v * of_keys / keys, d_v


def _query_sums(query, keys, d_scores):
    ratios = 1 / (1 + keys[:, None] * query[:, :, None])
    return jnp.einsum("brl,brla->bra", d_scores, ratios * (1 - ratios))


def _memory_sums(query, keys, d_scores):
    ratios = 1 / (1 + keys[:, None] * query[:, :, None])
    of_v = (d_scores[..., None] * ratios).sum(axis=(1, 2))

    def add_row(d_keys, row):  # on CPUs XLA's own sum over rows takes several times as long
        query, d_scores = row
        ratios = 1 / (1 + keys * query[:, None])
        return d_keys + d_scores[..., None] * ratios * (1 - ratios), None

    rows = query.swapaxes(0, 1), d_scores.swapaxes(0, 1)
    return jax.lax.scan(add_row, jnp.zeros_like(keys), rows)[0], of_v


_additive_scores.defvjp(_additive_scores_forward, _additive_scores_backward)


def mean_vector(a: Float[Array, "B L D"], mask: Bool[Array, "B L"] | None) -> Float[Array, "B D"]:
    """The mean annotation vector in float32; padding does not count."""
    a = a.astype(jnp.float32)
    if mask is None:
        return a.mean(axis=1)
    real = mask[..., None].astype(a.dtype)
    return (a * real).sum(axis=1) / real.sum(axis=1)


def coordinates(
    a: Float[Array, "B L D"], mask: Bool[Array, "B L"] | None, grid: tuple[int, int] | None
) -> tuple[Float[Array, "L K"], Float[Array, "B K"]]:
    """The coordinates of each place, and the number of places along each coordinate."""
    images, count = a.shape[:2]
    if grid is not None:
        places = jnp.stack(jnp.divmod(jnp.arange(count), grid[1]), axis=-1)
        extent = jnp.broadcast_to(jnp.array([grid]), (images, 2))
    else:
        places = jnp.arange(count)[:, None]
        lengths = jnp.full(images, count) if mask is None else mask.sum(axis=1)
        extent = lengths[:, None]
    return places.astype(jnp.float32), extent.astype(jnp.float32)


class Window(NamedTuple):
    """The places that a step may attend to."""

    places: Float[Array, "L K"]
    centre: Float[Array, "B R K"]  # p_t
    reach: int  # D
    gaussian: bool
    renormalise: bool  # whether alpha, within the Gaussian, is normalised again


# Of a choice, of its relaxation, and of the picture beside a sentence.
Noises = tuple[Float[Array, "..."], Float[Array, "..."] | None, Float[Array, "..."] | None]


class Choice(NamedTuple):
    """What decides the location that hard attention reads at a step.

    `noise` is Gumbel noise to sample from alpha, or zeros to take its most probable location. Rows
    marked `expected` read the expectation instead, as soft attention does. With a `relaxation` the
    gradient of what is read flows into alpha, too; see `models.straight_through`. What a step reads
    of a picture beside a sentence is decided by `of_picture`; None: it reads the expectation.
    """

    noise: Float[Array, "B R *T L"]
    expected: Bool[Array, "B R"]
    relaxation: Relaxation | None = None
    of_picture: "Choice | None" = None

    @property
    def draws_none(self) -> Bool[Array, "B R"]:
        """The rows that read an expectation only, of a picture, too."""
        if self.of_picture is None:
            return self.expected
        return self.expected & self.of_picture.expected

    @property
    def noises(self) -> Noises:
        """All that differs from step to step."""
        more = None if self.relaxation is None else self.relaxation.more
        return self.noise, more, None if self.of_picture is None else self.of_picture.noise

    def with_noises(self, noises: Noises) -> "Choice":
        """The same with other `noises`, such as those of one step."""
        noise, more, of_picture = noises
        changed = self._replace(noise=noise)
        if self.relaxation is not None and more is not None:
            changed = changed._replace(relaxation=self.relaxation._replace(more=more))
        if self.of_picture is not None and of_picture is not None:
            changed = changed._replace(of_picture=self.of_picture._replace(noise=of_picture))
        return changed


def log_weights(
    scores: Float[Array, "B R L"],
    mask: Bool[Array, "B L"] | None = None,
    window: Window | None = None,
    read_out: str = "softmax",
) -> Float[Array, "B R L"]:
    """log alpha: the scores, normalised over the places that the mask and window allow.

    All other places have weight 0 and no gradient. Within a Gaussian window (see the module) alpha
    sums to less than 1, unless the window renormalises it. With a sparse read-out (see
    `models.sparse`) many of the allowed places weigh 0, too.
    """
    allowed = None if mask is None else mask[:, None]
    gaussian = None
    if window is not None:
        away = window.places[None, None] - window.centre[:, :, None]
        near = (jnp.abs(away) <= window.reach).all(axis=-1)
        allowed = near if allowed is None else near & allowed
        if window.gaussian:
            gaussian = -2.0 * jnp.square(away / window.reach).sum(axis=-1)  # sigma = reach / 2
    if window is not None and gaussian is not None and window.renormalise:
        scores, gaussian = scores + gaussian, None
    if allowed is not None:
        scores = jnp.where(allowed, scores, _NEVER)
    if read_out == "softmax":
        log_alpha = jax.nn.log_softmax(scores, axis=-1)
    else:
        alpha = READ_OUTS[read_out](scores)
        log_alpha = jnp.where(alpha > 0, jnp.log(jnp.where(alpha > 0, alpha, 1.0)), _NEVER)
    return log_alpha if gaussian is None else log_alpha + gaussian


def read_context(
    log_alpha: Float[Array, "B R L"],
    annotations: Float[Array, "B L D"],
    choice: Choice | None = None,
    turned: Float[Array, "B D L"] | None = None,
) -> tuple[Float[Array, "B R D"], Int[Array, "B R"]]:
    """The context, before the gate beta, and the location s_t.

    Without a choice the context is sum_i alpha_i a_i (deterministic soft attention, Xu et al. 2015,
    eq. 13); with one it is a_s (stochastic hard attention, eq. 8-9). s = argmax(log alpha + noise)
    is a sample from alpha if the noise is Gumbel noise. No gradient flows through s without a
    relaxation.

    Args:
      turned: see `products.combine`.
    """
    alpha = jnp.exp(log_alpha)
    if choice is None:
        location = jnp.argmax(log_alpha, axis=-1)
        weights = alpha
    else:
        location = jnp.argmax(log_alpha + choice.noise, axis=-1)
        sampled = jax.nn.one_hot(location, log_alpha.shape[-1], dtype=alpha.dtype)
        if choice.relaxation is not None:
            sampled = straight_through(sampled > 0, log_alpha, choice.noise, choice.relaxation)
        weights = jnp.where(choice.expected[..., None], alpha, sampled)
    return combine(weights, annotations, turned), location
