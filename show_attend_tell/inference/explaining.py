"""What happened at each step of a given text, and what would have if it had read another place.

Symbols: B texts, T steps, L places, M places with the null place, V words, K the likeliest words.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from show_attend_tell.inference.forced import log_posteriors
from show_attend_tell.inference.given_steps import GivenSteps, choice_of
from show_attend_tell.models import recurrence
from show_attend_tell.models.attention import Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.packed import input_words

LIKELIEST = 5  # K


class Explained(NamedTuple):
    """Every step of given texts, teacher-forced."""

    alpha: Float[Array, "B T M"]  # the prior: before the word is known
    posterior: Float[Array, "B T M"] | None  # given the word; None: the model has none
    beta: Float[Array, "B T"]
    location: Int[Array, "B T"]  # the place read, or the one with the largest weight
    log_p: Float[Array, "B T"]  # of the word, in nats
    likeliest: Int[Array, "B T K"]  # words
    log_p_likeliest: Float[Array, "B T K"]


class Gazes(NamedTuple):
    """One step of each text, for every place that it might read."""

    likeliest: Int[Array, "B L K"]  # words
    log_p_likeliest: Float[Array, "B L K"]
    log_p: Float[Array, "B L"]  # of a given word


def explain(
    model: Captioner, params: Any, context: str, inputs: Any, given: GivenSteps
) -> Explained:
    """Explains every step of given texts; of `model`, only the structure is used.

    Args:
      model, params: the captioner and all its weights.
      context: what a step reads: `expected`, `argmax` or `mixture`.
      inputs: the model's, one for each text.
      given: the whole texts, each closed by <eos> and padded with <pad>; and the given places.
    """
    return _explain(nnx.graphdef(model), context)(params, jnp.asarray(inputs), given)


def gazes(
    model: Captioner,
    params: Any,
    context: str,
    inputs: Any,
    given: GivenSteps,
    step: Int[Array | np.ndarray, " B"],
    word: Int[Array | np.ndarray, " B"],
) -> Gazes:
    """What one step of each text would say, for every place that it might read.

    Args:
      model, params, context, inputs, given: as for `explain`; `given` from `step` on is ignored.
      step: the step in question, of each text.
      word: the word whose probability is wanted for every place, of each text.
    """
    run = _gazes(nnx.graphdef(model), context)
    return run(params, jnp.asarray(inputs), given, jnp.asarray(step), jnp.asarray(word))


def log_p_of_gaze(
    model: Captioner,
    inputs: Array,
    given: GivenSteps,
    step: Int[Array | np.ndarray, " B"],
    context: str = "expected",
) -> Float[Array, "B L V"]:
    """log p (nats) of every word at one step of each text, for each place that it might read."""
    decoder = model.decoder
    annotations = model.annotations(inputs)
    memory, places = decoder.memory(annotations), annotations.vectors.shape[1]
    memory = decoder.with_place_terms(memory)
    weights = decoder.weights()
    words = input_words(jnp.asarray(given.words)[:, None], decoder.starts)
    read = jnp.asarray(given.places)

    def advance(time: Int[Array, ""], state: recurrence.State) -> recurrence.State:
        choice = _choice(memory, context, read[:, time])
        inputs_now = decoder.word_inputs(
            memory, words[:, :, time], decoder.embed(words[:, :, time])
        )
        later, _ = recurrence.step(weights, memory, state, inputs_now, choice)
        return jax.tree.map(
            lambda new, old: jnp.where(jnp.expand_dims(time < step, range(1, old.ndim)), new, old),
            later,
            state,
        )

    length = words.shape[2]
    start = recurrence.initial_state(weights, memory, 1, length)
    state = jax.lax.fori_loop(0, length - 1, advance, start)
    rows = jax.tree.map(lambda x: jnp.repeat(x, places, axis=1), state)
    assert memory.keys is not None
    here = jnp.broadcast_to(jnp.arange(places)[None], (len(words), places))
    # Each row as an input of its own, so that each can be given its place.
    one_each = choice_of(context, jnp.zeros((here.size, 1, memory.keys.shape[1])), here.reshape(-1))
    assert one_each is not None
    choice = jax.tree.map(lambda x: x.reshape(*here.shape, *x.shape[2:]), one_each)
    word = jnp.take_along_axis(words[:, 0], step[:, None], axis=1)
    logits, _, _ = decoder.emit(weights, memory, rows, jnp.repeat(word, places, axis=1), choice)
    return jax.nn.log_softmax(logits)


def _choice(memory: recurrence.Memory, context: str, places: Int[Array, " B"]) -> Choice | None:
    assert memory.keys is not None
    return choice_of(context, jnp.zeros((len(places), 1, memory.keys.shape[1])), places)


@lru_cache(maxsize=16)
def _explain(graph: nnx.GraphDef, context: str) -> Callable[..., Explained]:
    @jax.jit
    def run(params: Any, inputs: Array, given: GivenSteps) -> Explained:
        model: Captioner = nnx.merge(graph, params)
        decoder: Decoder = model.decoder
        annotations = model.annotations(inputs)
        memory = decoder.with_place_terms(decoder.memory(annotations))
        weights = decoder.weights()
        said, places = jnp.asarray(given.words), jnp.asarray(given.places)
        before = input_words(said[:, None], decoder.starts)

        def advance(state: recurrence.State, now: tuple[Array, Array, Array]):
            words, word, read = now
            choice = _choice(memory, context, read)
            logits, state, out = decoder.emit(
                weights, memory, state, words, choice, mixture=context == "mixture"
            )
            log_p = jax.nn.log_softmax(logits)[:, 0]
            best, likeliest = jax.lax.top_k(log_p, LIKELIEST)
            assert out.beta is not None and out.location is not None
            of_word = jnp.take_along_axis(log_p, word[:, None], axis=1)[:, 0]
            seen = (out.alpha[:, 0], out.beta[:, 0], out.location[:, 0])
            return state, (*seen, of_word, likeliest, best)

        start = recurrence.initial_state(weights, memory, 1, said.shape[1])
        steps = (jnp.moveaxis(before, 2, 0), said.T, places.T)
        _, found = jax.lax.scan(advance, start, steps)
        alpha, beta, location, log_p, likeliest, best = (jnp.moveaxis(x, 0, 1) for x in found)
        # Only models whose state does not depend on the place read have a posterior, so given
        # places change nothing in it.
        posterior = log_posteriors(decoder(annotations, said[:, None]), said[:, None])
        if posterior is not None:
            posterior = jnp.exp(posterior)[:, 0]
        return Explained(alpha, posterior, beta, location, log_p, likeliest, best)

    return run


@lru_cache(maxsize=16)
def _gazes(graph: nnx.GraphDef, context: str) -> Callable[..., Gazes]:
    @jax.jit
    def run(
        params: Any,
        inputs: Array,
        given: GivenSteps,
        step: Int[Array | np.ndarray, " B"],
        word: Int[Array | np.ndarray, " B"],
    ) -> Gazes:
        model: Captioner = nnx.merge(graph, params)
        log_p = log_p_of_gaze(model, inputs, given, step, context)
        best, likeliest = jax.lax.top_k(log_p, LIKELIEST)
        of_word = jnp.take_along_axis(log_p, word[:, None, None], axis=-1)[..., 0]
        return Gazes(likeliest, best, of_word)

    return run
