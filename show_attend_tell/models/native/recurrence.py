"""All steps of the recurrence in C++, for a CPU, and their gradient: `recurrence.cc`.

They compute what `models.recurrence.scan` does, for an LSTM that attends by additive scores with
h_{t-1}, softly or hard, or attends to nothing. Other variants are left to XLA.

Symbols as in `models.recurrence`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from show_attend_tell.models import native
from show_attend_tell.models.attention import Choice
from show_attend_tell.models.recurrence import (
    Matrices,
    Memory,
    StepOutput,
    Taps,
    Weights,
    WordInputs,
)


def covers(weights: Weights, memory: Memory, choice: Choice | None) -> bool:
    """Whether the functions can be called, and know this variant of a step."""
    config, matrices = weights.config, weights.matrices
    assert matrices.lstm is not None
    others = (matrices.centre, matrices.combine, matrices.self_key, matrices.self_query)
    plain = config.cell == "lstm" and all(matrix is None for matrix in others)
    if memory.keys is not None:
        attends = config.window == "global" and config.read_out == "softmax"
        plain = plain and attends and config.order == "previous" and weights.score is not None
        plain = plain and config.reads in ("drawn", "expected")
    if choice is not None:
        plain = plain and config.reads == "drawn" and choice.relaxation is None
    return plain and native.can_multiply(matrices.lstm.dtype.name)


def differentiated(
    weights: Weights,
    memory: Memory,
    words: WordInputs,
    starts: Bool[Array, "T B R"],
    choice: Choice | None,
) -> tuple[tuple[Float[Array, "T B R H"], StepOutput], Callable]:
    """h_t and outputs of all steps, and what pulls gradients back.

    Returns:
      (h, output), and a function of gradients of h and of the output. Its results are gradients of
      h0, c0, the words, the weights of a few numbers, and the taps of `fast_scan`.
    """
    steps, (hidden, size) = starts.shape, (memory.h0.shape[1], memory.h0.shape[1] * 4)
    given = _common(weights, memory, starts, choice)
    places, units, features = given[8].shape[1], given[7].shape[0], given[9].shape[2]
    noise = jnp.zeros((*steps, 0)) if choice is None else choice.noise
    sizes = (size, hidden, hidden, units, places)
    like = [*(_floats((*steps, n)) for n in sizes), _floats(steps)]
    like += [jax.ShapeDtypeStruct(steps, jnp.int32), _floats((*steps, features))]
    # The activated gates take the place of the words' terms.
    aliases = {len(given): 0}
    made = native.function("recurrence", like, aliases)(*given, words.gates, noise)
    h, log_alpha, beta, location, z = (made[i] for i in (1, 4, 5, 6, 7))
    output = StepOutput() if memory.keys is None else StepOutput(z, log_alpha, beta, location)
    return (h, output), jax.tree_util.Partial(
        partial(_pull_back, memory.keys is not None), given, tuple(made[:-1])
    )


def _pull_back(
    attends: bool, given: tuple[Any, ...], made: tuple[Any, ...], cotangents: Any
) -> tuple[Any, ...]:
    d_h, d_output = cotangents
    gates, h, _, q, log_alpha, beta, _ = made
    steps, features = h.shape[:3], given[9].shape[2]
    d = (d_h, d_output.z, d_output.log_alpha, d_output.beta)
    if not attends:
        d = (d_h, jnp.zeros((*steps, features)), log_alpha, beta)  # without numbers, or not read
    like = [_floats(x.shape) for x in (gates, q, beta, log_alpha)]
    like += [_floats((*steps, features)), *(_floats(given[i].shape) for i in (1, 2))]
    made = native.function("recurrence_gradient", like)(*given, *made, *d)
    d_gates, d_query, d_beta, d_scores, d_context, d_h0, d_c0 = made
    gated = given[5].size > 0
    taps = Taps(
        Matrices(
            None, d_query if attends else None, d_beta[..., None] if attends and gated else None
        ),
        d_scores if attends else None,
        d_context if attends else None,
    )
    small = {
        "beta_bias": d_beta.sum() if gated else None,
        "centre_score": None,
        "self_score": None,
    }
    return d_h0, d_c0, WordInputs(d_gates), small, taps


def _common(
    weights: Weights, memory: Memory, starts: Bool[Array, "T B R"], choice: Choice | None
) -> tuple[Array, ...]:
    """What both functions begin with; arrays without numbers stand for what is absent."""
    matrices, inputs = weights.matrices, len(memory.h0)
    assert matrices.lstm is not None
    dtype = matrices.lstm.dtype
    hidden = memory.h0.shape[1]
    query, v = jnp.zeros((hidden, 0), dtype), jnp.zeros(0)
    keys, annotations = jnp.zeros((inputs, 0, 0)), jnp.zeros((inputs, 0, 0), dtype)
    gate, bias = jnp.zeros(0), jnp.zeros(())
    if memory.keys is not None:
        assert memory.annotations is not None
        assert matrices.query is not None and weights.score is not None
        query, v, keys, annotations = matrices.query, weights.score, memory.keys, memory.annotations
    if memory.keys is not None and matrices.beta is not None:
        assert weights.beta_bias is not None
        gate, bias = matrices.beta[:, 0], weights.beta_bias
    allowed = memory.mask
    if allowed is None:
        allowed = jnp.ones(annotations.shape[:2], bool)
    expected = jnp.zeros(0, bool) if choice is None else choice.expected
    first = (starts, memory.h0, memory.c0, matrices.lstm, query)
    return *first, gate, bias, v, keys, annotations, allowed, expected


_floats = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
