"""The encoder of a sentence and of the picture that it describes.

Its input is a packed row of float16 numbers: the source words, then the annotation vectors of the
picture, which were computed earlier. A word's id is two numbers, since float16 counts to 2048 only.

Symbols: B sentences, S source words, P places of the picture, F features of each.
"""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.encoders.base import Encoder
from show_attend_tell.models.sentence_encoder import SentenceEncoder
from show_attend_tell.tokens import IDS_BASE


def unpack_words(packed: Float[Array, "B S2"]) -> Int[Array, "B S"]:
    """The inverse of `batches.pack_words`."""
    high, low = jnp.split(packed.astype(jnp.int32), 2, axis=1)
    return high * IDS_BASE + low


class PicturedEncoder(Encoder):
    """The annotation vectors of the words, and beside them those of the picture.

    Args:
      words: encodes the sentence.
      picture: F, and (h, w) of the places, P = h w.

    Attributes:
      words: the encoder of the sentence.
      picture: F.
      features: D of the sentence's annotation vectors.
    """

    def __init__(self, words: SentenceEncoder, picture: int, places: tuple[int, int]):
        self.words, self.picture, self.places = words, picture, places
        self.features, self.grid = words.features, None

    def sharing(self, vectors: nnx.Param) -> "PicturedEncoder":
        return PicturedEncoder(self.words.sharing(vectors), self.picture, self.places)

    def annotations(
        self, inputs: Float[Array, "B n"], key: PRNGKeyArray | None = None
    ) -> Annotations:
        """Annotation vectors of the words (B, S, D) and of the picture (B, P, F).

        Args:
          inputs: see the module; n = 2 S + P F.
          key: switches dropout on.
        """
        words = inputs.shape[1] - math.prod(self.places) * self.picture
        ids, picture = jnp.split(inputs, [words], axis=1)
        places = picture.reshape(len(picture), -1, self.picture)
        return self.words.annotations(unpack_words(ids), key)._replace(picture=places)
