"""Boxes in a table of a user's own images, and the words of the captions that they belong to.

The form is that of the Hugging Face "imagefolder": `{"bbox": [[x, y, width, height], ...],
"category": [...]}`, boxes as in COCO; `"words": ["a red ball", ...]` is ours.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from show_attend_tell import files
from show_attend_tell.data.copies import Sides
from show_attend_tell.data.images import picture_size
from show_attend_tell.data.phrase_index import Images, Stamp
from show_attend_tell.data.phrases import (
    Counts,
    Described,
    Description,
    Phrase,
    bare,
    comparable,
    count,
    usable,
)


@dataclass(frozen=True)
class Object:
    """A box of a table.

    Attributes:
      bbox: x, y, width, height, in pixels of the upright picture, from its left upper corner.
      category: its kind; empty if the table names none.
      words: what captions call it; empty if the table does not say.
    """

    bbox: tuple[float, float, float, float]
    category: str
    words: str


@dataclass(frozen=True)
class Objects:
    """The boxes of a table as annotations.

    Attributes:
      folder: of the images.
      tables: the files, in that folder or below it.
      of_images: objects by file name.
    """

    folder: Path
    tables: tuple[Path, ...]
    of_images: dict[str, list[Object]]

    def stamp(self) -> Stamp:
        """Of each table."""
        stats = [(path.relative_to(self.folder), path.stat()) for path in self.tables]
        return [(name.as_posix(), stat.st_size, stat.st_mtime_ns) for name, stat in stats]

    def describe(self, images: Images) -> Described:
        """The captions of each image that has objects.

        A phrase is wherever a caption has an object's words; objects of the same words share it.
        Counts boxes whose words no caption has, of no area, or cut at the picture's edge; and, with
        the first split, images with objects that the data set was built without.
        """
        counts: Counts = {}
        described = [
            self._of_image(name, captions, counts) if name in self.of_images else ()
            for name, captions in images.index
        ]
        if images.all_ids is not None:
            for name in sorted(self.of_images.keys() - images.all_ids):
                count(counts, "annotations without an image", name)
        return Described(described, counts)

    def _of_image(
        self, name: str, captions: tuple[str, ...], counts: Counts
    ) -> tuple[Description, ...]:
        height, width = picture_size(files.same_letters(self.folder / name))
        boxes: dict[str, list[Sides]] = {}
        kinds: dict[str, list[str]] = {}
        for number, thing in enumerate(self.of_images[name], 1):
            where = f"{name}, object {number}"
            words = " ".join(_compared(thing.words))
            if not any(_places(words, caption) for caption in captions):
                count(counts, "boxes whose words are in no caption", f"{where}: {thing.words}")
                continue
            x, y, across, down = thing.bbox
            sides = (y / height, x / width, (y + down) / height, (x + across) / width)
            boxes.setdefault(words, []).extend(usable(sides, where, counts))
            kinds.setdefault(words, []).append(thing.category or "object")
        descriptions = []
        for number, caption in enumerate(captions):
            phrases = [
                Phrase(first, last, words, tuple(dict.fromkeys(kinds[words])), tuple(boxes[words]))
                for words in boxes
                for first, last in _places(words, caption)
            ]
            phrases.sort(key=lambda phrase: (phrase.first, phrase.last))
            descriptions.append(Description(" ".join(caption.split()), tuple(phrases), number))
        return tuple(descriptions)


def parse_objects(value: Any) -> list[Object]:
    """The objects of a row of a table. Without words, an object is called by its category.

    Args:
      value: of the key `objects`, as JSON gives it.

    Raises:
      ValueError, OverflowError: it has another form.
    """
    if not isinstance(value, dict):
        raise ValueError("not {...}")
    boxes = value.get("bbox")
    if not isinstance(boxes, list):
        raise ValueError("no list bbox")
    categories = _texts(value.get("category", value.get("categories")), "category", len(boxes))
    words = _texts(value.get("words"), "words", len(boxes))
    return [
        Object(_bbox(box), kind, said or kind)
        for box, kind, said in zip(boxes, categories, words, strict=True)
    ]


def _bbox(value: Any) -> tuple[float, float, float, float]:
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 4 or not all(type(n) in (int, float) for n in numbers):
        raise ValueError(f"{json.dumps(value)[:60]} is no box")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{json.dumps(value)[:60]} is not finite")
    x, y, width, height = map(float, numbers)
    return x, y, width, height


def _texts(value: Any, key: str, length: int) -> list[str]:
    """A list of texts or numbers as texts; empty ones where there is none."""
    if value is None:
        return [""] * length
    if not isinstance(value, list) or len(value) != length:
        raise ValueError(f"{key} is not a list of {length}")
    if not all(type(one) in (str, int) for one in value):
        raise ValueError(f"{key} holds neither text nor whole numbers")
    return [" ".join(str(one).split()) for one in value]


def _places(words: str, caption: str) -> list[tuple[int, int]]:
    """First and last index of every place where a caption has these words."""
    wanted, said = words.split(), _compared(caption)
    length = len(wanted)
    starts = range(len(said) - length + 1) if wanted else ()
    return [(i, i + length - 1) for i in starts if said[i : i + length] == wanted]


def _compared(text: str) -> list[str]:
    """The words of a text as they are compared, without the punctuation around them."""
    return [bare(word) for word in comparable(text).split()]
