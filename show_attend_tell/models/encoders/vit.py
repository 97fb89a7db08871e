"""Vision transformers: CLIP, SigLIP and DINOv2, with the weights of timm or of transformers.

Architectures: Dosovitskiy et al. 2021 (arXiv 2010.11929) as in CLIP (Radford et al. 2021, arXiv
2103.00020), SigLIP (Zhai et al. 2023, arXiv 2303.15343), DINOv2 (Oquab et al. 2023, arXiv
2304.07193) and DINOv2 with registers (Darcet et al. 2023, arXiv 2309.16588).

Places are the patches. A patch token sees the whole picture from the first block on; "where it
looks" means the middle of its patch.

Symbols: p side of a patch in pixels, n patches along a side of the image, R registers, D width; B,
L and S as in `models.encoders.base`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.resizing import bicubic
from show_attend_tell.models.encoders.stored import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    AnnotationLayer,
    StoredEncoder,
)
from show_attend_tell.models.encoders.transformer import (
    Block,
    BlockNames,
    BlockShape,
    LayerNorm,
    Patches,
)
from show_attend_tell.models.encoders.weights import WeightFiles, Weights

CLASS = "class"  # the endpoint of the class token
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Architecture:
    """One kind of vision transformer.

    Attributes:
        patch: p.
        blocks: their number.
        shape: of each block.
        repositories: of default weights on the hub, by the image size that they were trained with.
        pixel_mean, pixel_deviation: see `StoredEncoder`.
        has_class: whether it has a class token.
        registers: R, further tokens that stand for nothing.
        norm_first: whether there is a layer norm before the first block. If so, patches have no
            bias.
    """

    patch: int
    blocks: int
    shape: BlockShape
    repositories: tuple[tuple[int, str], ...]
    pixel_mean: Triple
    pixel_deviation: Triple
    has_class: bool = True
    registers: int = 0
    norm_first: bool = False


@dataclass(frozen=True)
class Names:
    """What a library calls the weights of a vision transformer.

    Attributes:
        positions: position embeddings, of the patches or of class token and patches.
        patches: the layer that embeds a patch.
        blocks: the weights of a block.
        norm: the layer norm after the last block.
        class_token, registers: tokens, if any.
        norm_first: the layer norm before the first block, if any.
        antialias: whether the library resizes position embeddings with antialiasing.
    """

    positions: str
    patches: str
    blocks: BlockNames
    norm: str
    class_token: str
    registers: str = ""
    norm_first: str = ""
    antialias: bool = False


_OPENAI_MEAN = (122.7709383, 116.7460125, 104.09373615)
_OPENAI_DEVIATION = (68.5005327, 66.6321579, 70.32316305)


def _clip(patch: int, width: int, blocks: int, repository: str) -> Architecture:
    shape = BlockShape(width, width // 64, "quick_gelu", 1e-5)
    openai = (_OPENAI_MEAN, _OPENAI_DEVIATION)
    return Architecture(patch, blocks, shape, ((224, repository),), *openai, norm_first=True)


def _dinov2(width: int, repository: str, registers: int = 0) -> Architecture:
    shape = BlockShape(width, width // 64, "gelu", 1e-6, scaled=True)
    imagenet = (IMAGENET_MEAN, IMAGENET_DEVIATION)
    return Architecture(14, 12, shape, ((518, repository),), *imagenet, registers=registers)


ARCHITECTURES: Mapping[str, Architecture] = {
    "clip_vit_b32": _clip(32, 768, 12, "timm/vit_base_patch32_clip_224.openai"),
    "clip_vit_b16": _clip(16, 768, 12, "timm/vit_base_patch16_clip_224.openai"),
    "clip_vit_l14": _clip(14, 1024, 24, "timm/vit_large_patch14_clip_224.openai"),
    "siglip_vit_b16": Architecture(
        patch=16,
        blocks=12,
        shape=BlockShape(768, 12, "gelu_tanh", 1e-6),
        repositories=(
            (224, "timm/vit_base_patch16_siglip_224.webli"),
            (256, "timm/vit_base_patch16_siglip_256.webli"),
        ),
        pixel_mean=(127.5, 127.5, 127.5),
        pixel_deviation=(127.5, 127.5, 127.5),
        has_class=False,
    ),
    "dinov2_vit_s14": _dinov2(384, "timm/vit_small_patch14_dinov2.lvd142m"),
    "dinov2_vit_b14": _dinov2(768, "timm/vit_base_patch14_dinov2.lvd142m"),
    "dinov2_vit_s14_reg4": _dinov2(384, "timm/vit_small_patch14_reg4_dinov2.lvd142m", 4),
    "dinov2_vit_b14_reg4": _dinov2(768, "timm/vit_base_patch14_reg4_dinov2.lvd142m", 4),
}

TIMM = Names(
    positions="pos_embed",
    patches="patch_embed.proj",
    blocks=BlockNames(
        norm1="blocks.{}.norm1",
        qkv=("blocks.{}.attn.qkv",),
        out="blocks.{}.attn.proj",
        norm2="blocks.{}.norm2",
        expand="blocks.{}.mlp.fc1",
        contract="blocks.{}.mlp.fc2",
        scale1="blocks.{}.ls1.gamma",
        scale2="blocks.{}.ls2.gamma",
    ),
    norm="norm",
    class_token="cls_token",
    registers="reg_token",
    norm_first="norm_pre",
    antialias=True,
)
# CLIP and SigLIP, also CLIP's texts.
TRANSFORMERS_BLOCKS = BlockNames(
    norm1="encoder.layers.{}.layer_norm1",
    qkv=tuple(f"encoder.layers.{{}}.self_attn.{kind}_proj" for kind in "qkv"),
    out="encoder.layers.{}.self_attn.out_proj",
    norm2="encoder.layers.{}.layer_norm2",
    expand="encoder.layers.{}.mlp.fc1",
    contract="encoder.layers.{}.mlp.fc2",
)
TRANSFORMERS = Names(
    positions="embeddings.position_embedding.weight",
    patches="embeddings.patch_embedding",
    blocks=TRANSFORMERS_BLOCKS,
    norm="post_layernorm",
    class_token="embeddings.class_embedding",
    norm_first="pre_layrnorm",  # transformers' spelling
)
_DINOV2 = Names(
    positions="embeddings.position_embeddings",
    patches="embeddings.patch_embeddings.projection",
    blocks=BlockNames(
        norm1="encoder.layer.{}.norm1",
        qkv=tuple(
            f"encoder.layer.{{}}.attention.attention.{kind}" for kind in ("query", "key", "value")
        ),
        out="encoder.layer.{}.attention.output.dense",
        norm2="encoder.layer.{}.norm2",
        expand="encoder.layer.{}.mlp.fc1",
        contract="encoder.layer.{}.mlp.fc2",
        scale1="encoder.layer.{}.layer_scale1.lambda1",
        scale2="encoder.layer.{}.layer_scale2.lambda1",
    ),
    norm="layernorm",
    class_token="embeddings.cls_token",
    registers="embeddings.register_tokens",
)
LIBRARIES = (TIMM, TRANSFORMERS, _DINOV2)
# What stands before all names of the network where a file holds more than it.
_PREFIXES = ("", "vision_model.", "dinov2.", "dinov2_with_registers.")


class _Embedding(nnx.Module):
    """Tokens of an image: class token and registers, if any, then patches in reading order."""

    def __init__(self, weights: Weights, names: Names, kind: Architecture, side: int):
        """Takes the weights for images of `side` patches a side."""
        width, shape = kind.shape.width, kind.shape
        self.patches = Patches(
            weights, names.patches, width, 3, kind.patch, bias=not kind.norm_first
        )
        first, positions = _positions(weights, names, kind)
        tokens = np.zeros((0, width), np.float32)
        if kind.has_class:
            # CLIP's of transformers is a vector, all others are (1, 1, D).
            stored = weights.arrays.get(names.class_token, tokens).shape
            token = weights.take(names.class_token, stored if stored == (width,) else (1, 1, width))
            tokens = token.reshape(1, width) + first
        if kind.registers:
            stored = weights.take(names.registers, (1, kind.registers, width))
            tokens = np.concatenate([tokens, stored[0]])
        self.others = weights.variable(tokens)
        # Only this way of resizing depends on the network: transformers' code differs by model.
        antialias = names.antialias or kind.registers > 0
        laid = bicubic(positions, side, antialias=antialias).reshape(-1, width)
        self.positions = weights.variable(laid)
        self.norm = (
            LayerNorm(weights, names.norm_first, width, shape.epsilon) if kind.norm_first else None
        )

    def __call__(self, x: Float[Array, "B S S 3"]) -> Float[Array, "B N D"]:
        x = self.patches(x).reshape(len(x), -1, self.positions.shape[1])
        x = x + self.positions[...][None]
        others = jnp.broadcast_to(self.others[...][None], (len(x), *self.others.shape))
        x = jnp.concatenate([others, x], axis=1)
        return x if self.norm is None else self.norm(x)


def _positions(
    weights: Weights, names: Names, kind: Architecture
) -> tuple[Float[np.ndarray, "1 D"], Float[np.ndarray, "n n D"]]:
    """Position embeddings of the class token, 0 if it has none, and of the patches."""
    shape = weights.arrays[names.positions].shape
    width = kind.shape.width
    stored = weights.take(names.positions, (*shape[:-1], width)).reshape(-1, width)
    stored = stored.astype(np.float32)
    for first in (0, 1) if kind.has_class else (0,):
        side = math.isqrt(len(stored) - first)
        if side * side == len(stored) - first:
            alone = stored[:first] if first else np.zeros((1, width), np.float32)
            return alone, stored[first:].reshape(side, side, width)
    raise UserError(
        f"{weights.source}: {names.positions} has shape {shape}, which is no square of patches; is "
        "it another network's?"
    )


class VisionTransformer(StoredEncoder):
    """Stages `embed`, `block1` to the last block, `norm` and, if it has a class token, `class`.

    `norm` is the default: the patches after the layer norm that follows the last block. A block's
    output is before any norm, as transformers' `hidden_states`. Class token and registers are no
    places. The endpoint `class` is the class token after `norm`, the same at every place, so that
    caches keep it once. The patches of images that differ in size from the trained ones get
    position embeddings resized as the library does whose names the file has.
    """

    ignored_prefixes = (
        *("head.", "fc_norm.", "attn_pool.", "mask_token"),  # timm
        *("vision_model.head.", "embeddings.position_ids", "vision_model.embeddings.position_ids"),
        *("embeddings.mask_token", "classifier."),
        *(f"{prefix}embeddings.mask_token" for prefix in _PREFIXES[2:]),
        *("text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias"),
    )
    default_endpoints = ("norm",)
    single = (CLASS,)
    shift = 0.0  # patches do not overlap: there is nothing to measure
    images_at_once = 8

    def __init__(self, options: settings.ImageEncoder, *, files: WeightFiles):
        self.name = options.name
        self.architecture = kind = ARCHITECTURES[options.name]
        blocks = (f"block{i + 1}" for i in range(kind.blocks))
        self.stage_names = ("embed", *blocks, "norm", *((CLASS,) if kind.has_class else ()))
        self.pixel_mean, self.pixel_deviation = kind.pixel_mean, kind.pixel_deviation
        known = dict(kind.repositories)
        self.repository = known.get(options.image_size, kind.repositories[0][1])
        super().__init__(options, files=files)

    def place(self, options: settings.ImageEncoder) -> tuple[float, ...]:
        side, rest = divmod(options.image_size, self.architecture.patch)
        if rest:
            raise UserError(
                f"config.encoder.image_size is {options.image_size}: it must be a multiple of "
                f"{self.architecture.patch} for {self.name}"
            )
        return tuple((i + 0.5) / side for i in range(side))

    def known_shift(self, channels: Mapping[str, int]) -> float:
        del channels
        return 0.0

    def _first_trained(self, trainable_from: str, names: list[str], last: int) -> int:
        if not trainable_from:
            return len(names)
        stages = [name for name in names if name != CLASS]  # which has no weights of its own
        return super()._first_trained(trainable_from, stages, min(last, len(stages) - 1))

    def _read_weights(self, options: settings.ImageEncoder, files: WeightFiles) -> Weights:
        weights = super()._read_weights(options, files)
        known = {names: names.positions for names in LIBRARIES}
        self.names: Names = weights.named_by(known, _PREFIXES, "vision transformer", self.name)
        return weights

    def make_stage(self, name: str, weights: Weights) -> tuple[list[nnx.Module], int]:
        shape = self.architecture.shape
        if name == "embed":
            side = len(self.fields)
            return [_Embedding(weights, self.names, self.architecture, side)], shape.width
        if name == "norm":
            return [LayerNorm(weights, self.names.norm, shape.width, shape.epsilon)], shape.width
        if name == CLASS:
            return [], shape.width
        number = int(name.removeprefix("block")) - 1
        return [Block(weights, self.names.blocks, number, shape)], shape.width

    def annotation_layer(self) -> "_Vectors":
        others = int(self.architecture.has_class) + self.architecture.registers
        pooled = tuple(name in self.pooled_endpoints for name in self.endpoints)
        return _Vectors(others, tuple(name == CLASS for name in self.endpoints), pooled)


class _Vectors(AnnotationLayer):
    """Tokens after stages as annotation vectors: patches, their mean, or the class token."""

    def __init__(self, others: int, single: tuple[bool, ...], pooled: tuple[bool, ...]):
        self.others, self.single, self.pooled = others, single, pooled

    def __call__(self, maps: Sequence[Float[Array, "B N D"]]) -> Float[Array, "B L F"]:
        found = []
        for x, single, pooled in zip(maps, self.single, self.pooled, strict=True):
            patches = x[:, self.others :]
            if single:
                patches = jnp.broadcast_to(x[:, :1], patches.shape)
            elif pooled:
                patches = jnp.broadcast_to(patches.mean(axis=1, keepdims=True), patches.shape)
            found.append(patches)
        return jnp.concatenate(found, axis=-1)
