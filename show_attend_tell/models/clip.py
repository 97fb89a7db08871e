"""CLIP as transformers stores it: one space for images and texts.

Radford et al. 2021 (arXiv 2103.00020). The tower of images is that of `encoders.vit`.

Symbols: B images or texts, S side of an image in pixels, T units of a text, V vocabulary, W width
of the tower of texts, P features of the common space.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Frozen
from show_attend_tell.models.encoders.transformer import Block, BlockShape, LayerNorm, Linear
from show_attend_tell.models.encoders.vit import (
    ARCHITECTURES,
    CLASS,
    TRANSFORMERS_BLOCKS,
    VisionTransformer,
)
from show_attend_tell.models.encoders.weights import WeightFiles, Weights

_PATCHES = "vision_model.embeddings.patch_embedding.weight"
_WORDS = "text_model.embeddings.token_embedding.weight"
_POSITIONS = "text_model.embeddings.position_embedding.weight"
_IGNORED = (
    *("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids"),
    "logit_scale",
)
_HEAD = 64  # features of a head of attention, in all of CLIP's towers


class Clip(nnx.Module):
    """Vectors of images and of texts, to be compared by their cosine. Everything is frozen.

    Attributes:
      image_size: S.
      length: T, the most units of a text, with those around it.
      checksum: SHA-256 of the weight file.
    """

    def __init__(self, path: Path):
        """Reads the weights.

        Args:
          path: a file with both towers, by transformers' names.

        Raises:
          UserError: it cannot be read, or is not a CLIP of one of the known architectures.
        """
        files = WeightFiles()
        weights = files.read(path, ignored_prefixes=_IGNORED)
        for name in (_PATCHES, _WORDS, _POSITIONS):
            if name not in weights.arrays:
                raise UserError(
                    f"{path} lacks the weights {name}: name a CLIP with images and texts, as "
                    "transformers stores it"
                )
        width, _, patch, _ = weights.arrays[_PATCHES].shape
        kinds = {
            name: kind
            for name, kind in ARCHITECTURES.items()
            if kind.norm_first and (kind.patch, kind.shape.width) == (patch, width)
        }
        if not kinds:
            raise UserError(
                f"{path} holds a CLIP with patches of {patch} pixels and {width} features, which "
                "is unknown: name weights of clip_vit_b32, clip_vit_b16 or clip_vit_l14"
            )
        positions = len(weights.arrays["vision_model.embeddings.position_embedding.weight"]) - 1
        self.image_size = patch * round(positions**0.5)
        options = settings.ImageEncoder(
            name=next(iter(kinds)),
            image_size=self.image_size,
            weights=str(path),
            endpoints=(CLASS,),
        )
        self.images = VisionTransformer(options, files=files)
        self.checksum = self.images.checksum
        left = (name for name in [*weights.arrays] if name.startswith("vision_model."))
        for name in left:
            del weights.arrays[name]
        self._make_texts(weights, width)
        weights.finish()

    def _make_texts(self, weights: Weights, image_width: int) -> None:
        weights.kind = Frozen
        words, width = weights.arrays[_WORDS].shape
        self.length = len(weights.arrays[_POSITIONS])
        self.words = weights.variable(weights.take(_WORDS, (words, width)))
        positions = weights.take(_POSITIONS, (self.length, width))
        self.positions = weights.variable(positions)
        heads = max(1, width // _HEAD)
        shape = BlockShape(
            width, heads, self.images.architecture.shape.activation, 1e-5, causal=True
        )
        prefix = "text_model."
        weights.drop_prefix(prefix)
        count = sum(name.endswith(".layer_norm1.weight") for name in weights.arrays)
        self.blocks = nnx.List(Block(weights, TRANSFORMERS_BLOCKS, i, shape) for i in range(count))
        self.norm = LayerNorm(weights, "final_layer_norm", width, shape.epsilon)
        features = len(weights.arrays.get("text_projection.weight", ()))
        self.of_text = Linear(weights, ("text_projection",), features, width, bias=False)
        self.of_image = Linear(weights, ("visual_projection",), features, image_width, bias=False)

    def image_vectors(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B P"]:
        """Vectors of length 1 of RGB images with values 0 to 255."""
        return _unit(self.of_image(self.images(images)[:, 0]))

    def text_vectors(self, tokens: Int[Array, "B T"], end: int) -> Float[Array, "B P"]:
        """Vectors of length 1 of texts.

        Args:
          tokens: ids, each text with a begin and an end; what follows the first end is not seen.
          end: its id.
        """
        x = self.words[...][tokens] + self.positions[...][None, : tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        last = jnp.argmax(tokens == end, axis=1)
        return _unit(self.of_text(self.norm(x[jnp.arange(len(x)), last])))


def _unit(x: Float[Array, "B P"]) -> Float[Array, "B P"]:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-12))
