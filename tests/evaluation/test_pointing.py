"""Pointing game, share in the boxes and their intervals on made-up maps with known answers."""

import json

import numpy as np
import pytest
from records import even

from show_attend_tell.evaluation.boxes import Places
from show_attend_tell.evaluation.fixed_maps import FixedMaps
from show_attend_tell.evaluation.mentions import Mention
from show_attend_tell.evaluation.pointing import (
    measure,
    other_images,
    summarise,
    without_null,
)

QUARTERS = Places(even(2), even(2))  # centres at 0.25 and 0.75
TOP_LEFT, RIGHT = (0.0, 0.0, 0.5, 0.5), (0.0, 0.5, 1.0, 1.0)
HALF = [0.5, 0.25, 0.25, 0.0]


def said(*boxes, image="a", kinds=(), noun="dog"):
    return Mention(image, kinds, noun, boxes or (TOP_LEFT,))


def one(alpha, *boxes, places=QUARTERS):
    """(pointing, in_box) of one map over one mention."""
    figures = measure([said(*boxes)], places, np.array([alpha], np.float32))
    return figures["prior"]["pointing"].item(), figures["prior"]["in_box"].item()


def test_measures_by_hand():
    assert one(HALF, TOP_LEFT) == (1, 0.5)
    assert one(HALF, RIGHT) == (0, 0.25)
    assert one(HALF, TOP_LEFT, RIGHT) == (1, 0.75)
    # The box holds the upper half of the first cell and less than its centre.
    assert one(HALF, (0.0, 0.0, 0.2, 0.5)) == (0, pytest.approx(0.5 * 0.4))


def test_overlapping_boxes_count_once():
    assert one(HALF, TOP_LEFT, (0.0, 0.0, 0.5, 0.25), TOP_LEFT) == (1, 0.5)


def test_the_first_of_equal_maxima_points():
    tie = [0.1, 0.4, 0.4, 0.1]
    assert one(tie, (0.0, 0.5, 0.5, 1.0))[0] == 1
    assert one(tie, (0.5, 0.0, 1.0, 0.5))[0] == 0


def test_the_edge_of_a_box_is_inside():
    assert one(HALF, (0.25, 0.25, 0.3, 0.3))[0] == 1
    assert one(HALF, (0.0, 0.0, 0.25, 0.25))[0] == 1
    assert one(HALF, (0.250001, 0.0, 1.0, 1.0))[0] == 0


def test_centres_are_the_places_own():
    # Rows at 0.4 and 0.8 meet at 0.6; the cells' middles, 0.3 and 0.8, do not count.
    uneven = Places(np.array([0.4, 0.8]), np.array([0.5]))
    assert one([0.7, 0.3], (0.35, 0.0, 0.7, 1.0), places=uneven) == (
        1,
        pytest.approx(0.7 * 0.25 / 0.6 + 0.3 * 0.25),
    )
    assert one([0.7, 0.3], (0.0, 0.0, 0.35, 1.0), places=uneven)[0] == 0


def test_a_null_place_is_left_out_and_reported():
    weights = np.array([[0.2, 0.1, 0.1, 0.0], HALF, [0, 0, 0, 0]])
    maps, null_share = without_null(weights)
    np.testing.assert_allclose(maps, [HALF, HALF, [0.25] * 4])
    np.testing.assert_allclose(null_share, [0.6, 0, 1])
    figures = measure([said()] * 3, QUARTERS, weights, posterior=weights[[1, 1, 1]])
    np.testing.assert_allclose(figures["prior"]["in_box"], [0.5, 0.5, 0.25])
    summary = summarise([said()] * 3, figures, samples=10)
    assert summary["prior"]["null_share"] == pytest.approx(1.6 / 3)
    assert summary["posterior"]["null_share"] == 0
    windowed = measure([said()] * 3, QUARTERS, weights, null_place=False)
    assert summarise([said()] * 3, windowed)["prior"]["null_share"] == 0


def test_rounding_is_no_null_place():
    _, null_share = without_null(np.array([[0.9995, 0], [1.002, 0], [0.99, 0]], np.float32))
    np.testing.assert_allclose(null_share, [0, 0, 0.01], atol=1e-6)


@pytest.mark.parametrize("row", [[-0.1, 1.1], [0.6, 0.6], [np.nan, 0.5]])
def test_what_is_no_map_is_rejected(row):
    with pytest.raises(ValueError, match="a map has"):
        without_null(np.array([[0.5, 0.5], row]))


def test_baselines_by_hand():
    mentions = [
        said(TOP_LEFT, noun="dog"),  # the middle is its corner
        said((0.0, 0.6, 1.0, 1.0), noun="dog"),
        said((0.5, 0.0, 1.0, 0.4), noun="sky"),
    ]
    fixed_maps = FixedMaps(np.array([0.1, 0.2, 0.0, 0.1]), {"sky": np.array([0.0, 0.0, 0.8, 0.8])})
    prior = np.array([HALF] * 3)
    figures = measure(mentions, QUARTERS, prior, fixed_maps=fixed_maps)
    assert "posterior" not in figures and "other_image" not in figures
    expected = {
        ("uniform", "in_box"): [1 / 4, 0.8 / 2, 0.8 / 4],
        ("middle", "pointing"): [1, 0, 0],
        ("fixed_map", "pointing"): [0, 1, 0],  # the second place
        ("fixed_map", "in_box"): [1 / 4, 0.75 * 0.8, 0],
        ("fixed_map_per_noun", "pointing"): [0, 1, 1],  # the third place for "sky"
        ("fixed_map_per_noun", "in_box"): [1 / 4, 0.75 * 0.8, 0.8 / 2],
    }
    for (name, of), values in expected.items():
        np.testing.assert_allclose(figures[name][of], values, err_msg=f"{name} {of}")
    without = measure(mentions, QUARTERS, prior)
    assert set(without) == {"prior", "middle", "uniform"}


def test_the_middle_is_a_point():
    mentions = [said((0.49, 0.49, 0.51, 0.51)), said((0.0, 0.0, 0.49, 1.0)), said(TOP_LEFT)]
    figures = measure(mentions, QUARTERS, np.array([HALF] * 3))
    assert figures["middle"]["pointing"].tolist() == [1, 0, 1]


def test_each_map_is_measured_under_its_own_name():
    right, lower = np.array([[0, 1, 0, 0]]), np.array([[0, 0, 0.25, 0.75]])
    figures = measure([said(RIGHT)], QUARTERS, np.array([HALF]), right * 1.0, lower)
    assert [figures[name]["in_box"].item() for name in ("prior", "posterior", "other_image")] == [
        0.25,
        1,
        0.75,
    ]


def test_another_image_is_never_the_same():
    names = [f"{k}.jpg" for k in range(50)]
    pairs = other_images([*names, *names], seed=0)
    assert list(pairs) == names and sorted(pairs.values()) == sorted(names)
    assert all(image != other for image, other in pairs.items())
    assert other_images(names, seed=0) == pairs != other_images(names, seed=1)
    assert other_images(["a", "b"], seed=3) == {"a": "b", "b": "a"}
    with pytest.raises(ValueError, match="at least two images"):
        other_images(["a", "a"], seed=0)


def test_means_are_over_mentions_and_by_kind():
    mentions = [
        said(image="a", kinds=("people",)),
        said(image="a", kinds=("animals", "people")),
        said(RIGHT, image="b", kinds=("animals",)),
        said(image="b"),
        said(image="b", kinds=("people",)),
    ]
    alpha = np.array([HALF, [0.1, 0.9, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    summary = summarise(mentions, measure(mentions, QUARTERS, alpha), samples=20)
    assert (summary["mentions"], summary["images"]) == (5, 2)
    assert summary["prior"] == {
        "pointing": pytest.approx(3 / 5),
        "in_box": pytest.approx((0.5 + 0.1 + 1 + 1 + 0) / 5),
        "null_share": 0,
    }
    people, animals = summary["kinds"]["people"], summary["kinds"]["animals"]
    assert list(summary["kinds"]) == ["people", "animals"]  # the most frequent first
    assert (people["mentions"], people["images"]) == (3, 2)
    assert people["prior"]["in_box"] == pytest.approx(0.6 / 3)
    assert people["prior"]["pointing"] == pytest.approx(1 / 3)
    assert (animals["mentions"], animals["images"]) == (2, 2)
    assert animals["prior"]["in_box"] == pytest.approx(1.1 / 2)
    assert animals["uniform"] == {"in_box": pytest.approx(0.75 / 2)}


def test_whole_images_are_resampled():
    # One image with one mention inside, one with three outside: a resample has the first image
    # twice (mean 1), both (mean 1/4) or the second twice (mean 0), with 1/4, 1/2 and 1/4.
    mentions = [said(image="a"), *[said(RIGHT, image="b")] * 3]
    alpha = np.array([[1.0, 0, 0, 0]] * 4)
    figures = measure(mentions, QUARTERS, alpha)
    summary = summarise(mentions, figures, samples=2000)
    assert summary["prior"]["in_box"] == 0.25
    assert summary["intervals"]["prior"]["in_box"] == [0, 1]
    # With images of 39 mentions each the images matter, not their number of mentions.
    many = [said(image=str(k % 2)) for k in range(78)]
    figures = {"prior": {"pointing": np.array([k % 2 for k in range(78)], float)}}
    assert summarise(many, figures, samples=2000)["intervals"]["prior"]["pointing"] == [0, 1]


def test_the_interval_of_a_mean_is_that_of_its_distribution():
    generator = np.random.default_rng(1)
    values = generator.normal(size=400)
    mentions = [said(image=str(k)) for k in range(400)]
    summary = summarise(mentions, {"prior": {"in_box": values}}, samples=4000)
    half = 1.96 * values.std() / 20
    expected = [values.mean() - half, values.mean() + half]
    assert summary["intervals"]["prior"]["in_box"] == pytest.approx(expected, abs=0.01)


def test_the_interval_of_a_constant_is_a_point():
    mentions = [said(image=image) for image in "aabcdddd"]
    summary = summarise(mentions, {"uniform": {"in_box": np.full(8, 0.3)}}, samples=200)
    assert summary["intervals"]["uniform"]["in_box"] == pytest.approx([0.3, 0.3], abs=1e-12)


def test_differences_are_paired():
    generator = np.random.default_rng(0)
    mentions = [said(image=str(k % 30)) for k in range(90)]
    alpha = generator.dirichlet(np.ones(4), 90)
    fixed_maps = FixedMaps(np.array([0.0, 1, 0, 0]), {})
    figures = measure(mentions, QUARTERS, alpha, alpha, np.roll(alpha, 1, axis=0), fixed_maps)
    summary = summarise(mentions, figures, samples=300)
    differences, intervals = summary["differences"], summary["intervals"]
    # Equal maps differ by exactly nothing on all images, however uncertain each of them is.
    assert differences["posterior_minus_prior"] == {"pointing": 0, "in_box": 0}
    assert intervals["posterior_minus_prior"] == {"pointing": [0, 0], "in_box": [0, 0]}
    assert intervals["prior"]["in_box"][1] - intervals["prior"]["in_box"][0] > 0.05
    assert differences["prior_minus_middle"] == {
        "pointing": pytest.approx(summary["prior"]["pointing"] - 1)
    }
    for other in ("fixed_map", "other_image"):
        expected = summary["prior"]["in_box"] - summary[other]["in_box"]
        assert differences[f"prior_minus_{other}"]["in_box"] == pytest.approx(expected)
        low, high = intervals[f"prior_minus_{other}"]["in_box"]
        assert low < expected < high
    # The fixed map lies outside of every box, so the difference is the prior, draw for draw.
    assert intervals["prior_minus_fixed_map"]["in_box"] == pytest.approx(
        intervals["prior"]["in_box"]
    )


def test_a_rare_kind_has_the_interval_of_the_resamples_that_have_it():
    mentions = [said(image=str(k), kinds=("rare",) if k == 0 else ()) for k in range(5)]
    summary = summarise(mentions, {"prior": {"in_box": np.arange(2.0, 7)}}, samples=200)
    rare = summary["kinds"]["rare"]
    assert rare["intervals"]["prior"]["in_box"] == [2, 2] and rare["images"] == 1


def test_summaries_are_seeded_and_json():
    generator = np.random.default_rng(0)
    mentions = [said(image=str(k), kinds=("other",)) for k in range(20)]
    figures = measure(mentions, QUARTERS, generator.dirichlet(np.ones(4), 20))
    first = summarise(mentions, figures, samples=50, seed=1)
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert first == summarise(mentions, figures, samples=50, seed=1)
    other = summarise(mentions, figures, samples=50, seed=2)
    assert other["prior"] == first["prior"] and other["intervals"] != first["intervals"]
    assert first["posterior"] is None and (first["samples"], first["seed"]) == (50, 1)


def test_nothing_measured_has_no_means():
    summary = summarise([], measure([], QUARTERS, np.zeros((0, 4))), samples=10)
    assert (summary["mentions"], summary["images"], summary["kinds"]) == (0, 0, {})
    assert summary["prior"] == {"pointing": None, "in_box": None, "null_share": None}
    assert summary["intervals"]["prior"]["in_box"] is None
