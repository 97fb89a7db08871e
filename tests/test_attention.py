"""Scores and the soft read-out against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.attention import Attention, Choice, attention_scores, read_context
from show_attend_tell.captioner import build_captioner
from show_attend_tell.encoders import make_encoder
from show_attend_tell.errors import UserError
from show_attend_tell.objectives import soft_loss
from show_attend_tell.vocabulary import Vocabulary


def test_additive_scores_and_their_gradient_equal_the_formula():
    rng = np.random.default_rng(0)
    attention = Attention(5, 4, 6, rngs=nnx.Rngs(0))
    a = rng.normal(size=(2, 3, 5)).astype(np.float32)
    h = rng.normal(size=(2, 7, 4)).astype(np.float32)
    keys = attention.keys(jnp.array(a))
    scores = attention_scores(attention.weights(), jnp.array(h), keys)
    u, b = attention.key.kernel[...], attention.key.bias[...]
    w, v = attention.query.kernel[...], attention.score.kernel[...]
    for i, r, location in np.ndindex(2, 7, 3):
        expected = np.tanh(a[i, location] @ u + b + h[i, r] @ w) @ v
        np.testing.assert_allclose(scores[i, r, location], expected[0], atol=1e-5)

    def total(h):
        return attention_scores(attention.weights(), h, keys)[0, 2, 1]

    # d e / d h = W diag(1 - tanh^2) v
    tanh = np.tanh(a[0, 1] @ u + b + h[0, 2] @ w)
    expected = np.asarray(w) @ ((1 - tanh**2) * np.asarray(v)[:, 0])
    np.testing.assert_allclose(jax.grad(total)(jnp.array(h))[0, 2], expected, atol=1e-5)


def test_scores_and_gradients_stay_finite_and_right_however_large_the_arguments():
    attention = Attention(1, 1, 1, rngs=nnx.Rngs(0))
    weights = attention.weights()._replace(query=jnp.ones((1, 1)), score=jnp.ones(1))
    attention.key.kernel[...] = jnp.ones((1, 1))
    values = np.array([-1e4, -60, -12, -1, -1e-3, 0, 1e-3, 1, 12, 60, 1e4], np.float32)
    a = jnp.array(values)[None, :, None]

    def scores(a, h):
        return attention_scores(weights, h, attention.keys(a))[0]

    np.testing.assert_allclose(
        scores(a, a),
        np.tanh(np.clip(values, -40, 40) + np.clip(values[:, None], -40, 40)),
        atol=1e-6,
    )
    gradient = jax.grad(lambda a, h: scores(a, h).sum(), (0, 1))(a, a)
    slopes = (1 - np.tanh(values + values[:, None], dtype=np.float64) ** 2) * (
        (np.abs(values) < 40) & (np.abs(values[:, None]) < 40)
    )
    np.testing.assert_allclose(gradient[0][0, :, 0], slopes.sum(0), atol=1e-5)
    np.testing.assert_allclose(gradient[1][0, :, 0], slopes.sum(1), atol=1e-5)


SCORES = jnp.array([[[0.0, np.log(3.0)], [1e4, -1e4]]])
TWO = jnp.array([[[1.0, 10.0], [5.0, 2.0]]])


def test_the_soft_context_is_the_expectation_and_survives_large_scores():
    context, location = read_context(SCORES, TWO)
    np.testing.assert_allclose(context, [[[4.0, 4.0], [1.0, 10.0]]], atol=1e-5)
    assert location.tolist() == [[1, 0]]


def test_the_hard_context_is_one_annotation_vector_or_the_expectation():
    noise = jnp.array([[[5.0, 0.0], [0.0, 5.0]]])
    context, location = read_context(SCORES, TWO, Choice(noise, jnp.array([[False, False]])))
    assert location.tolist() == [[0, 0]]  # the noise turns the first, not the certain second
    np.testing.assert_allclose(context, [[[1.0, 10.0]] * 2], atol=1e-6)
    mixed, _ = read_context(SCORES, TWO, Choice(noise, jnp.array([[True, False]])))
    np.testing.assert_allclose(mixed, [[[4.0, 4.0], [1.0, 10.0]]], atol=1e-5)


def test_gumbel_noise_samples_alpha():
    draws = 20_000
    scores = jnp.broadcast_to(jnp.log(jnp.array([0.1, 0.2, 0.7])), (1, draws, 3))
    noise = jax.random.gumbel(jax.random.key(0), scores.shape)
    choice = Choice(noise, jnp.zeros((1, draws), bool))
    _, location = read_context(scores, jnp.eye(3)[None], choice)
    shares = np.bincount(np.asarray(location[0]), minlength=3) / draws
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.7], atol=0.015)  # over four standard errors


def test_temperature_divides_the_scores():
    a, h = jnp.ones((1, 2, 5)) * jnp.arange(2.0)[None, :, None], jnp.ones((1, 1, 4))
    plain, cold = (Attention(5, 4, 6, temperature=t, rngs=nnx.Rngs(0)) for t in (1.0, 0.25))
    one, four = (attention_scores(x.weights(), h, x.keys(a)) for x in (plain, cold))
    np.testing.assert_allclose(four, 4 * one, rtol=1e-5)


def test_without_attention_every_step_reads_the_mean(tmp_path):
    config = tiny.config(tmp_path)
    config.attention.kind = "none"
    encoder = make_encoder("small", image_size=16, rngs=nnx.Rngs(0), features=32)
    decoder = build_captioner(config, encoder, 20).decoder
    a = jnp.array(np.random.default_rng(0).normal(size=(2, 4, 32)), jnp.float32)
    tokens = jnp.array([[[5, 6, Vocabulary.eos]], [[7, 5, Vocabulary.eos]]])
    np.testing.assert_array_equal(decoder(a, tokens).alpha, 0.25)

    def loss(decoder, a):
        out = decoder(a, tokens)
        weights = {"doubly_stochastic": 1.0, "label_smoothing": 0.0}
        return soft_loss(out.logits, out.alpha, tokens, **weights)[0]

    by_weight, by_place = nnx.grad(loss, argnums=(0, 1))(decoder, a)
    for leaf in jax.tree.leaves(nnx.state(by_weight.attention)):
        np.testing.assert_array_equal(leaf, 0)
    # All locations of an image are alike.
    np.testing.assert_allclose(by_place, by_place[:, :1].repeat(4, axis=1), atol=1e-7)
    assert jnp.abs(by_place).max() > 1e-4
    config.attention.kind = "loose"
    with pytest.raises(UserError, match="choose 'soft', 'hard' or 'none'"):
        build_captioner(config, encoder, 20)
