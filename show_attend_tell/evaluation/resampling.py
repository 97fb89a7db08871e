"""Percentile bootstrap over images: what a figure could have been on other images.

N images are drawn from N, with replacement, S times (Koehn 2004, "Statistical significance tests
for machine translation evaluation"). Figures of a set follow from sums over its images, so only
sums are drawn. Resample s has the same images for the same N and seed, which pairs differences.
"""

import numpy as np
from jaxtyping import Float

_DRAWN_AT_ONCE = 1000  # resamples; bounds the memory for large sets


def resampled_sums(
    table: Float[np.ndarray, "N C"], samples: int, seed: int
) -> Float[np.ndarray, "S C"]:
    """The sum of each column over the images of each resample.

    Args:
      table: one row for each image.
      samples: S, the number of resamples.
      seed: of the resamples.
    """
    count = len(table)
    generator = np.random.default_rng([seed, 0])
    sums = []
    for begin in range(0, samples, _DRAWN_AT_ONCE):
        size = min(_DRAWN_AT_ONCE, samples - begin)
        # How often each resample draws each image.
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=size)
        sums.append(drawn.astype(np.float64) @ table)
    return np.concatenate(sums)


def interval(values: Float[np.ndarray, " S"]) -> list[float]:
    """The 95 % percentile interval of a statistic's S resampled values: [low, high]."""
    return np.quantile(values, [0.025, 0.975]).tolist()
