"""The recurrence: one step of it for every variant, and a fast run over given sequences.

Everything that depends on no step's outcome stays outside: word inputs enter as gate
pre-activations, annotation keys are computed once, words are put out afterwards. A decoder runs it
over captions with an attended `Memory`, an encoder of sentences over source words without one.
Symbols as in `decoder`; S steps that self-attention can look back on.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from show_attend_tell.models.attention import (
    Choice,
    Window,
    log_weights,
    product,
    read_context,
    scores_of_query,
)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Form:
    """What a step does, where no array tells.

    Attributes:
      cell: `lstm`; or, without a memory, `gru` (Cho et al. 2014, with the reset gate on the
        product, as in cuDNN: h' = tanh(W x + r * (U h))).
      window, reach: see `attention`.
      renormalise: whether alpha sums to 1 within a Gaussian window.
    """

    cell: str = "lstm"
    window: str = "global"
    reach: int = 10
    renormalise: bool = False


class SelfAttention(nnx.Module):
    """The parameters of attention to the steps before (Cheng et al. 2016, eq. 5).

    Args:
      embedding, hidden, units: of input words, of the LSTM, and of the score: E, H, A.
      dtype: of products.
    """

    def __init__(
        self,
        embedding: int,
        hidden: int,
        units: int,
        *,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        linear = partial(nnx.Linear, dtype=dtype, rngs=rngs)
        self.key = linear(hidden, units, use_bias=False)  # W_h
        self.query = linear(hidden, units, use_bias=False)  # W_h~
        self.word = linear(embedding, units)  # W_x
        self.score = nnx.Linear(units, 1, use_bias=False, rngs=rngs)  # v


class Memory(NamedTuple):
    """What the decoder reads of an input; computed once, shared by its captions and beams."""

    annotations: Float[Array, "B L D"] | None  # None: nothing is attended to
    keys: Float[Array, "B L A"] | None  # of `Attention.keys`
    h0: Float[Array, "B H"]
    c0: Float[Array, "B H"]
    mask: Bool[Array, "B L"] | None = None  # False at padding
    places: Float[Array, "L K"] | None = None  # where each place lies, for windows
    extent: Float[Array, "B K"] | None = None  # how many there are, along each coordinate


class Matrices(NamedTuple):
    """The matrices that every step multiplies by, and in other uses one array for each.

    Where a form has no use for one it is None.
    """

    lstm: Float[Array, "I G"]  # of h_{t-1} above what is read; gates i, f, o, g (G = 4 H)
    query: Float[Array, "H A"] | None = None  # W of additive scores
    beta: Float[Array, "H 1"] | None = None  # of the gate beta; None: beta is 1
    centre: Float[Array, "H A"] | None = None  # W_p of a predicted window
    combine: Float[Array, "DH H"] | None = None  # W_c of the attentional state: Luong's order
    self_key: Float[Array, "H A"] | None = None  # W_h of self-attention
    self_query: Float[Array, "H A"] | None = None  # W_h~ of self-attention


class Weights(NamedTuple):
    """What every step computes with."""

    matrices: Matrices
    score: Float[Array, " A"] | None = None  # v of additive scores
    beta_bias: Float[Array, ""] | None = None
    centre_score: Float[Array, "A K"] | None = None  # v_p of a predicted window
    self_score: Float[Array, " A"] | None = None  # v of self-attention
    form: Form = Form()


class WordInputs(NamedTuple):
    """The input words' shares of a step."""

    gates: Float[Array, "*T B R G"]  # of the gates' pre-activations
    query: Float[Array, "*T B R A"] | None = None  # W_x x_t of self-attention


class Tape(NamedTuple):
    """What self-attention looks back on: the states before each step of the sequence."""

    h: Float[Array, "B R S H"]
    c: Float[Array, "B R S H"]
    keys: Float[Array, "B R S A"]
    summary: Float[Array, "B R H"]  # h~ of the step before


class State(NamedTuple):
    """What goes from step to step."""

    h: Float[Array, "B R H"]
    c: Float[Array, "B R H"]
    time: Int[Array, "B R"]  # steps since the sequence's start
    attentional: Float[Array, "B R H"] | None = None  # h~ of Luong's order, fed to the next step
    tape: Tape | None = None


class Reading(NamedTuple):
    """What one step reads from the memory, and from the steps before. None: there is no such."""

    z: Float[Array, "*T B R D"] | None = None  # the gated context
    log_alpha: Float[Array, "*T B R L"] | None = None
    beta: Float[Array, "*T B R"] | None = None
    location: Int[Array, "*T B R"] | None = None  # s_t of a choice; else of the largest alpha
    attentional: Float[Array, "*T B R H"] | None = None
    self_log_alpha: Float[Array, "*T B R S"] | None = None
    summary: Float[Array, "*T B R H"] | None = None  # h~ of self-attention

    @property
    def alpha(self) -> Float[Array, "*T B R L"]:
        """Attention weights."""
        return jnp.exp(self.log_alpha)


class Taps(NamedTuple):
    """Zeros that are added to what a step computes: their gradients are those of the terms."""

    products: Matrices  # of the products with each matrix
    scores: Float[Array, "*T B R L"] | None
    context: Float[Array, "*T B R D"] | None


def initial_state(weights: Weights, memory: Memory, rows: int, steps: int) -> State:
    """The state before the first step of a sequence, for every row.

    Args:
      rows: R.
      steps: S, how many steps there will be at most.
    """

    def expand(x: Float[Array, "B H"]) -> Float[Array, "B R H"]:
        return jnp.broadcast_to(x[:, None], (x.shape[0], rows, x.shape[1]))

    h, c = expand(memory.h0), expand(memory.c0)
    zeros = jnp.zeros_like(h)
    tape, attentional = None, None
    if weights.matrices.combine is not None:
        attentional = zeros
    if weights.matrices.self_key is not None:
        past = jnp.zeros((*h.shape[:2], steps, h.shape[2]))
        keys = jnp.zeros((*past.shape[:3], weights.matrices.self_key.shape[1]))
        tape = Tape(past, past, keys, zeros)
    return State(h, c, jnp.zeros(h.shape[:2], jnp.int32), attentional, tape)


def step(
    weights: Weights,
    memory: Memory,
    state: State,
    words: WordInputs,
    choice: Choice | None = None,
) -> tuple[State, Reading]:
    """One step of the recurrence.

    Attends with h_{t-1}, then updates the LSTM with what it read (Bahdanau et al. 2015, A.1.2; Xu
    et al. 2015, eq. 1-5, 13); with a matrix `combine` it updates the LSTM, attends with h_t and
    feeds h~_t = tanh(W_c [z_t; h_t]) to the next step (Luong et al. 2015, eq. 5, section 3.3). With
    self-attention the LSTM goes on from an attended summary of all states before, not from the last
    (Cheng et al. 2016, eq. 5-11). Teacher forcing and every kind of decoding run this one step.
    Without a `choice` attention is soft.
    """
    return _step(weights, memory, state, words, choice)


def _step(
    weights: Weights,
    memory: Memory,
    state: State,
    words: WordInputs,
    choice: Choice | None,
    taps: Taps | None = None,
) -> tuple[State, Reading]:
    """`step`, with the taps of `run`."""
    form = weights.form

    def times(name: str, x: Float[Array, "B R I"]) -> Float[Array, "B R J"]:
        y = product(x, getattr(weights.matrices, name))
        tap = None if taps is None else getattr(taps.products, name)
        return y if tap is None else y + tap

    def attend(h: Float[Array, "B R H"]) -> Reading:
        query = h if weights.score is None else times("query", h)
        scores = scores_of_query(weights.score, query, memory.keys)
        if taps is not None:
            scores = scores + taps.scores
        centre = None
        if form.window == "local_m":
            last = memory.extent[:, None] - 1
            centre = jnp.minimum(state.time[..., None].astype(last.dtype), last)
        elif form.window == "local_p":
            place = jnp.tanh(times("centre", h)) @ weights.centre_score
            centre = memory.extent[:, None] * jax.nn.sigmoid(place)
        window = None
        if centre is not None:
            gaussian = form.window == "local_p"
            window = Window(memory.places, centre, form.reach, gaussian, form.renormalise)
        log_alpha = log_weights(scores, memory.mask, window)
        context, location = read_context(log_alpha, memory.annotations, choice)
        if taps is not None:
            context = context + taps.context
        beta = jnp.ones(log_alpha.shape[:-1], log_alpha.dtype)
        if weights.matrices.beta is not None:
            beta = jax.nn.sigmoid(times("beta", h)[..., 0] + weights.beta_bias)
        return Reading(beta[..., None] * context, log_alpha, beta, location)

    h, c, tape = state.h, state.c, None
    seen = {}
    if state.tape is not None:
        tape, c, self_log_alpha = _look_back(weights, state, words, times)
        h = tape.summary
        seen = {"self_log_alpha": self_log_alpha, "summary": h}

    if weights.matrices.combine is not None:
        h, c = _lstm(c, words.gates + times("lstm", jnp.concatenate([h, state.attentional], -1)))
        reading = attend(h)
        combined = jnp.tanh(times("combine", jnp.concatenate([reading.z, h], axis=-1)))
        reading = reading._replace(attentional=combined)
    elif memory.keys is not None:
        reading = attend(state.h)
        h, c = _lstm(c, words.gates + times("lstm", jnp.concatenate([h, reading.z], axis=-1)))
    else:
        reading = Reading()
        gates = times("lstm", h)
        h, c = (
            (_gru(h, words.gates, gates), c)
            if form.cell == "gru"
            else _lstm(c, words.gates + gates)
        )
    state = State(h, c, state.time + 1, reading.attentional, tape)
    return state, reading._replace(**seen)


def forget_one(key, shape, dtype=jnp.float32, out_sharding=None):
    """Biases of the gates i, f, o, g: 1 for the forget gate (Jozefowicz et al. 2015), else 0."""
    del key, out_sharding
    return jnp.zeros(shape, dtype).at[shape[0] // 4 : shape[0] // 2].set(1)


def _lstm(
    c: Float[Array, "B R H"], gates: Float[Array, "B R G"]
) -> tuple[Float[Array, "B R H"], Float[Array, "B R H"]]:
    i, f, o, g = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(
    h: Float[Array, "B R H"], of_word: Float[Array, "B R G"], of_h: Float[Array, "B R G"]
) -> Float[Array, "B R H"]:
    reset_x, update_x, new_x = jnp.split(of_word, 3, axis=-1)
    reset_h, update_h, new_h = jnp.split(of_h, 3, axis=-1)
    new = jnp.tanh(new_x + jax.nn.sigmoid(reset_x + reset_h) * new_h)
    update = jax.nn.sigmoid(update_x + update_h)
    return update * h + (1 - update) * new


def _look_back(
    weights: Weights, state: State, words: WordInputs, times: Any
) -> tuple[Tape, Float[Array, "B R H"], Float[Array, "B R S"]]:
    """Self-attention: the tape with h_{t-1} on it and the new h~_t; c~_t; log s^t.

    a_i^t = v^T tanh(W_h h_i + W_x x_t + W_h~ h~_{t-1}), s^t its softmax over i < t, h~_t and c~_t
    the sums of h_i and c_i by s^t (Cheng et al. 2016, eq. 5-7). The first step has a state of zeros
    alone to look back on.
    """
    tape, time = state.tape, state.time
    slots = jnp.arange(tape.h.shape[2])[None, None]
    here = (slots == time[..., None])[..., None]
    begun = (time > 0)[..., None]  # before the first step there is a state of zeros
    last_h, last_c = jnp.where(begun, state.h, 0.0), jnp.where(begun, state.c, 0.0)
    h = jnp.where(here, last_h[:, :, None], tape.h)
    c = jnp.where(here, last_c[:, :, None], tape.c)
    keys = jnp.where(here, times("self_key", last_h)[:, :, None], tape.keys)
    query = words.query + times("self_query", tape.summary)
    scores = jnp.tanh(keys + query[:, :, None]) @ weights.self_score
    past = slots <= time[..., None]
    log_alpha = jax.nn.log_softmax(jnp.where(past, scores, -1e9), axis=-1)
    s = jnp.exp(log_alpha)
    summary_h = jnp.einsum("brs,brsh->brh", s, h)
    summary_c = jnp.einsum("brs,brsh->brh", s, c)
    return Tape(h, c, keys, summary_h), summary_c, log_alpha


def _restart(state: State, initial: State, start: Bool[Array, "B R"]) -> State:
    """The state, or the initial one in rows where a sequence begins."""

    def fresh(s: Array, s0: Array) -> Array:
        return jnp.where(jnp.expand_dims(start, range(2, s.ndim)), s0, s)

    if state.tape is None:
        return jax.tree.map(fresh, state, initial)
    # What is on the tape is written over as time starts anew, and not looked at before.
    summary = fresh(state.tape.summary, initial.tape.summary)
    rest = jax.tree.map(fresh, state._replace(tape=None), initial._replace(tape=None))
    return rest._replace(tape=state.tape._replace(summary=summary))


def scan(
    weights: Weights,
    memory: Memory,
    words: WordInputs,
    starts: Bool[Array, "T B R"],
    choice: Choice | None = None,
) -> tuple[Float[Array, "T B R H"], Reading]:
    """h_t and readings of all steps, the plain way: what `run` computes, and is tested against.

    Args:
      starts: where a sequence begins, with the initial state.
      choice: hard attention's noise for every step (T, B, R, L), and the rows (B, R) that take the
        expectation; None is soft attention.
    """
    return _scan(weights, memory, words, starts, choice)


def _scan(
    weights: Weights,
    memory: Memory,
    words: WordInputs,
    starts: Bool[Array, "T B R"],
    choice: Choice | None,
    taps: Taps | None = None,
) -> tuple[Float[Array, "T B R H"], Reading]:
    initial = initial_state(weights, memory, starts.shape[2], len(starts))

    def body(state: State, inputs: Any):
        now, start, noise, tap = inputs
        state = _restart(state, initial, start)
        chosen = None if noise is None else Choice(noise, choice.expected)
        state, reading = _step(weights, memory, state, now, chosen, tap)
        return state, (state.h, reading)

    noise = None if choice is None else choice.noise
    return jax.lax.scan(body, initial, (words, starts, noise, taps))[1]


@jax.custom_vjp
def run(
    weights: Weights,
    memory: Memory,
    words: WordInputs,
    starts: Bool[Array, "T B R"],
    choice: Choice | None = None,
) -> tuple[Float[Array, "T B R H"], Reading]:
    """`scan` with a faster gradient, of the same value.

    Plain autodiff adds a step's share to the gradient of each weight matrix inside the backward
    loop: products too small to be fast, and the whole matrix read and written every step. Here the
    loop gives the gradient of each product of a step alone (by `Taps`); the matrices' gradients are
    one large product each over all steps, after the loop (Appleyard et al. 2016, arXiv 1604.01946).
    So are the sums over steps that make the gradients of the keys and of v.
    """
    return scan(weights, memory, words, starts, choice)


def _forward(weights, memory, words, starts, choice):
    shape, attends = starts.shape, memory.keys is not None
    products = weights.matrices
    if (
        weights.form.cell == "lstm"
    ):  # its gradient is that of the words' gates, to which it is added
        products = products._replace(lstm=None)
    taps = Taps(
        products=jax.tree.map(lambda m: jnp.zeros((*shape, m.shape[1])), products),
        scores=jnp.zeros((*shape, memory.keys.shape[1])) if attends else None,
        context=jnp.zeros((*shape, memory.annotations.shape[-1])) if attends else None,
    )

    def differentiable(h0, c0, words, small, taps):
        own = memory._replace(h0=h0, c0=c0)
        h, reading = _scan(weights._replace(**small), own, words, starts, choice, taps)
        return (h, reading._replace(location=None)), reading.location

    # Gradients of these few numbers are best summed in the loop.
    small = {n: getattr(weights, n) for n in ("beta_bias", "centre_score", "self_score")}
    given = (memory.h0, memory.c0, words, small, taps)
    (h, reading), pull_back, location = jax.vjp(differentiable, *given, has_aux=True)
    reading = reading._replace(location=location)
    return (h, reading), (pull_back, weights, memory, starts, choice, h, reading)


def _backward(residuals, cotangents):
    pull_back, weights, memory, starts, choice, h, reading = residuals
    d_h, d_reading = cotangents
    d_h0, d_c0, d_words, d_small, d_taps = pull_back((d_h, d_reading._replace(location=None)))
    multiplied, attending = _multiplied(memory, starts, h, reading)
    d_products = d_taps.products
    if weights.form.cell == "lstm":
        d_products = d_products._replace(lstm=d_words.gates)

    def over_steps(what: str, a: Array, b: Array, like: Array) -> Array:
        a, b = a.astype(like.dtype), b.astype(like.dtype)
        return jnp.einsum(what, a, b, preferred_element_type=jnp.float32).astype(like.dtype)

    d_matrices = Matrices(
        *(
            None if m is None else over_steps("tbri,tbrj->ij", multiplied[name](), d, m)
            for name, m, d in zip(Matrices._fields, weights.matrices, d_products, strict=True)
        )
    )
    d_memory = Memory(None, None, d_h0, d_c0)
    d_score = None
    if memory.keys is not None:
        # As if each step were a further caption row.
        def rows(x: Float[Array, "T B R N"]) -> Float[Array, "B TR N"]:
            return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, x.shape[-1])

        query = attending
        if weights.score is not None:
            query = product(query, weights.matrices.query)
        query = rows(query)
        _, of_scores = jax.vjp(
            lambda v, keys: scores_of_query(v, query, keys), weights.score, memory.keys
        )
        d_score, d_keys = of_scores(rows(d_taps.scores))
        read = reading.alpha
        if choice is not None:
            chosen = jax.nn.one_hot(reading.location, read.shape[-1], dtype=read.dtype)
            read = jnp.where(choice.expected[..., None], read, chosen)
        d_annotations = over_steps("tbrl,tbrd->bld", read, d_taps.context, memory.annotations)
        d_memory = d_memory._replace(annotations=d_annotations, keys=d_keys)
    d_weights = Weights(d_matrices, score=d_score, form=weights.form, **d_small)
    return d_weights, d_memory, d_words, None, None


def _multiplied(
    memory: Memory, starts: Bool[Array, "T B R"], h: Float[Array, "T B R H"], reading: Reading
) -> tuple[dict[str, Any], Float[Array, "T B R H"]]:
    """What a run multiplied each matrix by, for those asked for; and the states that attended."""

    def before(x: Float[Array, "T B R H"], first: Array | float) -> Float[Array, "T B R H"]:
        x = jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
        return jnp.where(starts[..., None], first, x)

    def joined(*parts: Array | None) -> Float[Array, "T B R I"]:
        return jnp.concatenate([part for part in parts if part is not None], axis=-1)

    luong = reading.attentional is not None
    last = before(h, memory.h0[None, :, None])
    recurrent = last if reading.summary is None else reading.summary
    attending = h if luong else last
    read = before(reading.attentional, 0.0) if luong else reading.z
    return {
        "lstm": lambda: joined(recurrent, read),
        "query": lambda: attending,
        "beta": lambda: attending,
        "centre": lambda: attending,
        "combine": lambda: joined(reading.z, attending),
        "self_key": lambda: before(h, 0.0),
        "self_query": lambda: before(reading.summary, 0.0),
    }, attending


run.defvjp(_forward, _backward)
