"""The bootstrap against the distribution that it samples."""

import numpy as np
import pytest

from show_attend_tell.evaluation.resampling import interval, resampled_sums


def test_each_resample_draws_as_many_images_as_there_are():
    table = np.stack([np.ones(7), np.arange(7.0)], axis=1)
    sums = resampled_sums(table, 2500, seed=0)
    assert sums.shape == (2500, 2) and np.all(sums[:, 0] == 7)
    # The sum of 7 draws from 0 .. 6 has mean 21 and variance 7 * 4.
    assert sums[:, 1].mean() == pytest.approx(21, abs=0.5)
    assert sums[:, 1].std() == pytest.approx(28**0.5, rel=0.05)


def test_no_resample_comes_twice_in_a_row_of_parts():
    sums = resampled_sums(np.random.default_rng(0).normal(size=(40, 1)), 3000, seed=0)
    assert len(np.unique(sums)) == 3000


def test_resamples_depend_on_the_seed_only():
    table = np.random.default_rng(0).normal(size=(9, 3))
    first = resampled_sums(table, 1200, seed=1)
    # Columns share their images, whatever stands beside them.
    np.testing.assert_allclose(resampled_sums(table[:, 1:2], 1200, seed=1), first[:, 1:2])
    assert not np.allclose(resampled_sums(table, 1200, seed=2), first)


def test_an_interval_leaves_out_a_fortieth_on_each_side():
    assert interval(np.arange(1001.0)) == [25, 975]
