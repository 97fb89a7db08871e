"""ResNet-50 and ResNet-101 with ImageNet weights.

Architecture: He et al. 2016 (arXiv 1512.03385), with the stride in a block's 3x3 convolution as in
torchvision ("v1.5"). Weights: torchvision's, by its names.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from show_attend_tell.models.encoders.layers import Convolution, max_pool
from show_attend_tell.models.encoders.staged import StagedEncoder
from show_attend_tell.models.encoders.weights import Weights

_STEM_CHANNELS = 64


class _Stem(nnx.Module):
    def __init__(self, weights: Weights):
        self.conv = Convolution(weights, "conv1", "bn1", 3, _STEM_CHANNELS, kernel=7, stride=2)

    def __call__(self, x: Float[Array, "B h w 3"]) -> Float[Array, "B i j O"]:
        return jax.nn.relu(self.conv(x))


class _Block(nnx.Module):
    """Bottleneck: 1x1, 3x3 and 1x1, added to the input, or to its projection if sizes differ."""

    def __init__(
        self, weights: Weights, name: str, inputs: int, width: int, stride: int, pooled: bool
    ):
        def convolution(i: int, inputs: int, outputs: int) -> Convolution:
            return Convolution(weights, f"{name}.conv{i}", f"{name}.bn{i}", inputs, outputs)

        self.pooled = pooled
        self.reduce = convolution(1, inputs, width)
        names = f"{name}.conv2", f"{name}.bn2"
        self.middle = Convolution(
            weights, *names, width, width, kernel=3, stride=stride, winograd=True
        )
        self.expand = convolution(3, width, 4 * width)
        names = f"{name}.downsample.0", f"{name}.downsample.1"
        self.project = (
            Convolution(weights, *names, inputs, 4 * width, stride=stride)
            if inputs != 4 * width
            else None
        )

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B i j O"]:
        x = max_pool(x, 3, 1) if self.pooled else x
        y = self.expand(jax.nn.relu(self.middle(jax.nn.relu(self.reduce(x)))))
        return jax.nn.relu(y + (x if self.project is None else self.project(x)))


class _ResNet(StagedEncoder):
    """Stages `stem` (64 channels, before the max pooling) and `layer1` to `layer4` (256 to 2048).

    Strides are 2, 4, 8, 16 and 32. An image of 224 pixels gives 7x7x2048 in `layer4` and, with a
    `grid_stride` of 16, 14x14x1024 in `layer3`.
    """

    blocks: tuple[int, ...]

    strides = {"stem": 2, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    strided = ((7, 2, 3),) + ((3, 2, 1),) * 4
    ignored_prefixes = ("fc.",)
    default_endpoints = ("layer4",)
    images_at_once = 4  # of 7x7 locations: with two the products are too small

    def make_stage(self, name: str, weights: Weights) -> tuple[list[nnx.Module], int]:
        if name == "stem":
            return [_Stem(weights)], _STEM_CHANNELS
        index = int(name.removeprefix("layer")) - 1
        width = 64 * 2**index
        layers = []
        for i in range(self.blocks[index]):
            inputs = 4 * width if i else 2 * width if index else _STEM_CHANNELS
            stride = 2 if index and not i else 1
            pooled = not index and not i
            layers.append(_Block(weights, f"{name}.{i}", inputs, width, stride, pooled))
        return layers, 4 * width


class ResNet50(_ResNet):
    name, blocks, repository = "resnet50", (3, 4, 6, 3), "timm/resnet50.tv_in1k"


class ResNet101(_ResNet):
    name, blocks, repository = "resnet101", (3, 4, 23, 3), "timm/resnet101.tv_in1k"
