"""The phrases of a built split, kept beside its records.

Annotations of phrases come after a data set is built, or not at all. So they are no part of its
records: they are read when they are first asked for, and kept in a file `phrases-SPLIT.jsonl`. Its
first line says which records and which annotations it was made from, and has the hash of the other
lines. A file that does not fit is made again. Where the annotations are gone, it suffices.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from show_attend_tell.data.examples import Example, Index
from show_attend_tell.data.index import Shards, keep_lines, kept_lines, read_index, shards_of
from show_attend_tell.data.phrases import Counted, Described, Description, Phrase
from show_attend_tell.data.records import Builder, Records
from show_attend_tell.files import parse_json

FORMAT = 2  # of the lines; changes with them, and with what the readers of annotations make
# Earlier formats will do where the annotations are gone. Format 1 matched neither curly quotation
# marks with straight ones, nor an accent of its own with an accented letter.
READABLE = (1, FORMAT)

# Name, size in bytes and time of change of each file.
Stamp = list[tuple[str, int, int]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """The images of a stored split whose phrases are wanted.

    Attributes:
      index: their ids and captions.
      example: reads the one of a number.
      all_ids: of the images of all splits, for the first split of a data set; None for the others,
        so that annotations without an image are counted once.
    """

    index: Index
    example: Callable[[int], Example]
    all_ids: frozenset[str] | None = None


@runtime_checkable
class Annotations(Protocol):
    """Where the phrases of a data set are annotated."""

    def stamp(self) -> Stamp:
        """The files that they are read from; they are read again if it changes."""
        ...

    def describe(self, images: Images) -> Described:
        """Reads the descriptions of images.

        Raises:
          UserError: the annotations as a whole cannot be read.
        """
        ...


@runtime_checkable
class AnnotatedBuilder(Builder[Example], Protocol):
    """The part of `builders.common.Builder` that reading phrases needs."""

    def annotations(self) -> Annotations | None: ...


def read_phrases(builder: AnnotatedBuilder, split: str) -> Described:
    """The descriptions of each example of a stored split, in order.

    Without annotations, no example has any.

    Raises:
      UserError: the annotations, or a file of the records, are damaged or missing.
    """
    path = Path(builder.data_path) / f"phrases-{split}.jsonl"
    of: dict[str, Any] = {"format": FORMAT, "records": shards_of(builder, split)}
    annotations = builder.annotations()
    if annotations is not None:
        of["annotations"] = annotations.stamp()
        lines = kept_lines(path, of)
        if lines is None:
            images = _images(builder, split)
            lines = keep_lines(builder, path, of, lambda: _lines(annotations.describe(images)))
        return _described(lines)
    kept = None
    if path.exists():
        kept = kept_lines(path, _kept_origin(path, of["records"]))
        if kept is None:
            _log.warning(
                "%s: unusable; with its annotations in config.data.manual_dir, it is made again",
                path,
            )
    if kept is None:
        return Described([() for _ in read_index(builder, split)], {})
    return _described(kept)


def _images(builder: AnnotatedBuilder, split: str) -> Images:
    records, read = Records(builder, split), builder.reader()
    splits = tuple(builder.info.splits)
    all_ids = None
    if split == splits[0]:
        all_ids = frozenset(name for other in splits for name, _ in read_index(builder, other))
    return Images(read_index(builder, split), lambda number: read(records[number]), all_ids)


def _kept_origin(path: Path, records: Shards) -> object:
    """What the first line of a file says that it was made from, if that fits the records.

    Copied records have other times of change, so names and sizes have to do. None where the line
    says nothing, or does not fit.
    """
    try:
        with path.open(encoding="utf-8") as file:
            of = parse_json(file.readline())["of"]
        kept = [(name, size) for name, size, _ in of["records"]]
        annotations = of["annotations"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if of.get("format") not in READABLE or kept != [(name, size) for name, size, _ in records]:
        return None
    return {"format": of["format"], "records": of["records"], "annotations": annotations}


def _lines(described: Described) -> bytes:
    """The counts, then a line for each image: the boxes of each entity, and the descriptions."""
    values: list[Any] = [{reason: asdict(counted) for reason, counted in described.counts.items()}]
    for of_image in described.descriptions:
        phrases = [phrase for description in of_image for phrase in description.phrases]
        boxes = {phrase.entity: phrase.boxes for phrase in phrases if phrase.boxes}
        texts = [
            (d.text, d.caption, [(p.first, p.last, p.entity, p.kinds) for p in d.phrases])
            for d in of_image
        ]
        values.append([boxes, texts])
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def _described(lines: bytes) -> Described:
    counts, *images = map(parse_json, lines.splitlines())
    return Described(
        [_descriptions(*of_image) for of_image in images],
        {r: Counted(found["count"], tuple(found["names"])) for r, found in counts.items()},
    )


def _descriptions(
    boxes: dict[str, list[list[float]]], texts: list[list[Any]]
) -> tuple[Description, ...]:
    places = {
        entity: tuple((ymin, xmin, ymax, xmax) for ymin, xmin, ymax, xmax in sides)
        for entity, sides in boxes.items()
    }
    return tuple(
        Description(
            text,
            tuple(
                Phrase(first, last, entity, tuple(kinds), places.get(entity, ()))
                for first, last, entity, kinds in phrases
            ),
            caption,
        )
        for text, caption, phrases in texts
    )
