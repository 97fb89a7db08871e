"""Something to caption or translate, and where its places are."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from show_attend_tell.data.examples import Box
from show_attend_tell.data.images import Picture, naming, picture_size


@runtime_checkable
class Viewer(Protocol):
    """What an encoder knows about the places that it annotates."""

    image_size: int
    shift: float | None

    @property
    def centres(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Subject:
    """Something to caption or translate.

    Attributes:
      name: id of an example, or name of a file.
      picture: an image: encoded, a file, or RGB values.
      boxes: known objects in it.
      text: a source sentence.
    """

    name: str
    picture: Picture | None = None
    boxes: tuple[Box, ...] = ()
    text: str = ""


@dataclass(frozen=True, eq=False)
class Places:
    """The positions of an input's L places.

    Attributes:
      row_centres, column_centres: of the grid (h, w), in [0, 1]; L = h * w, row by row.
      original_size: (height, width) of the upright original picture, in pixels.
      image_side: side in pixels of the square that the encoder saw.
      boxes: known objects.
      source: the L source tokens; empty for an image.
      measured: whether the centres were measured, not computed.
    """

    row_centres: Float[np.ndarray, " h"]
    column_centres: Float[np.ndarray, " w"]
    original_size: tuple[int, int]
    image_side: int
    boxes: tuple[Box, ...] = ()
    source: tuple[str, ...] = ()
    measured: bool = False


def places_in_picture(subject: Subject, viewer: Viewer) -> Places:
    """The places of a picture that an encoder annotates.

    Raises:
      UserError: the picture cannot be read.
    """
    assert subject.picture is not None
    centres = np.array(viewer.centres)
    with naming(subject.name):
        size = picture_size(subject.picture)
    side, measured = viewer.image_size, viewer.shift is not None
    return Places(centres, centres, size, side, subject.boxes, measured=measured)
