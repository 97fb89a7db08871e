"""Layers of pretrained networks, written as XLA computes them fastest on CPUs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from show_attend_tell.models import products
from show_attend_tell.models.encoders.base import Frozen
from show_attend_tell.models.encoders.weights import Weights

# B^T, G and A^T of F(2x2, 3x3) (Lavin and Gray 2016, arXiv 1509.09308, section 4.1).
_WINOGRAD_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
_WINOGRAD_KERNEL = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.float32) / 2
_WINOGRAD_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)


class Convolution(nnx.Module):
    """A convolution with stored weights, its batch norm folded in.

    A 1x1 convolution is computed as a matrix product, which is several times faster on a CPU. It
    and the products of Winograd's form have the number format `weights.dtype`; all else is float32.
    """

    def __init__(
        self,
        weights: Weights,
        conv: str,
        norm: str | None,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        same: bool = False,
        winograd: bool = False,
    ):
        """Takes its weights.

        Args:
            weights: see `Weights.convolution` for `conv` and `norm`.
            inputs, outputs: channels.
            kernel: side, odd.
            stride: in both directions.
            same: SAME padding, with the odd pixel at the end; else (kernel - 1) / 2 at both ends.
            winograd: whether CPUs use `winograd_convolution` if it is possible: for a 3x3 kernel at
                stride 1, with equal padding at both ends and frozen weights. The attribute `kernel`
                then holds U. It takes 0.5 to 0.8 times as long as the plain convolution, but longer
                if its sixteen maps do not fit into the cache.
        """
        shape = (outputs, inputs, kernel, kernel)
        self.kernel, self.bias = weights.convolution(conv, norm, shape)
        possible = (kernel, stride, same) == (3, 1, False) and weights.kind is Frozen
        self.winograd = winograd and possible
        if self.winograd:
            self.kernel = Frozen(jax.device_put(winograd_kernel(np.asarray(self.kernel[...]))))
        self.dtype = jnp.dtype(weights.dtype)
        self.stride = stride
        self.padding = "SAME" if same else ((kernel // 2, kernel // 2),) * 2

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B i j O"]:
        kernel, bias, stride = self.kernel[...], self.bias[...], self.stride
        if kernel.shape[0] == 1:
            x = x[:, ::stride, ::stride]
            y = products.in_format(x.reshape(-1, x.shape[-1]), kernel[0, 0], self.dtype)
            return (y + bias[None]).reshape(*x.shape[:-1], -1)
        if self.winograd:
            # Chosen as a program is lowered, perhaps for other devices than this process has.
            y = jax.lax.platform_dependent(
                x,
                kernel,
                cpu=partial(winograd_convolution, dtype=self.dtype),
                default=lambda x, kernel: _convolution(x, plain_kernel(kernel), 1, self.padding),
            )
        else:
            y = _convolution(x, kernel, stride, self.padding)
        return y + bias[None, None, None]


def _convolution(
    x: Float[Array, "B h w I"],
    kernel: Float[Array, "k k I O"],
    stride: int,
    padding: str | Sequence[tuple[int, int]],
) -> Float[Array, "B i j O"]:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def winograd_kernel(kernel: Float[np.ndarray, "3 3 I O"]) -> Float[np.ndarray, "4 4 I O"]:
    """U = G g G^T: the form of a kernel g that `winograd_convolution` takes."""
    half = np.tensordot(_WINOGRAD_KERNEL, kernel, 1)
    return np.moveaxis(np.tensordot(_WINOGRAD_KERNEL, half, (1, 1)), 0, 1)


def plain_kernel(kernel: Float[Array, "4 4 I O"]) -> Float[Array, "3 3 I O"]:
    """The kernel g of a U from `winograd_kernel`, up to rounding."""
    lines = jnp.stack([kernel[0], kernel[1] - kernel[2], kernel[3]])
    return jnp.stack([lines[:, 0], lines[:, 1] - lines[:, 2], lines[:, 3]], axis=1)


# Traced once for each shape: a network has many layers of one shape.
@partial(jax.jit, static_argnames="dtype")
def winograd_convolution(
    x: Float[Array, "B h w I"], kernel: Float[Array, "4 4 I O"], dtype: Any = jnp.float32
) -> Float[Array, "B h w O"]:
    """A 3x3 convolution, padded by one pixel, with 16 instead of 36 products for 2x2 outputs.

    F(2x2, 3x3) of Lavin and Gray 2016: Y = A^T [sum over channels of U * (B^T d B)] A with tiles d
    of 4x4 pixels, two apart. In float32 it is as exact as the plain sum, up to about 1e-6.

    Args:
        x: images.
        kernel: U, see `winograd_kernel`.
        dtype: number format of the products.
    """
    count, height, width, channels = x.shape
    h, w = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * h - height + 1), (1, 2 * w - width + 1), (0, 0)))
    lines = [x[:, i : i + 2 * h : 2] for i in range(4)]
    d = [[line[:, :, j : j + 2 * w : 2] for j in range(4)] for line in lines]
    tiles = _both_sides(_WINOGRAD_INPUT, d)
    # Sixteen products: one product with a batch of sixteen takes up to twice as long.
    sums = [
        [
            products.in_format(tile.reshape(-1, channels), u, dtype)
            for tile, u in zip(*p, strict=True)
        ]
        for p in zip(tiles, kernel, strict=True)
    ]
    y = _both_sides(_WINOGRAD_OUTPUT, sums)
    y = [jnp.stack([part.reshape(count, h, w, -1) for part in line], 3) for line in y]
    return jnp.stack(y, 2).reshape(count, 2 * h, 2 * w, -1)[:, :height, :width]


def _both_sides(matrix: np.ndarray, parts: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """M X M^T for an X whose entries are arrays; the entries of M are 1, 0 and -1."""

    def combine(signs: np.ndarray, entries: Sequence[Array]) -> Array:
        signed = zip(signs, entries, strict=True)
        return cast(Array, sum(part if sign > 0 else -part for sign, part in signed if sign))

    half = [[combine(signs, column) for column in zip(*parts, strict=True)] for signs in matrix]
    return [[combine(signs, entries) for signs in matrix] for entries in half]


class Sequential(nnx.Module):
    """Layers, one after the other.

    With `checkpointing` the backward pass recomputes the inside of each layer. Only what passes
    from one layer to the next is kept, which saves memory and costs one more forward pass.
    """

    def __init__(self, layers: list[Callable[[Array], Array]], checkpointing: bool = False):
        self.layers = nnx.List(layers)
        self.checkpointing = checkpointing

    def __call__(self, x: Float[Array, "B *S I"]) -> Float[Array, "B *R O"]:
        for layer in self.layers:
            x = _checkpointed(layer, x) if self.checkpointing else layer(x)
        return x


def _checkpointed(layer: Callable[[Array], Array], x: Array) -> Array:
    graph, state = nnx.split(layer)
    return jax.checkpoint(lambda state, x: nnx.merge(graph, state)(x))(state, x)


def max_pool(x: Float[Array, "B h w C"], kernel: int, padding: int = 0) -> Float[Array, "B i j C"]:
    """Maximum over squares at stride 2, without outputs whose square is not wholly inside.

    Computed as maxima of shifted images: on a CPU XLA's own pooling takes 3 times as long, and its
    gradient 13 times.
    """
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x = jnp.pad(x, pads, constant_values=-jnp.inf) if padding else x
    for axis in (1, 2):
        stop = x.shape[axis] - kernel + 1
        parts = [jax.lax.slice_in_dim(x, i, i + stop, stride=2, axis=axis) for i in range(kernel)]
        x = parts[0]
        for part in parts[1:]:
            x = jnp.maximum(x, part)
    return x


def _pad_same(x: Float[Array, "B h w C"], kernel: int, stride: int) -> Array:
    """TensorFlow's SAME padding: ceil(side / stride) outputs, the odd pixel at the end."""
    pads = []
    for side in x.shape[1:3]:
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads.append((total // 2, total - total // 2))
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def depthwise(
    x: Float[Array, "B h w C"], kernel: Float[Array, "k k C"], bias: Float[Array, " C"], stride: int
) -> Float[Array, "B i j C"]:
    """A convolution of each channel by itself with SAME padding, as k * k shifted products.

    XLA's grouped convolution is 10 to 20 times slower than this on a CPU.
    """
    kernel = kernel[:, :, None, None, None]
    k = kernel.shape[0]
    h, w = (-(-side // stride) for side in x.shape[1:3])
    # Without the barrier XLA computes the padding, and what it pads, once for every window.
    x = jax.lax.optimization_barrier(_pad_same(x, k, stride))
    total = bias[None, None, None]
    for i in range(k):
        for j in range(k):
            window = x[:, i : i + (h - 1) * stride + 1 : stride]
            window = window[:, :, j : j + (w - 1) * stride + 1 : stride]
            total = total + window * kernel[i, j]
    return total
