"""Encoders: images in, annotation vectors out. `make_encoder` builds one by name."""

import difflib
import inspect
from typing import Any

from flax import nnx

from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Encoder, Frozen
from show_attend_tell.models.encoders.concatenated import Concatenated
from show_attend_tell.models.encoders.efficientnet_lite import (
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
)
from show_attend_tell.models.encoders.resnet import ResNet50, ResNet101
from show_attend_tell.models.encoders.small import SmallEncoder
from show_attend_tell.models.encoders.vgg import VGG19

__all__ = ["Encoder", "Frozen", "make_encoder"]

_ENCODERS = {
    "efficientnet_lite0": EfficientNetLite0,
    "efficientnet_lite1": EfficientNetLite1,
    "efficientnet_lite2": EfficientNetLite2,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "small": SmallEncoder,
    "vgg19": VGG19,
}


def make_encoder(name: str, *, image_size: int, rngs: nnx.Rngs, **options: Any) -> Encoder:
    """Builds an encoder.

    Args:
        name: `efficientnet_lite0`, `_lite1`, `_lite2`, `vgg19`, `resnet50`, `resnet101` (ImageNet
            weights) or `small` (untrained); or several with + between, whose annotation vectors
            are then concatenated.
        image_size: side S of the square images in pixels.
        rngs: for the initial values; an encoder with stored weights draws nothing.
        **options: the encoder's own keyword arguments, see its class; of several, those of each,
            but `weights` and `weights_sha256` have as many parts as the name.

    Raises:
        UserError: unknown name or option (the nearest known one is named), a size or option value
            that the encoder cannot take, or weights that cannot be read.
    """
    if "+" in name:
        names = name.split("+")
        own: list[dict[str, str]] = [{} for _ in names]
        for key in ("weights", "weights_sha256"):
            values = str(options.pop(key, "") or "+" * (len(names) - 1)).split("+")
            if len(values) != len(names):
                raise UserError(f"{key} must have {len(names)} parts, as {name} has, joined by +")
            for part, value in zip(own, values, strict=True):
                part |= {key: value} if value else {}
        return Concatenated(
            [
                make_encoder(part, image_size=image_size, rngs=rngs, **options, **mine)
                for part, mine in zip(names, own, strict=True)
            ]
        )
    encoder = _ENCODERS[_known("encoder", name, _ENCODERS)]
    takes = set(inspect.signature(encoder.__init__).parameters) - {"self", "image_size", "rngs"}
    for option in options:
        _known(f"option of encoder {name}", option, takes)
    return encoder(image_size=image_size, rngs=rngs, **options)


def _known(what: str, name: str, known) -> str:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise UserError(f"unknown {what}: {name!r}; nearest is {near[0]!r} of {sorted(known)}")
    return name
