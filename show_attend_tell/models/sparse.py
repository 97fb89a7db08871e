"""Sparse maps from scores to weights: distributions in which most places weigh exactly 0.

    sparsemax    the distribution closest to the scores (Martins and Astudillo 2016,
                 arXiv:1602.02068): p = max(x - tau, 0)
    entmax       1.5-entmax (Peters, Niculae and Martins 2019, arXiv:1905.05702, section 3.2 and
                 algorithm 2): p = max(x/2 - tau, 0)^2, between softmax and sparsemax

tau is the number for which p sums to 1. Places that are not allowed have scores of about -1e9.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def sparsemax(scores: Float[Array, "*S L"]) -> Float[Array, "*S L"]:
    """Sparsemax of the last axis."""
    x = scores - scores.max(axis=-1, keepdims=True)
    ordered = jnp.flip(jnp.sort(x, axis=-1), axis=-1)
    counts = _counts(x)
    taus = (jnp.cumsum(ordered, axis=-1) - 1) / counts
    # The k largest scores are the support for the largest k at which the k-th exceeds its tau.
    size = (ordered > taus).sum(axis=-1, keepdims=True)
    tau = jnp.take_along_axis(taus, size - 1, axis=-1)
    return jnp.maximum(x - tau, 0.0)


@sparsemax.defjvp
def _sparsemax_jvp(primals, tangents):
    p = sparsemax(*primals)
    return p, _projected(tangents[0], (p > 0).astype(p.dtype))


@jax.custom_jvp
def entmax(scores: Float[Array, "*S L"]) -> Float[Array, "*S L"]:
    """1.5-entmax of the last axis."""
    x = (scores - scores.max(axis=-1, keepdims=True)) / 2
    ordered = jnp.flip(jnp.sort(x, axis=-1), axis=-1)
    counts = _counts(x)
    # Scores far below the largest have no part in the support; their squares would overflow.
    near = jnp.maximum(ordered, -2.0)
    mean = jnp.cumsum(near, axis=-1) / counts
    spread = jnp.cumsum(jnp.square(near), axis=-1) - counts * jnp.square(mean)
    taus = mean - jnp.sqrt(jnp.maximum((1 - spread) / counts, 0.0))
    size = (ordered >= taus).sum(axis=-1, keepdims=True)
    tau = jnp.take_along_axis(taus, size - 1, axis=-1)
    return jnp.square(jnp.maximum(x - tau, 0.0))


@entmax.defjvp
def _entmax_jvp(primals, tangents):
    p = entmax(*primals)
    return p, _projected(tangents[0], jnp.sqrt(p))


def _counts(x: Float[Array, "*S L"]) -> Float[Array, "*S L"]:
    steps = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    return jnp.broadcast_to(steps.reshape((1,) * (x.ndim - 1) + (-1,)), x.shape)


def _projected(
    tangent: Float[Array, "*S L"], weights: Float[Array, "*S L"]
) -> Float[Array, "*S L"]:
    """(diag(s) - s s^T / sum s) t: the Jacobian of both maps, for its own s, times a tangent."""
    mean = (weights * tangent).sum(axis=-1, keepdims=True) / weights.sum(axis=-1, keepdims=True)
    return weights * (tangent - mean)
