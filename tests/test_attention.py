"""Scores and the soft read-out against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from show_attend_tell.attention import Attention, soft_context


def test_additive_scores_and_their_gradient_equal_the_formula():
    rng = np.random.default_rng(0)
    attention = Attention(5, 4, 6, rngs=nnx.Rngs(0))
    a = rng.normal(size=(2, 3, 5)).astype(np.float32)
    h = rng.normal(size=(2, 7, 4)).astype(np.float32)
    scores = attention.scores(jnp.array(h), attention.keys(jnp.array(a)))
    u, b = attention.key.kernel[...], attention.key.bias[...]
    w, v = attention.query.kernel[...], attention.score.kernel[...]
    for i, r, location in np.ndindex(2, 7, 3):
        expected = np.tanh(a[i, location] @ u + b + h[i, r] @ w) @ v
        np.testing.assert_allclose(scores[i, r, location], expected[0], atol=1e-5)

    def total(h):
        return attention.scores(h, attention.keys(jnp.array(a)))[0, 2, 1]

    # d e / d h = W diag(1 - tanh^2) v
    tanh = np.tanh(a[0, 1] @ u + b + h[0, 2] @ w)
    expected = np.asarray(w) @ ((1 - tanh**2) * np.asarray(v)[:, 0])
    np.testing.assert_allclose(jax.grad(total)(jnp.array(h))[0, 2], expected, atol=1e-5)


def test_soft_context_is_the_expectation_and_survives_large_scores():
    scores = jnp.array([[[0.0, np.log(3.0)], [1e4, -1e4]]])
    a = jnp.array([[[1.0, 10.0], [5.0, 2.0]]])
    context, alpha = soft_context(scores, a)
    np.testing.assert_allclose(alpha, [[[0.25, 0.75], [1.0, 0.0]]], atol=1e-6)
    np.testing.assert_allclose(context, [[[4.0, 4.0], [1.0, 10.0]]], atol=1e-5)
