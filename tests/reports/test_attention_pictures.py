"""Pictures of attention: what is bright, what is outlined, and that everything fits."""

import dataclasses
import zipfile

import numpy as np
import pytest
from PIL import Image
from records import UNIFORM, record, sentence

from show_attend_tell.data.examples import Box
from show_attend_tell.reports.attention_pictures import alignment_picture, draw_attention


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


def test_the_foot_says_that_centres_are_computed(tmp_path):
    picture, feet = np.full((50, 50, 3), 90, np.uint8), {}
    for centres in ("measured", "computed"):
        made = record([UNIFORM, UNIFORM], image_id="x", centres=centres)
        draw_attention(tmp_path / "maps.png", picture, made)
        feet[centres] = pixels_of(tmp_path / "maps.png")
    measured, computed = feet["measured"], feet["computed"]
    differ = np.flatnonzero((measured != computed).any(axis=(1, 2)))
    assert len(differ) and differ[0] > len(measured) - 40  # only in the line at the bottom
    assert (computed[-40:] < 200).sum() > (measured[-40:] < 200).sum()


def test_beta_stands_below_a_word_of_a_model_with_a_gate(tmp_path):
    picture, below = np.full((50, 50, 3), 90, np.uint8), {}
    for beta in (0.5, 1.0):
        made = record([UNIFORM, UNIFORM], beta=np.full(2, beta, np.float32))
        draw_attention(tmp_path / "maps.png", picture, made)
        drawn = pixels_of(tmp_path / "maps.png")
        rows, columns = panels_of(drawn)[1]
        below[beta] = drawn[rows.stop : rows.stop + 18, columns]
    assert below[0.5].min() < 200 and below[1.0].min() == 255


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


def test_the_cell_that_hard_attention_read_is_outlined(tmp_path):
    picture = np.full((64, 64, 3), 128, np.uint8)
    made = record([[0.1, 0.2, 0.3, 0.4]], ("a",))
    draw_attention(tmp_path / "soft.png", picture, made)
    hard = dataclasses.replace(made, context="sample", location=np.array([1]))
    draw_attention(tmp_path / "hard.png", picture, hard)
    soft = pixels_of(tmp_path / "soft.png")
    outlined = np.abs(pixels_of(tmp_path / "hard.png") - soft).max(axis=2) > 40
    first, word = (outlined[where] for where in panels_of(soft))
    half = len(word) // 2
    assert not first.any()
    assert word[: half + 1, half - 1 :].sum() == word.sum() > 0  # the upper right cell
    # A mixture reads all cells.
    draw_attention(tmp_path / "mixture.png", picture, dataclasses.replace(hard, context="mixture"))
    np.testing.assert_array_equal(pixels_of(tmp_path / "mixture.png"), soft)


def test_an_alignment_is_white_where_the_weight_is(tmp_path):
    source, tokens = ("a", "b", "c", "<eos>"), ("x", "y", "<eos>")
    alpha = np.eye(4, dtype=np.float32)[[2, 0, 3]]
    made = sentence(alpha, source, tokens)
    drawn = np.asarray(alignment_picture(made).convert("L"))
    black = np.argwhere(drawn == 0)
    top, left = np.min(black[:, 0]), 110  # where the words beside it end
    matrix = drawn[top : top + 3 * 22, left : left + 4 * 22]
    middles = matrix[11::22, 11::22]
    np.testing.assert_array_equal(middles, 255 * alpha)
    draw_attention(tmp_path / "a.png", None, made)
    np.testing.assert_array_equal(
        pixels_of(tmp_path / "a.png"), np.asarray(alignment_picture(made))
    )
    back = np.tril(np.ones((3, 3), np.float32)) / np.arange(1, 4, dtype=np.float32)[:, None]
    wide = alignment_picture(dataclasses.replace(made, self_alpha=back))
    assert wide.width > 1.5 * len(drawn[0]) and wide.height == len(drawn)


def test_long_words_of_an_alignment_stay_beside_its_matrices():
    alpha = np.eye(3, dtype=np.float32)[[1, 0, 2]]
    back = np.tril(np.ones((3, 3), np.float32)) / np.arange(1, 4, dtype=np.float32)[:, None]
    short = sentence(alpha, ("a", "b", "<eos>"), ("c", "d", "<eos>"), self_alpha=back)
    plain = np.asarray(alignment_picture(short))
    # To be made a little smaller, much smaller, and too long for that.
    for word in ("counterrevolutionaries", "Geschwindigkeitsbegrenzungen", "w" * 200):
        words = word, f"{word}s", "<eos>"
        made = dataclasses.replace(short, source=words, tokens=words, image_id="i" * 300)
        drawn = np.asarray(alignment_picture(made))
        assert drawn.shape == plain.shape
        for edge in (drawn[:2], drawn[-2:], drawn[:, :2], drawn[:, -2:]):
            assert np.all(edge == 255)
        matrix = np.s_[128 : 128 + 3 * 22, 110 : 110 + 3 * 22]
        np.testing.assert_array_equal(drawn[matrix], plain[matrix])
        assert drawn.min(axis=2)[128:150, 4:104].min() < 100  # the word is there
