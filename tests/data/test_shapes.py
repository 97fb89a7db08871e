import io
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from show_attend_tell.data.builders import shapes
from show_attend_tell.data.load import load_images
from show_attend_tell.data.scenes import COLOURS, SHAPES, SIDE, SIZES, render_scene


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(np.random.default_rng(seed)) for seed in range(300)]


def phrases(caption: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(size, colour, shape) of each object, and the relations between them."""
    words, objects, relations = caption.split(), [], []
    while words:
        article, *described = words[:4]
        assert article == "a"
        objects.append(tuple(described))
        relation = words[4:6] if words[4:5] == ["left"] else words[4:5]
        relations += [" ".join(relation)] if relation else []
        words = words[4 + len(relation) :]
    return objects, relations


def pixels(bbox) -> list[float]:
    return [side * SIDE for side in bbox]


def test_scenes_repeat_and_differ(scenes):
    image, caption, objects = render_scene(np.random.default_rng(5))
    np.testing.assert_array_equal(image, scenes[5][0])
    assert (caption, objects) == scenes[5][1:]
    assert len({image.tobytes() for image, _, _ in scenes}) == len(scenes)


def test_every_kind_occurs(scenes):
    described = [phrases(caption) for _, caption, _ in scenes]
    for place, known in enumerate((SIZES, COLOURS, SHAPES)):
        assert {o[place] for objects, _ in described for o in objects} == set(known)
    numbers = Counter(len(objects) for objects, _ in described)
    assert set(numbers) == {1, 2, 3, 4} and min(numbers.values()) > 40
    assert {r for _, relations in described for r in relations} == {"left of", "above"}


def test_a_box_per_noun_in_order_of_mention(scenes):
    for _, caption, objects in scenes:
        described, _ = phrases(caption)
        assert [o["label"] for o in objects] == [shape for _, _, shape in described]
        assert [caption.split()[o["word_index"]] for o in objects] == [o["label"] for o in objects]
        assert sorted({o["word_index"] for o in objects}) == [o["word_index"] for o in objects]


def test_pictures_show_what_captions_say(scenes):
    for image, caption, objects in scenes:
        ground = image[0, 0]
        different = (np.abs(image.astype(int) - ground) > 12).any(-1)
        boxed = np.zeros_like(different)
        for (size, colour, shape), o in zip(phrases(caption)[0], objects, strict=True):
            ymin, xmin, ymax, xmax = (round(side) for side in pixels(o["bbox"]))
            assert 0 <= ymin < ymax <= SIDE and 0 <= xmin < xmax <= SIDE
            boxed[ymin:ymax, xmin:xmax] = True
            # The box is tight: its object touches all four sides, within a pixel.
            rows, columns = np.nonzero(different[ymin:ymax, xmin:xmax])
            assert rows.min() <= 1 and columns.min() <= 1
            assert rows.max() >= ymax - ymin - 2 and columns.max() >= xmax - xmin - 2
            # Its middle (for a triangle, a point somewhat below) has the colour.
            middle = image[(2 * ymin + 3 * ymax) // 5, (xmin + xmax) // 2]
            np.testing.assert_allclose(middle, COLOURS[colour], atol=2)
            # Sizes are 14 to 18 or 26 to 30 pixels, with nothing in between.
            assert (xmax - xmin <= 18) == (size == "small")
            assert (xmax - xmin >= 26) == (size == "large")
            # The covered share of the box distinguishes the shapes.
            cover = different[ymin:ymax, xmin:xmax].mean()
            expected = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5, "cross": 5 / 9}[shape]
            assert cover == pytest.approx(expected, abs=0.12)
        assert not different[~boxed].any()


def test_relations_hold_with_a_margin(scenes):
    for _, caption, objects in scenes:
        boxes = [pixels(o["bbox"]) for o in objects]
        for relation, before, after in zip(phrases(caption)[1], boxes[:-1], boxes[1:], strict=True):
            if relation == "left of":
                assert before[3] + 3.9 < after[1]
            else:
                assert before[2] + 3.9 < after[0]


def test_objects_are_mentioned_in_reading_order(scenes):
    for _, _, objects in scenes:
        centres = [(y0 + y1, x0 + x1) for y0, x0, y1, x1 in (o["bbox"] for o in objects)]
        quarters = [(y > 1, x > 1) for y, x in centres]
        assert all(before < after for before, after in pairwise(quarters))


def test_the_data_set_holds_the_scenes(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": 3, "val": 5, "test": 3})
    split = load_images("shapes", "val", data_dir=tmp_path)
    example = split[split.ids.index("val-00004")]
    # Example i of split number s is drawn from the generator seeded with [s, i].
    image, caption, objects = render_scene(np.random.default_rng([1, 4]))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(example.image))), image)
    assert example.captions == (caption,)
    assert [(b.label, b.word_index) for b in example.boxes] == [
        (o["label"], o["word_index"]) for o in objects
    ]
    np.testing.assert_allclose(
        [(b.ymin, b.xmin, b.ymax, b.xmax) for b in example.boxes],
        [o["bbox"] for o in objects],
        atol=1e-6,
    )


def test_splits_differ(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": 20, "val": 20, "test": 20})
    pictures = [
        {example.image for example in load_images("shapes", split, data_dir=tmp_path)}
        for split in ("train", "val", "test")
    ]
    assert len(set.union(*pictures)) == 60
