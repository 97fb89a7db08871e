"""Frozen layers of EfficientNet-Lite in C++, for a CPU: `inverted_residual.cc`.

Their gradients are those of XLA's version, which the backward pass computes again.

Symbols: B images; h x w pixels of an input and i x j of a result; I, E and O channels; k side of a
kernel.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from show_attend_tell.models import native


class BlockWeights(NamedTuple):
    """Of an inverted residual block.

    Attributes:
      expand, expand_bias: of the product that widens a pixel; no numbers if nothing does, E = I.
      kernel, bias: of the convolution of each channel by itself.
      project, project_bias: of the last product.
    """

    expand: Float[Array, "I E"]
    expand_bias: Float[Array, " E"]
    kernel: Float[Array, "k k E"]
    bias: Float[Array, " E"]
    project: Float[Array, "E O"]
    project_bias: Float[Array, " O"]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def inverted_residual(
    otherwise, block, dtype: str, x: Float[Array, "B h w I"], weights: BlockWeights
) -> Float[Array, "B i j O"]:
    """A block: expand, ReLU6, depthwise convolution, ReLU6, project, and add the input or not.

    Args:
      otherwise: computes the same from x and the weights, for accelerators and gradients.
      block: its stride, and whether it adds the input.
      dtype: number format of the products, "float32" or "bfloat16".
    """
    stride, residual = block
    i, j = (-(-side // stride) for side in x.shape[1:3])
    like = jax.ShapeDtypeStruct((len(x), i, j, weights.project.shape[1]), jnp.float32)
    attributes = {"stride": np.int64(stride), "residual": residual, "bfloat16": dtype == "bfloat16"}
    given = lambda x, *weights: otherwise(x, BlockWeights(*weights))  # noqa: E731
    return native.on_cpu("inverted_residual", like, given, x, *weights, **attributes)


inverted_residual.defvjp(
    lambda *given: (inverted_residual(*given), given[3:]),
    lambda otherwise, block, dtype, given, d: jax.vjp(otherwise, *given)[1](d),
)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def stem(
    otherwise,
    stride: int,
    x: Float[Array, "B h w I"],
    kernel: Float[Array, "k k I O"],
    bias: Float[Array, " O"],
) -> Float[Array, "B i j O"]:
    """A convolution with SAME padding, the odd pixel at the end, then ReLU6.

    Args:
      otherwise: computes the same from x, the kernel and the bias.
    """
    i, j = (-(-side // stride) for side in x.shape[1:3])
    like = jax.ShapeDtypeStruct((len(x), i, j, kernel.shape[-1]), jnp.float32)
    return native.on_cpu("stem", like, otherwise, x, kernel, bias, stride=np.int64(stride))


stem.defvjp(
    lambda *given: (stem(*given), given[2:]),
    lambda otherwise, stride, given, d: jax.vjp(otherwise, *given)[1](d),
)
