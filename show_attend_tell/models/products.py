"""Products with matrices, in a number format of choice and always summed in float32.

A CPU with matrix units multiplies bfloat16 several times as fast as float32. XLA's library for CPUs
does so only if neither factor is transposed; any other product XLA converts to float32 first, which
takes ten times as long. So the gradients here copy a transposed factor into a plain layout before
they multiply by it. Accelerators need no such copy.

In float32 every function is the plain product. The gradient of a matrix is written as x^T d there,
since XLA turns its own form, (d^T x)^T, into a slow copy of d.

Symbols: I, J sizes of a matrix; B inputs, R rows and L places of each, D features.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float


def transposed(x: Float[Array, "*S I J"]) -> Float[Array, "*S J I"]:
    """The last two axes swapped; on CPUs as a copy that no product can absorb."""

    def copied(x: Array) -> Array:
        turned = x.swapaxes(-1, -2)
        return with_layout_constraint(turned, Layout(tuple(range(x.ndim))))

    def plain(x: Array) -> Array:
        return x.swapaxes(-1, -2)

    return jax.lax.platform_dependent(x, cpu=copied, default=plain)


def matmul(
    x: Float[Array, "*S I"],
    matrix: Float[Array, "I J"],
    turned: Float[Array, "J I"] | None = None,
) -> Float[Array, "*S J"]:
    """x times the matrix, in the matrix's number format.

    Args:
      turned: the matrix, `transposed`, where a caller has it. Then no gradient flows to the matrix.
    """
    if turned is not None and matrix.dtype != jnp.float32:
        return _dot_given(x, matrix, turned)
    return in_format(x, matrix, matrix.dtype)


class Linear(nnx.Linear):
    """A layer whose product has the number format `dtype`; result, bias and gradients are float32.

    Args: those of `nnx.Linear`.
    """

    def __call__(self, inputs: Float[Array, "*S I"]) -> Float[Array, "*S J"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        y = in_format(inputs, jnp.asarray(self.kernel[...]), self.dtype)
        if self.bias is None:
            return y
        return y + self.bias[...].reshape((1,) * (y.ndim - 1) + (-1,))


class Embedding(nnx.Embed):
    """Vectors of words in float32, whose `attend` has the number format `product_dtype`.

    Args: those of `nnx.Embed`.
    """

    def __init__(self, words: int, features: int, *, product_dtype: jnp.dtype, **given: Any):
        super().__init__(words, features, **given)
        self.product_dtype = product_dtype

    def attend(self, query: Float[Array, "*S E"]) -> Float[Array, "*S V"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Inner products with the vectors of all words."""
        vectors = jnp.asarray(self.embedding[...])
        turned = vectors.T if self.product_dtype == jnp.float32 else transposed(vectors)
        return in_format(query, turned, self.product_dtype)


def in_format(
    x: Float[Array, "*S I"], matrix: Float[Array, "I J"], dtype: Any
) -> Float[Array, "*S J"]:
    """The product in a number format; its gradients are float32."""
    return _matmul(x, matrix, jnp.dtype(jnp.float32 if dtype is None else dtype))


def combine(
    weights: Float[Array, "B R L"],
    vectors: Float[Array, "B L D"],
    turned: Float[Array, "B D L"] | None = None,
) -> Float[Array, "B R D"]:
    """Sums of vectors with weights, in the vectors' number format.

    Args:
      turned: the vectors, `transposed`, where a caller has them. Then no gradient flows to them.
    """
    if turned is not None and vectors.dtype != jnp.float32:
        return _dot_given(weights, vectors, turned)
    if vectors.dtype == jnp.float32:
        return jnp.einsum("brl,bld->brd", weights, vectors)
    return _combine(weights, vectors)


def compare(x: Float[Array, "B R D"], vectors: Float[Array, "B L D"]) -> Float[Array, "B R L"]:
    """Inner products with vectors, in the vectors' number format."""
    if vectors.dtype == jnp.float32:
        return jnp.einsum("brd,bld->brl", x, vectors)
    return _compare(x, vectors)


def sum_of_products(
    a: Float[Array, "*S I"], b: Float[Array, "*S J"], dtype: jnp.dtype
) -> Float[Array, "I J"]:
    """The sum over all of S of a^T b in a number format: the gradient of a matrix."""
    a, b = (x.reshape(-1, x.shape[-1]).astype(dtype) for x in (a, b))
    if b.shape[1] == 1:  # XLA's own product takes as long as one with hundreds of columns
        return _dot(b.T, a).T
    return _dot(_turned(a), b)


def _turned(x: Float[Array, "I J"]) -> Float[Array, "J I"]:
    """The transpose as a product needs it: only other formats than float32 need a copy."""
    return x.T if x.dtype == jnp.float32 else transposed(x)


def _dot(a: Float[Array, "*S I"], b: Float[Array, "*B I J"]) -> Float[Array, "*S J"]:
    return jnp.matmul(a.astype(b.dtype), b, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x, matrix, dtype):
    return _dot(x, matrix.astype(dtype))


def _matmul_forward(x, matrix, dtype):
    return _matmul(x, matrix, dtype), (x.astype(dtype), matrix, jnp.zeros((), x.dtype))


def _matmul_backward(dtype, residuals, d):
    x, matrix, like = residuals
    d_x = _dot(d, _turned(matrix.astype(dtype))).astype(like.dtype)
    return d_x, sum_of_products(x, d, dtype).astype(matrix.dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def _dot_given(a, b, turned):
    return _dot(a, b)


_dot_given.defvjp(
    lambda a, b, turned: (_dot(a, b), (turned, jnp.zeros((), a.dtype))),
    lambda residuals, d: (_dot(d, residuals[0]).astype(residuals[1].dtype), None, None),
)


@jax.custom_vjp
def _combine(weights, vectors):
    return _dot(weights, vectors)


def _combine_backward(residuals, d):
    weights, vectors = residuals
    d_vectors = _dot(transposed(weights.astype(vectors.dtype)), d.astype(vectors.dtype))
    return _compare(d, vectors).astype(weights.dtype), d_vectors.astype(vectors.dtype)


_combine.defvjp(lambda *given: (_combine(*given), given), _combine_backward)


@jax.custom_vjp
def _compare(x, vectors):
    return _dot(x, transposed(vectors))


def _compare_backward(residuals, d):
    x, vectors = residuals
    d_vectors = _dot(transposed(d.astype(vectors.dtype)), x.astype(vectors.dtype))
    return _dot(d, vectors).astype(x.dtype), d_vectors.astype(vectors.dtype)


_compare.defvjp(lambda *given: (_compare(*given), given), _compare_backward)
