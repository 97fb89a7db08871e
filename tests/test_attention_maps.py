"""Dumps, pictures and statistics of attention, against values worked out by hand."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from show_attend_tell.attention_maps import (
    AttentionRecord,
    attention_statistics,
    box_cover,
    draw_attention,
    load_attention,
    safe_name,
    save_attention,
    write_statistics,
)
from show_attend_tell.datasets import Box
from show_attend_tell.errors import UserError


def record(alpha, tokens=None, grid=(2, 2), **changes):
    alpha = np.array(alpha, np.float32)
    tokens = tokens or (*["word"] * (len(alpha) - 1), "<eos>")
    fields = dict(
        image_id="a/b.jpg",
        tokens=tokens,
        alpha=alpha,
        beta=np.full(len(alpha), 0.25, np.float32),
        grid=grid,
        original_size=(30, 40),
        image_side=16,
        score=-1.5,
        log_prob=-3.0,
    )
    return AttentionRecord(**(fields | changes))


ONE, TWO = [1, 0, 0, 0], [0, 1, 0, 0]
UNIFORM = [0.25] * 4


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


def test_box_cover_is_the_share_of_area():
    # A box over the left half and the upper three quarters of a 2 x 2 grid.
    np.testing.assert_allclose(box_cover((0.0, 0.0, 0.75, 0.5), (2, 2)), [1, 0, 0.5, 0])
    rng = np.random.default_rng(0)
    pixels = (np.arange(400) + 0.5) / 400
    for _ in range(5):
        ymin, ymax = np.sort(rng.uniform(-0.2, 1.2, 2))
        xmin, xmax = np.sort(rng.uniform(-0.2, 1.2, 2))
        inside = np.outer((pixels > ymin) & (pixels < ymax), (pixels > xmin) & (pixels < xmax))
        counted = inside.reshape(4, 100, 5, 80).mean(axis=(1, 3)).ravel()
        np.testing.assert_allclose(box_cover((ymin, xmin, ymax, xmax), (4, 5)), counted, atol=0.04)


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


def test_a_dump_comes_back(tmp_path):
    path = tmp_path / "dump.npz"
    made = record([ONE, UNIFORM], ("café", "<eos>"), boxes=(Box("x", 0, 0.0, 0.1, 0.2, 0.3),))
    save_attention(path, made)
    again = load_attention(path)
    for field in dataclasses.fields(AttentionRecord):
        a, b = getattr(made, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(a, b) if isinstance(a, np.ndarray) else None
        assert isinstance(a, np.ndarray) or a == b, field.name
    assert [p.name for p in tmp_path.iterdir()] == ["dump.npz"]


def test_what_is_no_dump_is_told(tmp_path):
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
        {"grid": (3, 2)},
    ],
)
def test_a_record_that_does_not_fit_is_refused(changes):
    with pytest.raises(ValueError):
        dataclasses.replace(record([ONE]), **changes)


def test_file_names_stay_in_their_folder_and_differ():
    ids = ["../up", "a/b", "a%2Fb", "..", ".", "", "x" * 300, "x" * 301, "grüße", "a b"]
    names = [safe_name(image_id) for image_id in ids]
    assert len(set(names)) == len(ids)
    for name in names:
        assert "/" not in name and not name.startswith(".") and 0 < len(name.encode()) < 200


def test_the_picture_is_bright_where_attention_is(tmp_path):
    path = tmp_path / "maps.png"
    alpha = np.zeros((2, 16), np.float32)
    alpha[:, 0] = 1  # the upper left
    picture = np.full((100, 100, 3), 180, np.uint8)
    draw_attention(path, picture, record(alpha, ("dog", "<eos>"), (4, 4)))
    drawn = np.asarray(Image.open(path).convert("L"), float)
    assert path.stat().st_size < 400_000
    right = drawn[:, drawn.shape[1] // 2 :]  # the second of two panels: the word's
    height, width = right.shape
    corner = right[height // 5 : height // 2, : width // 2]
    opposite = right[height // 2 : 4 * height // 5, width // 2 : 3 * width // 4]
    assert corner.mean() > opposite.mean()


def test_statistics_are_json(tmp_path):
    write_statistics(tmp_path / "s.json", attention_statistics([record([ONE])]))
    stored = json.loads((tmp_path / "s.json").read_text())
    assert stored["mean_change"] is None and stored["static_maps"] is None
    with pytest.raises(UserError, match="no captions"):
        attention_statistics([])
