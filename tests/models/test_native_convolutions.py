"""Blocks of EfficientNet-Lite in C++, beside the same sums in NumPy with float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.models import native
from show_attend_tell.models.encoders import efficientnet_lite
from show_attend_tell.models.native import convolutions
from show_attend_tell.models.native.convolutions import BlockWeights

pytestmark = pytest.mark.skipif(
    not native.available(), reason="no C++ compiler, or not one CPU device"
)


def drawn(*shape, scale=1.0):
    rng = np.random.default_rng(sum(shape))
    return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)


def block_weights(inputs, wide, outputs, k, expands):
    expand = (inputs, wide) if expands else (inputs, 0)
    return BlockWeights(
        *(drawn(*expand, scale=inputs**-0.5), drawn(expand[1])),
        *(drawn(k, k, wide, scale=1 / k), drawn(wide)),
        *(drawn(wide, outputs, scale=wide**-0.5), drawn(outputs)),
    )


def windows(x, k, stride):
    """Arrays of what lies under each number of a kernel; padded as TensorFlow's SAME."""
    sides = [-(-side // stride) for side in x.shape[1:3]]
    total = [
        max((o - 1) * stride + k - side, 0) for o, side in zip(sides, x.shape[1:3], strict=True)
    ]
    x = np.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    h, w = ((o - 1) * stride + 1 for o in sides)
    return [[x[:, i : i + h : stride, j : j + w : stride] for j in range(k)] for i in range(k)]


def numpys_block(x, weights, stride, residual):
    x, weights = np.float64(x), BlockWeights(*map(np.float64, weights))
    h = np.clip(x @ weights.expand + weights.expand_bias, 0, 6) if weights.expand.size else x
    k = len(weights.kernel)
    under = windows(h, k, stride)
    d = sum(under[i][j] * weights.kernel[i, j] for i in range(k) for j in range(k))
    y = np.clip(d + weights.bias, 0, 6) @ weights.project + weights.project_bias
    return y + x if residual else y


# Channels in whole vectors and in parts of one; maps of one band and of several; odd sides, whose
# padding is even, and even ones.
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("images", "sides", "channels", "k", "stride", "expands"),
    [
        (3, (9, 7), (8, 48, 8), 3, 1, True),
        (1, (8, 8), (12, 52, 20), 5, 2, True),
        (2, (6, 5), (32, 32, 16), 3, 1, False),
        (1, (5, 6), (20, 20, 20), 5, 1, False),
        (1, (97, 41), (24, 144, 24), 3, 2, True),
        (2, (30, 31), (24, 108, 24), 5, 1, True),
        (1, (1, 1), (8, 16, 8), 5, 2, True),
    ],
)
def test_a_block_is_numpys(images, sides, channels, k, stride, expands, dtype):
    if not native.can_multiply(dtype):
        pytest.skip("no matrix units")
    x, weights = drawn(images, *sides, channels[0]), block_weights(*channels, k, expands)
    form = stride, stride == 1 and channels[0] == channels[2]
    expected = numpys_block(x, weights, *form)
    like = lambda x, weights: jnp.zeros(expected.shape)  # noqa: E731
    got = convolutions.inverted_residual(like, form, dtype, x, weights)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert error < (5e-3 if dtype == "bfloat16" else 1e-6)
    assert dtype == "float32" or error > 1e-4  # so the format of the products is the asked one


@pytest.mark.parametrize("sides", [(13, 15), (8, 6), (1, 2)])
def test_the_first_convolution_is_numpys(sides):
    x, kernel, bias = drawn(2, *sides, 3), drawn(3, 3, 3, 20), drawn(20)
    under = windows(np.float64(x), 3, 2)
    y = sum(under[i][j] @ np.float64(kernel)[i, j] for i in range(3) for j in range(3))
    got = convolutions.stem(efficientnet_lite._stem, 2, x, kernel, bias)
    np.testing.assert_allclose(got, np.clip(y + np.float64(bias), 0, 6), atol=1e-5)


def test_gradients_are_those_of_xla():
    form = 1, True
    x, weights = drawn(1, 4, 4, 8), block_weights(8, 24, 8, 3, True)

    def plain(x, weights):
        return efficientnet_lite._inverted_residual(*form, "float32", x, weights)

    def in_cpp(x, weights):
        return convolutions.inverted_residual(plain, form, "float32", x, weights)

    ours, xlas = (
        jax.jit(jax.grad(lambda x, w, f=f: (f(x, w) ** 2).sum(), (0, 1)))(x, weights)
        for f in (in_cpp, plain)
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(xlas), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        assert np.abs(other).max() > 0
