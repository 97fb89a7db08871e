"""A small convolutional encoder, trained from scratch with the decoder on the shapes data set."""

import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Frozen, ImageEncoder, field_centres


class SmallEncoder(ImageEncoder):
    """Three 3x3 convolutions of stride 2 and one of stride 1, each with layer norm and ReLU.

    A learned vector for each location is added to the annotation vectors. Nothing else tells the
    decoder where a location lies, and captions of the shapes name relations such as "above".
    """

    own_options = ("features",)

    def __init__(self, options: settings.ImageEncoder, *, rngs: nnx.Rngs):
        """Draws initial weights.

        Args:
            options: `image_size` S must be a multiple of 8, and the grid is S/8 by S/8; `features`
                D must be a multiple of 4, and the layers have D/4, D/2, D and D channels;
                `trainable_from` is "all" or, which means the same, "conv1"; empty leaves the
                weights at random.
            rngs: `params` draws the weights.

        Raises:
            UserError: one of these options has another value.
        """
        image_size, features = options.image_size, options.features
        trainable_from = options.trainable_from
        if image_size % 8:
            raise UserError(
                f"config.encoder.image_size is {image_size}: it must be a multiple of 8 for small"
            )
        if features % 4:
            raise UserError(
                f"config.encoder.features is {features}: it must be a multiple of 4 for small"
            )
        if trainable_from not in ("", "all", "conv1"):
            raise UserError(
                f"config.encoder.trainable_from is {trainable_from!r}: for small it must be empty, "
                "'all' or 'conv1', since all of it is trained from scratch"
            )
        kind = nnx.Param if trainable_from else Frozen
        self.image_size = image_size
        self.grid = (image_size // 8, image_size // 8)
        self.fields = field_centres(image_size, [(3, 2, None)] * 3)
        self.features = features
        widths = (3, features // 4, features // 2, features, features)
        shapes = [(3, 3, i, o) for i, o in zip(widths[:-1], widths[1:], strict=True)]
        locations = self.grid[0] * self.grid[1]
        # One draw for all: XLA compiles a generator for each shape, in a second or more.
        sizes = [math.prod(shape) for shape in shapes]
        draws = jax.random.normal(rngs.params(), (sum(sizes) + locations * features,))
        *kernels, position = jnp.split(draws, np.cumsum(sizes))
        self.kernels = nnx.List(
            kind(kernel.reshape(shape) * math.sqrt(2 / math.prod(shape[:3])))
            for kernel, shape in zip(kernels, shapes, strict=True)
        )
        self.norms = nnx.List(nnx.LayerNorm(width, rngs=rngs) for width in widths[1:])
        for norm in self.norms:
            for name in ("scale", "bias"):
                setattr(norm, name, kind(getattr(norm, name)[...]))
        self.position = kind(0.1 * position.reshape(locations, features))

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        x = images.astype(jnp.float32) / 127.5 - 1.0
        for kernel, norm, stride in zip(self.kernels, self.norms, (2, 2, 2, 1), strict=True):
            x = jax.lax.conv_general_dilated(
                x, kernel[...], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(norm(x))
        return x.reshape(len(images), -1, self.features) + self.position[...][None]

    def fingerprint(self) -> dict[str, str | int]:
        frozen = jax.tree.leaves(nnx.to_pure_dict(nnx.state(self, Frozen)))
        weights = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in frozen)).hexdigest()
        return {
            "name": "small",
            "weights": weights if frozen else "trained",
            "preprocessing": "rgb / 127.5 - 1",
            "image_size": self.image_size,
            "features": self.features,
        }
