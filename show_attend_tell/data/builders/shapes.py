"""The built-in data set: generated scenes of coloured shapes, with exact boxes."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from show_attend_tell.data.builders.common import Builder, features
from show_attend_tell.data.phrase_index import Annotations, Images, Stamp
from show_attend_tell.data.phrases import Described
from show_attend_tell.data.records import Record

SIDE = 96  # pixels
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (31, 90, 200),
    "yellow": (240, 200, 30),
    "purple": (140, 60, 180),
}
SHAPES = ("circle", "square", "triangle", "cross")
# Smallest and largest half side of the bounding box, in pixels; the wide gap keeps the names clear.
SIZES = {"small": (7, 9), "large": (13, 15)}
SPLITS = {"train": 6000, "val": 500, "test": 500}
# Every shape has a quarter of the image to itself, and stays `MARGIN` pixels inside it.
QUARTER = SIDE // 2
MARGIN = 2
SCALE = 4  # scenes are drawn this much larger and averaged down, for smooth edges

Scene = tuple[UInt8[np.ndarray, "S S 3"], str, list[dict[str, Any]]]


class NamedObjects:
    """The scenes' own boxes as annotations: each is of a noun of the caption."""

    def stamp(self) -> Stamp:
        return []  # the records hold all

    def describe(self, images: Images) -> Described:
        found = (images.example(number).description() for number in range(len(images.index)))
        return Described([() if one is None else (one,) for one in found], {})


class Shapes(Builder):
    """Images of 96 x 96 pixels with one to four shapes, one caption each, and the nouns' boxes.

    6,000 train, 500 val, 500 test. Generated, so there is nothing to get. Example i of a split
    depends only on the split and i.

    Build and train: `./launch.sh quickstart`.
    Load: `load_images("shapes", "train", data_dir=Path(...))`.

    Version 1.1.0. Citation: this project.
    """

    VERSION = tfds.core.Version("1.1.0")

    def annotations(self) -> Annotations | None:
        return NamedObjects()

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Scenes of one to four coloured shapes with one caption each.",
            features=features("png"),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[tuple[str, Record]]]:
        return {split: self._generate_examples(split, count) for split, count in SPLITS.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, Record]]:
        number = list(SPLITS).index(split)
        for i in range(count):
            image, caption, objects = render_scene(np.random.default_rng([number, i]))
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, "PNG")
            image_id = f"{split}-{i:05}"
            record = {
                "image": encoded.getvalue(),
                "image_id": image_id,
                "captions": [caption],
                "objects": [o | {"bbox": tfds.features.BBox(*o["bbox"])} for o in objects],
            }
            yield image_id, record


def render_scene(rng: np.random.Generator) -> Scene:
    """Draws a scene.

    One to four objects stand in different quarters of the image. The caption names them in reading
    order (top row first, left before right) and relates each to the one before it: "left of" where
    both are in one row, else "above". So a scene has exactly one correct caption, e.g. "a small red
    circle left of a large blue square above a small green cross".

    Args:
      rng: all random choices; the same state gives the same scene.

    Returns:
      The image; its caption; and for each noun, in order of mention, a dict of `label`,
      `word_index` (of the noun among the caption's words) and `bbox` (ymin, xmin, ymax, xmax in
      [0, 1]).
    """
    ground = tuple(rng.integers(225, 256, 3).tolist())
    image = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), ground)
    draw = ImageDraw.Draw(image)
    quarters = sorted(rng.choice(4, size=rng.integers(1, 5), replace=False).tolist())
    words: list[str] = []
    objects, row_before = [], None
    for quarter in quarters:
        row, column = divmod(quarter, 2)
        size = list(SIZES)[rng.integers(len(SIZES))]
        colour = list(COLOURS)[rng.integers(len(COLOURS))]
        shape = SHAPES[rng.integers(len(SHAPES))]
        radius = int(rng.integers(SIZES[size][0], SIZES[size][1] + 1))
        low, high = radius + MARGIN, QUARTER - radius - MARGIN
        y = QUARTER * row + int(rng.integers(low, high + 1))
        x = QUARTER * column + int(rng.integers(low, high + 1))
        _draw_shape(draw, shape, x * SCALE, y * SCALE, radius * SCALE, COLOURS[colour])
        if row_before is not None:
            words += ["left", "of"] if row == row_before else ["above"]
        words += ["a", size, colour, shape]
        box = [(y - radius) / SIDE, (x - radius) / SIDE, (y + radius) / SIDE, (x + radius) / SIDE]
        objects.append({"label": shape, "word_index": len(words) - 1, "bbox": box})
        row_before = row
    return np.asarray(image.reduce(SCALE), np.uint8), " ".join(words), objects


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: int, y: int, r: int, colour: tuple[int, int, int]
) -> None:
    box = (x - r, y - r, x + r - 1, y + r - 1)  # the last pixel is included
    if shape == "circle":
        draw.ellipse(box, colour)
    elif shape == "square":
        draw.rectangle(box, colour)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + r - 1), (x + r - 1, y + r - 1)], colour)
    else:
        arm = r // 3
        draw.rectangle((x - arm, y - r, x + arm - 1, y + r - 1), colour)
        draw.rectangle((x - r, y - arm, x + r - 1, y + arm - 1), colour)
