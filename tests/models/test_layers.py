"""Convolutions and poolings in the forms that are fast on a CPU, beside XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.models.encoders.layers import max_pool, winograd_convolution, winograd_kernel


def random(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 4), (14, 14)])
def test_winograd_is_the_convolution(size):
    x, kernel = random(3, *size, 5), random(3, 3, 5, 6)
    layout = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
    got = winograd_convolution(x, jnp.asarray(winograd_kernel(np.asarray(kernel))))
    np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("size", [(5, 8), (6, 7)])
@pytest.mark.parametrize(("kernel", "padding"), [(2, 0), (3, 1)])
def test_max_pool_is_the_pooling(size, kernel, padding):
    x = random(2, *size, 3)
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    window = (1, kernel, kernel, 1), (1, 2, 2, 1), pads
    expected = jax.lax.reduce_window(x, -np.inf, jax.lax.max, *window)
    np.testing.assert_array_equal(max_pool(x, kernel, padding), expected)
