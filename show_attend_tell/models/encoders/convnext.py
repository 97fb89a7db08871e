"""ConvNeXt with ImageNet weights, by the names of timm or of transformers.

Architecture: Liu et al. 2022 (arXiv 2201.03545). Downsampling and stem are linear layers of squares
side by side; a block is a 7x7 depthwise convolution, layer norm and two linear layers.
"""

from dataclasses import dataclass

import jax
from flax import nnx
from jaxtyping import Array, Float

from show_attend_tell import settings
from show_attend_tell.models.encoders.layers import depthwise
from show_attend_tell.models.encoders.staged import StagedEncoder
from show_attend_tell.models.encoders.transformer import LayerNorm, Linear, Patches
from show_attend_tell.models.encoders.weights import WeightFiles, Weights

_EPSILON = 1e-6


@dataclass(frozen=True)
class Names:
    """What a library calls the weights; the {}s are the numbers of a stage and of its block."""

    stem: str
    stem_norm: str
    downsample_norm: str
    downsample: str
    depthwise: str
    norm: str
    expand: str
    contract: str
    scale: str


LIBRARIES = (
    Names(  # timm
        stem="stem.0",
        stem_norm="stem.1",
        downsample_norm="stages.{}.downsample.0",
        downsample="stages.{}.downsample.1",
        depthwise="stages.{}.blocks.{}.conv_dw",
        norm="stages.{}.blocks.{}.norm",
        expand="stages.{}.blocks.{}.mlp.fc1",
        contract="stages.{}.blocks.{}.mlp.fc2",
        scale="stages.{}.blocks.{}.gamma",
    ),
    Names(  # transformers
        stem="embeddings.patch_embeddings",
        stem_norm="embeddings.layernorm",
        downsample_norm="encoder.stages.{}.downsampling_layer.0",
        downsample="encoder.stages.{}.downsampling_layer.1",
        depthwise="encoder.stages.{}.layers.{}.dwconv",
        norm="encoder.stages.{}.layers.{}.layernorm",
        expand="encoder.stages.{}.layers.{}.pwconv1",
        contract="encoder.stages.{}.layers.{}.pwconv2",
        scale="encoder.stages.{}.layers.{}.layer_scale_parameter",
    ),
)
_PREFIXES = ("", "convnext.")


class _Stem(nnx.Module):
    def __init__(self, weights: Weights, names: Names, width: int):
        self.patches = Patches(weights, names.stem, width, 3, 4)
        self.norm = LayerNorm(weights, names.stem_norm, width, _EPSILON)

    def __call__(self, x: Float[Array, "B h w 3"]) -> Float[Array, "B i j O"]:
        return self.norm(self.patches(x))


class _Downsampling(nnx.Module):
    def __init__(self, weights: Weights, names: Names, stage: int, inputs: int, width: int):
        self.norm = LayerNorm(weights, names.downsample_norm.format(stage), inputs, _EPSILON)
        self.patches = Patches(weights, names.downsample.format(stage), width, inputs, 2)

    def __call__(self, x: Float[Array, "B h w I"]) -> Float[Array, "B i j O"]:
        return self.patches(self.norm(x))


class _Block(nnx.Module):
    def __init__(self, weights: Weights, names: Names, place: tuple[int, int], width: int):
        """Takes the weights of the block at `place`: the numbers of its stage and in that stage."""
        name = names.depthwise.format(*place)
        kernel = weights.take(f"{name}.weight", (width, 1, 7, 7)).transpose(2, 3, 1, 0)[:, :, 0]
        self.kernel = weights.variable(kernel)
        self.bias = weights.variable(weights.take(f"{name}.bias", (width,)))
        self.norm = LayerNorm(weights, names.norm.format(*place), width, _EPSILON)
        self.expand = Linear(weights, (names.expand.format(*place),), 4 * width, width)
        scale, contract = names.scale.format(*place), (names.contract.format(*place),)
        self.contract = Linear(weights, contract, width, 4 * width, scale=scale)

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        y = self.norm(depthwise(x, self.kernel[...], self.bias[...], 1))
        return x + self.contract(jax.nn.gelu(self.expand(y), approximate=False))


class ConvNeXt(StagedEncoder):
    """Stages `stage1` to `stage4`, with strides of 4, 8, 16 and 32.

    An image of 224 pixels gives 7x7x768 in `stage4` of ConvNeXt-T and, with a `grid_stride` of 16,
    14x14x384 in `stage3`.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]

    strides = {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}
    strided = ((2, 2, 0),) * 5
    ignored_prefixes = ("head.", "classifier.", "layernorm.", "convnext.layernorm.")
    default_endpoints = ("stage4",)

    def _read_weights(self, options: settings.ImageEncoder, files: WeightFiles) -> Weights:
        weights = super()._read_weights(options, files)
        known = {names: f"{names.stem}.weight" for names in LIBRARIES}
        self.names: Names = weights.named_by(known, _PREFIXES, "ConvNeXt", self.name)
        return weights

    def make_stage(self, name: str, weights: Weights) -> tuple[list[nnx.Module], int]:
        stage = int(name.removeprefix("stage")) - 1
        width = self.widths[stage]
        if stage:
            layers = [_Downsampling(weights, self.names, stage, self.widths[stage - 1], width)]
        else:
            layers = [_Stem(weights, self.names, width)]
        blocks = range(self.blocks[stage])
        return [*layers, *(_Block(weights, self.names, (stage, i), width) for i in blocks)], width


class ConvNeXtTiny(ConvNeXt):
    name, repository = "convnext_tiny", "timm/convnext_tiny.fb_in1k"
    widths, blocks = (96, 192, 384, 768), (3, 3, 9, 3)
