"""How far a figure can be trusted: spread over seeds, bootstrap intervals and tests over images.

Intervals are percentile bootstraps over images (see `evaluation.resampling`). Differences are
tested by paired approximate randomisation (Noreen 1989; Riezler and Maxwell 2005), which swaps the
two sides' captions of random images. Both tell what other images would change, not what other seeds
would.

A table has one row for each of N images or sentences, and 16 columns: the ten counts behind BLEU
(see `scores.bleu_from_counts`), then the scores of single texts in the order of `MEANS`. A column
that a metric lacks is NaN. S sets of N images are resampled or swapped.
"""

from collections.abc import Mapping, Sequence
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
    "SPICE": "SPICE",
    "chrF": CHRF_MEAN,
}
COUNTS = 10  # columns of BLEU's counts
TESTED = ("BLEU-4", METEOR_MEAN, "CIDEr", CHRF_MEAN)
_NUMBERS_AT_ONCE = 2**24  # of swaps that are drawn; bounds the memory for large sets


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


def score_table(
    bleu_counts: Float[np.ndarray, "N 10"], per_image: Mapping[str, Float[np.ndarray, " N"]]
) -> Float[np.ndarray, "N 16"]:
    """The table of a set of texts.

    Args:
      bleu_counts: see `scores.bleu_from_counts`.
      per_image: scores of single texts by name; those that are not in `MEANS` are left out.
    """
    absent = np.full(len(bleu_counts), np.nan)
    return np.column_stack([bleu_counts, *(per_image.get(name, absent) for name in MEANS)])


def with_means(
    scores: Mapping[str, float | None], table: Float[np.ndarray, "N 16"]
) -> dict[str, float | None]:
    """The corpus scores, each followed by the mean that stands in for it, where there is one."""
    found: dict[str, float | None] = {}
    for name, value in scores.items():
        found[name] = value
        if MEANS.get(name, name) != name:
            mean = float(table[:, COUNTS + list(MEANS).index(name)].mean())
            found[MEANS[name]] = None if np.isnan(mean) else mean
    return found


def measure(sums: Float[np.ndarray, "S 16"], count: int) -> dict[str, Float[np.ndarray, " S"]]:
    """Corpus scores by name of S sets of `count` images, from the sums of their rows."""
    means = {name: sums[:, COUNTS + i] / count for i, name in enumerate(MEANS.values())}
    means = {name: values for name, values in means.items() if not np.isnan(values).any()}
    return bleu_from_sums(sums[:, :COUNTS]) | means


def bootstrap_intervals(
    tables: Sequence[Float[np.ndarray, "N 16"]], samples: int, seed: int
) -> list[dict[str, list[float]]]:
    """95 % percentile intervals of each table's scores, by name: [low, high].

    All tables are resampled with the same images.

    Args:
      tables: of the same N images.
      samples: number of resamples.
      seed: of the resamples.
    """
    return [_intervals(scores) for scores in _resampled(tables, samples, seed)]


def paired_intervals(
    tables: Sequence[Float[np.ndarray, "N 16"]], samples: int, seed: int
) -> tuple[list[dict[str, list[float]]], list[dict[str, list[float]]]]:
    """The intervals of `bootstrap_intervals`, and those of each later table minus the first."""
    first, *later = found = _resampled(tables, samples, seed)
    differences = [{n: v - first[n] for n, v in of.items() if n in first} for of in later]
    return [_intervals(scores) for scores in found], [_intervals(of) for of in differences]


def _resampled(
    tables: Sequence[Float[np.ndarray, "N 16"]], samples: int, seed: int
) -> list[dict[str, Float[np.ndarray, " S"]]]:
    sums = np.split(resampled_sums(np.hstack(tables), samples, seed), len(tables), axis=1)
    return [measure(of_table, len(tables[0])) for of_table in sums]


def _intervals(scores: Mapping[str, Float[np.ndarray, " S"]]) -> dict[str, list[float]]:
    return {name: interval(values) for name, values in scores.items()}


def randomisation_tests(
    pairs: Sequence[tuple[Float[np.ndarray, "N 16"], Float[np.ndarray, "N 16"]]],
    samples: int,
    seed: int,
    tested: Sequence[str] = TESTED,
) -> list[dict[str, dict[str, float]]]:
    """Tests whether two tables' scores differ by more than chance, for each pair of tables.

    Args:
      pairs: of tables of the same N images.
      samples: number of random swaps.
      seed: of the swaps, which all pairs share.
      tested: names of scores.

    Returns:
      For each pair, by name for the `tested` scores that both sides have: `difference`, first minus
      second, and the two-sided `p`: the share of swaps whose difference is at least as large. The
      order given counts as one of them, so p is never 0.
    """
    if not pairs:
        return []
    count = len(pairs[0][0])
    generator = np.random.default_rng([seed, 1])
    step = max(1, _NUMBERS_AT_ONCE // count)
    moved = []
    for begin in range(0, samples, step):
        size = (min(step, samples - begin), count)
        swapped = generator.integers(0, 2, size=size).astype(np.float64)
        moved.append([swapped @ (b - a) for a, b in pairs])
    return [
        _randomisation_test(a, b, np.concatenate(of_pair), tested)
        for (a, b), of_pair in zip(pairs, zip(*moved, strict=True), strict=True)
    ]


def _randomisation_test(
    a: Float[np.ndarray, "N 16"],
    b: Float[np.ndarray, "N 16"],
    moved: Float[np.ndarray, "S 16"],
    tested: Sequence[str],
) -> dict[str, dict[str, float]]:
    """The test of a pair; `moved` are the sums that each swap takes from one side to the other."""
    samples, count = len(moved), len(a)
    sums = [table.sum(axis=0, keepdims=True) for table in (a, b)]
    true = [measure(s, count) for s in sums]
    chance = measure(sums[0] + moved, count), measure(sums[1] - moved, count)
    found = {}
    for name in tested:
        if name in true[0] and name in true[1]:
            difference = float(true[0][name][0] - true[1][name][0])
            by_chance = np.abs(chance[0][name] - chance[1][name])
            # At least as large, up to rounding.
            extreme = int(np.sum(by_chance >= abs(difference) - 1e-12))
            found[name] = {"difference": difference, "p": (1 + extreme) / (1 + samples)}
    return found
