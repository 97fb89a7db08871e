"""A small convolutional encoder that the shapes data set trains from scratch with the decoder."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from show_attend_tell.encoders.base import Encoder
from show_attend_tell.errors import UserError


class SmallEncoder(Encoder):
    """Three 3x3 convolutions of stride 2 and one of stride 1, each with layer norm and ReLU.

    A learned vector per location is added to the annotation vectors: nothing else tells the decoder
    where a location lies, and the captions of the shapes name relations such as "above".
    """

    def __init__(self, *, image_size: int, rngs: nnx.Rngs, features: int = 128):
        """Random initial weights.

        Args:
            image_size: side S of the images, a multiple of 8; the grid is S/8 by S/8.
            rngs: `params` draws the weights.
            features: D.

        Raises:
            UserError: the size is not a positive multiple of 8.
        """
        if image_size < 8 or image_size % 8:
            raise UserError(f"image_size of encoder small must be a multiple of 8, not {image_size}")
        self.image_size = image_size
        self.grid = (image_size // 8, image_size // 8)
        self.features = features
        widths = (3, features // 4, features // 2, features, features)
        strides = (2, 2, 2, 1)
        self.convolutions = nnx.List(
            nnx.Conv(i, o, (3, 3), strides=s, use_bias=False, rngs=rngs)
            for i, o, s in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.norms = nnx.List(nnx.LayerNorm(o, rngs=rngs) for o in widths[1:])
        locations = self.grid[0] * self.grid[1]
        self.position = nnx.Param(
            0.1 * jax.random.normal(rngs.params(), (locations, features), jnp.float32)
        )

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        x = images.astype(jnp.float32) / 127.5 - 1.0
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = jax.nn.relu(norm(convolution(x)))
        return x.reshape(len(images), -1, self.features) + self.position[...][None]

    def fingerprint(self) -> dict[str, str | int]:
        return {
            "name": "small",
            "weights": "trained",
            "preprocessing": "rgb / 127.5 - 1",
            "image_size": self.image_size,
            "features": self.features,
        }
