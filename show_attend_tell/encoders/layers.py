"""Layers of pretrained networks, in the forms that XLA computes fastest on CPUs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from show_attend_tell.encoders.weights import Weights


class Convolution(nnx.Module):
    """A convolution with stored weights, its batch norm folded in.

    One of 1x1 is a matrix product, which is several times faster on a CPU.
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
    ):
        """Takes its weights.

        Args:
            weights: see `Weights.convolution` for `conv` and `norm`.
            inputs: channels.
            outputs: channels.
            kernel: side, odd.
            stride: of both directions.
            same: padding is SAME, with the odd pixel at the end; else (kernel - 1) / 2 at each.
        """
        shape = (outputs, inputs, kernel, kernel)
        self.kernel, self.bias = weights.convolution(conv, norm, shape)
        self.stride = stride
        self.padding = "SAME" if same else ((kernel // 2, kernel // 2),) * 2

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B i j O"]:
        kernel, bias, stride = self.kernel[...], self.bias[...], self.stride
        if kernel.shape[0] == 1:
            x = x[:, ::stride, ::stride]
            y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0] + bias[None]
            return y.reshape(*x.shape[:-1], -1)
        y = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), self.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + bias[None, None, None]


class Row(nnx.Module):
    """Layers, one after the other.

    With `checkpointing` a gradient computes what is inside of each of them anew: only what goes
    from one to the next is kept, which takes less memory and a forward pass more.
    """

    def __init__(self, layers: list[Callable[[Array], Array]], checkpointing: bool = False):
        self.layers = nnx.List(layers)
        self.checkpointing = checkpointing

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B i j O"]:
        for layer in self.layers:
            x = _checkpointed(layer, x) if self.checkpointing else layer(x)
        return x


def _checkpointed(layer: Callable[[Array], Array], x: Array) -> Array:
    graph, state = nnx.split(layer)
    return jax.checkpoint(lambda state, x: nnx.merge(graph, state)(x))(state, x)


def max_pool(x: Float[Array, "B h w C"], kernel: int, padding: int = 0) -> Float[Array, "B i j C"]:
    """Maximum over squares, at stride 2; outputs whose square is not wholly inside are left out.

    As maxima of shifted images: on a CPU XLA's own takes 3 times as long, its gradient 13 times.
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
