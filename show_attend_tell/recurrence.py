"""The decoder's recurrence: one step of it, and a fast run over given captions.

Everything that depends on no step's outcome stays outside: word inputs enter as gate
pre-activations, annotation keys are computed once, words are put out afterwards. Symbols as in
`decoder`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from show_attend_tell.attention import (
    AttentionWeights,
    Choice,
    attention_scores,
    product,
    read_context,
    scores_of_query,
)


class Memory(NamedTuple):
    """What the decoder reads of an image; computed once, shared by its captions and beams."""

    annotations: Float[Array, "B L D"]
    keys: Float[Array, "B L A"]  # of `Attention.keys`
    h0: Float[Array, "B H"]
    c0: Float[Array, "B H"]


class State(NamedTuple):
    """The LSTM's state."""

    h: Float[Array, "B R H"]
    c: Float[Array, "B R H"]


class Reading(NamedTuple):
    """What one step reads from the image."""

    z: Float[Array, "*T B R D"]  # the gated context
    scores: Float[Array, "*T B R L"]  # alpha is their softmax
    beta: Float[Array, "*T B R"]
    location: Int[Array, "*T B R"]  # s_t that a choice's noise draws; without one the largest alpha

    @property
    def alpha(self) -> Float[Array, "*T B R L"]:
        return jax.nn.softmax(self.scores, axis=-1)


class Weights(NamedTuple):
    """What every step multiplies by."""

    attention: AttentionWeights
    beta: Float[Array, " H"] | None  # of the gate beta; None: beta is 1
    beta_bias: Float[Array, ""] | None
    lstm: Float[Array, "HD G"]  # of h_{t-1} above those of z_t; gates i, f, o, g (G = 4 H)


class Taps(NamedTuple):
    """Zeros that are added to what a step computes: their gradients are those of the terms."""

    query: Float[Array, "*T B R A"]
    scores: Float[Array, "*T B R L"]
    beta: Float[Array, "*T B R"]
    context: Float[Array, "*T B R D"]


def initial_state(memory: Memory, rows: int) -> State:
    """h_0 and c_0 for every row."""

    def expand(x: Float[Array, "B H"]) -> Float[Array, "B R H"]:
        return jnp.broadcast_to(x[:, None], (x.shape[0], rows, x.shape[1]))

    return State(expand(memory.h0), expand(memory.c0))


def step(
    weights: Weights,
    memory: Memory,
    state: State,
    word_gates: Float[Array, "B R G"],
    choice: Choice | None = None,
    taps: Taps | None = None,
) -> tuple[State, Reading]:
    """One step of the recurrence (Xu et al. 2015, eq. 1-5, 13).

    Attends with h_{t-1}, then updates the LSTM. Teacher forcing and every kind of decoding run this
    one step. Without a `choice` attention is soft.
    """
    tap = None if taps is None else taps.query
    scores = attention_scores(weights.attention, state.h, memory.keys, tap)
    if taps is not None:
        scores = scores + taps.scores
    context, location = read_context(scores, memory.annotations, choice)
    if taps is not None:
        context = context + taps.context
    if weights.beta is None:
        beta = jnp.ones(scores.shape[:-1], scores.dtype)
    else:
        logit = state.h @ weights.beta + weights.beta_bias
        beta = jax.nn.sigmoid(logit if taps is None else logit + taps.beta)
    z = beta[..., None] * context
    gates = word_gates + product(jnp.concatenate([state.h, z], axis=-1), weights.lstm)
    i, f, o, g = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return State(h, c), Reading(z, scores, beta, location)


def scan(
    weights: Weights,
    memory: Memory,
    word_gates: Float[Array, "T B R G"],
    starts: Bool[Array, "T B R"],
    choice: Choice | None = None,
    taps: Taps | None = None,
) -> tuple[Float[Array, "T B R H"], Reading]:
    """h_t and readings of all steps, the plain way: what `run` computes, and is tested against.

    Args:
      starts: where a caption begins, with the initial state.
      choice: hard attention's noise for every step (T, B, R, L), and the rows (B, R) that take the
        expectation; None is soft attention.
    """
    initial = initial_state(memory, starts.shape[2])

    def body(state: State, inputs: Any):
        gates, start, noise, tap = inputs
        state = jax.tree.map(lambda s, s0: jnp.where(start[..., None], s0, s), state, initial)
        now = None if noise is None else Choice(noise, choice.expected)
        state, reading = step(weights, memory, state, gates, now, tap)
        return state, (state.h, reading)

    noise = None if choice is None else choice.noise
    return jax.lax.scan(body, initial, (word_gates, starts, noise, taps))[1]


@jax.custom_vjp
def run(
    weights: Weights,
    memory: Memory,
    word_gates: Float[Array, "T B R G"],
    starts: Bool[Array, "T B R"],
    choice: Choice | None = None,
) -> tuple[Float[Array, "T B R H"], Reading]:
    """`scan` with a faster gradient, of the same value.

    Plain autodiff adds a step's share to the gradient of each weight matrix inside the backward
    loop: products too small to be fast, and the whole matrix read and written every step. Here the
    loop gives the gradient of each product of a step alone (by `Taps`); the weights' gradients are
    one large product each over all steps, after the loop (Appleyard et al. 2016, arXiv 1604.01946).
    So are the sums over steps that make the gradients of the keys and of v.
    """
    return scan(weights, memory, word_gates, starts, choice)


def _forward(weights, memory, word_gates, starts, choice):
    shape = starts.shape
    locations, units = memory.keys.shape[1:]
    taps = Taps(
        query=jnp.zeros((*shape, units)),
        scores=jnp.zeros((*shape, locations)),
        beta=jnp.zeros(shape),
        context=jnp.zeros((*shape, memory.annotations.shape[-1])),
    )

    def differentiable(h0, c0, word_gates, taps):
        own = memory._replace(h0=h0, c0=c0)
        h, reading = scan(weights, own, word_gates, starts, choice, taps)
        return (h, *reading[:-1]), reading.location

    given = (memory.h0, memory.c0, word_gates, taps)
    out, pull_back, location = jax.vjp(differentiable, *given, has_aux=True)
    h, *reading = out
    reading = Reading(*reading, location)
    return (h, reading), (pull_back, weights, memory, starts, choice, h, reading)


def _backward(residuals, cotangents):
    pull_back, weights, memory, starts, choice, h, reading = residuals
    d_h, d_reading = cotangents
    d_h0, d_c0, d_gates, d_taps = pull_back((d_h, *d_reading[:-1]))
    initial = initial_state(memory, starts.shape[2]).h
    before = jnp.concatenate([initial[None], h[:-1]])
    before = jnp.where(starts[..., None], initial, before)

    # As if each step were a further caption row.
    def rows(x: Float[Array, "T B R N"]) -> Float[Array, "B TR N"]:
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, x.shape[-1])

    query = rows(product(before, weights.attention.query))
    _, of_scores = jax.vjp(
        lambda v, keys: scores_of_query(v, query, keys), weights.attention.score, memory.keys
    )
    d_score, d_keys = of_scores(rows(d_taps.scores))
    read = reading.alpha
    if choice is not None:
        chosen = jax.nn.one_hot(reading.location, read.shape[-1], dtype=read.dtype)
        read = jnp.where(choice.expected[..., None], read, chosen)
    lstm_input = jnp.concatenate([before, reading.z], axis=-1)

    def over_steps(what: str, a: Array, b: Array, like: Array) -> Array:
        a, b = a.astype(like.dtype), b.astype(like.dtype)
        return jnp.einsum(what, a, b, preferred_element_type=jnp.float32).astype(like.dtype)

    d_weights = Weights(
        attention=AttentionWeights(
            query=over_steps("tbrh,tbra->ha", before, d_taps.query, weights.attention.query),
            score=d_score,
        ),
        beta=None if weights.beta is None else jnp.einsum("tbrh,tbr->h", before, d_taps.beta),
        beta_bias=None if weights.beta is None else d_taps.beta.sum(),
        lstm=over_steps("tbri,tbrg->ig", lstm_input, d_gates, weights.lstm),
    )
    d_annotations = over_steps("tbrl,tbrd->bld", read, d_taps.context, memory.annotations)
    return d_weights, Memory(d_annotations, d_keys, d_h0, d_c0), d_gates, None, None


run.defvjp(_forward, _backward)
