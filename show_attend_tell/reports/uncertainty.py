"""How far a figure can be trusted: spread over seeds, bootstrap intervals and tests over images.

Intervals are percentile bootstraps over images (see `evaluation.resampling`). Differences are
tested by paired approximate randomisation (Noreen 1989; Riezler and Maxwell 2005), which swaps the
two sides' captions of random images. Both tell what other images would change, not what other seeds
would.

A table has one row for each of N images or sentences, and 15 columns: the ten counts behind BLEU
(see `scores.bleu_from_counts`), then the scores of single texts in the order of `MEANS`. A column
that a metric lacks is NaN. S sets of N images are resampled or swapped.
"""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
from jaxtyping import Float

from show_attend_tell.evaluation.resampling import interval, resampled_sums
from show_attend_tell.evaluation.scores import bleu_from_sums

# METEOR and chrF of a corpus are no means, so no cheap resample of them exists. The means of the
# single scores stand in for them.
METEOR_MEAN = "METEOR, image mean"
CHRF_MEAN = "chrF, sentence mean"
# Scores of single texts that are averaged, and the name of their mean.
MEANS = {
    "METEOR": METEOR_MEAN,
    "ROUGE-L": "ROUGE-L",
    "CIDEr": "CIDEr",
    "exact": "exact",
    "chrF": CHRF_MEAN,
}
COUNTS = 10  # columns of BLEU's counts
TESTED = ("BLEU-4", METEOR_MEAN, "CIDEr", CHRF_MEAN)


def over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation; both None if a value is, the latter for one value, too.

    Returns:
      A dict that JSON can hold: `mean`, `std` and the `values`.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return {"mean": None, "std": None, "values": list(values)}
    return {
        "mean": fmean(known),
        "std": stdev(known) if len(known) > 1 else None,
        "values": known,
    }


def measure(sums: Float[np.ndarray, "S 15"], count: int) -> dict[str, Float[np.ndarray, " S"]]:
    """Corpus scores by name of S sets of `count` images, from the sums of their rows."""
    means = {name: sums[:, COUNTS + i] / count for i, name in enumerate(MEANS.values())}
    means = {name: values for name, values in means.items() if not np.isnan(values).any()}
    return bleu_from_sums(sums[:, :COUNTS]) | means


def bootstrap_intervals(
    tables: Sequence[Float[np.ndarray, "N 15"]], samples: int, seed: int
) -> list[dict[str, list[float]]]:
    """95 % percentile intervals of each table's scores, by name: [low, high].

    All tables are resampled with the same images.

    Args:
      tables: of the same N images.
      samples: number of resamples.
      seed: of the resamples.
    """
    count = len(tables[0])
    sums = np.split(resampled_sums(np.hstack(tables), samples, seed), len(tables), axis=1)
    return [
        {name: interval(values) for name, values in measure(of_table, count).items()}
        for of_table in sums
    ]


def randomisation_tests(
    pairs: Sequence[tuple[Float[np.ndarray, "N 15"], Float[np.ndarray, "N 15"]]],
    samples: int,
    seed: int,
) -> list[dict[str, dict[str, float]]]:
    """Tests whether two tables' scores differ by more than chance, for each pair of tables.

    Args:
      pairs: of tables of the same N images.
      samples: number of random swaps.
      seed: of the swaps, which all pairs share.

    Returns:
      For each pair, by name for the `TESTED` scores that both sides have: `difference`, first minus
      second, and the two-sided `p`: the share of swaps whose difference is at least as large. The
      order given counts as one of them, so p is never 0.
    """
    if not pairs:
        return []
    count = len(pairs[0][0])
    generator = np.random.default_rng([seed, 1])
    swapped = generator.integers(0, 2, size=(samples, count)).astype(np.float64)
    return [_randomisation_test(a, b, swapped) for a, b in pairs]


def _randomisation_test(
    a: Float[np.ndarray, "N 15"], b: Float[np.ndarray, "N 15"], swapped: Float[np.ndarray, "S N"]
) -> dict[str, dict[str, float]]:
    samples, count = swapped.shape
    moved = swapped @ (b - a)
    sums = [table.sum(axis=0, keepdims=True) for table in (a, b)]
    true = [measure(s, count) for s in sums]
    chance = measure(sums[0] + moved, count), measure(sums[1] - moved, count)
    found = {}
    for name in TESTED:
        if name in true[0] and name in true[1]:
            difference = float(true[0][name][0] - true[1][name][0])
            by_chance = np.abs(chance[0][name] - chance[1][name])
            # At least as large, up to rounding.
            extreme = int(np.sum(by_chance >= abs(difference) - 1e-12))
            found[name] = {"difference": difference, "p": (1 + extreme) / (1 + samples)}
    return found
