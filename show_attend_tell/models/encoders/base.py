"""What every encoder is: images in, annotation vectors out."""

from collections.abc import Sequence

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8


class Frozen(nnx.Variable):
    """Weights that are not trained; those that are, are `nnx.Param`."""


class Encoder(nnx.Module):
    """Annotation vectors a = {a_1 .. a_L}, a_i in R^D, of images (Xu et al. 2015, section 3.1.1).

    Every encoder takes an option `trainable_from`: empty, and all of its weights are `Frozen`; a
    stage's name, and those of that stage and of all later ones are `nnx.Param`; "all" are.

    Attributes:
        image_size: side S in pixels of the square images it takes.
        grid: (h, w), the locations; L = h * w, row by row from the top left.
        centres: where the receptive fields of the grid's rows, and alike of its columns, have their
            middle, as a share of the side from 0 to 1, ascending.
        features: D, the length of one annotation vector.
        checksum: SHA-256 of the file of its weights; empty where there is none.
    """

    checksum: str = ""
    image_size: int
    grid: tuple[int, int]
    centres: tuple[float, ...]
    features: int

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        """Annotation vectors of RGB images with values 0 to 255; normalises them itself."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, str | int]:
        """All that its output depends on besides the image; keys the feature cache."""
        raise NotImplementedError


def field_centres(
    image_size: int, convolutions: Sequence[tuple[int, int, int | None]]
) -> tuple[float, ...]:
    """Middles of the receptive fields along one side, as shares of it (see `Encoder.centres`).

    Args:
        image_size: side in pixels.
        convolutions: (kernel, stride, padding) in order: so many pixels at both ends, as PyTorch
            pads; or None, SAME padding: its odd pixel is at the end, so that with an even side and
            stride 2 the fields move half a pixel that way.
    """
    side, start, step = image_size, 0.5, 1
    for kernel, stride, padding in convolutions:
        if padding is None:
            outputs = -(-side // stride)
            before = max((outputs - 1) * stride + kernel - side, 0) // 2
        else:
            outputs, before = (side + 2 * padding - kernel) // stride + 1, padding
        start += step * ((kernel - 1) / 2 - before)
        side, step = outputs, step * stride
    return tuple(((start + step * np.arange(side)) / image_size).tolist())
