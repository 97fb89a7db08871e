"""Mirrored and cropped boxes, worked out by hand."""

import pytest

from show_attend_tell.data.copies import Crop, draw_crop, mirror_sides, mirror_text
from show_attend_tell.data.examples import Box, Example
from show_attend_tell.data.phrases import Description, Phrase


@pytest.mark.parametrize(
    "sides, cut",
    [
        ((0.25, 0.5, 0.75, 1.0), (0.0, 0.5, 1.0, 1.0)),  # of its rows, the middle half is seen
        ((0.375, 0.125, 0.5, 0.25), (0.25, 0.125, 0.5, 0.25)),
        ((0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 0.5, 0.5)),  # cut above
        ((0.5, 0.75, 1.0, 1.0), (0.5, 0.75, 1.0, 1.0)),  # cut below
        ((0.0, 0.0, 0.25, 1.0), None),  # touches it only
        ((0.8, 0.0, 0.9, 1.0), None),
        ((0.5, 0.5, 0.5, 0.75), None),  # of no area
    ],
)
def test_boxes_in_a_crop(sides, cut):
    crop = Crop(0.25, 0.0, 0.5, 1.0)
    assert crop.window == (0.25, 0.0, 0.75, 1.0)
    assert crop.cut(sides) == cut
    turned = Crop(0.0, 0.25, 1.0, 0.5)
    across = None if cut is None else (cut[1], cut[0], cut[3], cut[2])
    assert turned.cut((sides[1], sides[0], sides[3], sides[2])) == across


def test_a_mirrored_box_keeps_its_rows_and_its_width():
    assert mirror_sides((0.25, 0.125, 0.5, 0.25)) == (0.25, 0.75, 0.5, 0.875)
    assert mirror_text("Left of the right hand, leftovers") == "Right of the left hand, leftovers"


def test_boxes_of_nouns_are_phrases_of_the_first_caption():
    corner, edge = (0.0, 0.0, 0.5, 0.5), (0.0, 0.5, 1.0, 1.0)
    boxes = (Box("cats", 3, *corner), Box("dog", 1, *edge), Box("cats", 3, *edge))
    example = Example("a.jpg", b"", ("a dog  above cats", "two cats"), boxes)
    dog, cats = (
        Phrase(1, 1, "1", ("object",), (edge,)),
        Phrase(3, 3, "3", ("object",), (corner, edge)),
    )
    assert example.description() == Description("a dog above cats", (dog, cats), 0)
    # Boxes with no more than a class say nothing of words.
    of_class = Example("a.jpg", b"", ("a dog",), (Box("dog", -1, *corner),))
    assert of_class.description() is None and Example("a.jpg", b"", (), ()).description() is None


def test_an_example_is_cropped_where_its_id_and_number_say():
    box = Box("dog", 1, 0.5, 0.5, 0.625, 0.75)
    example = Example("a.jpg", b"", ("A dog .",), (box,))
    crop = draw_crop("a.jpg", 2)
    assert example.crop(2).window == crop.window
    assert example.crop(2).boxes[0].sides == crop.cut(box.sides)
    assert crop not in (draw_crop("a.jpg", 1), draw_crop("b.jpg", 2))
    # Features that were cached by earlier versions are of this very window.
    window = (0.03416389024725147, 0.09031229693284115, 0.9828445757876196, 0.8599414845198088)
    assert crop.window == pytest.approx(window, abs=1e-15)
