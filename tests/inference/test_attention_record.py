"""Attention records and their files: they round-trip, and inconsistent ones are rejected."""

import dataclasses
import warnings

import numpy as np
import pytest
from records import ONE, UNIFORM, even, record, sentence

from show_attend_tell.data.examples import Box
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.grounding import attention_statistics
from show_attend_tell.inference.attention_record import (
    AttentionRecord,
    load_attention,
    safe_name,
    save_attention,
)
from show_attend_tell.reports.attention_pictures import attention_picture


def test_a_dump_comes_back(tmp_path):
    path = tmp_path / "dump.npz"
    made = record([ONE, UNIFORM], ("café", "<eos>"), boxes=(Box("x", -1, 0.0, 0.1, 0.2, 0.3),))
    save_attention(path, made)
    again = load_attention(path)
    for field in dataclasses.fields(AttentionRecord):
        a, b = getattr(made, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(a, b) if isinstance(a, np.ndarray) else None
        assert isinstance(a, np.ndarray) or a == b, field.name
    assert [p.name for p in tmp_path.iterdir()] == ["dump.npz"]


def test_centres_are_measured_only_where_a_dump_says_so(tmp_path):
    path = tmp_path / "dump.npz"
    save_attention(path, record([ONE]))
    assert load_attention(path).centres == "measured"
    with np.load(path) as arrays:
        older = {name: arrays[name] for name in arrays if name != "centres"}
    np.savez(path, **older)
    assert load_attention(path).centres == "computed"


def test_files_that_are_not_dumps_are_rejected(tmp_path):
    path = tmp_path / "dump.npz"
    with pytest.raises(UserError, match="not there"):
        load_attention(path)
    save_attention(path, record([ONE]))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="dump.npz"):
        load_attention(path)
    np.savez(path, alpha=np.ones((1, 4)))
    with pytest.raises(UserError, match="not an attention dump"):
        load_attention(path)
    np.savez(path, image_id=np.array([object()], object))
    with pytest.raises(UserError, match="dump.npz"):
        load_attention(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": np.array([[0.5, 0.5, 0.5, 0]], np.float32)},
        {"alpha": np.array([[np.nan, 1, 0, 0]], np.float32)},
        {"beta": np.array([1.5], np.float32)},
        {"row_centres": even(3)},
        {"location": np.array([4])},
        {"row_centres": np.array([0.5, 0.5])},
        {"column_centres": np.array([0.5, 1.5])},
        {"centres": "guessed"},
    ],
)
def test_an_inconsistent_record_is_rejected(changes):
    with pytest.raises(ValueError):
        dataclasses.replace(record([ONE]), **changes)


def test_a_null_place_may_have_all_of_the_attention():
    found = dataclasses.replace(record([ONE]), alpha=np.zeros((1, 4)), normalised=False)
    assert attention_statistics([found])["mean_entropy"] == 0.0
    with warnings.catch_warnings(action="error"):
        attention_picture(np.zeros((8, 8, 3), np.uint8), found)


def test_file_names_stay_in_their_folder_and_differ():
    ids = ["../up", "a/b", "a%2Fb", "..", ".", "", "x" * 300, "x" * 301, "grüße", "a b"]
    names = [safe_name(image_id) for image_id in ids]
    assert len(set(names)) == len(ids)
    for name in names:
        assert "/" not in name and not name.startswith(".") and 0 < len(name.encode()) < 200


def test_cells_fill_the_picture_and_meet_between_their_centres():
    made = record([ONE], row_centres=np.array([0.4, 0.8]))
    first, last = made.cell(0), made.cell(3)
    edges = (first.ymin, first.xmin, first.ymax, first.xmax)
    assert edges == pytest.approx((0, 0, 0.6, 0.5))
    assert (last.ymin, last.xmin, last.ymax, last.xmax) == pytest.approx((0.6, 0.5, 1, 1))


def test_a_record_of_a_sentence_comes_back(tmp_path):
    back = np.array([[1, 0], [0.5, 0.5]], np.float32)
    made = sentence([[0.2, 0.2]] * 2, ("x", "<eos>"), ("y", "z"), normalised=False, self_alpha=back)
    save_attention(tmp_path / "dump.npz", made)
    again = load_attention(tmp_path / "dump.npz")
    assert again.is_sentence and again.source == ("x", "<eos>") and not again.normalised
    assert not again.finished and again.text == "y z"
    np.testing.assert_array_equal(again.self_alpha, back)
    assert not record([ONE]).is_sentence
    with pytest.raises(ValueError, match="3 source tokens on a grid"):
        dataclasses.replace(made, source=("x", "y", "<eos>"))
    with pytest.raises(ValueError, match="self_alpha is not a distribution"):
        dataclasses.replace(made, self_alpha=2 * back)
