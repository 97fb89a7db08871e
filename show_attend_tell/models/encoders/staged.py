"""Convolutional networks in stages, whose maps are laid on one grid."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import field_centres
from show_attend_tell.models.encoders.stored import AnnotationLayer, StoredEncoder

GRID_STRIDES = (8, 16, 32, 64)


class StagedEncoder(StoredEncoder):
    """Annotation vectors from the maps of a convolutional network's stages.

    The option `grid_stride` is the distance of locations in pixels: 8, 16, 32 or 64; 0 means the
    class's own choice. Finer endpoints are averaged over a cell, coarser ones repeated. Images have
    at least 32 pixels a side. Batch norm always stays in inference mode, folded into the
    convolution before it, even where weights are trained.

    Attributes:
        strides: of each stage's output, by the stage's name, in order.
        strided: (kernel, stride, padding) of the layers with a stride, see `field_centres`. Each
            stride is 2: a layer with stride 4 is two of them.
        measured_weights, measured_shifts: SHA-256 of the weights for which `ImageEncoder.shift` was
            measured, and that shift in pixels for the outputs of stages. Empty if it was not.
        default_grid_stride: used if the options name none.
    """

    own_options = (*StoredEncoder.own_options, "grid_stride")

    strides: dict[str, int]
    strided: tuple[tuple[int, int, int | None], ...]
    measured_weights: str = ""
    measured_shifts: Mapping[str, float] = MappingProxyType({})
    default_grid_stride: int = 32

    @property
    def stage_names(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(self.strides)

    def place(self, options: settings.ImageEncoder) -> tuple[float, ...]:
        self.grid_stride = self._check_grid_stride(options.grid_stride)
        if options.image_size < 32:
            raise UserError(
                f"config.encoder.image_size is {options.image_size}: it must be at least 32 for "
                f"{self.name}"
            )
        return self._fields()

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

    def known_shift(self, channels: Mapping[str, int]) -> float | None:
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

    def annotation_layer(self) -> "_LaidMaps":
        return _LaidMaps(
            self.grid[0],
            self.grid_stride,
            tuple(self.strides[name] for name in self.endpoints),
            tuple(name in self.pooled_endpoints for name in self.endpoints),
        )


class _LaidMaps(AnnotationLayer):
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
