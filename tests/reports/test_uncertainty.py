"""Spread over seeds, bootstrap intervals and randomisation tests, against values by hand."""

import math

import numpy as np
import pytest

from show_attend_tell.evaluation.scores import bleu_from_counts
from show_attend_tell.reports import uncertainty
from show_attend_tell.reports.uncertainty import (
    COUNTS,
    MEANS,
    bootstrap_intervals,
    measure,
    over_seeds,
    randomisation_tests,
)


def table(cider, counts=None) -> np.ndarray:
    """A table of which CIDEr is known, and BLEU's counts where they are given."""
    made = np.full((len(cider), COUNTS + len(MEANS)), np.nan)
    made[:, :COUNTS] = 1 if counts is None else counts
    made[:, COUNTS + list(MEANS).index("CIDEr")] = cider
    return made


def test_mean_and_sample_deviation_over_seeds():
    assert over_seeds([1.0, 3.0]) == {"mean": 2, "std": math.sqrt(2), "values": [1, 3]}
    assert over_seeds([1.0]) == {"mean": 1, "std": None, "values": [1]}
    assert over_seeds([1.0, None]) == {"mean": None, "std": None, "values": [1, None]}
    assert over_seeds([])["mean"] is None


def test_scores_of_sums_are_those_of_the_corpus():
    counts = np.array([[5, 4, 5, 3, 1, 0, 5, 4, 3, 2], [7, 8, 6, 4, 3, 2, 7, 6, 5, 4]])
    found = measure(table([0.5, 1.5], counts).sum(axis=0, keepdims=True), 2)
    assert found["CIDEr"] == 1 and "ROUGE-L" not in found
    for name, value in bleu_from_counts(counts).items():
        assert found[name] == pytest.approx(value)


def test_an_interval_spans_the_middle_95_percent():
    # Of one image in four: the mean of a resample is binomial(4, 1/4) / 4, of which 0.4 % are over
    # 3/4, 5.1 % over 1/2 and 68.4 % over 0.
    [found] = bootstrap_intervals([table([1, 0, 0, 0])], 20000, seed=0)
    assert found["CIDEr"] == [0, 0.75]
    generator = np.random.default_rng(1)
    cider = generator.normal(size=400)
    [found] = bootstrap_intervals([table(cider)], 4000, seed=0)
    half = 1.96 * cider.std() / 20
    assert found["CIDEr"] == pytest.approx([cider.mean() - half, cider.mean() + half], abs=0.01)


def test_resamples_are_shared_and_seeded():
    cider = np.random.default_rng(2).normal(size=30)
    a, b = bootstrap_intervals([table(cider), table(cider + 1)], 50, seed=3)
    assert np.subtract(b["CIDEr"], a["CIDEr"]) == pytest.approx([1, 1])
    [again] = bootstrap_intervals([table(cider)], 50, seed=3)
    [other] = bootstrap_intervals([table(cider)], 50, seed=4)
    assert again == a != other


def test_p_counts_the_true_order_and_both_signs():
    a, b = table(np.ones(30)), table(np.zeros(30))
    [one, other, same] = randomisation_tests([(a, b), (b, a), (a, a)], 99, seed=0)
    # No swap by chance is as one-sided as the truth.
    assert one["CIDEr"] == {"difference": 1, "p": 1 / 100}
    assert other["CIDEr"] == {"difference": -1, "p": 1 / 100}
    assert same["CIDEr"] == {"difference": 0, "p": 1}
    # Two images: every swap gives 1, 0 or -1, and half of them 1 or -1, as the truth has.
    [two] = randomisation_tests([(table([1, 1]), table([0, 0]))], 20000, seed=0)
    assert two["CIDEr"]["p"] == pytest.approx(0.5, abs=0.02)
    assert randomisation_tests([], 10, seed=0) == []


def test_swaps_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    generator = np.random.default_rng(5)
    pair = table(generator.normal(size=37)), table(generator.normal(size=37))
    whole = randomisation_tests([pair], 200, seed=0)
    monkeypatch.setattr(uncertainty, "_NUMBERS_AT_ONCE", 37 * 7)
    assert randomisation_tests([pair], 200, seed=0) == whole
