"""The recurrence: one step that covers every variant, and a plain scan over given sequences.

What depends on no earlier step is computed outside: word inputs enter as gate pre-activations,
annotation keys are computed once, and words are predicted after the scan. A decoder runs the
recurrence over captions with an attended `Memory`; a sentence encoder runs it over source words
without one. `fast_scan.run` computes the same as `scan` and has the faster gradient, but not
for a posterior context.

Symbols as in `decoder`; S steps that self-attention can look back on, G gate pre-activations (4 H
of an LSTM, 3 H of a GRU), K coordinates of a place.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from show_attend_tell.models import posterior_reading, sight
from show_attend_tell.models.attention import (
    Choice,
    Noises,
    Window,
    log_weights,
    read_context,
    scores_of_query,
)
from show_attend_tell.models.cells import gru_cell, lstm_cell
from show_attend_tell.models.products import Linear, matmul

# times(name, x): the product of x with the matrix of that name, see `multiplier`.
Times = Callable[[str, Float[Array, "B R I"]], Float[Array, "B R J"]]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What a step does, as far as its arrays do not say.

    Attributes:
      cell: `lstm`; or, without a memory, `gru` (Cho et al. 2014, with the reset gate on the
        product, as in cuDNN: h' = tanh(W x + r * (U h))).
      window, reach: see `attention`.
      renormalise: whether alpha sums to 1 within a Gaussian window.
      order: the state that attends: `previous`, h_{t-1}, or `current`, h_t.
      reads: what enters the state: what was read (`drawn`), the `expected` context, that of the
        `posterior` (see `posterior_reading`), or `nothing`.
      read_out: from scores to weights; see `attention.log_weights`.
      state_tanh: whether the state's term of the logits has one; of concern to `posterior` only.
    """

    cell: str = "lstm"
    window: str = "global"
    reach: int = 10
    renormalise: bool = False
    order: str = "previous"
    reads: str = "drawn"
    read_out: str = "softmax"
    state_tanh: bool = False


class SelfAttention(nnx.Module):
    """The parameters of attention to earlier steps (Cheng et al. 2016, eq. 5).

    Args:
      embedding: E, size of the input words' vectors.
      hidden: H, units of the LSTM.
      units: A, units of the score.
      dtype: number format of products.
    """

    def __init__(
        self,
        embedding: int,
        hidden: int,
        units: int,
        *,
        dtype: str | jnp.dtype = "float32",
        rngs: nnx.Rngs,
    ):
        linear = partial(Linear, dtype=jnp.dtype(dtype), rngs=rngs)
        self.key = linear(hidden, units, use_bias=False)  # W_h
        self.query = linear(hidden, units, use_bias=False)  # W_h~
        self.word = linear(embedding, units)  # W_x
        self.score = nnx.Linear(units, 1, use_bias=False, rngs=rngs)  # v


class Memory(NamedTuple):
    """What a decoder knows of an input: computed once, shared by its captions and beams."""

    annotations: Float[Array, "B L D"] | None  # None: the step attends to nothing
    keys: Float[Array, "B L A"] | None  # of `Attention.keys`
    h0: Float[Array, "B H"]
    c0: Float[Array, "B H"]
    mask: Bool[Array, "B L"] | None = None  # False at padding
    places: Float[Array, "L K"] | None = None  # coordinates of each place, for windows
    extent: Float[Array, "B K"] | None = None  # number of places along each coordinate
    scene: Float[Array, "B E"] | None = None  # what the whole input adds to every prediction
    place_terms: posterior_reading.PlaceTerms | None = None  # only while a posterior is read
    turned: Float[Array, "B D L"] | None = None  # the annotations, for `fast_scan`
    seen: sight.Seen | None = None  # the picture beside a sentence


class Matrices(NamedTuple):
    """The matrices that every step multiplies by; None where a step does not use one.

    The fast scan uses the same type for one array per matrix: its taps and their gradients.
    `fast_scan` says what else to change when you add a matrix.
    """

    lstm: Float[Array, "I G"] | None  # of h_{t-1}, then of what was read; gates i, f, o, g
    query: Float[Array, "H A"] | None = None  # W of additive scores
    beta: Float[Array, "H 1"] | None = None  # of the gate beta; None: beta is 1
    centre: Float[Array, "H A"] | None = None  # W_p of a predicted window
    combine: Float[Array, "DH H"] | None = None  # W_c of the attentional state: Luong's order
    self_key: Float[Array, "H A"] | None = None  # W_h of self-attention
    self_query: Float[Array, "H A"] | None = None  # W_h~ of self-attention


class Weights(NamedTuple):
    """All that a step computes with, besides the memory."""

    matrices: Matrices
    score: Float[Array, " A"] | None = None  # v of additive scores
    beta_bias: Float[Array, ""] | None = None
    centre_score: Float[Array, "A K"] | None = None  # v_p of a predicted window
    self_score: Float[Array, " A"] | None = None  # v of self-attention
    predictor: posterior_reading.Predictor | None = None  # where a posterior is read
    config: StepConfig = StepConfig()
    turned: Matrices | None = None  # the transposed matrices, for `fast_scan`
    of_picture: sight.SightWeights | None = None


class WordInputs(NamedTuple):
    """What the input words contribute to a step."""

    gates: Float[Array, "*T B R G"]  # to the gates' pre-activations
    query: Float[Array, "*T B R A"] | None = None  # W_x x_t of self-attention
    terms: posterior_reading.WordTerms | None = None  # where a posterior is read


class Tape(NamedTuple):
    """What self-attention looks back on: the states before each step of the sequence."""

    h: Float[Array, "B R S H"]
    c: Float[Array, "B R S H"]
    keys: Float[Array, "B R S A"]
    summary: Float[Array, "B R H"]  # h~ of the previous step


class State(NamedTuple):
    """What one step hands to the next."""

    h: Float[Array, "B R H"]
    c: Float[Array, "B R H"]
    time: Int[Array, "B R"]  # steps since the sequence's start
    attentional: Float[Array, "B R H"] | None = None  # h~ of Luong's order, fed to the next step
    tape: Tape | None = None
    carried: Float[Array, "B R L"] | None = None  # of `posterior_reading`


class StepOutput(NamedTuple):
    """What a step reads and computes besides its state; None where its variant has no such thing.

    Without a memory only the fields of self-attention can be set.
    """

    z: Float[Array, "*T B R D"] | None = None  # the gated context
    log_alpha: Float[Array, "*T B R L"] | None = None
    beta: Float[Array, "*T B R"] | None = None
    location: Int[Array, "*T B R"] | None = None  # s_t of a choice; else of the largest alpha
    attentional: Float[Array, "*T B R H"] | None = None
    self_log_alpha: Float[Array, "*T B R S"] | None = None
    summary: Float[Array, "*T B R H"] | None = None  # h~ of self-attention
    look: sight.Look | None = None  # at a picture beside the sentence

    @property
    def alpha(self) -> Float[Array, "*T B R L"]:
        """Attention weights; only of a step with a memory."""
        assert self.log_alpha is not None
        return jnp.exp(self.log_alpha)


class Taps(NamedTuple):
    """Zeros added to what a step computes, so that their gradients are those of the sums.

    Only `fast_scan` uses them.
    """

    products: Matrices  # added to the products with each matrix
    scores: Float[Array, "*T B R L"] | None
    context: Float[Array, "*T B R D"] | None


def initial_state(weights: Weights, memory: Memory, rows: int, steps: int) -> State:
    """The state before the first step of a sequence, for every row.

    Args:
      rows: R.
      steps: S, the largest number of steps to come.
    """

    def expand(x: Float[Array, "B H"]) -> Float[Array, "B R H"]:
        return jnp.broadcast_to(x[:, None], (x.shape[0], rows, x.shape[1]))

    h, c = expand(memory.h0), expand(memory.c0)
    zeros = jnp.zeros_like(h)
    tape, attentional, carried = None, None, None
    if weights.config.reads == "posterior":
        assert memory.annotations is not None
        shape = (*h.shape[:2], memory.annotations.shape[1])
        carried = posterior_reading.before_any_word(memory.mask, shape)
    if weights.matrices.combine is not None:
        attentional = zeros
    if weights.matrices.self_key is not None:
        past = jnp.zeros((*h.shape[:2], steps, h.shape[2]))
        keys = jnp.zeros((*past.shape[:3], weights.matrices.self_key.shape[1]))
        tape = Tape(past, past, keys, zeros)
    return State(h, c, jnp.zeros(h.shape[:2], jnp.int32), attentional, tape, carried)


def step(
    weights: Weights,
    memory: Memory,
    state: State,
    words: WordInputs,
    choice: Choice | None = None,
    taps: Taps | None = None,
) -> tuple[State, StepOutput]:
    """One step of the recurrence. Teacher forcing and every kind of decoding run this function.

    By default the step attends with h_{t-1}, then updates the LSTM with the context (Bahdanau et
    al. 2015, A.1.2; Xu et al. 2015, eq. 1-5, 13). With a matrix `combine` it updates the LSTM
    first, attends with h_t, and feeds h~_t = tanh(W_c [z_t; h_t]) to the next step (Luong et al.
    2015, eq. 5, section 3.3). A state that reads a posterior moves first, too, with the context of
    the word that the step before said (see `posterior_reading`). With self-attention the LSTM
    continues from an attended summary of all earlier states, not from the last one (Cheng et al.
    2016, eq. 5-11).

    Where the state reads nothing, or the expected or posterior context whatever the choice, no
    later step depends on the place that this one read. `unroll` makes use of that.

    Args:
      choice: hard attention's noise for this step (B, R, L), and the rows (B, R) that take the
        expectation; None is soft attention.
      taps: of this step, for `fast_scan`.
    """
    times = multiplier(weights, taps)
    config = weights.config
    attend = partial(attend_with, weights, memory, state.time, times, taps)
    h, c, tape, self_log_alpha, carried = state.h, state.c, None, None, None
    if state.tape is not None:
        tape, c, self_log_alpha = _self_attend(weights, state, state.tape, words, times)
        h = tape.summary

    if weights.matrices.combine is not None:
        h, c = lstm_cell(c, words.gates + times("lstm", _joined(h, state.attentional)))
        output = attend(choice, h)
        combined = jnp.tanh(times("combine", _joined(output.z, h)))
        output = output._replace(attentional=combined)
    elif memory.keys is None:
        output = StepOutput()
        if config.cell == "gru":
            h = gru_cell(h, words.gates, times("lstm", h))
        else:
            h, c = lstm_cell(c, words.gates + times("lstm", h))
    elif config.reads == "nothing":
        h, c = lstm_cell(c, words.gates + times("lstm", h))
        output = attend(choice, h if config.order == "current" else state.h)
    elif config.reads == "posterior":
        places, predictor, terms = memory.place_terms, weights.predictor, words.terms
        assert places is not None and predictor is not None and terms is not None
        assert state.carried is not None and memory.annotations is not None
        read = posterior_reading.context(state.carried, terms, memory.annotations)
        h, c = lstm_cell(c, words.gates + times("lstm", _joined(h, read)))
        output = attend(choice, h)
        assert output.log_alpha is not None
        carried = posterior_reading.carry(
            places, predictor, terms, h, output.log_alpha, config.state_tanh
        )
    else:
        output = attend(choice, state.h)
        drawn = choice is None or config.reads == "drawn"
        fed = output if drawn else attend(None, state.h)
        h, c = lstm_cell(c, words.gates + times("lstm", _joined(h, fed.z)))
    state = State(h, c, state.time + 1, output.attentional, tape, carried)
    if tape is not None:
        output = output._replace(self_log_alpha=self_log_alpha, summary=tape.summary)
    return state, output


def multiplier(weights: Weights, taps: Taps | None = None) -> Times:
    """The function by which a step multiplies by its matrices, so that each product has its tap."""

    def times(name: str, x: Float[Array, "B R I"]) -> Float[Array, "B R J"]:
        y = matmul(x, getattr(weights.matrices, name), getattr(weights.turned, name, None))
        tap = None if taps is None else getattr(taps.products, name)
        return y if tap is None else y + tap

    return times


def _joined(*parts: Float[Array, "B R _"] | None) -> Float[Array, "B R I"]:
    return jnp.concatenate([part for part in parts if part is not None], axis=-1)


def attend_with(
    weights: Weights,
    memory: Memory,
    time: Int[Array, "B R"],
    times: Times,
    taps: Taps | None,
    choice: Choice | None,
    h: Float[Array, "B R H"],
) -> StepOutput:
    """What the state h, which is h_{t-1} or h_t, reads from the memory."""
    assert memory.keys is not None and memory.annotations is not None
    query = h if weights.score is None else times("query", h)
    scores = scores_of_query(weights.score, query, memory.keys)
    if taps is not None and taps.scores is not None:
        scores = scores + taps.scores
    window = _window(weights, memory, time, times, h)
    log_alpha = log_weights(scores, memory.mask, window, weights.config.read_out)
    context, location = read_context(log_alpha, memory.annotations, choice, memory.turned)
    if taps is not None and taps.context is not None:
        context = context + taps.context
    beta = jnp.ones(log_alpha.shape[:-1], log_alpha.dtype)
    if weights.matrices.beta is not None:
        assert weights.beta_bias is not None
        beta = jax.nn.sigmoid(times("beta", h)[..., 0] + weights.beta_bias)
    z, looked = beta[..., None] * context, None
    if memory.seen is not None and weights.of_picture is not None:
        of_picture = None if choice is None else choice.of_picture
        seen, looked = sight.look(weights.of_picture, memory.seen, h, of_picture)
        z = z + seen
    return StepOutput(z, log_alpha, beta, location, look=looked)


def _window(
    weights: Weights,
    memory: Memory,
    time: Int[Array, "B R"],
    times: Times,
    h: Float[Array, "B R H"],
) -> Window | None:
    """The window of a step (see `attention`); None is the global one."""
    config = weights.config
    if config.window == "global":
        return None
    assert memory.places is not None and memory.extent is not None
    if config.window == "local_m":
        last = memory.extent[:, None] - 1
        centre = jnp.minimum(time[..., None].astype(last.dtype), last)
    else:
        assert weights.centre_score is not None
        share = jax.nn.sigmoid(jnp.tanh(times("centre", h)) @ weights.centre_score)
        centre = memory.extent[:, None] * share
    gaussian = config.window == "local_p"
    return Window(memory.places, centre, config.reach, gaussian, config.renormalise)


def forget_one(key, shape, dtype=jnp.float32, out_sharding=None):
    """Biases of the gates i, f, o, g: 1 for the forget gate (Jozefowicz et al. 2015), else 0."""
    del key, out_sharding
    return jnp.zeros(shape, dtype).at[shape[0] // 4 : shape[0] // 2].set(1)


def _self_attend(
    weights: Weights, state: State, tape: Tape, words: WordInputs, times: Times
) -> tuple[Tape, Float[Array, "B R H"], Float[Array, "B R S"]]:
    """The tape, now with h_{t-1} and the new h~_t; c~_t; and log s^t.

    a_i^t = v^T tanh(W_h h_i + W_x x_t + W_h~ h~_{t-1}); s^t is its softmax over i < t; h~_t and
    c~_t are the sums of h_i and c_i, weighted by s^t (Cheng et al. 2016, eq. 5-7). The first step
    can only look back on a state of zeros.
    """
    assert words.query is not None and weights.self_score is not None
    time = state.time
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
    """The state, replaced by the initial one in rows where a sequence begins."""

    def fresh(s: Array, s0: Array) -> Array:
        return jnp.where(jnp.expand_dims(start, range(2, s.ndim)), s0, s)

    if state.tape is None or initial.tape is None:
        return jax.tree.map(fresh, state, initial)
    # Time starts anew, so the tape is overwritten slot by slot before a step looks at it.
    summary = fresh(state.tape.summary, initial.tape.summary)
    rest = jax.tree.map(fresh, state._replace(tape=None), initial._replace(tape=None))
    return rest._replace(tape=state.tape._replace(summary=summary))


def scan(
    weights: Weights,
    memory: Memory,
    words: WordInputs,
    starts: Bool[Array, "T B R"],
    choice: Choice | None = None,
    taps: Taps | None = None,
) -> tuple[Float[Array, "T B R H"], StepOutput]:
    """h_t and outputs of all steps, differentiated the plain way: the reference for `fast_scan`.

    Args:
      starts: where a sequence begins, with the initial state.
      choice: hard attention's noise for every step (T, B, R, L), and the rows (B, R) that take the
        expectation; None is soft attention.
      taps: of all steps, for `fast_scan`.
    """
    initial = initial_state(weights, memory, starts.shape[2], len(starts))

    def body(state: State, inputs: tuple[WordInputs, Array, Noises | None, Taps | None]):
        now, start, noises, tap = inputs
        state = _restart(state, initial, start)
        chosen = None if choice is None or noises is None else choice.with_noises(noises)
        state, output = step(weights, memory, state, now, chosen, tap)
        return state, (state.h, output)

    noises = None if choice is None else choice.noises
    return jax.lax.scan(body, initial, (words, starts, noises, taps))[1]
