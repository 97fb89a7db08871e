"""Exact sums over places, against every place's distribution written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.models.product_form import (
    Factors,
    balanced,
    exponentials,
    log_given_place,
    log_marginal,
    log_mixture,
    mean_log_given_place,
)

B, N, L, V = 2, 3, 4, 5
TOKENS = jnp.array([[0, 4, 2], [3, 3, 1]])


def factors(scale=1.0, seed=0):
    """Random terms; the second image's last place is never attended to."""
    random = np.random.default_rng(seed)
    state = scale * random.normal(size=(B, N, V))
    place = scale * random.normal(size=(B, L, V))
    scores = random.normal(size=(B, N, L))
    scores[1, :, -1] = -1e9
    log_alpha = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return Factors(*(jnp.asarray(x, jnp.float32) for x in (state, place, log_alpha)))


def by_hand(given):
    """p(v | i) (B, N, L, V) and alpha in float64."""
    state, place, log_alpha = (np.asarray(x, np.float64) for x in given)
    logits = state[:, :, None] + place[:, None]
    logits -= logits.max(-1, keepdims=True)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), np.exp(log_alpha)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_every_sum_is_that_of_the_places_distributions(scale):
    given = factors(scale)
    words, alpha = by_hand(given)
    mixture = np.einsum("bnl,bnlv->bnv", alpha, words)
    np.testing.assert_allclose(np.exp(log_mixture(exponentials(given))), mixture, rtol=2e-5)
    said = np.take_along_axis(words, np.asarray(TOKENS)[:, :, None, None], -1)[..., 0]
    np.testing.assert_allclose(
        np.exp(log_given_place(exponentials(given), TOKENS)), said, rtol=2e-5
    )
    mean = np.log(words).mean(-1)
    np.testing.assert_allclose(mean_log_given_place(exponentials(given)), mean, rtol=2e-5)
    total, posterior = log_marginal(exponentials(given), TOKENS)
    joint = alpha * said
    np.testing.assert_allclose(np.exp(total), joint.sum(-1), rtol=2e-5)
    np.testing.assert_allclose(np.exp(posterior), joint / joint.sum(-1, keepdims=True), rtol=3e-5)
    assert np.exp(posterior)[1, :, -1].max() == 0.0


def test_its_gradient_is_that_of_the_sum_written_out():
    def written_out(given):
        logits = given.state[:, :, None] + given.place[:, None]
        log_probs = jnp.take_along_axis(
            jax.nn.log_softmax(logits), TOKENS[:, :, None, None], axis=-1
        )[..., 0]
        return jax.nn.logsumexp(given.log_alpha + log_probs, axis=-1).sum()

    given = factors()
    expected = jax.grad(written_out)(given)
    through_places = jax.grad(lambda f: log_marginal(exponentials(f), TOKENS)[0].sum())(given)
    through_words = jax.grad(
        lambda f: jnp.take_along_axis(
            log_mixture(exponentials(f)), TOKENS[..., None], axis=-1
        ).sum()
    )(given)
    for found in (through_places, through_words):
        for name, a, b in zip(Factors._fields, found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("mask", [None, jnp.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)])
def test_balancing_moves_the_places_mean_and_changes_no_distribution(mask):
    given = factors()
    offset = given.place + jnp.array([[[5.0, -5.0, 0.0, 9.0, -9.0]]])
    state, place = balanced(given.state, offset, mask)
    real = np.ones((B, L), bool) if mask is None else np.asarray(mask)
    for image in range(B):
        np.testing.assert_allclose(place[image][real[image]].mean(0), 0, atol=1e-5)
    same = Factors(state, place, given.log_alpha)
    there = Factors(given.state, offset, given.log_alpha)
    np.testing.assert_allclose(
        np.einsum("bnl,bnlv->bnv", *reversed(by_hand(there))),
        np.exp(log_mixture(exponentials(same))),
        rtol=3e-4,
    )


def test_normalisers_that_vanish_give_no_nan():
    """The state allows the first word only, the places the last only, each by 200 nats."""
    state = jnp.zeros((1, 1, V)).at[..., 0].set(200.0)
    place = jnp.zeros((1, L, V)).at[..., -1].set(200.0)
    given = Factors(state, place, jnp.full((1, 1, L), -np.log(L)))
    mixture = jax.value_and_grad(lambda f: log_mixture(exponentials(f))[..., 0].sum())
    value, gradient = jax.jit(mixture)(given)
    assert jnp.isfinite(value) and all(jnp.isfinite(g).all() for g in gradient)
    marginal = jax.value_and_grad(
        lambda f: log_marginal(exponentials(f), jnp.array([[0]]))[0].sum()
    )
    value, gradient = jax.jit(marginal)(given)
    assert jnp.isfinite(value) and all(jnp.isfinite(g).all() for g in gradient)
