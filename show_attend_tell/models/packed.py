"""Packed rows of captions: where one begins, and what each step sees.

A row holds one or more captions of one image, each closed by <eos>, then <pad>. Symbols as in
`decoder`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from show_attend_tell.tokens import BOS, EOS, PAD


def caption_starts(tokens: Int[Array, "B R T"]) -> Bool[Array, "B R T"]:
    """Whether a caption begins at a position: at the first one, and after every <eos>."""
    first = jnp.ones_like(tokens[..., :1], bool)
    return jnp.concatenate([first, tokens[..., :-1] == EOS], axis=-1)


def input_words(tokens: Int[Array, "B R T"]) -> Int[Array, "B R T"]:
    """y_{t-1} for every position: <bos> where a caption begins, else the previous word."""
    previous = jnp.roll(tokens, 1, axis=-1)
    return jnp.where(caption_starts(tokens), BOS, previous)


def same_caption(tokens: Int[Array, "B R T"]) -> Float[Array, "B R T T"]:
    """M[t, s] = 1 where steps t and s belong to the same caption and neither is padding, else 0."""
    caption = jnp.cumsum(caption_starts(tokens), axis=-1)
    real = tokens != PAD
    same = caption[..., :, None] == caption[..., None, :]
    return (same & real[..., :, None] & real[..., None, :]).astype(jnp.float32)


def time_first(x: Shaped[Array, "B R T *S"]) -> Shaped[Array, "T B R *S"]:
    """The order of a scan's steps."""
    return jnp.moveaxis(x, 2, 0)


def time_last(x: Shaped[Array, "T B R *S"]) -> Shaped[Array, "B R T *S"]:
    """The inverse of `time_first`."""
    return jnp.moveaxis(x, 0, 2)
