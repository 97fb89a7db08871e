"""Several image encoders on one grid.

The same network may occur several times, with images of different sizes. A convolutional network
sees about as many pixels around a place whatever the size, so in a larger image a place of its last
stages sees less of the scene.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Apply, Each, ImageEncoder


class Concatenated(ImageEncoder):
    """Annotation vectors of several encoders, one after the other at each location.

    Networks trained independently make different mistakes. Together their annotation vectors say
    more about the words of a caption than those of the largest network.
    """

    def __init__(self, encoders: Sequence[ImageEncoder]):
        """Takes encoders with one grid.

        It takes images of the largest side of its parts; others get them scaled down. Its places
        look where its local parts of their largest side look on average, each local channel
        counting once: the others are there for the whole scene.

        Args:
            encoders: of which at least one has a section that is not pooled.

        Raises:
            UserError: their grids differ, or places of the largest side look more than half a cell
                apart. Only like is compared: computed centres say little about measured ones.
        """
        self.image_size = max(encoder.image_size for encoder in encoders)
        local = [encoder for encoder in encoders if encoder.local_features]
        side = max(encoder.image_size for encoder in local)
        largest = [encoder for encoder in local if encoder.image_size == side]
        first = largest[0]
        for encoder in encoders:
            if encoder.grid != first.grid:
                raise UserError(
                    f"encoders with grids of {first.grid} and {encoder.grid} cannot be concatenated"
                )
        for encoder in largest:
            apart = abs(np.mean(encoder.centres) - np.mean(first.centres)) * side
            alike = (encoder.shift is None) == (first.shift is None)
            if alike and apart > first.cell / 2:
                raise UserError(
                    f"encoders whose places look {apart:.3g} pixels apart cannot be concatenated"
                )
        self.grid = first.grid
        self.features = sum(encoder.features for encoder in encoders)
        self.sections = tuple(section for encoder in encoders for section in encoder.sections)
        self.pooled = tuple(dict.fromkeys(name for encoder in encoders for name in encoder.pooled))
        shares = np.array([encoder.local_features for encoder in largest])
        shares = shares / shares.sum()
        self.fields = tuple((shares @ np.array([encoder.fields for encoder in largest])).tolist())
        shifts = [encoder.shift for encoder in largest if encoder.shift is not None]
        if len(shifts) == len(largest):
            self.shift = float(np.dot(shares, shifts)) * self.image_size / side
        self.checksum = "+".join(encoder.checksum for encoder in encoders)
        self.encoders = nnx.List(encoders)

    @property
    def trained(self) -> bool:
        return any(encoder.trained for encoder in self.encoders)

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        return jnp.concatenate(
            [encoder(_scaled(images, encoder.image_size)) for encoder in self.encoders], -1
        )

    def in_pieces(
        self, images: UInt8[Array, "B S S 3"], apply: Apply, each: Each = map
    ) -> Float[Array, "B L D"]:
        sizes = dict.fromkeys(encoder.image_size for encoder in self.encoders)
        scaled = {size: apply(_Scaled(size), images) for size in sizes}
        parts = each(lambda e: e.in_pieces(scaled[e.image_size], apply), self.encoders)
        return apply(_Joined(), list(parts))

    def fingerprint(self) -> dict[str, str | int]:
        parts = [encoder.fingerprint() for encoder in self.encoders]
        keys = dict.fromkeys(key for part in parts for key in part)
        found = {key: self._joined([part.get(key, "") for part in parts]) for key in keys}
        # Joined endpoints do not say whose they are, unless a size has several encoders, whose
        # endpoints repeat; and of equal parts one is said. The others' fingerprints stay.
        each_size_once = len({encoder.image_size for encoder in self.encoders}) == len(parts)
        if each_size_once or all(part == parts[0] for part in parts):
            of_each = [str(part.get("endpoints", "")).count("+") + 1 for part in parts]
            found["endpoints_of_each"] = "+".join(map(str, of_each))
        return found

    @staticmethod
    def _joined(values: Sequence[str | int]) -> str | int:
        """One value where all agree, else all of them."""
        return values[0] if len(set(values)) == 1 else "+".join(map(str, values))


class _Scaled(nnx.Module):
    def __init__(self, size: int):
        self.size = size

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> UInt8[Array, "B size size 3"]:
        return _scaled(images, self.size)


class _Joined(nnx.Module):
    def __call__(self, parts: Sequence[Float[Array, "B L _"]]) -> Float[Array, "B L D"]:
        return jnp.concatenate(parts, -1)


def _scaled(images: UInt8[Array, "B S S 3"], size: int) -> UInt8[Array, "B size size 3"]:
    """Smaller images, each pixel a weighted mean of those that it covers."""
    if images.shape[1] == size:
        return images
    shape = (len(images), size, size, 3)
    scaled = jax.image.resize(images.astype(jnp.float32), shape, "linear", antialias=True)
    return jnp.round(scaled).astype(jnp.uint8)
