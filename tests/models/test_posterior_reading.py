"""Posterior attention against its equations in NumPy."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.models import recurrence
from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.packed import input_words

L, EOS, PAD, BOS = 4, 2, 0, 1
TOKENS = jnp.array([[[4, 5, EOS, 5, EOS]], [[5, 5, 4, EOS, PAD]]])  # two captions in the first row
REAL = jnp.array([[True] * L, [True, True, True, False]])


@cache
def model(tied):
    """A decoder, its parameters and the annotation vectors of two inputs; a tied one has a null."""
    product = {"product_form": True, "gate": False, "output_tanh": False, "state_tanh": True}
    graph, params = tiny.decoder(
        **product,
        kind="hard",
        order="current",
        state_reads="posterior",
        score="scaled_dot",
        sections=(("one", 2), ("two", 2)),
        scene=("two",),
        embedding=5,
        tied=tied,
        null_place=tied,
        projection=4,
    )
    vectors = 2 * jax.random.normal(jax.random.key(3), (2, L, 4))
    return graph, params, Annotations(vectors, REAL)


@cache
def forced(tied):
    graph, params, annotations = model(tied)

    @jax.jit
    def run(params):
        decoder = nnx.merge(graph, params)
        return decoder(annotations, TOKENS), decoder.memory(annotations)

    return run(params)


@pytest.mark.parametrize("tied", [False, True])
def test_the_state_reads_where_the_last_word_came_from(tied):
    graph, params, _ = model(tied)
    out, memory = jax.tree.map(lambda x: np.asarray(x, np.float64), forced(tied))
    logits = out.factors.state[:, :, None] + out.factors.place[:, None]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    decoder = nnx.merge(graph, params)
    given = np.asarray(input_words(TOKENS))[:, 0]
    inputs = np.asarray(decoder.lstm_word(decoder.embed(given)), np.float64)
    recurrent = np.asarray(decoder.lstm_state.kernel[...], np.float64)
    real = np.pad(REAL, ((0, 0), (0, int(tied))), constant_values=True)
    uniform = real / real.sum(1, keepdims=True)
    for image, step in np.ndindex(TOKENS.shape[0], TOKENS.shape[2]):
        word = given[image, step]
        if word == BOS:
            posterior, h, c = uniform[image], memory.h0[image], memory.c0[image]
        else:
            joint = np.exp(out.log_alpha[image, 0, step - 1] + log_p[image, step - 1, :, word])
            posterior = joint / joint.sum()
            assert np.abs(posterior - uniform[image]).max() > 0.01
        read = posterior @ memory.annotations[image]
        i, f, o, g = np.split(inputs[image, step] + np.concatenate([h, read]) @ recurrent, 4)
        sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(out.h[image, 0, step], h, atol=2e-6)
        alpha = np.exp(memory.keys[image] @ h) * real[image]
        found = np.exp(out.log_alpha[image, 0, step])
        np.testing.assert_allclose(found, alpha / alpha.sum(), atol=2e-6)


def test_decoding_step_by_step_gives_the_same():
    graph, params, annotations = model(False)
    out, _ = forced(False)

    @jax.jit
    def run(params):
        decoder = nnx.merge(graph, params)
        memory, weights = decoder.memory(annotations), decoder.weights()
        state, found = recurrence.initial_state(weights, memory, 1, 5), []
        for word in input_words(TOKENS)[:, 0, :3].T:  # the first caption of each
            logits, state, _ = decoder.emit(weights, memory, state, word[:, None])
            found.append(logits)
        return found

    for step, logits in enumerate(run(params)):
        np.testing.assert_allclose(logits, out.logits[:, :, step], atol=1e-5)
