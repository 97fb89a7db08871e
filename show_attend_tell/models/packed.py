"""Packed rows of captions: where one begins, and what each step sees.

A row holds one or more captions of one image, each closed by <eos>, then <pad>. Symbols as in
`decoder`.

Where a model speaks n languages, a row holds captions of one of them, and the rows of an image take
turns: row r is in language r % n. So n divides R, and what is said of R rows also holds for the
rows of several samples of them, one sample after the other.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from show_attend_tell.tokens import BOS, EOS, PAD


@jax.tree_util.register_static
@dataclass(frozen=True)
class Starts:
    """The tokens that captions begin with.

    Attributes:
      tokens: <bos>, or a token for each language; none of them is ever said.
      language: the number of the language that all captions are in; None: rows take turns.
    """

    tokens: tuple[int, ...] = (BOS,)
    language: int | None = None

    @property
    def spoken(self) -> tuple[int, ...]:
        """The starts of the languages among which the rows of an image take turns."""
        return self.tokens if self.language is None else (self.tokens[self.language],)

    @property
    def unsaid(self) -> tuple[int, ...]:
        """The tokens that never occur inside a caption, besides <pad>."""
        return tuple(dict.fromkeys((BOS, *self.tokens)))

    def of_rows(self, rows: int) -> int | Int[Array, "R 1"]:
        """The token that the captions of each row begin with; one for all of one language.

        Raises:
          ValueError: the rows do not divide among the languages.
        """
        count = len(self.spoken)
        if count == 1:
            return self.spoken[0]
        if rows % count:
            raise ValueError(f"{rows} rows do not divide among {count} languages")
        return jnp.tile(jnp.array(self.spoken), rows // count)[:, None]


BOS_ONLY = Starts()


def caption_starts(tokens: Int[Array, "B R T"]) -> Bool[Array, "B R T"]:
    """Whether a caption begins at a position: at the first one, and after every <eos>."""
    first = jnp.ones_like(tokens[..., :1], bool)
    return jnp.concatenate([first, tokens[..., :-1] == EOS], axis=-1)


def input_words(tokens: Int[Array, "B R T"], starts: Starts = BOS_ONLY) -> Int[Array, "B R T"]:
    """y_{t-1} for every position: a start where a caption begins, else the previous word.

    Raises:
      ValueError: the rows do not divide among the languages.
    """
    previous = jnp.roll(tokens, 1, axis=-1)
    return jnp.where(caption_starts(tokens), starts.of_rows(tokens.shape[-2]), previous)


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
