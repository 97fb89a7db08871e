"""The encoders of sentences: equations, padding, and the fixed context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.sentence_encoder import SentenceEncoder

WORDS = jnp.array([[4, 5, 6, 7, 2], [8, 4, 2, 0, 0]])


def make(name="gru", **changes):
    options = dict(name=name, embedding=3, hidden=4, dropout=0.0) | changes
    return SentenceEncoder(settings.SentenceEncoder(**options), vocabulary=9, rngs=nnx.Rngs(0))


read = nnx.jit(lambda encoder, words, key=None: encoder.annotations(words, key))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(direction, embedded):
    """The states of one direction, word by word."""
    state, states = np.zeros(4), []
    for x in embedded:
        given = x @ np.asarray(direction.word.kernel[...]) + np.asarray(direction.word.bias[...])
        reset_x, update_x, new_x = np.split(given, 3)
        reset_h, update_h, new_h = np.split(state @ np.asarray(direction.state.kernel[...]), 3)
        new = np.tanh(new_x + sigmoid(reset_x + reset_h) * new_h)
        update = sigmoid(update_x + update_h)
        state = update * state + (1 - update) * new
        states.append(state)
    return np.array(states)


def test_annotations_are_the_states_of_both_directions():
    encoder = make()
    a, mask, *_ = read(encoder, WORDS)
    assert a.shape == (2, 5, 8) and mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    last = read(make(annotations="last"), WORDS)
    embedding = np.asarray(encoder.embed.embedding[...])
    for i, length in enumerate((5, 3)):
        embedded = embedding[np.asarray(WORDS[i, :length])]
        forward = gru(encoder.directions[0], embedded)
        backward = gru(encoder.directions[1], embedded[::-1])[::-1]
        expected = np.concatenate([forward, backward], axis=1)
        np.testing.assert_allclose(a[i, :length], expected, atol=1e-5)
        # The fixed context: where each direction has read the whole sentence.
        assert last.mask is None
        whole = np.concatenate([forward[-1], backward[0]])
        np.testing.assert_allclose(last.vectors[i, 0], whole, atol=1e-5)


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        *(("all", name) for name in ("gru", "lstm", "lstmn")),
        ("last", "lstm"),
        *(pytest.param("last", name, marks=pytest.mark.slow) for name in ("gru", "lstmn")),
    ],
)
def test_padding_changes_nothing(name, annotations):
    encoder = make(name, annotations=annotations)
    alone = read(encoder, WORDS[1:, :3]).vectors

    @nnx.jit
    @nnx.grad(has_aux=True)
    def gradient_and_vectors(encoder):
        a, mask, *_ = encoder.annotations(WORDS)
        return (a if mask is None else a * mask[..., None]).sum(), a

    gradient, vectors = gradient_and_vectors(encoder)
    np.testing.assert_allclose(vectors[1:, : alone.shape[1]], alone, atol=1e-6)
    gradient = gradient.embed.embedding[...]
    np.testing.assert_array_equal(gradient[0], 0)  # of <pad>
    assert jnp.abs(gradient[jnp.array([2, 4, 5, 6, 7, 8])]).max(axis=1).min() > 1e-5


def test_one_direction_sees_only_earlier_words():
    encoder = make("lstm", bidirectional=False)
    assert encoder.features == 4
    before = read(encoder, WORDS).vectors[0]
    after = read(encoder, WORDS.at[0, 3].set(8)).vectors[0]
    np.testing.assert_array_equal(before[:3], after[:3])
    assert jnp.abs(before[3:] - after[3:]).max(axis=1).min() > 1e-4


def test_dropout_needs_a_key_and_follows_it():
    encoder = make(dropout=0.5)
    np.testing.assert_array_equal(read(encoder, WORDS).vectors, read(make(), WORDS).vectors)
    one, two = (read(encoder, WORDS, jax.random.key(i)).vectors for i in (1, 2))
    assert jnp.abs(one - two).max() > 1e-3


@pytest.mark.parametrize("name, gates", [("lstm", [0, 1, 0, 0]), ("gru", [0, 0, 0])])
def test_only_forget_gates_begin_with_a_bias(name, gates):
    for direction in make(name).directions:
        bias = np.asarray(direction.word.bias[...]).reshape(len(gates), 4)
        np.testing.assert_array_equal(bias, np.outer(gates, np.ones(4)))


def test_unknown_options_are_refused():
    with pytest.raises(UserError, match="annotations is 'first': choose one of 'all', 'last'"):
        make(annotations="first")
    with pytest.raises(UserError, match="encoder.name is 'rnn': choose one of 'gru'"):
        make("rnn")
