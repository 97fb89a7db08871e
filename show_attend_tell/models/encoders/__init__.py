"""Image encoders: images in, annotation vectors out. `make_encoder` builds one from its options."""

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from functools import cache, partial

from flax import nnx

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Encoder, Frozen, ImageEncoder, Precomputed
from show_attend_tell.models.encoders.concatenated import Concatenated
from show_attend_tell.models.encoders.convnext import ConvNeXtTiny
from show_attend_tell.models.encoders.efficientnet_lite import (
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
)
from show_attend_tell.models.encoders.resnet import ResNet50, ResNet101
from show_attend_tell.models.encoders.small import SmallEncoder
from show_attend_tell.models.encoders.stored import StoredEncoder
from show_attend_tell.models.encoders.vgg import VGG19
from show_attend_tell.models.encoders.vit import ARCHITECTURES, VisionTransformer
from show_attend_tell.models.encoders.weights import WeightFiles

__all__ = ["Encoder", "Frozen", "ImageEncoder", "Precomputed", "has_option", "make_encoder"]

_ENCODERS: dict[str, type[SmallEncoder] | type[StoredEncoder]] = {
    "convnext_tiny": ConvNeXtTiny,
    "efficientnet_lite0": EfficientNetLite0,
    "efficientnet_lite1": EfficientNetLite1,
    "efficientnet_lite2": EfficientNetLite2,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "small": SmallEncoder,
    "vgg19": VGG19,
    **dict.fromkeys(ARCHITECTURES, VisionTransformer),
}
# Options that only some encoders have.
_SPECIAL = {option for encoder in _ENCODERS.values() for option in encoder.own_options}


def has_option(name: str, option: str) -> bool:
    """Whether all encoders of a name have this option of `settings.ImageEncoder`."""
    known = [_ENCODERS[part] for part in name.split("+") if part in _ENCODERS]
    return option not in _SPECIAL or all(option in encoder.own_options for encoder in known)


def make_encoder(options: settings.ImageEncoder, *, seed: int) -> ImageEncoder:
    """Builds an encoder.

    Args:
        options: the name is `efficientnet_lite0`, `_lite1`, `_lite2`, `vgg19`, `resnet50`,
            `resnet101`, `convnext_tiny` (ImageNet weights), one of `vit.ARCHITECTURES` (CLIP,
            SigLIP, DINOv2) or `small` (untrained). Several names joined by +
            concatenate the encoders' annotation vectors. All parts then share the other options,
            except that `weights` and `weights_sha256` have one part for each name, and `sizes` one
            number: with it, a part takes the endpoints without @ and those with @ and its size.
            `pooled` names some of the endpoints in the same way.
        seed: of initial values, >= 0. An encoder with stored weights draws nothing.

    Raises:
        UserError: an unknown name (the message names the nearest), an option that the encoder does
            not have, a value it cannot take, or weights that cannot be read.
    """
    files = WeightFiles()
    # Made when the first encoder draws: it takes as long as reading a network.
    rngs = cache(partial(nnx.Rngs, seed))
    if "+" in options.name:
        parts = [_make_part(options, part, rngs, files) for part in _parts(options)]
        _check_pooled(options, parts)
        return Concatenated(parts)
    if options.sizes:
        raise UserError(
            "config.encoder.sizes has a side for each encoder of a name joined by +: set "
            "config.encoder.image_size"
        )
    encoder = _make_one(options, rngs, files)
    _check_pooled(options, [encoder])
    return encoder


def _make_one(
    options: settings.ImageEncoder, rngs: Callable[[], nnx.Rngs], files: WeightFiles
) -> ImageEncoder:
    """An encoder of one name."""
    if options.name not in _ENCODERS:
        near = difflib.get_close_matches(options.name, _ENCODERS, n=1, cutoff=0)[0]
        raise UserError(
            f"config.encoder.name is {options.name!r}: the nearest is {near!r} of "
            + ", ".join(_ENCODERS)
        )
    for field in dataclasses.fields(options):
        if not has_option(options.name, field.name):
            value = getattr(options, field.name)
            if value != field.default:
                raise UserError(
                    f"config.encoder.{field.name} is {value!r}, but the encoder {options.name} has "
                    f"no such option: leave it at {field.default!r}"
                )
    kind = _ENCODERS[options.name]
    if issubclass(kind, SmallEncoder):
        return kind(options, rngs=rngs())
    return kind(options, files=files)


def _check_pooled(options: settings.ImageEncoder, encoders: Sequence[ImageEncoder]) -> None:
    names = dict.fromkeys(name for encoder in encoders for name, _ in encoder.sections)
    for name in options.pooled:
        if name not in names:
            raise UserError(
                f"config.encoder.pooled names {name!r}: config.encoder.endpoints are "
                + ", ".join(names)
            )
    if not any(encoder.local_features for encoder in encoders):
        raise UserError(
            "config.encoder.pooled names every endpoint, and attention needs one that differs "
            "from place to place: leave one out"
        )


def _parts(options: settings.ImageEncoder) -> list[settings.ImageEncoder]:
    """The options of each encoder whose name is joined to others by +."""
    names = options.name.split("+")
    own: list[dict[str, str]] = [{"name": name} for name in names]
    for key in ("weights", "weights_sha256"):
        values = (getattr(options, key) or "+" * (len(names) - 1)).split("+")
        if len(values) != len(names):
            raise UserError(
                f"config.encoder.{key} must have {len(names)} parts joined by +, as the name "
                f"{options.name} has"
            )
        for part, value in zip(own, values, strict=True):
            part[key] = value
    sizes = options.sizes or (options.image_size,) * len(names)
    if len(sizes) != len(names) or max(sizes) != options.image_size:
        raise UserError(
            f"config.encoder.sizes must be {len(names)} numbers, as the name {options.name} has "
            f"parts, the largest {options.image_size}, as config.encoder.image_size"
        )
    for endpoint in options.endpoints:
        size = endpoint.partition("@")[2]
        if size and size not in map(str, options.sizes):
            raise UserError(
                f"config.encoder.endpoints names {endpoint!r}: config.encoder.sizes has no {size}"
            )
    return [
        dataclasses.replace(
            options,
            **part,
            sizes=(),
            image_size=size,
            endpoints=tuple(_own_endpoints(options, size)),
            pooled=_own_pooled(options, size),
            grid_stride=_scaled_stride(options, size),
        )
        for part, size in zip(own, sizes, strict=True)
    ]


def _own_endpoints(options: settings.ImageEncoder, size: int) -> dict[str, str]:
    """The endpoints of parts of this size, and what the settings call them."""
    pairs = ((name.partition("@"), name) for name in options.endpoints)
    return {stage: name for (stage, _, own), name in pairs if own in ("", str(size))}


def _own_pooled(options: settings.ImageEncoder, size: int) -> tuple[str, ...]:
    """The pooled endpoints of parts of this size; of default endpoints, those that are named."""
    if not options.endpoints:
        return options.pooled
    own = _own_endpoints(options, size).items()
    return tuple(stage for stage, name in own if name in options.pooled)


def _scaled_stride(options: settings.ImageEncoder, size: int) -> int:
    """The distance of locations in the pixels of a smaller image."""
    stride = options.grid_stride * size / options.image_size
    if stride != int(stride):
        raise UserError(
            f"config.encoder.sizes: {size} pixels do not have the grid of {options.image_size} "
            f"pixels with config.encoder.grid_stride={options.grid_stride}"
        )
    return int(stride)


def _make_part(
    options: settings.ImageEncoder,
    part: settings.ImageEncoder,
    rngs: Callable[[], nnx.Rngs],
    files: WeightFiles,
) -> ImageEncoder:
    """An encoder whose sections are called as in the settings of the whole."""
    encoder = _make_one(part, rngs, files)
    names = _own_endpoints(options, part.image_size)
    encoder.sections = tuple((names.get(name, name), size) for name, size in encoder.sections)
    encoder.pooled = tuple(names.get(name, name) for name in encoder.pooled)
    return encoder
