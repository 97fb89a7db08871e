"""Convolutional networks in stages: what all encoders with ImageNet weights share."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import (
    Apply,
    Each,
    Frozen,
    ImageEncoder,
    field_centres,
)
from show_attend_tell.models.encoders.layers import Sequential
from show_attend_tell.models.encoders.weights import WeightFiles, Weights, find_weights

# Normalisation that torchvision's weights were trained with, on the scale of 0 to 255.
IMAGENET_MEAN, IMAGENET_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
GRID_STRIDES = (8, 16, 32, 64)


class StagedEncoder(ImageEncoder):
    """Annotation vectors from the outputs of a network's stages.

    A network is a class with the attributes below and a method `make_stage`. Batch norm always
    stays in inference mode, folded into the convolution before it, even where weights are trained.

    Attributes:
        name: of the encoder.
        strides: of each stage's output, by the stage's name, in order.
        strided: (kernel, stride, padding) of the layers with a stride, see `field_centres`.
        pixel_mean, pixel_deviation: of RGB values from 0 to 255; one for all channels or for each.
        repository: the hub's repository with the weights.
        measured_weights, measured_shifts: SHA-256 of the weights for which `ImageEncoder.shift` was
            measured, and that shift in pixels for the outputs of stages. Empty if it was not.
        ignored_prefixes, ignored_suffixes, epsilon: see `Weights`.
        default_endpoints, default_grid_stride: used if the options name none.
        dtype: number format of products with matrices.
        images_at_once: batch on a CPU: few, so that a layer's activations stay in the cache. Stages
            in C++ take all images at once.
        stages: those up to the last endpoint.
        pooled_endpoints: those of which only the mean over the places is kept.
    """

    own_options = (
        *("endpoints", "pooled", "grid_stride"),
        *("weights", "weights_sha256", "checkpointing", "dtype"),
    )

    name: str
    strides: dict[str, int]
    strided: tuple[tuple[int, int, int | None], ...]
    pixel_mean: float | tuple[float, ...] = IMAGENET_MEAN
    pixel_deviation: float | tuple[float, ...] = IMAGENET_DEVIATION
    repository: str
    measured_weights: str = ""
    measured_shifts: Mapping[str, float] = MappingProxyType({})
    ignored_prefixes: tuple[str, ...]
    ignored_suffixes: tuple[str, ...] = (".num_batches_tracked",)
    epsilon: float = 1e-5
    default_endpoints: tuple[str, ...]
    default_grid_stride: int = 32
    images_at_once: int = 2

    def __init__(self, options: settings.ImageEncoder, *, rngs: nnx.Rngs, files: WeightFiles):
        """Reads the stored weights.

        Args:
            options: `image_size` must be at least 32; each class says what its weights were trained
                with. `endpoints` are the stages whose channels are concatenated; none means the
                class's own choice; of those in `pooled` every place has the mean over all places.
                `grid_stride` is the distance of locations in pixels: 8, 16, 32
                or 64; 0 means the class's own choice. Finer endpoints are averaged over a cell,
                coarser ones repeated. `weights` is the path of a file or a repository on the hub,
                see `find_weights`; empty means the class's own.
                `trainable_from` is empty, "all" or a stage, see `ImageEncoder`; no gradient flows
                further back. `checkpointing` saves memory: the backward pass recomputes what
                happens inside the blocks of trained stages. `dtype` is the number format of
                products with matrices; their sums and all else are float32.
            rngs: unused, since the weights are stored.
            files: reads the weights; encoders that share it read no file twice.

        Raises:
            UserError: an option is out of range, or the weights are missing, damaged or do not fit.
        """
        del rngs
        names = [*self.strides]
        self.endpoints = self._check_endpoints(options.endpoints)
        self.grid_stride = self._check_grid_stride(options.grid_stride)
        if options.image_size < 32:
            raise UserError(
                f"config.encoder.image_size is {options.image_size}: it must be at least 32 for "
                f"{self.name}"
            )
        last = max(map(names.index, self.endpoints))
        self.first_trained = self._first_trained(options.trainable_from, names, last)
        self.image_size = options.image_size
        self.fields = self._fields()
        self.grid = (len(self.fields), len(self.fields))
        self.dtype = options.dtype
        weights = self._read_weights(options, files)
        stages, channels = [], {}
        for i, name in enumerate(names):
            trained = i >= self.first_trained
            weights.kind = nnx.Param if trained else Frozen
            layers, channels[name] = self.make_stage(name, weights)
            stages.append(Sequential(layers, options.checkpointing and trained))
        weights.finish()
        # Every stage was made above, so that `finish` could check all names.
        self.stages = nnx.List(stages[: last + 1])
        self.sections = tuple((endpoint, channels[endpoint]) for endpoint in self.endpoints)
        self.pooled_endpoints = tuple(e for e in self.endpoints if e in options.pooled)
        self.pooled = self.pooled_endpoints
        self.features = sum(channels[endpoint] for endpoint in self.endpoints)
        if not options.trainable_from:
            self.shift = self._known_shift(channels)

    def _check_endpoints(self, endpoints: Sequence[str]) -> tuple[str, ...]:
        """The endpoints, or the class's own if there are none."""
        endpoints, names = tuple(endpoints) or self.default_endpoints, [*self.strides]
        if len(set(endpoints)) < len(endpoints) or set(endpoints) - set(names):
            raise UserError(
                f"config.encoder.endpoints of {self.name} must be different names of {names}, not "
                f"{endpoints}"
            )
        return endpoints

    def _check_grid_stride(self, grid_stride: int) -> int:
        """The stride of the grid, or the class's own if it is 0."""
        grid_stride = grid_stride or self.default_grid_stride
        if grid_stride not in GRID_STRIDES:
            choices = ", ".join(map(str, GRID_STRIDES[:-1])) + f" or {GRID_STRIDES[-1]}"
            raise UserError(
                f"config.encoder.grid_stride of {self.name} must be {choices}, not {grid_stride}"
            )
        return grid_stride

    def _fields(self) -> tuple[float, ...]:
        """The network's own map at this stride, over which copied or averaged cells are laid.

        Beyond its coarsest map, the means of that map's middles.
        """
        coarsest = 2 ** len(self.strided)
        own = self._middles(self.grid_stride)
        if self.grid_stride <= coarsest:
            return own
        side = -(-len(own) // (self.grid_stride // coarsest))
        return self._laid(own, side, coarsest)

    def _middles(self, stride: int) -> tuple[float, ...]:
        """Middles of the receptive fields of the network's map at a stride, or of its coarsest."""
        return field_centres(self.image_size, self.strided[: stride.bit_length() - 1])

    def _laid(self, middles: Sequence[float], side: int, stride: int) -> tuple[float, ...]:
        """Middles along one side of a map with this stride, laid on the grid."""
        row = np.broadcast_to(
            np.array(middles, np.float32)[None, None, :, None], (1, len(middles), len(middles), 1)
        )
        return tuple(_to_grid(row, side, self.grid_stride, stride)[0, 0, :, 0].tolist())

    def _read_weights(self, options: settings.ImageEncoder, files: WeightFiles) -> Weights:
        """The file's weights; sets `checksum`."""
        path = find_weights(options.weights) if options.weights else self.own_weights()
        self.checksum = files.checksum(path)
        wanted = options.weights_sha256
        if wanted and wanted.lower() != self.checksum:
            raise UserError(
                f"the weights {path} have the SHA-256 {self.checksum}, not the wanted {wanted}: "
                "name the right file with --config.encoder.weights=FILE"
            )
        weights = files.read(
            path,
            ignored_prefixes=self.ignored_prefixes,
            ignored_suffixes=self.ignored_suffixes,
            epsilon=self.epsilon,
        )
        weights.dtype = options.dtype
        return weights

    def _known_shift(self, channels: Mapping[str, int]) -> float | None:
        """The mean over all local channels of the shifts measured for the weights.

        None if unknown, or if all endpoints are pooled.
        """
        known = self.checksum == self.measured_weights
        local = [name for name in self.endpoints if name not in self.pooled_endpoints]
        if not known or not local or not set(local) <= self.measured_shifts.keys():
            return None
        total = 0.0
        for name in local:
            stride = self.strides[name]
            laid = self._laid(self._middles(stride), self.grid[0], stride)
            apart = float(np.mean(laid) - np.mean(self.fields)) * self.image_size
            total += channels[name] * (apart + self.measured_shifts[name])
        return round(total / sum(channels[name] for name in local), 2)

    def _first_trained(self, trainable_from: str, names: list[str], last: int) -> int:
        """Index of the first trained stage; the number of stages if none is trained."""
        if not trainable_from:
            return len(names)
        if trainable_from not in ("all", *names):
            raise UserError(
                f"config.encoder.trainable_from of {self.name} must be empty, 'all' or one of "
                f"{names}, not {trainable_from!r}"
            )
        first = 0 if trainable_from == "all" else names.index(trainable_from)
        if first > last:
            raise UserError(
                f"config.encoder.trainable_from={trainable_from} trains nothing: the last endpoint "
                f"of {self.name} is {names[last]}"
            )
        return first

    def own_weights(self) -> Path:
        """The weight file used if the options name none."""
        return find_weights(self.repository)

    def make_stage(self, name: str, weights: Weights) -> tuple[list[Callable[[Array], Array]], int]:
        """The layers of a stage, with checkpoints between them, and its number of channels."""
        raise NotImplementedError

    def frozen_at_once(self) -> bool:
        """Whether frozen stages are computed in C++, which takes any number of images."""
        return False

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        if not self.frozen_at_once():
            return self._in_turn(lambda images: self._trained(self._frozen(images)), images)
        maps = self._frozen(images)
        if self.first_trained >= len(self.stages):
            return self._trained(maps)
        return self._in_turn(self._trained, maps)

    def _in_turn(self, function: Callable[[Any], Array], inputs: Any) -> Array:
        """A function of images or maps; on CPUs of few images at a time."""
        if len(jax.tree.leaves(inputs)[0]) <= self.images_at_once:
            return function(inputs)

        def few_at_once(inputs: Any) -> Array:
            def of_one(inputs: Any) -> Array:
                return function(jax.tree.map(lambda x: x[None], inputs))[0]

            return jax.lax.map(of_one, inputs, batch_size=self.images_at_once)

        # Chosen as a program is lowered, perhaps for other devices than this process has.
        return jax.lax.platform_dependent(inputs, cpu=few_at_once, default=function)

    def _frozen(self, images: UInt8[Array, "B S S 3"]) -> dict[str, Float[Array, "B h w C"]]:
        """Outputs of frozen stages: the endpoints and the last, under the empty name."""
        x = _Normalised(self.pixel_mean, self.pixel_deviation)(images)
        return self._through(0, self.first_trained, {"": x})

    def _through(self, first: int, stop: int, maps: dict[str, Array]) -> dict[str, Array]:
        """Adds the outputs of stages `first` up to, not including, `stop`."""
        maps = dict(maps)
        stages = [*zip(self.strides, self.stages, strict=False)]
        for name, stage in stages[first:stop]:
            maps[""] = stage(maps[""])
            if name in self.endpoints:
                maps[name] = maps[""]
        return maps

    def _trained(self, maps: dict[str, Float[Array, "B h w C"]]) -> Float[Array, "B L D"]:
        """Annotation vectors from what `_frozen` returns."""
        if self.first_trained < len(self.stages):
            maps = maps | {"": jax.lax.stop_gradient(maps[""])}
            maps = self._through(self.first_trained, len(self.stages), maps)
        return self._laid_maps()([maps[name] for name in self.endpoints])

    def in_pieces(
        self, images: UInt8[Array, "B S S 3"], apply: Apply, each: Each = map
    ) -> Float[Array, "B L D"]:
        del each
        x = apply(_Normalised(self.pixel_mean, self.pixel_deviation), images)
        maps = {}
        for name, stage in zip(self.strides, self.stages, strict=False):
            for layer in stage.layers:
                x = apply(layer, x)
            maps[name] = x
        return apply(self._laid_maps(), [maps[name] for name in self.endpoints])

    def _laid_maps(self) -> "_LaidMaps":
        return _LaidMaps(
            self.grid[0],
            self.grid_stride,
            tuple(self.strides[name] for name in self.endpoints),
            tuple(name in self.pooled_endpoints for name in self.endpoints),
        )

    def fingerprint(self) -> dict[str, str | int]:
        found: dict[str, str | int] = {
            "name": self.name,
            "weights": self.checksum,
            "preprocessing": f"(rgb - {self.pixel_mean}) / {self.pixel_deviation}",
            "image_size": self.image_size,
            "endpoints": "+".join(self.endpoints),
            "grid": "x".join(map(str, self.grid)),
        }
        if self.pooled_endpoints:  # else caches of earlier versions stay valid
            # Commas, since a concatenation joins its parts by +.
            found["pooled"] = ",".join(self.pooled_endpoints)
        if self.dtype != "float32":  # likewise
            found["dtype"] = self.dtype
        return found


class _Normalised(nnx.Module):
    """RGB values from 0 to 255 as a network expects them."""

    def __init__(self, mean: float | tuple[float, ...], deviation: float | tuple[float, ...]):
        self.mean, self.deviation = mean, deviation

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B S S 3"]:
        mean, deviation = (
            np.reshape(np.asarray(value, np.float32), (1, 1, 1, -1))
            for value in (self.mean, self.deviation)
        )
        return (images.astype(jnp.float32) - mean) / deviation


class _LaidMaps(nnx.Module):
    """The outputs of stages as annotation vectors: laid on one grid, or their means."""

    def __init__(
        self, side: int, grid_stride: int, strides: tuple[int, ...], pooled: tuple[bool, ...]
    ):
        self.side, self.grid_stride, self.strides, self.pooled = side, grid_stride, strides, pooled

    def __call__(self, maps: Sequence[Float[Array, "B _ _ _"]]) -> Float[Array, "B L D"]:
        laid = []
        for x, stride, pooled in zip(maps, self.strides, self.pooled, strict=True):
            x = _to_grid(x, self.side, self.grid_stride, stride)
            if pooled:
                x = jnp.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape)
            laid.append(x)
        x = jnp.concatenate(laid, -1)
        return x.reshape(x.shape[0], -1, x.shape[-1])


def _to_grid(
    x: Float[Array | np.ndarray, "B h w C"], side: int, grid_stride: int, stride: int
) -> Float[Array | np.ndarray, "B side side C"]:
    """On a coarser grid the mean of each cell's pixels; on a finer grid copies of a pixel.

    If the network rounds sides up, a coarse cell at the lower or right edge may cover fewer pixels
    than the others. If it rounds them down, the last pixel may lie in no cell, or be copied once
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
    pads = ((0, 0), pad, pad, (0, 0))
    # NumPy's arrays stay NumPy's: JAX would compile programs for a few numbers.
    x = (np if isinstance(x, np.ndarray) else jnp).pad(x[:, :used, :used], pads)
    total = x.reshape(x.shape[0], side, factor, side, factor, -1).sum((2, 4))
    inside = np.minimum(factor, used - factor * np.arange(side)).astype(np.float32)
    return total / (inside[:, None] * inside[None])[None, :, :, None]
