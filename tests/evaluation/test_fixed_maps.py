"""Mean box maps by hand."""

import numpy as np
import pytest
from records import even

from show_attend_tell.evaluation import fixed_maps
from show_attend_tell.evaluation.boxes import Places
from show_attend_tell.evaluation.fixed_maps import mean_box_maps
from show_attend_tell.evaluation.mentions import Mention

PLACES = Places(even(1), even(4))  # four columns


def said(noun, *spans):
    """A mention whose boxes are these spans of columns, over the whole height."""
    boxes = tuple((0.0, begin / 4, 1.0, end / 4) for begin, end in spans)
    return Mention("a", (), noun, boxes)


MENTIONS = [
    said("dog", (0, 1)),
    said("sky", (0, 4)),
    said("dog", (0, 1.5), (1, 2)),  # the union covers the first two
    said("cat", (3, 3.5)),
    said("dog", (0, 1)),
]


def test_mean_box_maps_by_hand():
    maps = mean_box_maps(MENTIONS, PLACES, least=3)
    np.testing.assert_allclose(maps.overall, [4 / 5, 2 / 5, 1 / 5, 1.5 / 5])
    assert list(maps.by_noun) == ["dog"]
    np.testing.assert_allclose(maps.by_noun["dog"], [1, 1 / 3, 0, 0])


def test_rare_and_unseen_nouns_use_the_overall_map():
    maps = mean_box_maps(MENTIONS, PLACES, least=3)
    dog, cat, unseen, again = maps.of_nouns(["dog", "cat", "horse", "dog"])
    np.testing.assert_array_equal(dog, maps.by_noun["dog"])
    np.testing.assert_array_equal(again, dog)
    np.testing.assert_array_equal(cat, maps.overall)
    np.testing.assert_array_equal(unseen, maps.overall)
    assert set(mean_box_maps(MENTIONS, PLACES, least=1).by_noun) == {"dog", "cat", "sky"}
    assert mean_box_maps(MENTIONS, PLACES).by_noun == {}


def test_maps_of_large_splits_are_summed_in_parts(monkeypatch):
    whole = mean_box_maps(MENTIONS, PLACES, least=1)
    monkeypatch.setattr(fixed_maps, "_AT_ONCE", 2)
    parts = mean_box_maps(MENTIONS, PLACES, least=1)
    np.testing.assert_allclose(parts.overall, whole.overall)
    for noun, expected in whole.by_noun.items():
        np.testing.assert_allclose(parts.by_noun[noun], expected)


def test_no_mentions_have_no_mean():
    with pytest.raises(ValueError, match="no mentions"):
        mean_box_maps([], PLACES)
