"""Generated pictures with a photograph's statistics: things in front of things, at all scales."""

import numpy as np
from jaxtyping import UInt8


def pictures_like_photographs(count: int, size: int, seed: int = 0) -> UInt8[np.ndarray, "N S S 3"]:
    """Dead leaves: discs of random colours that cover each other, with radii r of density r^-3.

    Their edges and spectrum are like those of natural images (Lee, Mumford and Huang 2001).
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    pictures = np.empty((count, size, size, 3), np.uint8)
    for picture in pictures:
        picture[:] = rng.integers(0, 256, 3)
        least, most = size / 40, size / 2
        radii = (rng.uniform(most**-2, least**-2, 400)) ** -0.5
        for radius, (top, left) in zip(radii, rng.uniform(0, size, (400, 2)), strict=True):
            inside = (y - top) ** 2 + (x - left) ** 2 < radius**2
            picture[inside] = rng.integers(0, 256, 3)
    return pictures
