"""Dropout of single features with few random bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show_attend_tell.models.dropouts import Dropout


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.001])
def test_a_256th_decides_and_the_mean_is_kept(rate):
    x = jnp.ones((37, 1001))  # not a multiple of four
    dropped = np.asarray(Dropout(rate, 8)(x, jax.random.key(0)))
    exact = max(1, round(256 * rate)) / 256
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / (1 - exact))}
    assert np.mean(dropped == 0) == pytest.approx(exact, abs=5 * (exact / x.size) ** 0.5)


def test_neighbours_are_dropped_independently():
    # Four neighbours share a word of random bits.
    lost = np.asarray(Dropout(0.5, 8)(jnp.ones(400_000), jax.random.key(1)) == 0).reshape(-1, 4)
    patterns = np.bincount(lost @ [1, 2, 4, 8], minlength=16) / len(lost)
    np.testing.assert_allclose(patterns, 1 / 16, atol=0.005)


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("axis", [1, 2])
def test_paths_lose_the_same_features(bits, axis):
    key, x = jax.random.key(0), jnp.ones((3, 4, 4, 5))
    dropped = np.asarray(Dropout(0.5, bits)(x, key, 2, axis))
    first, second = np.split(dropped, 2, axis)
    np.testing.assert_array_equal(first, second)
    shape = first.shape
    np.testing.assert_array_equal(first, Dropout(0.5, bits)(jnp.ones(shape), key))
    a, b = np.split(first, 2, axis)
    assert (a != b).any()


def test_almost_all_may_be_lost():
    dropped = np.asarray(Dropout(0.9999, 8)(jnp.ones(2560), jax.random.key(0)))
    assert 0 < np.count_nonzero(dropped) < 30 and dropped.max() == 256


def test_the_key_decides():
    x = jnp.ones(64)
    first, again = (Dropout(0.5, 8)(x, jax.random.key(0)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first != Dropout(0.5, 8)(x, jax.random.key(1))).any()
    np.testing.assert_array_equal(Dropout(0.5, 8)(x, None), x)


def test_with_32_bits_it_is_that_of_flax():
    x, key = jax.random.normal(jax.random.key(2), (5, 7)), jax.random.key(0)
    expected = nnx.Dropout(0.3)(x, deterministic=False, rngs=key)
    np.testing.assert_array_equal(Dropout(0.3, 32)(x, key), expected)
