"""Sentences of Multi30k with the pictures that they describe, as far as Flickr8k has these.

Multi30k's lists of images say which picture each line is about (`image_splits/train.txt` and so on,
in the folder of its sentences). Flickr8k's photographs are among Flickr30k's, which Multi30k
describes, but the two are split in different ways. Flickr8k's official split decides: a pair is in
the split of its picture, whichever file its sentences come from.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from show_attend_tell.data.examples import ImageSource, Pair, PairSource, texts_digest
from show_attend_tell.data.further_captions import number_of
from show_attend_tell.data.masking import COLOURS, NUMBERS, heads, hide
from show_attend_tell.data.multi30k_files import SPLITS, find_text
from show_attend_tell.data.text_files import read_lines
from show_attend_tell.errors import UserError

LISTS = "image_splits"
REMEDY = (
    f"set --config.data.manual_dir to Multi30k's folder, with {LISTS}/train.txt, val.txt and "
    "test_2016_flickr.txt beside the sentences"
)


@dataclass(frozen=True)
class PicturedPair(Pair):
    """A pair, and a function that reads the image that it describes, encoded as in the data."""

    picture: Callable[[], bytes]


class PicturedPairs(PairSource):
    """The pairs whose pictures are in a split of a data set of images.

    Attributes: as in `ExampleSource`, and
      images: the split of images.
      rows: of each pair, the number of its image in that split.
    """

    def __init__(
        self,
        images: ImageSource,
        pairs: dict[str, Pair],
        *,
        name: str,
        limit: int = 0,
        hidden: Collection[str] = (),
    ):
        """Takes the images, pairs by the number in their picture's name, and words to hide.

        Raises:
          UserError: no image of the split has a pair.
        """
        found = [
            (row, image_id, pairs[number])
            for row, image_id in enumerate(images.ids)
            if (number := number_of(image_id)) in pairs
        ][: limit or None]
        if not found:
            raise UserError(
                f"{name}: none of the pictures of the split {images.split!r} is in Multi30k's "
                f"lists; set --config.data.pictures_dir to Flickr8k's folder, and {REMEDY}"
            )
        self.images, self.rows = images, [row for row, _, _ in found]
        self._pairs = [
            PicturedPair(
                image_id, hide(pair.source, hidden), pair.target, partial(_image, images, row)
            )
            for row, image_id, pair in found
        ]
        self.name, self.split, self.stored = name, images.split, len(found)
        self.splits, self.ids = images.splits, [image_id for _, image_id, _ in found]
        known = set(self.ids)
        without = [image_id for image_id in images.ids if image_id not in known]
        self.left_out = {} if limit or not without else {"no sentence of Multi30k": without}
        self.drawn = ""
        self.fingerprint: dict[str, Any] = images.fingerprint | {
            "name": name,
            "images": len(found),
            "texts": texts_digest(self._pairs),
        }


def _image(images: ImageSource, row: int) -> bytes:
    return images[row].image


def words_to_hide(kind: str, train: Callable[[], ImageSource]) -> frozenset[str]:
    """The lower-case English words of a kind of `settings.MASKED`; none for "".

    Args:
      kind: colours, numbers or nouns.
      train: opens the training split, whose annotated phrases say what nouns are.

    Raises:
      UserError: nouns are wanted, but no phrase is annotated.
    """
    if kind != "nouns":
        return {"": frozenset(), "colours": COLOURS, "numbers": NUMBERS}[kind]
    words = heads(described for of_one in train().descriptions() for described in of_one)
    if not words:
        raise UserError(
            "config.data.masked 'nouns' takes the heads of annotated phrases, but there are none: "
            "put flickr30k_entities.zip into config.data.pictures_dir"
        )
    return words


def read_pairs(folder: Path, languages: Sequence[str]) -> dict[str, Pair]:
    """All pairs of Multi30k by the number of their picture.

    Args:
      folder: of the sentences, and of the lists in `image_splits`.
      languages: to read and to write.

    Raises:
      UserError: a file is missing, or a list and its sentences differ in length.
    """
    pairs: dict[str, Pair] = {}
    for stem in SPLITS.values():
        path = folder / LISTS / f"{stem}.txt"
        if not path.is_file():
            raise UserError(f"{path}: not there; {REMEDY}")
        names = read_lines(path)
        texts = [read_lines(find_text(folder, stem, language)) for language in languages]
        for language, lines in zip(languages, texts, strict=True):
            if len(lines) != len(names):
                raise UserError(
                    f"{path}: names {len(names)} images, but {stem}.{language} has {len(lines)} "
                    "lines: they do not belong together; get both again"
                )
        for line, (name, source, target) in enumerate(zip(names, *texts, strict=True), 1):
            number = number_of(name)
            if not number or number in pairs:
                what = "is listed twice" if number else "does not begin with a picture's number"
                raise UserError(f"{path}: line {line}: {name!r} {what}; get the lists again")
            pairs[number] = Pair(number, source, target)
    return pairs
