"""Straight-through reads: forwards one place; backwards a softmax, compared with NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.models.attention import Choice, read_context
from show_attend_tell.models.straight_through import (
    Relaxation,
    perturbed_given,
    straight_through,
)

L, K, TAU = 4, 5, 0.7
LOG_ALPHA = jax.nn.log_softmax(jnp.array([0.3, -1.0, 1.2, 0.0]))
VALUES = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.25], [2.0, 1.0]], np.float32)
MANY = 40000


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def one_hot(place):
    return jnp.arange(L) == place


def relaxed(more, tau=TAU):
    return Relaxation(more[None, None], jnp.float32(tau))


def noise_of(key, draws):
    return jax.random.gumbel(jax.random.key(key), (draws, L))


def read(log_alpha, noise, more, tau=TAU, *, expected=False):
    """What one step reads of VALUES."""
    choice = Choice(noise[None, None], jnp.array([[expected]]), relaxed(more, tau))
    context, location = read_context(log_alpha[None, None], jnp.asarray(VALUES)[None], choice)
    return context[0, 0], location[0, 0]


def test_the_forward_pass_reads_the_drawn_place():
    for key in range(8):
        noise = noise_of(key, 1)[0]
        context, location = read(LOG_ALPHA, noise, noise_of(100 + key, K - 1))
        assert int(location) == int(jnp.argmax(LOG_ALPHA + noise))
        np.testing.assert_array_equal(context, VALUES[int(location)])


def reference(log_alpha, noise, more, tau):
    """d context / d log alpha (2, L), in float64: the mean softmax's Jacobian, noise held fixed."""
    theta, noise, more = (np.asarray(x, np.float64) for x in (log_alpha, noise, more))
    s = (theta + noise).argmax()
    perturbed = [theta + noise]
    for g in more:
        x = -np.log(np.exp(-(theta + g)) + np.exp(-g[s]))
        x[s] = g[s]
        perturbed.append(x)
    jacobians = []
    for x in perturbed:
        p = softmax(x / tau)
        jacobians.append((np.diag(p) - np.outer(p, p)) / tau)
    return VALUES.T @ np.mean(jacobians, axis=0)


@pytest.mark.parametrize(("draws", "tau"), [(1, 0.7), (1, 2.0), (5, 0.7)])
def test_the_gradient_is_the_softmaxs_at_the_given_noise(draws, tau):
    for key in range(4):
        noise, more = noise_of(key, 1)[0], noise_of(50 + key, draws - 1)
        found = jax.jacobian(lambda x, n=noise, m=more: read(x, n, m, tau)[0])(LOG_ALPHA)
        wanted = reference(LOG_ALPHA, noise, more, tau)
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-5)


def test_an_expected_row_is_soft_attention():
    noise, more = noise_of(0, 1)[0], noise_of(1, K - 1)
    read_softly = lambda x: read(x, noise, more, expected=True)[0]  # noqa: E731
    np.testing.assert_allclose(
        read_softly(LOG_ALPHA), np.exp(LOG_ALPHA) @ VALUES, rtol=1e-5, atol=1e-6
    )
    found = jax.jacobian(read_softly)(LOG_ALPHA)
    np.testing.assert_allclose(found, VALUES.T * np.exp(LOG_ALPHA), rtol=1e-5, atol=1e-6)


def given(place, key):
    """MANY draws of log alpha + G, given the largest."""
    wide = jnp.broadcast_to(LOG_ALPHA, (MANY, L))
    drawn = jnp.broadcast_to(one_hot(place), (MANY, L))
    return np.asarray(perturbed_given(drawn, wide, noise_of(key, MANY)))


@pytest.mark.parametrize("place", range(L))
def test_conditional_draws_are_those_that_rejection_keeps(place):
    found = given(place, 1)
    assert (found.argmax(axis=-1) == place).all()
    plain = np.asarray(LOG_ALPHA) + np.asarray(noise_of(2, 4 * MANY))
    kept = plain[plain.argmax(axis=-1) == place]
    # The largest, the others, and what the backward pass takes of them; 5 standard errors.
    for of in (lambda x: x, lambda x: softmax(x / TAU), lambda x: np.square(x)):
        a, b = of(found), of(kept)
        spread = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 5 * spread + 1e-6).all()
    # Entries other than the largest are not independent of each other: both are below it.
    a, b = (np.cov(softmax(x / TAU).T) for x in (found, kept))
    np.testing.assert_allclose(a, b, atol=0.006)


def gradients(draws, key, count=4000):
    """Gradients of the first feature, by place drawn and over all draws."""
    more = jax.random.gumbel(jax.random.key(key + 1), (count, draws - 1, L))
    of = jax.vmap(jax.grad(lambda x, n, m: read(x, n, m)[0][0]), (None, 0, 0))
    return np.asarray(jax.jit(of)(LOG_ALPHA, noise_of(key, count), more))


def test_more_draws_keep_the_mean_and_lower_the_variance():
    one, many = gradients(1, 10), gradients(16, 20)
    spread = np.sqrt((one.var(axis=0) + many.var(axis=0)) / len(one))
    assert (np.abs(one.mean(axis=0) - many.mean(axis=0)) < 5 * spread).all()
    assert many.var(axis=0).sum() < 0.6 * one.var(axis=0).sum()


def test_two_places_have_a_closed_form():
    """The derivative by theta_0 is (v_0 - v_1) p (1 - p) / tau, p of the logistic difference."""
    theta = jax.nn.log_softmax(jnp.array([0.4, -0.3]))
    for noise in itertools.product((0.2, 1.5), (-0.5, 0.9)):
        g = jnp.array(noise)
        weights = lambda x, g=g: straight_through(  # noqa: E731
            (jnp.arange(2) == jnp.argmax(x + g))[None, None],
            x[None, None],
            g[None, None],
            Relaxation(jnp.zeros((1, 1, 0, 2)), jnp.float32(TAU)),
        )[0, 0]
        found = jax.grad(lambda x: weights(x) @ jnp.array([3.0, 1.0]))(theta)  # noqa: B023
        difference = float(theta[0] - theta[1]) + noise[0] - noise[1]
        p = 1 / (1 + np.exp(-difference / TAU))
        slope = (3 - 1) * p * (1 - p) / TAU
        np.testing.assert_allclose(found, [slope, -slope], rtol=1e-4)


def test_a_low_temperature_is_unbiased_for_a_quadratic_function_of_what_is_read():
    """Two places that tie count equally: the trapezoidal rule between them."""

    def of(context):
        return 2 * context[0] - context[1] + 3 * context[0] * context[1]

    def mean_of(tau, draws=100000):
        zero = jnp.zeros((draws, 0, L))
        one = jax.grad(lambda x, n, m: of(read(x, n, m, tau)[0]))
        found = jax.jit(jax.vmap(one, (None, 0, 0)))(LOG_ALPHA, noise_of(6, draws), zero)
        return np.asarray(found.mean(axis=0)), np.asarray(found.std(axis=0)) / np.sqrt(draws)

    alpha, values = np.exp(np.asarray(LOG_ALPHA)), np.array([of(v) for v in VALUES])
    exact = alpha * (values - alpha @ values)  # of sum_i alpha_i f(v_i), by the scores
    low, error = mean_of(0.1)
    assert (np.abs(low - exact) < 4 * error + 0.02 * np.abs(exact).max()).all()
    high, error = mean_of(3.0)
    assert np.abs(high - exact).max() > 10 * error.max()


def test_places_that_are_never_drawn_stay_finite():
    log_alpha = jnp.array([0.0, -1e9, -1e9, -1e9])
    gradient = jax.grad(lambda x: read(x, noise_of(0, 1)[0], noise_of(1, 4))[0].sum())(log_alpha)
    np.testing.assert_allclose(gradient, np.zeros(L), atol=1e-6)
