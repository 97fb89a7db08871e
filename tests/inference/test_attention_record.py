"""Dumps, pictures and statistics of attention, against values worked out by hand."""

import dataclasses
import json
import math
import zipfile

import numpy as np
import pytest
from PIL import Image

from show_attend_tell.data.examples import Box
from show_attend_tell.errors import UserError
from show_attend_tell.inference.attention_record import (
    AttentionRecord,
    attention_statistics,
    box_cover,
    class_words,
    draw_attention,
    load_attention,
    safe_name,
    save_attention,
    write_statistics,
)


def even(cells):
    return (np.arange(cells) + 0.5) / cells


def record(alpha, tokens=None, grid=(2, 2), **changes):
    alpha = np.array(alpha, np.float32)
    tokens = tokens or (*["word"] * (len(alpha) - 1), "<eos>")
    fields = dict(
        image_id="a/b.jpg",
        tokens=tokens,
        alpha=alpha,
        beta=np.full(len(alpha), 0.25, np.float32),
        location=alpha.argmax(axis=1),
        context="expected",
        row_centres=even(grid[0]),
        column_centres=even(grid[1]),
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


def test_words_for_classes():
    for name, words in {
        "person": "person persons people man men women girls child children kids baby babies lady",
        "dog": "dog dogs puppy puppies",
        "cell phone": "phone phones cellphone",
        "bus": "bus buses",
        "knife": "knife knives",
        "airplane": "plane airplanes jets",
        "couch": "couch couches sofa sofas",
        "tv": "tv tvs television televisions",
        "skis": "skis ski",
        "wine glass": "glass glasses",
    }.items():
        assert set(words.split()) <= class_words(name)
    assert not class_words("person") & class_words("dog")
    assert "cell" not in class_words("cell phone")


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
        {"row_centres": even(3)},
        {"location": np.array([4])},
        {"row_centres": np.array([0.5, 0.5])},
        {"column_centres": np.array([0.5, 1.5])},
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


def panels_of(drawn):
    """Where the pictures lie in a drawing of one row, from left to right: slices of it.

    They are the rectangles without white; text and gaps fill less of a row.
    """
    filled = drawn.mean(axis=2) < 250
    rows = np.flatnonzero(filled.mean(axis=1) > 0.6)
    columns = filled[rows].all(axis=0).astype(int)
    edges = np.flatnonzero(np.diff(columns, prepend=0, append=0)).reshape(-1, 2)
    return [np.s_[rows[0] : rows[-1] + 1, left:right] for left, right in edges]


def pixels_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        return np.asarray(image, float)


def test_each_panel_is_brightest_where_its_word_looked(tmp_path):
    path = tmp_path / "maps.png"
    cells = [0, 7, 14]
    # One cell a word on an even picture of 2 : 1; then `<eos>`, which has no panel.
    alpha = np.eye(16, dtype=np.float32)[[*cells, 0]]
    picture = np.full((60, 120, 3), 180, np.uint8)
    draw_attention(path, picture, record(alpha, ("a", "b", "c", "<eos>"), (4, 4)))
    drawn = pixels_of(path)
    first, *words = (drawn[where].mean(axis=2) for where in panels_of(drawn))
    assert np.all(first == 180) and len(words) == 3
    for cell, panel in zip(cells, words, strict=True):
        height, width = panel.shape
        assert panel.shape == first.shape and width == 2 * height
        means = panel.reshape(4, height // 4, 4, width // 4).mean(axis=(1, 3))
        assert means.argmax() == cell
        assert panel.min() < 110 and panel.max() > 180
    assert [p.name for p in tmp_path.iterdir()] == ["maps.png"]


def test_an_even_map_is_drawn_even(tmp_path):
    path = tmp_path / "maps.png"
    draw_attention(path, np.full((50, 50, 3), 90, np.uint8), record([UNIFORM, UNIFORM]))
    drawn = pixels_of(path)
    _, word = (drawn[where] for where in panels_of(drawn))
    assert word.min() == word.max() > 90


def test_boxes_are_outlined_where_their_noun_is_said(tmp_path):
    picture = np.full((64, 64, 3), 128, np.uint8)
    boxes = (Box("cat", 1, 0.25, 0.5, 0.75, 1.0), Box("dog", 0, 0.0, 0.0, 0.5, 0.5))
    made = record([UNIFORM] * 3, ("a", "cat", "<eos>"), boxes=boxes)
    draw_attention(tmp_path / "boxes.png", picture, made)
    draw_attention(tmp_path / "plain.png", picture, dataclasses.replace(made, boxes=()))
    plain = pixels_of(tmp_path / "plain.png")
    outlined = np.abs(pixels_of(tmp_path / "boxes.png") - plain).max(axis=2) > 40
    first, a, cat = (outlined[where] for where in panels_of(plain))
    assert first.sum() > cat.sum() > 0 and not a.any()  # both boxes; the cat's; none
    rows, columns = np.flatnonzero(cat.any(axis=1)), np.flatnonzero(cat.any(axis=0))
    side = len(cat)
    assert rows[[0, -1]] == pytest.approx([0.25 * side, 0.75 * side], abs=2)
    assert columns[[0, -1]] == pytest.approx([0.5 * side, side], abs=2)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 300, 3), (300, 2, 3)])
def test_odd_pictures_and_words_stay_inside_the_margins(tmp_path, shape):
    words = ("$x^$", "w" * 200, "two\nlines", "\udcff", "日本", "<unk>")
    made = record([UNIFORM] * 6, words, image_id="i" * 300)
    draw_attention(tmp_path / "maps.png", np.zeros(shape, np.uint8), made)
    drawn = pixels_of(tmp_path / "maps.png")
    for edge in (drawn[:4], drawn[-4:], drawn[:, :4], drawn[:, -4:]):
        assert np.all(edge == 255)


def test_the_picture_of_a_photograph_is_small(tmp_path, shared):
    with zipfile.ZipFile(shared / "flickr8k" / "Flickr8k_Dataset.zip") as archive:
        name = next(n for n in archive.namelist() if n.endswith(".jpg"))
        picture = np.asarray(Image.open(archive.open(name)).convert("RGB"))
    alpha = np.random.default_rng(0).dirichlet(np.ones(49), 13).astype(np.float32)
    draw_attention(tmp_path / "maps.png", picture, record(alpha, grid=(7, 7)))
    assert (tmp_path / "maps.png").stat().st_size < 400_000


def test_statistics_are_json(tmp_path):
    write_statistics(tmp_path / "s.json", attention_statistics([record([ONE])]))
    stored = json.loads((tmp_path / "s.json").read_text())
    assert stored["mean_change"] is None and stored["static_maps"] is None
    with pytest.raises(UserError, match="no captions"):
        attention_statistics([])
