"""Cells and points against boxes, by hand and by counting pixels."""

import numpy as np
import pytest
from records import even

from show_attend_tell.evaluation.boxes import Places, box_cover, box_covers, points_inside

UNEVEN = Places(np.array([0.4, 0.8]), np.array([0.25, 0.75]))  # rows meet at 0.6


def test_box_cover_is_the_share_of_area():
    # A box over the left half and the upper three quarters of a 2 x 2 grid.
    np.testing.assert_allclose(box_cover([(0.0, 0.0, 0.75, 0.5)], even(2), even(2)), [1, 0, 0.5, 0])
    # Rows that look at 0.4 and 0.8 meet at 0.6: a quarter of the lower one is in the box.
    uneven = box_cover([(0.0, 0.0, 0.7, 0.5)], np.array([0.4, 0.8]), even(2))
    np.testing.assert_allclose(uneven, [1, 0, 0.25, 0])
    rng = np.random.default_rng(0)
    pixels = (np.arange(400) + 0.5) / 400
    for count in (1, 1, 1, 2, 3, 6):
        boxes, inside = [], np.zeros((400, 400), bool)
        for _ in range(count):
            ymin, ymax = np.sort(rng.uniform(-0.2, 1.2, 2))
            xmin, xmax = np.sort(rng.uniform(-0.2, 1.2, 2))
            boxes.append((ymin, xmin, ymax, xmax))
            inside |= np.outer((pixels > ymin) & (pixels < ymax), (pixels > xmin) & (pixels < xmax))
        counted = inside.reshape(4, 100, 5, 80).mean(axis=(1, 3)).ravel()
        cover = box_cover(boxes, even(4), even(5))
        np.testing.assert_allclose(cover, counted, atol=0.04)


def test_boxes_that_reach_out_of_the_picture_count_inside_it():
    # Without a cut at the edge the last row and column would have more than their area.
    cover = box_cover([(0.5, 0.5, 1.5, 1.5)], even(2), even(2))
    np.testing.assert_allclose(cover, [0, 0, 0, 1])
    cover = box_cover([(-0.5, -0.5, 0.25, 1.5)], even(2), even(2))
    np.testing.assert_allclose(cover, [0.5, 0.5, 0, 0])


def test_places_run_row_by_row():
    places = Places(np.array([0.1, 0.9]), np.array([0.2, 0.5, 0.8]))
    assert len(places) == 6
    expected = [(0.1, 0.2), (0.1, 0.5), (0.1, 0.8), (0.9, 0.2), (0.9, 0.5), (0.9, 0.8)]
    np.testing.assert_array_equal(places.centres, expected)


def test_covers_of_many_unions_by_hand():
    left = (0.0, 0.0, 0.6, 0.5)  # the first cell
    overlapping = (0.0, 0.25, 0.7, 0.75)  # half of the first row, an eighth of the second
    unions = [(left,), (left, overlapping), (overlapping,), (left,)]
    expected = [[1, 0, 0, 0], [1, 0.5, 0.125, 0.125], [0.5, 0.5, 0.125, 0.125], [1, 0, 0, 0]]
    np.testing.assert_allclose(box_covers(unions, UNEVEN), expected)


def test_covers_of_many_unions_are_those_of_each():
    rng = np.random.default_rng(0)
    places = Places(np.sort(rng.uniform(0.1, 0.9, 3)), np.sort(rng.uniform(0.1, 0.9, 4)))
    unions = []
    for count in [1, 1, 1, 1, 2, 3, 1]:
        ends = np.sort(rng.uniform(-0.2, 1.2, (count, 2, 2)), axis=1)
        unions.append(tuple(map(tuple, ends.reshape(count, 4).tolist())))
    expected = [box_cover(boxes, places.rows, places.columns) for boxes in unions]
    np.testing.assert_allclose(box_covers(unions, places), expected, atol=1e-12)
    assert box_covers([], places).shape == (0, 12)


@pytest.mark.parametrize(
    ("point", "inside"),
    [
        ((0.5, 0.5), True),
        ((0.25, 0.5), True),  # on an edge
        ((0.75, 0.75), True),  # on a corner
        ((0.75000001, 0.5), False),  # no tolerance
        ((0.5, 0.24999999), False),
        ((0.1, 0.95), True),  # in the second box, which is not square: rows and columns differ
        ((0.95, 0.1), False),
    ],
)
def test_edges_of_a_box_are_inside(point, inside):
    boxes = ((0.25, 0.25, 0.75, 0.75), (0.0, 0.9, 0.2, 1.0))
    # The neighbours have boxes that say the opposite.
    other = ((0.0, 0.0, 0.0, 0.0),) if inside else ((0.0, 0.0, 1.0, 1.0),) * 3
    points = np.array([point] * 3)
    found = points_inside(points, [other, boxes, other])
    assert found.tolist() == [not inside, inside, not inside]


def test_no_points_are_inside_no_boxes():
    assert points_inside(np.zeros((0, 2)), []).shape == (0,)
