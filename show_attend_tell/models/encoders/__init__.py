"""Image encoders: images in, annotation vectors out. `make_encoder` builds one from its options."""

import dataclasses
import difflib

from flax import nnx

from show_attend_tell import settings
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Encoder, Frozen, ImageEncoder, Precomputed
from show_attend_tell.models.encoders.concatenated import Concatenated
from show_attend_tell.models.encoders.efficientnet_lite import (
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
)
from show_attend_tell.models.encoders.resnet import ResNet50, ResNet101
from show_attend_tell.models.encoders.small import SmallEncoder
from show_attend_tell.models.encoders.staged import StagedEncoder
from show_attend_tell.models.encoders.vgg import VGG19

__all__ = ["Encoder", "Frozen", "ImageEncoder", "Precomputed", "make_encoder"]

_ENCODERS: dict[str, type[SmallEncoder] | type[StagedEncoder]] = {
    "efficientnet_lite0": EfficientNetLite0,
    "efficientnet_lite1": EfficientNetLite1,
    "efficientnet_lite2": EfficientNetLite2,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "small": SmallEncoder,
    "vgg19": VGG19,
}
# Options that only some encoders have.
_SPECIAL = {option for encoder in _ENCODERS.values() for option in encoder.own_options}


def make_encoder(options: settings.ImageEncoder, *, rngs: nnx.Rngs) -> ImageEncoder:
    """Builds an encoder.

    Args:
        options: the name is `efficientnet_lite0`, `_lite1`, `_lite2`, `vgg19`, `resnet50`,
            `resnet101` (ImageNet weights) or `small` (untrained). Several names joined by +
            concatenate the encoders' annotation vectors. All parts then share the other options,
            except that `weights` and `weights_sha256` have one part for each name.
        rngs: for initial values. An encoder with stored weights draws nothing.

    Raises:
        UserError: an unknown name (the message names the nearest), an option that the encoder does
            not have, a value it cannot take, or weights that cannot be read.
    """
    if "+" in options.name:
        return Concatenated([make_encoder(part, rngs=rngs) for part in _parts(options)])
    if options.name not in _ENCODERS:
        near = difflib.get_close_matches(options.name, _ENCODERS, n=1, cutoff=0)[0]
        raise UserError(
            f"config.encoder.name is {options.name!r}: the nearest is {near!r} of "
            + ", ".join(_ENCODERS)
        )
    encoder = _ENCODERS[options.name]
    for field in dataclasses.fields(options):
        if field.name in _SPECIAL and field.name not in encoder.own_options:
            value = getattr(options, field.name)
            if value != field.default:
                raise UserError(
                    f"config.encoder.{field.name} is {value!r}, but the encoder {options.name} has "
                    f"no such option: leave it at {field.default!r}"
                )
    return encoder(options, rngs=rngs)


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
    return [dataclasses.replace(options, **part) for part in own]
