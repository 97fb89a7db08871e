"""What every encoder is: inputs in, annotation vectors out."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.encoders.pooling import pooled_features, unpack

Apply = Callable[[nnx.Module, Any], Any]
Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


class Frozen(nnx.Variable):
    """Weights that training leaves as they are; it changes every `nnx.Param`."""


class Encoder(nnx.Module):
    """Annotation vectors a = {a_1 .. a_L}, a_i in R^D, of an input (Xu et al. 2015, section 3.1.1).

    Attributes:
        features: D, the length of one annotation vector.
        grid: (h, w) of the locations of an image, L = h * w, in reading order; None for the
            words of a sentence.
        sections: the stages that the features come from, in order, each with its number of
            features; a stage may occur several times. Empty where there is one part only.
        pooled: names of the sections that are equal at all places, a mean over them.
        picture: features of each place of a picture that comes beside the words; 0: there is none.
    """

    features: int
    grid: tuple[int, int] | None
    sections: tuple[tuple[str, int], ...] = ()
    pooled: tuple[str, ...] = ()
    picture: int = 0

    def sharing(self, vectors: nnx.Param) -> "Encoder":
        """The encoder with a decoder's word vectors (V, E), if it reads words and is tied."""
        return self

    @property
    def local_features(self) -> int:
        """The number of features that differ from place to place."""
        return self.features - pooled_features(self.sections, self.pooled)

    @property
    def trained(self) -> bool:
        """Whether training changes any of its weights."""
        return bool(jax.tree.leaves(nnx.state(self, nnx.Param)))

    def annotations(
        self,
        inputs: Float[Array, "B L D"]
        | Float[Array, "B n"]
        | UInt8[Array, "B S S 3"]
        | Int[Array, "B S"],
        key: PRNGKeyArray | None = None,
    ) -> Annotations:
        """Annotation vectors of the inputs.

        Args:
            inputs: what this encoder reads: RGB images with values from 0 to 255, source words, or
                annotation vectors computed earlier, in packed rows if some sections are pooled.
            key: switches dropout on, if the encoder has any.
        """
        raise NotImplementedError


class Precomputed(Encoder):
    """Stands in for a frozen encoder whose annotation vectors were computed earlier: the inputs.

    Where sections are pooled, the inputs are packed rows, see `pooling`. It has no parameters.
    """

    def __init__(
        self,
        features: int,
        grid: tuple[int, int] | None,
        sections: tuple[tuple[str, int], ...] = (),
        pooled: tuple[str, ...] = (),
    ):
        self.features = features
        self.grid = grid
        self.sections = sections
        self.pooled = pooled

    def annotations(
        self,
        inputs: Float[Array, "B L D"] | Float[Array, "B n"],
        key: PRNGKeyArray | None = None,
    ) -> Annotations:
        del key
        if self.pooled:
            assert self.grid is not None
            inputs = unpack(inputs, self.sections, self.pooled, math.prod(self.grid))
        return Annotations(inputs)


class ImageEncoder(Encoder):
    """A network whose map over an image is the grid of annotation vectors.

    The option `trainable_from` divides its weights into `Frozen` and `nnx.Param`: if it is empty
    all are frozen; if it names a stage, the weights of that stage and of all later ones are
    trained; "all" trains everything.

    Attributes:
        image_size: side S in pixels of the square images it takes.
        fields: middles of the receptive fields along one side of the grid, ascending, as shares of
            the image's side. They are the same along both sides.
        shift: how many pixels right of and below the middles of its receptive fields a trained
            encoder looks (see `measured_centres`); None if that was never measured, 0 for patches
            without overlap. It belongs to the weights and hardly depends on the image's size.
        checksum: SHA-256 of the weight file; empty if there is none.
        own_options: the fields of `settings.ImageEncoder` that this encoder has and some other
            encoder has not.
    """

    own_options: ClassVar[tuple[str, ...]]

    checksum: str = ""
    image_size: int
    grid: tuple[int, int]  # never None here  # pyright: ignore[reportIncompatibleVariableOverride]
    fields: tuple[float, ...]
    shift: float | None = None

    @property
    def centres(self) -> tuple[float, ...]:
        """Where the places look along one side, ascending, as shares of the side from 0 to 1.

        They are measured if `shift` is known, else computed: the `fields`.
        """
        moved = np.array(self.fields) + (self.shift or 0.0) / self.image_size
        return tuple(moved.clip(0, 1).tolist())

    @property
    def cell(self) -> float:
        """Distance in pixels of neighbouring places; the image's side if there is only one."""
        if len(self.fields) == 1:
            return float(self.image_size)
        return (self.fields[1] - self.fields[0]) * self.image_size

    def shift_of(self, cells: float) -> float:
        """The `shift` of places that look this many cells from the mirror-symmetric grid."""
        return cells * self.cell + (0.5 - float(np.mean(self.fields))) * self.image_size

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        """Annotation vectors of RGB images with values 0 to 255; normalises them itself."""
        raise NotImplementedError

    def annotations(
        self, inputs: UInt8[Array, "B S S 3"], key: PRNGKeyArray | None = None
    ) -> Annotations:
        del key
        return Annotations(self(inputs))

    def in_pieces(
        self, images: UInt8[Array, "B S S 3"], apply: Apply, each: Each = map
    ) -> Float[Array, "B L D"]:
        """What `__call__` computes, piece by piece. Layers of the same shapes are equal pieces.

        An encoder whose weights are partly trained has no pieces.

        Args:
            images: RGB values 0 to 255.
            apply: calls a module with its arrays, `module(arrays)`, however it likes.
            each: like `map`, for what may be computed in any order, or at the same time.
        """
        del each
        return apply(self, images)

    def fingerprint(self) -> dict[str, str | int]:
        """All that its output depends on besides the image; keys the feature cache."""
        raise NotImplementedError


def field_centres(
    image_size: int, convolutions: Sequence[tuple[int, int, int | None]]
) -> tuple[float, ...]:
    """Middles of the receptive fields along one side (see `ImageEncoder.fields`).

    Args:
        image_size: side in pixels.
        convolutions: (kernel, stride, padding) of each layer in order. The padding is a number of
            pixels at both ends, as in PyTorch; or None for SAME, which puts the odd pixel at the
            end, so that with an even side and stride 2 the fields move half a pixel that way.
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
