"""VGG-19 with ImageNet weights: the encoder of Xu et al. 2015 (section 4.3).

Architecture: Simonyan and Zisserman 2015 (arXiv 1409.1556), configuration E, without its fully
connected layers. Weights: torchvision's, by the names that torchvision and timm give them.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from show_attend_tell.models.encoders.layers import Convolution, max_pool
from show_attend_tell.models.encoders.staged import StagedEncoder
from show_attend_tell.models.encoders.weights import Weights

# The number of convolutions of each stage, and their channels.
_STAGES = {
    "conv1": (2, 64),
    "conv2": (2, 128),
    "conv3": (4, 256),
    "conv4": (4, 512),
    "conv5": (4, 512),
}


class _Stage(nnx.Module):
    """Max pooling (not in the first stage), then 3x3 convolutions with ReLU."""

    def __init__(self, pooled: bool, convolutions: list[Convolution]):
        self.pooled = pooled
        self.convolutions = nnx.List(convolutions)

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B i j O"]:
        x = max_pool(x, 2) if self.pooled else x
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
        return x


class VGG19(StagedEncoder):
    """Stages `conv1` to `conv5`, after the last ReLU of each and before its pooling.

    Strides are 1, 2, 4, 8 and 16: an image of 224 pixels gives 14x14x512 in `conv5`.
    """

    name = "vgg19"
    strides = {name: 2**i for i, name in enumerate(_STAGES)}
    strided = ((2, 2, 0),) * 4
    repository = "timm/vgg19.tv_in1k"
    ignored_prefixes = ("classifier.", "pre_logits.", "head.")
    default_endpoints = ("conv5",)
    default_grid_stride = 16

    def make_stage(self, name: str, weights: Weights) -> tuple[list[_Stage], int]:
        index, inputs = 0, 3  # N of the layer `features.N`: ReLU and pooling count, too
        for stage, (earlier, width) in _STAGES.items():
            if stage == name:
                break
            index, inputs = index + 2 * earlier + 1, width
        count, channels = _STAGES[name]
        convolutions = []
        for i in range(count):
            layer, inputs = f"features.{index + 2 * i}", channels if i else inputs
            # At 224 pixels the maps of the first three are too large for Winograd to be faster.
            convolutions.append(
                Convolution(
                    weights, layer, None, inputs, channels, kernel=3, winograd=inputs >= 128
                )
            )
        return [_Stage(index > 0, convolutions)], channels
