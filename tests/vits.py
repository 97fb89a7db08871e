"""Vision transformers and ConvNeXt with random weights, by the names of timm and of transformers.

The same numbers stand behind both libraries' names. `in_library` runs the library's own network on
them, which needs PyTorch and the library.
"""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import safetensors.numpy
from flax import nnx

from show_attend_tell import settings
from show_attend_tell.models.encoders import convnext, make_encoder, vit

TIMM, TRANSFORMERS = LIBRARIES = ("timm", "transformers")
SIDE = 4  # patches a side of the images that tiny position embeddings are for
CONVNEXT = "convnext_tiny"
IN_TIMM = {
    "clip_vit_b32": "vit_base_patch32_clip_quickgelu_224",
    "clip_vit_b16": "vit_base_patch16_clip_quickgelu_224",
    "clip_vit_l14": "vit_large_patch14_clip_quickgelu_224",
    "siglip_vit_b16": "vit_base_patch16_siglip_224",
    "dinov2_vit_s14": "vit_small_patch14_dinov2",
    "dinov2_vit_b14": "vit_base_patch14_dinov2",
    "dinov2_vit_s14_reg4": "vit_small_patch14_reg4_dinov2",
    "dinov2_vit_b14_reg4": "vit_base_patch14_reg4_dinov2",
}


def tiny(name):
    """The architecture with few and narrow blocks, and patches of 8 pixels."""
    kind = vit.ARCHITECTURES[name]
    shape = dataclasses.replace(kind.shape, width=32, heads=2)
    return dataclasses.replace(kind, patch=8, blocks=2, shape=shape)


def make_tiny(patch):
    """Makes all architectures tiny while a test runs."""
    for name in [*vit.ARCHITECTURES]:
        patch.setitem(vit.ARCHITECTURES, name, tiny(name))
    patch.setattr(convnext.ConvNeXtTiny, "widths", (8, 16, 16, 32))
    patch.setattr(convnext.ConvNeXtTiny, "blocks", (1, 1, 2, 1))


class Drawn:
    """Arrays by name, drawn one after the other."""

    def __init__(self, seed=0):
        self.rng, self.arrays = np.random.default_rng(seed), {}

    def normal(self, name, *shape, deviation=0.3):
        self.arrays[name] = self.rng.standard_normal(shape, np.float32) * np.float32(deviation)

    def layer(self, name, *shape, bias=True):
        self.normal(f"{name}.weight", *shape, deviation=1 / math.sqrt(math.prod(shape[1:])))
        if bias:
            self.normal(f"{name}.bias", shape[0], deviation=0.1)

    def factors(self, name, size):
        self.arrays[name] = 0.5 + self.rng.random(size, np.float32)

    def norm(self, name, size):
        self.factors(f"{name}.weight", size)
        self.normal(f"{name}.bias", size, deviation=0.1)


def random_weights(name, library, kind=None, side=SIDE):
    """A state dictionary as the library stores it, also what the encoder leaves out."""
    if name == CONVNEXT:
        return _random_convnext(library)
    kind = kind or vit.ARCHITECTURES[name]
    names = vit.TIMM if library == TIMM else vit.LIBRARIES[2 if "dinov2" in name else 1]
    width, drawn, blocks = kind.shape.width, Drawn(), names.blocks
    drawn.layer(names.patches, width, 3, kind.patch, kind.patch, bias=not kind.norm_first)
    count = side**2 + kind.has_class
    drawn.normal(names.positions, 1, count, width)
    if kind.has_class:
        drawn.normal(names.class_token, 1, 1, width)
    if kind.registers:
        drawn.normal(names.registers, 1, kind.registers, width)
    if kind.norm_first:
        drawn.norm(names.norm_first, width)
    for i in range(kind.blocks):
        for norm in (blocks.norm1, blocks.norm2):
            drawn.norm(norm.format(i), width)
        drawn.layer("qkv", 3 * width, width)
        for part in ("weight", "bias"):
            whole = drawn.arrays.pop(f"qkv.{part}")
            parts = np.split(whole, len(blocks.qkv))
            for layer, array in zip(blocks.qkv, parts, strict=True):
                drawn.arrays[f"{layer.format(i)}.{part}"] = array
        drawn.layer(blocks.out.format(i), width, width)
        drawn.layer(blocks.expand.format(i), 4 * width, width)
        drawn.layer(blocks.contract.format(i), width, 4 * width)
        if kind.shape.scaled:
            drawn.factors(blocks.scale1.format(i), width)
            drawn.factors(blocks.scale2.format(i), width)
    drawn.norm(names.norm, width)
    arrays = drawn.arrays
    if library == TIMM and kind.registers:  # timm adds the class token's position to it
        positions = arrays[names.positions]
        arrays[names.class_token] = arrays[names.class_token] + positions[:, :1]
        arrays[names.positions] = positions[:, 1:]
    if library == TRANSFORMERS and "dinov2" not in name:
        arrays[names.positions] = arrays[names.positions][0]
        if kind.has_class:
            arrays[names.class_token] = arrays[names.class_token][0, 0]
        # As whole models are stored, the tower of texts among it.
        arrays = {f"vision_model.{key}": value for key, value in arrays.items()}
        arrays |= {"text_model.final_layer_norm.bias": np.zeros(3), "logit_scale": np.ones(())}
    if library == TRANSFORMERS and "dinov2" in name:
        arrays["embeddings.mask_token"] = np.zeros((1, width), np.float32)
    return {key: np.array(value, np.float32, order="C") for key, value in arrays.items()}


def _random_convnext(library):
    names = convnext.LIBRARIES[LIBRARIES.index(library)]
    widths, drawn = convnext.ConvNeXtTiny.widths, Drawn()
    drawn.layer(names.stem, widths[0], 3, 4, 4)
    drawn.norm(names.stem_norm, widths[0])
    for stage, width in enumerate(widths):
        if stage:
            drawn.norm(names.downsample_norm.format(stage), widths[stage - 1])
            drawn.layer(names.downsample.format(stage), width, widths[stage - 1], 2, 2)
        for i in range(convnext.ConvNeXtTiny.blocks[stage]):
            drawn.layer(names.depthwise.format(stage, i), width, 1, 7, 7)
            drawn.norm(names.norm.format(stage, i), width)
            drawn.layer(names.expand.format(stage, i), 4 * width, width)
            drawn.layer(names.contract.format(stage, i), width, 4 * width)
            drawn.factors(names.scale.format(stage, i), width)
    prefix = "convnext." if library == TRANSFORMERS else ""
    arrays = {prefix + key: value for key, value in drawn.arrays.items()}
    last = "convnext.layernorm" if library == TRANSFORMERS else "head.norm"
    ones, zeros = np.ones(widths[-1], np.float32), np.zeros(widths[-1], np.float32)
    return arrays | {f"{last}.weight": ones, f"{last}.bias": zeros}


def save(folder, name, library, **options):
    """The path of a file with the random weights."""
    path = Path(folder) / f"{name}-{library}.safetensors"
    safetensors.numpy.save_file(random_weights(name, library, **options), path)
    return path


def images(size):
    y, x = np.mgrid[:size, :size]
    picture = np.stack([y * 255 // size, x * 255 // size, (3 * x + 2 * y) % 256], -1)
    noise = np.random.RandomState(0).randint(-30, 31, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)[None]


def normalised(name, size):
    """(1, 3, S, S), with the constants that the libraries publish, on the scale of 0 to 1."""
    if name.startswith("clip"):
        mean, deviation = (
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        )
    elif name.startswith("siglip"):
        mean = deviation = (0.5,) * 3
    else:
        mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    values = (images(size) / np.float32(255) - np.float32(mean)) / np.float32(deviation)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def in_library(folder, name, library, size, kind=None, side=SIDE):
    """What the library's network makes of `images`, by endpoint: (L, D); `class` is (D,)."""
    import torch

    pixels = torch.from_numpy(normalised(name, size))
    weights = random_weights(name, library, kind=kind, side=side)
    with torch.inference_mode():
        if name == CONVNEXT:
            run = _timm_convnext if library == TIMM else _transformers_convnext
            return run(folder, weights, pixels)
        kind = kind or vit.ARCHITECTURES[name]
        run = _timm_vit if library == TIMM else _transformers_vit
        first, tokens = run(folder, name, kind, side, weights, pixels)
    others = kind.has_class + kind.registers
    found = {"block1": first[0, others:].numpy(), "norm": tokens[0, others:].numpy()}
    if kind.has_class:
        found["class"] = tokens[0, 0].numpy()
    return found


def _timm_vit(folder, name, kind, side, weights, pixels):
    import timm
    import torch

    shape = kind.shape
    model = timm.create_model(
        IN_TIMM[name],
        img_size=side * kind.patch,
        patch_size=kind.patch,
        embed_dim=shape.width,
        depth=kind.blocks,
        num_heads=shape.heads,
        dynamic_img_size=True,
        num_classes=0,
        # SigLIP was trained with the approximation, transformers has it, timm has not.
        **({"act_layer": "gelu_tanh", "global_pool": ""} if name.startswith("siglip") else {}),
    ).eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    kept = []
    model.blocks[0].register_forward_hook(lambda module, given, out: kept.append(out))
    tokens = model.forward_features(pixels)
    return kept[0], tokens


def _transformers_vit(folder, name, kind, side, weights, pixels):
    import transformers

    shape = kind.shape
    options = {
        "hidden_size": shape.width,
        "num_hidden_layers": kind.blocks,
        "num_attention_heads": shape.heads,
        "image_size": side * kind.patch,
        "patch_size": kind.patch,
    }
    given = {"interpolate_pos_encoding": True}
    if name.startswith("dinov2"):
        family, given = "Dinov2" if not kind.registers else "Dinov2WithRegisters", {}
        options |= {"num_register_tokens": kind.registers} if kind.registers else {}
        model_class = getattr(transformers, f"{family}Model")
        config = getattr(transformers, f"{family}Config")(**options)
    else:
        family = "CLIPVision" if name.startswith("clip") else "SiglipVision"
        model_class = getattr(transformers, f"{family}Model")
        config = getattr(transformers, f"{family}Config")(
            intermediate_size=4 * shape.width,
            **({"vision_use_head": False} if family == "SiglipVision" else {}),
            **options,
        )
        weights = {key: value for key, value in weights.items() if key.startswith("vision_")}
    model = loaded(folder, model_class, config, weights)
    out = model(pixels, output_hidden_states=True, **given)
    tokens = out.last_hidden_state
    if name.startswith("clip"):  # whose tokens are those before the last norm
        norm = getattr(model, "vision_model", model).post_layernorm
        tokens = norm(tokens)
    return out.hidden_states[1], tokens


def loaded(folder, model_class, config, weights):
    """The network with weights as they come from the hub, whose names the library may change."""
    folder = Path(folder) / "hub"
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    model, report = model_class.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    return model.eval()


def _timm_convnext(folder, weights, pixels):
    import timm
    import torch

    kind = convnext.ConvNeXtTiny
    model = timm.create_model(CONVNEXT, depths=kind.blocks, dims=kind.widths, num_classes=0).eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    found, x = {}, model.stem(pixels)
    for i, stage in enumerate(model.stages):
        x = stage(x)
        found[f"stage{i + 1}"] = x[0].flatten(1).T.numpy()
    return found


def _transformers_convnext(folder, weights, pixels):
    import transformers

    kind = convnext.ConvNeXtTiny
    config = transformers.ConvNextConfig(hidden_sizes=kind.widths, depths=kind.blocks)
    model = loaded(folder, transformers.ConvNextModel, config, weights)
    maps = model(pixels, output_hidden_states=True).hidden_states[1:]
    return {f"stage{i + 1}": x[0].flatten(1).T.numpy() for i, x in enumerate(maps)}


# As trained, larger, smaller. Most are compared where positions are resized: it tests the most.
SIZES = {**dict.fromkeys(IN_TIMM, (48,)), "clip_vit_b32": (32, 48, 24), CONVNEXT: (70,)}
ENDPOINTS = {
    **dict.fromkeys(IN_TIMM, ("block1", "norm", "class")),
    "siglip_vit_b16": ("block1", "norm"),
    CONVNEXT: ("stage3",),
}


def difference(weights, name, size, expected):
    """The largest difference of our vectors from those expected, NaN where nothing is known.

    It is relative to the largest number of each endpoint.
    """
    endpoints = ENDPOINTS[name]
    options = {"grid_stride": 16} if name == CONVNEXT else {}
    made = settings.ImageEncoder(
        name=name, image_size=size, weights=weights, endpoints=endpoints, **options
    )
    encoder = make_encoder(made, seed=0)
    encoder.checksum = encoder.names = ""  # so that both libraries' files share a program
    found = np.asarray(_encode(encoder, images(size)))[0]
    sections = np.split(found, np.cumsum([size for _, size in encoder.sections])[:-1], axis=1)
    largest = 0.0
    for endpoint, section in zip(endpoints, sections, strict=True):
        wanted = np.broadcast_to(expected[endpoint], section.shape)
        apart = np.nanmax(np.abs(section - wanted)) / np.nanmax(np.abs(wanted))
        largest = max(largest, float(apart))
    return largest


_encode = nnx.jit(lambda encoder, images: encoder(images))
