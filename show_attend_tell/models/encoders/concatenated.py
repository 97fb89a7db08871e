"""Several image encoders on one grid."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import ImageEncoder


class Concatenated(ImageEncoder):
    """Annotation vectors of several encoders, one after the other at each location.

    Networks trained independently make different mistakes. Together their annotation vectors say
    more about the words of a caption than those of the largest network.
    """

    def __init__(self, encoders: Sequence[ImageEncoder]):
        """Takes encoders with one image size and one grid.

        Its places look where its parts look on average, each channel counting once.

        Raises:
            UserError: their grids differ, or their places look more than half a cell apart. Only
                like is compared: computed centres say little about measured ones.
        """
        first = encoders[0]
        for encoder in encoders[1:]:
            if encoder.grid != first.grid:
                raise UserError(
                    f"encoders with grids of {first.grid} and {encoder.grid} cannot be concatenated"
                )
            apart = abs(np.mean(encoder.centres) - np.mean(first.centres)) * first.image_size
            alike = (encoder.shift is None) == (first.shift is None)
            if alike and apart > first.cell / 2:
                raise UserError(
                    f"encoders whose places look {apart:.3g} pixels apart cannot be concatenated"
                )
        self.image_size, self.grid = first.image_size, first.grid
        self.features = sum(encoder.features for encoder in encoders)
        self.sections = tuple(section for encoder in encoders for section in encoder.sections)
        shares = [encoder.features / self.features for encoder in encoders]
        fields = np.array([encoder.fields for encoder in encoders])
        self.fields = tuple((shares @ fields).tolist())
        shifts = [encoder.shift for encoder in encoders if encoder.shift is not None]
        if len(shifts) == len(encoders):
            self.shift = float(np.dot(shares, shifts))
        self.checksum = "+".join(encoder.checksum for encoder in encoders)
        self.encoders = nnx.List(encoders)

    def __call__(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B L D"]:
        return jnp.concatenate([encoder(images) for encoder in self.encoders], -1)

    def fingerprint(self) -> dict[str, str | int]:
        parts = [encoder.fingerprint() for encoder in self.encoders]
        keys = dict.fromkeys(key for part in parts for key in part)
        return {key: self._joined([part.get(key, "") for part in parts]) for key in keys}

    @staticmethod
    def _joined(values: Sequence[str | int]) -> str | int:
        """One value where all agree, else all of them."""
        return values[0] if len(set(values)) == 1 else "+".join(map(str, values))
