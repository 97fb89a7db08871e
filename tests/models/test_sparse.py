"""Sparse maps against their definitions: the optimum by bisection, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.models.sparse import entmax, sparsemax

MAPS = {"sparsemax": (sparsemax, 1.0, 1.0), "entmax": (entmax, 0.5, 2.0)}


def by_bisection(scores, scale, power):
    """max(scale x - tau, 0)^power, with the tau for which it sums to 1."""
    x = scale * np.asarray(scores, np.float64)
    low, high = x.max(-1, keepdims=True) - 1, x.max(-1, keepdims=True)
    for _ in range(80):
        tau = (low + high) / 2
        above = (np.maximum(x - tau, 0) ** power).sum(-1, keepdims=True) > 1
        low, high = np.where(above, tau, low), np.where(above, high, tau)
    return np.maximum(x - tau, 0) ** power


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("spread", [0.01, 1.0, 20.0])
def test_the_map_is_the_optimum(name, spread):
    function, *definition = MAPS[name]
    scores = spread * jax.random.normal(jax.random.key(0), (3, 4, 9))
    scores = scores.at[0, 0, 2].set(-1e9).at[1].set(3.0).at[2, 0, 1].set(scores[2, 0].max())
    p = function(scores)
    np.testing.assert_allclose(p, by_bisection(scores, *definition), atol=2e-6)
    np.testing.assert_allclose(p.sum(-1), 1, atol=2e-6)
    assert p[0, 0, 2] == 0 and (spread < 1 or (p == 0).any())
    np.testing.assert_allclose(p[1], 1 / 9, atol=1e-6)
    np.testing.assert_allclose(function(scores + 5.0), p, atol=1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_its_gradient_is_that_of_small_differences(name):
    function, *definition = MAPS[name]
    scores = np.random.default_rng(1).normal(size=7)
    weigh = np.arange(7.0) ** 2
    eps = 1e-5
    expected = [
        (by_bisection(scores + d, *definition) - by_bisection(scores - d, *definition)) @ weigh
        for d in eps * np.eye(7)
    ]
    got = jax.grad(lambda s: function(s) @ jnp.asarray(weigh, jnp.float32))(
        jnp.asarray(scores, jnp.float32)
    )
    np.testing.assert_allclose(got, np.array(expected) / (2 * eps), atol=2e-4)
    assert (np.asarray(got) == 0).any()
