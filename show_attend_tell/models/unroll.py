"""All steps of given captions: the scan, and what can be computed outside of it.

Where no later step depends on the place that a step reads (`StepConfig.reads`), only the LSTM and,
for an expected context, the scores stay inside the scan. All reading is then one large product. A
posterior context also needs the normalisers inside; it is differentiated the plain way.

Symbols as in `recurrence`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from show_attend_tell.models import fast_scan
from show_attend_tell.models.attention import Choice, read_context
from show_attend_tell.models.recurrence import (
    Matrices,
    Memory,
    StepOutput,
    Weights,
    WordInputs,
    attend_with,
    multiplier,
    scan,
)


def run(
    weights: Weights,
    memory: Memory,
    words: WordInputs,
    starts: Bool[Array, "T B R"],
    choice: Choice | None = None,
) -> tuple[Float[Array, "T B R H"], StepOutput]:
    """h_t and outputs of all steps, as `recurrence.scan` computes them.

    Args:
      starts: where a sequence begins, with the initial state.
      choice: hard attention's noise for every step (T, B, R, L), and the rows (B, R) that take the
        expectation; None is soft attention.
    """
    if memory.seen is not None:  # differentiated the plain way
        return scan(weights, memory, words, starts, choice)
    if weights.config.reads == "nothing":
        return _attend_after(weights, memory, words, starts, choice)
    if weights.config.reads == "expected" and choice is not None:
        h, output = fast_scan.run(weights, memory, words, starts)
        return h, _read_again(output, memory, choice)
    if weights.config.reads == "posterior":
        h, output = scan(weights, memory, words, starts)
        return h, output if choice is None else _read_again(output, memory, choice)
    return fast_scan.run(weights, memory, words, starts, choice)


def steps_since_start(starts: Bool[Array, "T B R"]) -> Int[Array, "T B R"]:
    """The number of steps since the sequence of each position began."""
    steps = jnp.arange(len(starts))[:, None, None]
    return steps - jax.lax.cummax(jnp.where(starts, steps, 0))


def previous_states(
    h: Float[Array, "T B R H"], h0: Float[Array, "B H"], starts: Bool[Array, "T B R"]
) -> Float[Array, "T B R H"]:
    """h_{t-1} of every step."""
    return jnp.where(starts[..., None], h0[None, :, None], jnp.roll(h, 1, axis=0))


def _attend_after(
    weights: Weights,
    memory: Memory,
    words: WordInputs,
    starts: Bool[Array, "T B R"],
    choice: Choice | None,
) -> tuple[Float[Array, "T B R H"], StepOutput]:
    """The scan of a state that reads nothing, then the attention of all steps at once."""
    matrices = weights.matrices
    own = Matrices(matrices.lstm, self_key=matrices.self_key, self_query=matrices.self_query)
    blind = Weights(own, self_score=weights.self_score, config=weights.config)
    unread = Memory(None, None, memory.h0, memory.c0)
    h, output = fast_scan.run(blind, unread, words, starts)
    attending = h
    if weights.config.order == "previous":
        attending = previous_states(h, memory.h0, starts)
    read = attend_with(
        weights,
        memory,
        _rows(steps_since_start(starts)),
        multiplier(weights),
        None,
        _choice_of_rows(choice, len(starts)),
        _rows(attending),
    )
    read = jax.tree.map(lambda x: _steps(x, len(starts)), read)
    return h, read._replace(self_log_alpha=output.self_log_alpha, summary=output.summary)


def _read_again(output: StepOutput, memory: Memory, choice: Choice) -> StepOutput:
    """The output of a state that was fed contexts of its own, now reading by choice."""
    assert output.log_alpha is not None and output.beta is not None
    assert memory.annotations is not None
    steps = len(output.log_alpha)
    context, location = read_context(
        _rows(output.log_alpha), memory.annotations, _choice_of_rows(choice, steps)
    )
    z = output.beta[..., None] * _steps(context, steps)
    return output._replace(z=z, location=_steps(location, steps))


def _choice_of_rows(choice: Choice | None, steps: int) -> Choice | None:
    if choice is None:
        return None
    expected = jnp.broadcast_to(choice.expected[None], (steps, *choice.expected.shape))
    choice = choice.with_noises(jax.tree.map(_rows, choice.noises))
    return choice._replace(expected=_rows(expected))


def _rows(x: Array) -> Array:
    """(T, B, R, ...) as (B, T R, ...): every step counts as one more row."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], x.shape[0] * x.shape[2], *x.shape[3:])


def _steps(x: Array, steps: int) -> Array:
    """The inverse of `_rows`."""
    return jnp.moveaxis(x.reshape(x.shape[0], steps, -1, *x.shape[2:]), 1, 0)
