"""Convolutional networks in stages: what all encoders with ImageNet weights have in common."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Encoder, Frozen, field_centres
from show_attend_tell.models.encoders.layers import Sequential
from show_attend_tell.models.encoders.torch_weights import file_sha256
from show_attend_tell.models.encoders.weights import Weights, find_weights

# What torchvision's weights were trained with, on the scale of 0 to 255.
IMAGENET_MEAN, IMAGENET_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class StagedEncoder(Encoder):
    """Annotation vectors of the outputs of a network's stages.

    A network is a class with the attributes below and a method `make_stage`. Batch norm stays in
    inference mode for good, folded into the convolution before it, also where weights are trained.

    Attributes:
        name: of the encoder.
        strides: of each stage's output, by the stage's name, in order.
        strided: (kernel, stride, padding) of the layers with a stride, see `field_centres`.
        pixel_mean, pixel_deviation: of RGB values from 0 to 255, one for all channels or for each.
        repository: whose weights on the hub are taken.
        ignored_prefixes, ignored_suffixes, epsilon: see `Weights`.
        default_endpoints, default_grid_stride: where an option names none.
        images_at_once: on a CPU: few, so that a layer's activations stay in the cache.
        stages: those up to the last endpoint.
    """

    name: str
    strides: dict[str, int]
    strided: tuple[tuple[int, int, int | None], ...]
    pixel_mean: float | tuple[float, ...] = IMAGENET_MEAN
    pixel_deviation: float | tuple[float, ...] = IMAGENET_DEVIATION
    repository: str
    ignored_prefixes: tuple[str, ...]
    ignored_suffixes: tuple[str, ...] = (".num_batches_tracked",)
    epsilon: float = 1e-5
    default_endpoints: tuple[str, ...]
    default_grid_stride: int = 32
    images_at_once: int = 2

    def __init__(
        self,
        *,
        image_size: int,
        rngs: nnx.Rngs,
        endpoints: Sequence[str] = (),
        grid_stride: int = 0,
        weights: str = "",
        weights_sha256: str = "",
        trainable_from: str = "",
        checkpointing: bool = False,
    ):
        """Reads the stored weights.

        Args:
            image_size: side of the images, at least 32; see the class for what its weights know.
            rngs: unused, the weights are stored.
            endpoints: stages whose channels are concatenated; none is the class's own choice.
            grid_stride: pixels from one location to the next: 8, 16 or, where the network has it,
                32; 0 is the class's own choice. Finer endpoints are averaged over a cell,
                coarser ones repeated.
            weights: a file's path or a hub's repository, see `find_weights`; empty is the class's.
            weights_sha256: what the checksum of the file has to be; empty is any.
            trainable_from: empty, "all", or a stage: see `Encoder`. No gradient goes further back.
            checkpointing: a gradient computes the insides of the trained stages' blocks anew, and
                takes less memory.

        Raises:
            UserError: an option is out of range, or the weights are missing, damaged or do not fit.
        """
        names = [*self.strides]
        endpoints = tuple(endpoints or self.default_endpoints)
        if len(set(endpoints)) < len(endpoints) or set(endpoints) - set(names):
            raise UserError(
                f"endpoints of {self.name} must be different names of {names}, not {endpoints}"
            )
        known = sorted({stride for stride in self.strides.values() if stride >= 8})
        grid_stride = grid_stride or self.default_grid_stride
        if grid_stride not in known:
            choices = ", ".join(map(str, known[:-1])) + f" or {known[-1]}"
            raise UserError(f"grid_stride of {self.name} must be {choices}, not {grid_stride}")
        if image_size < 32:
            raise UserError(f"image_size of {self.name} must be at least 32, not {image_size}")
        last = max(map(names.index, endpoints))
        self.first_trained = self._first_trained(trainable_from, names, last)
        self.image_size = image_size
        # The network's own map at this stride: copied or averaged cells are laid over it.
        self.centres = field_centres(image_size, self.strided[: grid_stride.bit_length() - 1])
        self.grid = (len(self.centres), len(self.centres))
        self.grid_stride = grid_stride
        self.endpoints = endpoints

        path = find_weights(weights) if weights else self.own_weights()
        self.checksum = file_sha256(path)
        if weights_sha256 and weights_sha256.lower() != self.checksum:
            raise UserError(
                f"the weights {path} have the SHA-256 {self.checksum}, not the wanted "
                f"{weights_sha256}: name the right file with --config.encoder.weights=FILE"
            )
        taken = Weights(
            path,
            ignored_prefixes=self.ignored_prefixes,
            ignored_suffixes=self.ignored_suffixes,
            epsilon=self.epsilon,
        )
        stages, channels = [], {}
        for i, name in enumerate(names):
            trained = i >= self.first_trained
            taken.kind = nnx.Param if trained else Frozen
            layers, channels[name] = self.make_stage(name, taken)
            stages.append(Sequential(layers, checkpointing and trained))
        taken.finish()
        # All were made, so that all names have found their place.
        self.stages = nnx.List(stages[: last + 1])
        self.features = sum(channels[endpoint] for endpoint in endpoints)

    def _first_trained(self, trainable_from: str, names: list[str], last: int) -> int:
        """Index of the first trained stage; their number where there is none."""
        if not trainable_from:
            return len(names)
        if trainable_from not in ("all", *names):
            raise UserError(
                f"trainable_from of {self.name} must be empty, 'all' or one of {names}, "
                f"not {trainable_from!r}"
            )
        first = 0 if trainable_from == "all" else names.index(trainable_from)
        if first > last:
            raise UserError(
                f"trainable_from={trainable_from} of {self.name} trains nothing: its last endpoint "
                f"is {names[last]}"
            )
        return first

    def own_weights(self) -> Path:
        """The file of the weights where an option names none."""
        return find_weights(self.repository)

    def make_stage(self, name: str, weights: Weights) -> tuple[list[Callable[[Array], Array]], int]:
        """The layers of a stage, between which checkpoints lie, and its output's channels."""
        raise NotImplementedError

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        if jax.default_backend() != "cpu":
            return self._encode(images)
        return jax.lax.map(
            lambda image: self._encode(image[None])[0], images, batch_size=self.images_at_once
        )

    def _encode(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        mean, deviation = (
            np.reshape(np.asarray(value, np.float32), (1, 1, 1, -1))
            for value in (self.pixel_mean, self.pixel_deviation)
        )
        x = (images.astype(jnp.float32) - mean) / deviation
        maps = {}
        for i, (name, stage) in enumerate(zip(self.strides, self.stages, strict=False)):
            x = stage(jax.lax.stop_gradient(x) if i == self.first_trained else x)
            maps[name] = x
        laid = [
            _to_grid(maps[name], self.grid[0], self.grid_stride, self.strides[name])
            for name in self.endpoints
        ]
        return jnp.concatenate(laid, -1).reshape(len(images), -1, self.features)

    def fingerprint(self) -> dict[str, str | int]:
        return {
            "name": self.name,
            "weights": self.checksum,
            "preprocessing": f"(rgb - {self.pixel_mean}) / {self.pixel_deviation}",
            "image_size": self.image_size,
            "endpoints": "+".join(self.endpoints),
            "grid": "x".join(map(str, self.grid)),
        }


def _to_grid(
    x: Float[Array, "B h w C"], side: int, grid_stride: int, stride: int
) -> Float[Array, "B side side C"]:
    """Mean of the pixels that fall into a coarser cell; copies of a pixel on a finer grid.

    Where sides are rounded up, a coarse cell at the lower or right edge may cover fewer pixels than
    the others; where they are rounded down, the last pixel may be in no cell, or be repeated once
    more.
    """
    own = x.shape[1]
    if grid_stride < stride:
        index = np.minimum(np.arange(side) // (stride // grid_stride), own - 1)
        return x[:, index][:, :, index]
    factor = grid_stride // stride
    if factor == 1:
        return x
    used = min(own, side * factor)
    pad = (0, side * factor - used)
    x = jnp.pad(x[:, :used, :used], ((0, 0), pad, pad, (0, 0)))
    total = x.reshape(x.shape[0], side, factor, side, factor, -1).sum((2, 4))
    inside = np.minimum(factor, used - factor * np.arange(side)).astype(np.float32)
    return total / (inside[:, None] * inside[None])[None, :, :, None]
