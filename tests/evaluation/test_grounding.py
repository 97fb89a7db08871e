"""Statistics of attention against values worked out by hand."""

import json
import math

import numpy as np
import pytest
from records import ONE, TWO, UNIFORM, record, sentence

from show_attend_tell.data.examples import Box
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.grounding import (
    attention_statistics,
    steps_naming,
    write_statistics,
)


def test_entropy_change_and_beta_by_hand():
    statistics = attention_statistics([record([ONE, TWO, UNIFORM]), record([UNIFORM, UNIFORM])])
    # Entropies 0, 0, log 4, log 4, log 4; changes 1, 3/4, 0 within captions, none across them.
    assert statistics["mean_entropy"] == pytest.approx(3 * math.log(4) / 5)
    assert statistics["uniform_entropy"] == pytest.approx(math.log(4))
    assert statistics["effective_patches"] == pytest.approx(4 ** (3 / 5))
    assert statistics["mean_change"] == pytest.approx(1.75 / 3)
    assert (statistics["pairs"], statistics["steps"], statistics["images"]) == (3, 5, 2)
    assert statistics["mean_beta"] == pytest.approx(0.25)
    assert statistics["static_maps"] is False and statistics["warnings"] == []
    assert statistics["objects"] is None


def test_maps_that_never_move_are_warned_of():
    statistics = attention_statistics([record([UNIFORM] * 3)])
    assert statistics["static_maps"] is True
    assert "maps never move" in statistics["warnings"][0]


def test_statistics_are_json(tmp_path):
    write_statistics(tmp_path / "s.json", attention_statistics([record([ONE])]))
    stored = json.loads((tmp_path / "s.json").read_text())
    assert stored["mean_change"] is None and stored["static_maps"] is None
    assert stored["centres"] == "measured"
    with pytest.raises(UserError, match="no captions"):
        attention_statistics([])


def test_statistics_say_whether_centres_were_measured():
    measured, computed = record([ONE]), record([ONE], centres="computed")
    assert attention_statistics([computed, computed])["centres"] == "computed"
    assert attention_statistics([measured, computed])["centres"] == "both"


def test_attention_in_the_named_box_by_hand():
    cells = 16
    alpha = np.zeros((3, cells), np.float32)
    alpha[0] = 1 / cells
    alpha[1, 0], alpha[1, 5], alpha[1, 15] = 0.5, 0.3, 0.2  # cells (0, 0), (1, 1), (3, 3)
    alpha[2, 2] = 1
    boxes = (
        Box("circle", 1, 0.0, 0.0, 0.25, 0.25),  # cell (0, 0); grown: rows and columns 0 and 1
        Box("square", 5, 0.5, 0.5, 1.0, 1.0),  # never said
    )
    made = record(alpha, ("a", "circle", "<eos>"), (4, 4), boxes=boxes)
    objects = attention_statistics([made])["objects"]
    assert objects == {
        "matched": 1,
        "unmatched": 1,
        "in_box": pytest.approx(0.5),
        "in_grown_box": pytest.approx(0.8),
        "uniform_in_box": pytest.approx(1 / 16),
        "uniform_in_grown_box": pytest.approx(4 / 16),
    }


def test_attention_in_the_union_of_a_class_by_hand():
    alpha = np.full((5, 16), 1 / 16, np.float32)
    alpha[1] = 0
    alpha[1, 0], alpha[1, 3], alpha[1, 9] = 0.5, 0.25, 0.25  # cells (0, 0), (0, 3), (2, 1)
    boxes = (
        Box("person", -1, 0.0, 0.0, 0.25, 0.25),  # cell (0, 0)
        Box("person", -1, 0.0, 0.0, 0.25, 0.125),  # half of it again
        Box("person", -1, 0.0, 0.75, 0.25, 1.0),  # cell (0, 3)
        Box("hot dog", -1, 0.5, 0.5, 1.0, 1.0),  # never said
        Box("person", 9, 0.0, 0.0, 1.0, 1.0),  # of a known place, which the caption does not reach
    )
    made = record(alpha, ("two", "women", "see", "people", "<eos>"), (4, 4), boxes=boxes)
    objects = attention_statistics([made])["objects"]
    assert objects == {
        "matched": 2,
        "unmatched": 2,
        "in_box": pytest.approx((0.75 + 2 / 16) / 2),
        "in_grown_box": pytest.approx((0.75 + 8 / 16) / 2),
        "uniform_in_box": pytest.approx(2 / 16),
        "uniform_in_grown_box": pytest.approx(8 / 16),
    }


def test_an_object_is_named_by_the_last_piece_of_its_word():
    sides = 0.0, 0.0, 1.0, 1.0
    boxes = Box("person", -1, *sides), Box("circle", 3, *sides), Box("circle", 2, *sides)
    tokens = ("▁Two", "▁wo", "men", "▁see", "▁cir", "cle", ".", "<eos>")
    made = record([[1 / 4] * 4] * 8, tokens, (2, 2), boxes=boxes)
    assert [steps_naming(made, box) for box in boxes] == [[2], [5], []]


def test_entropy_of_weights_that_a_window_lowers_is_that_of_their_shares():
    made = sentence(
        [[0.2, 0.2, 0], [0.1, 0.1, 0.1]], ("a", "b", "<eos>"), ("x", "y"), normalised=False
    )
    statistics = attention_statistics([made])
    assert statistics["mean_entropy"] == pytest.approx((math.log(2) + math.log(3)) / 2)


def test_sentences_have_no_one_grid_and_each_its_own_uniform_entropy():
    short = sentence([[1, 0]], ("a", "<eos>"), ("x",))
    long = sentence([UNIFORM] * 3, ("a", "b", "c", "<eos>"), ("x", "y", "z"))
    statistics = attention_statistics([short, long])
    assert statistics["grid"] is None and statistics["objects"] is None
    assert statistics["uniform_entropy"] == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)
    with pytest.raises(ValueError, match="different grids"):
        attention_statistics([record([ONE]), record([[1]], grid=(1, 1))])


def test_a_box_grows_by_a_cell_of_either_side():
    # On 2 x 4 cells the first cell grows by half the height and a quarter of the width.
    made = record([[1 / 8] * 8], ("dog",), (2, 4), boxes=(Box("dog", 0, 0.0, 0.0, 0.5, 0.25),))
    objects = attention_statistics([made])["objects"]
    assert objects["uniform_in_box"] == pytest.approx(1 / 8)
    assert objects["uniform_in_grown_box"] == pytest.approx(4 / 8)
