"""What becomes of words and boxes in mirrored and cropped copies of an image."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np

LEAST_SIDE = 0.75  # smallest side of a cropped copy, as a share of the image's

# ymin, xmin, ymax, xmax of a box, as shares of the image's height and width.
Sides = tuple[float, float, float, float]


@dataclass(frozen=True)
class Crop:
    """A part of an image; lengths are shares of the image's height and width, in [0, 1]."""

    top: float
    left: float
    height: float
    width: float

    @property
    def window(self) -> Sides:
        """The part's own sides."""
        return self.top, self.left, self.top + self.height, self.left + self.width

    def cut(self, sides: Sides) -> Sides | None:
        """A box as seen in the crop, in shares of the crop; None if nothing of it is left."""
        ymin, ymax = (min(max((y - self.top) / self.height, 0.0), 1.0) for y in sides[::2])
        xmin, xmax = (min(max((x - self.left) / self.width, 0.0), 1.0) for x in sides[1::2])
        return (ymin, xmin, ymax, xmax) if ymin < ymax and xmin < xmax else None


def draw_crop(image_id: str, number: int) -> Crop:
    """The `number`-th random crop of an image, with sides of `LEAST_SIDE` to 1.

    The arguments determine it.
    """
    seed = hashlib.sha256(f"{image_id} crop {number}".encode()).digest()
    height, width, top, left = np.random.default_rng(list(seed)).uniform(size=4).tolist()
    height, width = 1 - (1 - LEAST_SIDE) * height, 1 - (1 - LEAST_SIDE) * width
    return Crop(top * (1 - height), left * (1 - width), height, width)


def mirror_sides(sides: Sides) -> Sides:
    """A box as seen in a mirror: left for right."""
    ymin, xmin, ymax, xmax = sides
    return ymin, 1 - xmax, ymax, 1 - xmin


def mirror_text(text: str, language: str = "en") -> str:
    """What a text says of the mirrored image: words for left and right change places.

    They are "left" and "right" in English, "links", "rechts" and the forms of "linke" and "rechte"
    in German. In other languages, `settings.MIRRORED` lacks them, nothing changes.
    """

    def swap(match: re.Match[str]) -> str:
        said = match[0].lower()
        other = next(b + said[len(a) :] for a, b in sides.items() if said.startswith(a))
        return other.capitalize() if match[0][0].isupper() else other

    if language not in _SIDES:
        return text
    pattern, sides = _SIDES[language]
    return pattern.sub(swap, text)


_SIDES = {
    "en": (re.compile(r"\b(left|right)\b", re.IGNORECASE), {"left": "right", "right": "left"}),
    "de": (
        re.compile(r"\b(links|rechts|(?:linke|rechte)[mnrs]?)\b", re.IGNORECASE),
        {"links": "rechts", "rechts": "links", "linke": "rechte", "rechte": "linke"},
    ),
}
