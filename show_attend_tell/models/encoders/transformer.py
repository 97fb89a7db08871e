"""Layers of pretrained transformers, and of networks like them, with stored weights.

Symbols: B images or texts, N tokens, D width, I and O sizes of a layer's inputs and outputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from show_attend_tell.models import products
from show_attend_tell.models.encoders.weights import Weights


def quick_gelu(x: Float[Array, "*S D"]) -> Float[Array, "*S D"]:
    """x sigmoid(1.702 x), OpenAI's approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "gelu": partial(jax.nn.gelu, approximate=False),
        "gelu_tanh": partial(jax.nn.gelu, approximate=True),
        "quick_gelu": quick_gelu,
    }
)


@dataclass(frozen=True)
class BlockNames:
    """What a file calls the weights of a block; {} stands for its number.

    Attributes:
        norm1, out, norm2, expand, contract: layers with `.weight` and `.bias`.
        qkv: one layer for queries, keys and values together, or three.
        scale1, scale2: factors of what attention and MLP add, if the network has them.
    """

    norm1: str
    qkv: tuple[str, ...]
    out: str
    norm2: str
    expand: str
    contract: str
    scale1: str = ""
    scale2: str = ""


@dataclass(frozen=True)
class BlockShape:
    """The blocks of a transformer.

    Attributes:
        width: D.
        heads: number of attention's heads.
        activation: one of `ACTIVATIONS`.
        epsilon: number that layer norm adds to the variance.
        scaled: whether there are factors of what attention and MLP add.
        causal: whether a token sees only itself and those before it.
    """

    width: int
    heads: int
    activation: str
    epsilon: float
    scaled: bool = False
    causal: bool = False


class Linear(nnx.Module):
    """A linear layer whose product has the number format `weights.dtype`; all else is float32."""

    def __init__(
        self,
        weights: Weights,
        names: tuple[str, ...],
        outputs: int,
        inputs: int,
        *,
        bias: bool = True,
        scale: str | None = None,
    ):
        """Takes its weights; see `Weights.linear`."""
        self.kernel, self.bias = weights.linear(names, (outputs, inputs), bias=bias, scale=scale)
        self.dtype = jnp.dtype(weights.dtype)

    def __call__(self, x: Float[Array, "*S I"]) -> Float[Array, "*S O"]:
        y = products.in_format(x.reshape(-1, x.shape[-1]), self.kernel[...], self.dtype)
        return (y + self.bias[...][None]).reshape(*x.shape[:-1], -1)


class Patches(nnx.Module):
    """A linear layer of squares side by side: a convolution whose stride is its kernel's side.

    Pixels that fill no square are left out. The product has the number format `weights.dtype`.
    """

    def __init__(
        self,
        weights: Weights,
        name: str,
        outputs: int,
        inputs: int,
        side: int,
        *,
        bias: bool = True,
    ):
        """Takes its weights `NAME.weight`, (outputs, inputs, side, side), and `NAME.bias`."""
        taken = weights.take(f"{name}.weight", (outputs, inputs, side, side))
        kernel = taken.transpose(2, 3, 1, 0).reshape(-1, outputs)
        self.kernel = weights.variable(kernel)
        offset = weights.take(f"{name}.bias", (outputs,)) if bias else np.zeros(outputs)
        self.bias = weights.variable(offset)
        self.side, self.dtype = side, jnp.dtype(weights.dtype)

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B i j O"]:
        side = self.side
        h, w = x.shape[1] // side, x.shape[2] // side
        x = x[:, : h * side, : w * side].reshape(len(x), h, side, w, side, -1)
        x = x.swapaxes(2, 3).reshape(len(x) * h * w, -1)
        y = products.in_format(x, self.kernel[...], self.dtype) + self.bias[...][None]
        return y.reshape(-1, h, w, y.shape[-1])


class LayerNorm(nnx.Module):
    """Layer norm over the last axis, in float32."""

    def __init__(self, weights: Weights, name: str, size: int, epsilon: float):
        """Takes its weights `NAME.weight` and `NAME.bias`."""
        self.scale, self.bias = (
            weights.variable(weights.take(full, (size,)))
            for full in (f"{name}.weight", f"{name}.bias")
        )
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*S D"]) -> Float[Array, "*S D"]:
        # Not `jax.nn.standardize`, whose mean of squares minus square of the mean loses digits
        # where a few features are far larger than the others, as in most transformers.
        x = x - x.mean(axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.epsilon)
        scale, bias = (v[...].reshape((1,) * (x.ndim - 1) + (-1,)) for v in (self.scale, self.bias))
        return x * scale + bias


class Block(nnx.Module):
    """A block with the norms before attention and MLP (pre-norm), and four times D units."""

    def __init__(self, weights: Weights, names: BlockNames, number: int, shape: BlockShape):
        """Takes the weights of the block with this number."""

        def linear(layer: tuple[str, ...], outputs: int, inputs: int, scale: str = "") -> Linear:
            named = tuple(name.format(number) for name in layer)
            factors = scale.format(number) if shape.scaled and scale else None
            return Linear(weights, named, outputs, inputs, scale=factors)

        def norm(name: str) -> LayerNorm:
            return LayerNorm(weights, name.format(number), shape.width, shape.epsilon)

        width = shape.width
        self.norm1, self.norm2 = norm(names.norm1), norm(names.norm2)
        self.qkv = linear(names.qkv, 3 * width // len(names.qkv), width)
        self.out = linear((names.out,), width, width, names.scale1)
        self.expand = linear((names.expand,), 4 * width, width)
        self.contract = linear((names.contract,), width, 4 * width, names.scale2)
        self.heads, self.causal = shape.heads, shape.causal
        self.activation = shape.activation

    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        x = x + self.out(self._attended(self.norm1(x)))
        return x + self.contract(ACTIVATIONS[self.activation](self.expand(self.norm2(x))))

    def _attended(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Softmax of scaled dot products is float32, whatever the format of the products."""
        qkv = self.qkv(x).astype(self.qkv.dtype)
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        return y.astype(jnp.float32).reshape(x.shape)
