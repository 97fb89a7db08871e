"""The second attention, over a picture beside a sentence, against its equations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.models import recurrence
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.objectives.sampling import (
    TeacherForcing,
    draw_both,
    entropies_of_hard,
    most_probable,
    roll_out,
)

B, L, P, F, T, EOS = 2, 3, 5, 6, 4, 2
TOKENS = jnp.array([[[5, 6, EOS, 0]], [[4, 7, 3, EOS]]], jnp.int32)


def make(kind="soft", hard_words=False, seed=0):
    decoder = tiny.make_decoder(
        vocabulary=9,
        features=4,
        kind="hard" if hard_words else "soft",
        picture=(settings.Picture(name="small", kind=kind, dropout=0.0), F),
        seed=seed,
    )
    key = jax.random.key(seed + 1)
    noisy = jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(key, p.shape), nnx.state(decoder, nnx.Param)
    )
    nnx.update(decoder, noisy)
    return decoder


def given(seed=0):
    rng = np.random.default_rng(seed)
    words, picture = (rng.normal(size=s).astype(np.float32) for s in ((B, L, 4), (B, P, F)))
    return Annotations(jnp.asarray(words), picture=jnp.asarray(picture))


def array(layer, name="kernel"):
    return np.asarray(getattr(layer, name)[...])


def looked(decoder, picture, h):
    """What a state h (H,) reads of a picture (P, F): the gated context, alpha and beta."""
    sight = decoder.sight
    a = np.tanh(picture @ array(sight.projection))
    attention = sight.attention
    keys = a @ array(attention.key) + array(attention.key, "bias")
    e = np.tanh(keys + h @ array(attention.query)) @ array(attention.score)[:, 0]
    alpha = np.exp(e) / np.exp(e).sum()
    beta = 1 / (1 + np.exp(-(h @ array(sight.gate) + array(sight.gate, "bias"))))
    return beta * (alpha @ a), alpha, beta[0]


def test_a_step_reads_the_words_and_the_picture():
    decoder, both = make(), given()
    out = decoder(both, TOKENS)
    blind = decoder(both._replace(picture=jnp.zeros((B, P, F))), TOKENS)
    # What the first step reads besides the words is what the picture gives to h_0.
    memory = decoder.memory(both)
    step, _ = decoder_step(decoder, memory)
    unseen, _ = decoder_step(decoder, memory._replace(seen=None))
    for b in range(B):
        h = np.asarray(memory.h0[b])
        context, alpha, beta = looked(decoder, np.asarray(both.picture[b]), h)
        np.testing.assert_allclose(step.z[b, 0] - unseen.z[b, 0], context, atol=1e-5)
        np.testing.assert_allclose(np.exp(out.look.log_alpha[b, 0, 0]), alpha, atol=1e-5)
        np.testing.assert_allclose(out.look.beta[b, 0, 0], beta, atol=1e-5)
    assert np.abs(out.logits - blind.logits).max() > 0.01
    # Nothing is read of a picture of zeros.
    gone, _ = decoder_step(decoder, decoder.memory(both._replace(picture=0 * both.picture)))
    np.testing.assert_allclose(gone.z, unseen.z, atol=1e-6)


def decoder_step(decoder, memory):
    words = jnp.zeros((B, 1), jnp.int32)
    inputs = decoder.word_inputs(memory, words, decoder.embed(words))
    weights = decoder.weights()
    state = recurrence.initial_state(weights, memory, 1, T)
    state, out = recurrence.step(weights, memory, state, inputs)
    return out, state


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("hard_words", [False, True])
def test_either_attention_may_be_hard(kind, hard_words):
    decoder, both = make(kind, hard_words), given()
    forced = TeacherForcing(decoder, both, TOKENS, jax.random.key(3))
    choice = draw_both(forced, 2, 0.0, "image")
    assert (choice.of_picture is not None) == (kind == "hard")
    assert bool(choice.expected.all()) != (hard_words or kind == "soft")
    rollout = roll_out(decoder, both, jnp.tile(TOKENS, (1, 2, 1)), None, choice)
    out = decoder(both, jnp.tile(TOKENS, (1, 2, 1)), None, choice)

    def chosen(log_alpha, location):
        return np.take_along_axis(np.asarray(log_alpha), location[..., None], axis=-1)[..., 0]

    of_words, of_picture = (
        chosen(one.log_alpha, np.asarray(one.location)) for one in (out, out.look)
    )
    if kind == "hard":
        wanted = of_picture + (of_words if hard_words else 0)
        np.testing.assert_allclose(rollout.log_p_s, wanted, rtol=1e-6)
        # The two paths of an image look at places of their own.
        assert (out.look.location[:, 0] != out.look.location[:, 1]).any()


@pytest.mark.parametrize("hard_words", [False, True])
def test_the_most_probable_path_is_that_of_the_hard_attentions(hard_words):
    decoder, both = make("hard", hard_words), given()
    choice = most_probable(TeacherForcing(decoder, both, TOKENS))
    assert bool(choice.expected.all()) == (not hard_words)
    assert not choice.of_picture.expected.any() and not choice.of_picture.noise.any()
    out = decoder(both, TOKENS, None, choice)
    np.testing.assert_array_equal(out.look.location, out.look.log_alpha.argmax(axis=-1))


@pytest.mark.parametrize("hard_words", [False, True])
def test_the_entropy_is_that_of_the_hard_attentions(hard_words):
    decoder, both = make("hard", hard_words), given()
    rollout = roll_out(decoder, both, TOKENS, None, None)
    out = decoder(both, TOKENS)

    def entropy(log_alpha):
        return -(np.exp(log_alpha) * np.asarray(log_alpha)).sum(axis=-1)

    wanted = entropy(out.look.log_alpha) + (entropy(out.log_alpha) if hard_words else 0)
    np.testing.assert_allclose(entropies_of_hard(decoder, rollout), wanted, rtol=1e-5)
    soft = make("soft", hard_words)
    of_words = entropies_of_hard(soft, roll_out(soft, both, TOKENS, None, None))
    np.testing.assert_allclose(of_words, entropy(soft(both, TOKENS).log_alpha), rtol=1e-5)


def test_hard_attention_reads_the_place_that_was_chosen():
    decoder, both = make("hard"), given()
    noise = jnp.zeros((B, 1, T, P)).at[..., 3].set(1e6)
    rows = jnp.zeros((B, 1), bool)
    choice = Choice(jnp.zeros((B, 1, T, L)), ~rows, of_picture=Choice(noise, rows))
    alone = both._replace(picture=both.picture[:, 3:4])
    there, only = (decoder(one, TOKENS, None, how) for one, how in ((both, choice), (alone, None)))
    np.testing.assert_allclose(there.logits, only.logits, atol=1e-5)
    assert (np.asarray(there.look.location) == 3).all()
