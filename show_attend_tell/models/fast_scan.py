"""The scan with a fast gradient: `run` computes what `recurrence.scan` does.

Plain autodiff adds each step's contribution to the gradient of every weight matrix inside the
backward loop. Those products are too small to be fast, and every step reads and writes the whole
matrix. Here the loop yields only the gradient of each product. The gradient of a matrix is then one
large product over all steps, after the loop (Appleyard et al. 2016, arXiv 1604.01946). The sums
over steps that give the gradients of the annotation vectors, of their keys and of v also move
there.

Taps make this possible: zeros that a step adds to each of its products, scores and contexts. The
gradient with respect to a tap is the gradient with respect to the sum that it is added to.

To add a matrix
---------------
When a step multiplies by one more matrix, change these:

1. `recurrence.Matrices`: give it a field, None for variants without it.
2. `recurrence.step` and its helpers: multiply with `times("name", x)`. A plain `@` has no tap, so
   the gradient of the matrix would be 0.
3. `_multiplied` below: say what the step multiplied by it, at all steps at once, rebuilt from the
   states and the `StepOutput`. If these do not determine it, add it to `StepOutput`.
4. `Decoder.weights`, or `SentenceEncoder`: fill the field from a parameter.
5. `tests/models/recurrences.py`: add a case that uses it. `test_fast_scan.py` then compares every
   gradient with plain autodiff.

Parameters of a few numbers (biases, score vectors) are fields of `recurrence.Weights`. List their
names in `_SUMMED_IN_LOOP`, which leaves their gradients to plain autodiff.

Symbols as in `recurrence`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from show_attend_tell.models.attention import Choice, scores_of_query
from show_attend_tell.models.native import recurrence as in_cpp
from show_attend_tell.models.products import combine, matmul, sum_of_products, transposed
from show_attend_tell.models.recurrence import (
    Matrices,
    Memory,
    StepOutput,
    Taps,
    Weights,
    WordInputs,
    scan,
)

# Fields of `Weights` so small that their gradients are best summed in the loop.
_SUMMED_IN_LOOP = ("beta_bias", "centre_score", "self_score")


@jax.custom_vjp
def run(
    weights: Weights,
    memory: Memory,
    words: WordInputs,
    starts: Bool[Array, "T B R"],
    choice: Choice | None = None,
) -> tuple[Float[Array, "T B R H"], StepOutput]:
    """h_t and outputs of all steps: `recurrence.scan` with the same values and a faster gradient.

    Gradients flow to the weights, the words, and the memory's annotations, keys, h0 and c0; none to
    the places and their extent. A state that reads a posterior is not differentiated here.

    Args:
      starts: where a sequence begins, with the initial state.
      choice: hard attention's noise for every step (T, B, R, L), and the rows (B, R) that take the
        expectation; None is soft attention.
    """
    return scan(weights, memory, words, starts, choice)


class _Residuals(NamedTuple):
    """What the backward pass needs of the forward pass."""

    pull_back: Callable  # from gradients of (h, output) to those of (h0, c0, words, small, taps)
    weights: Weights
    memory: Memory
    starts: Bool[Array, "T B R"]
    choice: Choice | None
    h: Float[Array, "T B R H"]
    output: StepOutput


def _zero_taps(weights: Weights, memory: Memory, shape: tuple[int, ...]) -> Taps:
    """Taps of all steps; `shape` is (T, B, R)."""
    products = weights.matrices
    if weights.config.cell == "lstm":
        # This product is added to the words' gates, so their gradient is its gradient.
        products = products._replace(lstm=None)
    scores, context = None, None
    if memory.keys is not None and memory.annotations is not None:
        scores = jnp.zeros((*shape, memory.keys.shape[1]))
        context = jnp.zeros((*shape, memory.annotations.shape[-1]))
    return Taps(
        products=jax.tree.map(lambda m: jnp.zeros((*shape, m.shape[1])), products),
        scores=scores,
        context=context,
    )


def _forward(weights, memory, words, starts, choice):
    assert weights.config.reads != "posterior", "no gradient of the predictor"
    if in_cpp.covers(weights, memory, choice):
        (h, output), pull_back = in_cpp.differentiated(weights, memory, words, starts, choice)
        return (h, output), _Residuals(pull_back, weights, memory, starts, choice, h, output)

    # Each step of the backward pass multiplies by these.
    matrices = jax.tree.map(transposed, weights.matrices)
    vectors = None if memory.annotations is None else transposed(memory.annotations)

    def differentiable(h0, c0, words, small, taps):
        own = memory._replace(h0=h0, c0=c0, turned=vectors)
        given = weights._replace(**small, turned=matrices)
        h, output = scan(given, own, words, starts, choice, taps)
        return (h, output._replace(location=None)), output.location

    small = {name: getattr(weights, name) for name in _SUMMED_IN_LOOP}
    taps = _zero_taps(weights, memory, starts.shape)
    given = (memory.h0, memory.c0, words, small, taps)
    (h, output), pull_back, location = jax.vjp(differentiable, *given, has_aux=True)
    output = output._replace(location=location)
    return (h, output), _Residuals(pull_back, weights, memory, starts, choice, h, output)


def _backward(residuals: _Residuals, cotangents: tuple[Array, StepOutput]):
    weights = residuals.weights
    d_h, d_output = cotangents
    d_h0, d_c0, d_words, d_small, d_taps = residuals.pull_back(
        (d_h, d_output._replace(location=None))
    )
    multiplied, attending = _multiplied(residuals)
    d_products = d_taps.products
    if weights.config.cell == "lstm":
        d_products = d_products._replace(lstm=d_words.gates)
    d_matrices = Matrices(
        *(
            None if m is None else sum_of_products(multiplied[name](), d, m.dtype).astype(m.dtype)
            for name, m, d in zip(Matrices._fields, weights.matrices, d_products, strict=True)
        )
    )
    d_memory, d_score = Memory(None, None, d_h0, d_c0), None
    if residuals.memory.keys is not None:
        d_score, d_keys, d_annotations = _memory_gradients(residuals, attending, d_taps)
        d_memory = d_memory._replace(annotations=d_annotations, keys=d_keys)
    d_weights = Weights(d_matrices, score=d_score, config=weights.config, **d_small)
    return d_weights, d_memory, d_words, None, None


run.defvjp(_forward, _backward)


def _memory_gradients(
    residuals: _Residuals, attending: Float[Array, "T B R H"], d_taps: Taps
) -> tuple[Float[Array, " A"] | None, Float[Array, "B L A"], Float[Array, "B L D"]]:
    """Gradients of v, of the keys and of the annotation vectors.

    Args:
      attending: the states that attended.
      d_taps: gradients of the taps.
    """
    weights, memory, choice = residuals.weights, residuals.memory, residuals.choice
    output, keys, annotations = residuals.output, memory.keys, memory.annotations
    assert keys is not None and annotations is not None
    assert d_taps.scores is not None and d_taps.context is not None

    # Every step counts as one more caption row.
    def rows(x: Float[Array, "T B R N"]) -> Float[Array, "B TR N"]:
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, x.shape[-1])

    query = attending
    if weights.matrices.query is not None:
        query = matmul(query, weights.matrices.query)
    query = rows(query)
    _, of_scores = jax.vjp(lambda v, keys: scores_of_query(v, query, keys), weights.score, keys)
    d_score, d_keys = of_scores(rows(d_taps.scores))
    read = output.alpha
    if choice is not None:
        assert output.location is not None
        chosen = jax.nn.one_hot(output.location, read.shape[-1], dtype=read.dtype)
        read = jnp.where(choice.expected[..., None], read, chosen)
    turned = transposed(rows(read.astype(annotations.dtype)))
    d_annotations = combine(turned, rows(d_taps.context).astype(annotations.dtype))
    d_annotations = d_annotations.astype(annotations.dtype)
    return d_score, d_keys, d_annotations


def _multiplied(
    residuals: _Residuals,
) -> tuple[dict[str, Callable[[], Float[Array, "T B R I"]]], Float[Array, "T B R H"]]:
    """What the run multiplied by each matrix, by name; and the states that attended.

    The dictionary holds functions, so that variants without a matrix compute nothing for it.
    """
    h, output, starts = residuals.h, residuals.output, residuals.starts

    def before(x: Float[Array, "T B R H"] | None, first: Array | float) -> Array:
        """The values of x one step earlier; `first` where a sequence begins."""
        assert x is not None
        x = jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
        return jnp.where(starts[..., None], first, x)

    def joined(*parts: Any) -> Float[Array, "T B R I"]:
        return jnp.concatenate([part for part in parts if part is not None], axis=-1)

    luong = output.attentional is not None
    last = before(h, residuals.memory.h0[None, :, None])
    recurrent = last if output.summary is None else output.summary
    attending = h if luong else last
    read = before(output.attentional, 0.0) if luong else output.z
    return {
        "lstm": lambda: joined(recurrent, read),
        "query": lambda: attending,
        "beta": lambda: attending,
        "centre": lambda: attending,
        "combine": lambda: joined(output.z, attending),
        "self_key": lambda: before(h, 0.0),
        "self_query": lambda: before(output.summary, 0.0),
    }, attending
