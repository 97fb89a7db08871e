"""Generated scenes of coloured shapes, with exact boxes: the pictures of the data set `shapes`."""

import re
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

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
# Every shape has a quarter of the image to itself, and stays `MARGIN` pixels inside it.
QUARTER = SIDE // 2
MARGIN = 2
SCALE = 4  # scenes are drawn this much larger and averaged down, for smooth edges

Scene = tuple[UInt8[np.ndarray, "S S 3"], str, list[dict[str, Any]]]


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


# Nouns with the end of their article and adjectives after "ein": masculine, neuter.
_GERMAN_SHAPES = {"circle": "Kreis", "square": "Quadrat", "triangle": "Dreieck", "cross": "Kreuz"}
_GERMAN_ADJECTIVES = {
    **{"small": "klein", "large": "groß"},
    **{"red": "rot", "green": "grün", "blue": "blau", "yellow": "gelb", "purple": "lila"},
}


def in_german(caption: str) -> str:
    """A scene's caption in German.

    "a small red circle above a large blue square" is "ein kleiner roter Kreis über einem großen
    blauen Quadrat".
    """
    said: list[str] = []
    for part in re.split(r"(?<=\S) (?=left of|above)", caption):
        relation = re.match("left of |above ", part)
        _, size, colour, shape = part.removeprefix(relation[0] if relation else "").split()
        nominative = "er" if shape == "circle" else "es"
        article, end = ("einem", "en") if relation else ("ein", nominative)
        size, colour = (_GERMAN_ADJECTIVES[word] for word in (size, colour))
        if relation:
            said.append("links von" if relation[0].startswith("left") else "über")
        colour += "" if colour == "lila" else end  # it has no endings
        said += [article, size + end, colour, _GERMAN_SHAPES[shape]]
    return " ".join(said)


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
