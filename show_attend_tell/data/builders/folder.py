"""A folder of your own images, with a table of their captions."""

import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import tensorflow_datasets as tfds

from show_attend_tell.data.builders.common import (
    SUFFIXES,
    Builder,
    Found,
    ImagesBuilder,
    features,
    refuse,
)
from show_attend_tell.data.builders.stems import Stems, holds_texts
from show_attend_tell.data.objects import Object, Objects, parse_objects
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.phrase_index import Annotations
from show_attend_tell.data.records import Record
from show_attend_tell.errors import UserError

TABLES = ("metadata.csv", "metadata.jsonl")
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
CAPTIONS = ("caption", "text", "captions")
SHARE = 0.1  # of the images for each of val and test, where the table has no splits
SEED = 0

# Split, if the table has one, and captions of an image.
Row = tuple[str | None, list[str]]

_log = logging.getLogger(__name__)


class Folder(ImagesBuilder):
    """Your own images, in the form known as "imagefolder".

    Get: put the images into a folder, or into folders below it, and one table beside them:

        metadata.csv     a line `file_name,caption`, then a line for each image
        metadata.jsonl   {"file_name": "a.jpg", "captions": ["A dog .", "A black dog runs ."]}

    `file_name` is the path from the folder. The caption column may also be called `text`; several
    rows of one file give it several captions. A column `split` may say train, val (or validation)
    or test; without it, 80 % of the images are for training, and a tenth each for val and test,
    chosen by the hash of their names. The text is UTF-8, or UTF-16 with a byte-order mark.

    Without a table, each image may have its captions in a text file of the same stem
    (`builders/stems.py`).

    In metadata.jsonl, `objects` gives the boxes of what phrases name (`ImageSource.descriptions`):

        {"file_name": "a.jpg", "text": "A dog sits on a red ball .", "objects": {
            "bbox": [[10, 20, 50, 40], [30, 60, 20, 20]], "category": ["animals", "toys"],
            "words": ["A dog", "a red ball"]}}

    (on one line). A box is x, y, width and height, in pixels of the upright picture from its left
    upper corner. `words` says which phrase of the captions it belongs to; without it, `category`
    does.

    Build and train:

        ./launch.sh train --config experiments/folder.py --workdir runs/own \\
            --config.data.manual_dir=FOLDER

    Load: `load_images("folder", "train", data_dir=Path(...), manual_dir=Path(...))`. Keep the
    folder: every call looks at it, and after a change to the table or an image builds another data
    set beside the old one.

    Unusable images are left out, reported, and listed in the data set's `metadata.json`.

    Version 1.0.0. Citation: yours.
    """

    VERSION = tfds.core.Version("1.0.0")
    MAX_UNUSABLE = 0.5  # the images are few, and not a download that may have broken
    REMEDY = f"set --config.data.manual_dir to the folder with the images and {' or '.join(TABLES)}"

    def __init__(self, *, manual_dir: Path | None = None, **kwargs):
        """Takes the folder of the table and the images."""
        self._manual_dir = manual_dir
        folder = self._folder()
        tables = [folder / name for name in TABLES if (folder / name).is_file()]
        if len(tables) != 1:
            there = "both" if tables else "neither"
            raise UserError(f"{folder}: holds {there} of {' and '.join(TABLES)}; {self.REMEDY}")
        self._table = tables[0]
        self._rows = read_rows(self._table)
        name = digest(folder, self._table, self._rows)
        config = tfds.core.BuilderConfig(name=name, description=f"Of {self._table.name}.")
        super().__init__(manual_dir=manual_dir, config=config, **kwargs)

    @classmethod
    def for_files(cls, origin: Origin, **kwargs) -> Builder:
        if holds_texts(origin):
            return Stems.for_files(origin, **kwargs)
        return super().for_files(origin, **kwargs)

    def annotations(self) -> Annotations | None:
        objects = read_objects(self._table)
        return Objects(self._table, objects) if objects else None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="A folder of images with captions.",
            features=features("jpeg"),
            metadata=tfds.core.MetadataDict(unusable_images={}),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[tuple[str, Record]]]:
        folder = self._folder()
        on_disk = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)
        names = [path.relative_to(folder).as_posix() for path in on_disk]
        unnamed = [name for name in names if name not in self._rows]
        if unnamed:
            more = ", ..." * (len(unnamed) > 3)
            _log.warning(
                "folder: %d images have no row in %s and are left out: %s%s",
                *(len(unnamed), self._table.name, ", ".join(unnamed[:3]), more),
            )
        return {s: self._generate_examples(s, of_s) for s, of_s in assign(self._rows).items()}

    def _generate_examples(self, split: str, names: list[str]) -> Iterator[tuple[str, Record]]:
        remedy = f"fix the images, or take them out of {self._table.name}"
        found = _found(self._folder(), self._rows, names)
        return self._usable(split, found, len(names), self._table, remedy)


def read_rows(path: Path) -> dict[str, Row]:
    """Reads a table: split and captions by file name.

    Raises:
      UserError: the table cannot be read, has another form, or contradicts itself; the message
        names the line.
    """
    rows: dict[str, Row] = {}
    blank = 0
    lines = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)
    for line, row in lines:
        name, split = row.get("file_name"), row.get("split") or None
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}, line {line}: no file_name; name the image or remove the line")
        if split is not None and split not in tuple(SPLITS):
            raise UserError(
                f"{path}, line {line}: split {split!r} is not known; "
                f"choose one of {', '.join(SPLITS)}"
            )
        split = split and SPLITS[split]
        name = Path(name.strip()).as_posix()
        given = [row[key] for key in CAPTIONS if row.get(key)]
        texts = [t for value in given for t in (value if isinstance(value, list) else [value])]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}, line {line}: a caption is not text; write it in quotes")
        before, captions = rows.setdefault(name, (split, []))
        if split != before:
            raise UserError(
                f"{path}, line {line}: {name} is in split {split} here but in {before} above; "
                "choose one"
            )
        kept = [caption for text in texts if (caption := " ".join(text.split()))]
        captions += kept
        blank += len(texts) - len(kept)
    if blank:
        _log.warning("%s: %d blank captions skipped", path, blank)
    if not rows:
        raise UserError(f"{path}: no image in it; write a line for each")
    if len({split is None for split, _ in rows.values()}) > 1:
        raise UserError(f"{path}: some images have a split, others none; give all one, or none")
    return rows


def read_objects(table: Path) -> dict[str, list[Object]]:
    """Reads the objects of a table by file name; a CSV has none.

    Raises:
      UserError: the table cannot be read, or its objects have another form; the message names the
        line.
    """
    objects: dict[str, list[Object]] = {}
    for line, row in _json_rows(table) if table.suffix == ".jsonl" else ():
        if row.get("objects") is None:
            continue
        try:
            found = parse_objects(row["objects"])
        except (ValueError, OverflowError) as error:
            raise UserError(
                f'{table}, line {line}: objects need "bbox", a list of [x, y, width, height], and '
                f'may have as long lists "category" and "words" ({error}); fix the line'
            ) from error
        objects.setdefault(Path(row["file_name"].strip()).as_posix(), []).extend(found)
    return objects


def assign(rows: dict[str, Row]) -> dict[str, list[str]]:
    """The file names of each split: as in the table, or else chosen by the hashes of the names."""
    splits: dict[str, list[str]] = {}
    if next(iter(rows.values()))[0] is not None:
        for name, (split, _) in rows.items():
            splits.setdefault(cast(str, split), []).append(name)
        return splits
    drawn = {
        name: int.from_bytes(hashlib.sha256(f"{SEED} {name}".encode()).digest()) / 2**256
        for name in rows
    }
    # An image stays in its split when others are added or removed.
    parts: dict[str, list[str]] = {"val": [], "test": [], "train": []}
    for name, number in drawn.items():
        parts["val" if number < SHARE else "test" if number < 2 * SHARE else "train"].append(name)
    if not all(parts.values()):  # few images: those with the smallest numbers, one each
        order = sorted(drawn, key=drawn.__getitem__)
        held = 1 if len(order) >= 3 else 0
        parts = {"val": order[:held], "test": order[held : 2 * held], "train": order[2 * held :]}
    return {split: names for split, names in parts.items() if names}


def digest(folder: Path, table: Path, rows: dict[str, Row]) -> str:
    """Identifies a folder's content: the table, and the size and time of change of each image."""
    content = hashlib.sha256(table.read_bytes())
    for name in sorted(rows):
        path = _inside(folder, name)
        stat = path.stat() if path and path.is_file() else None
        content.update(f"{name} {stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return content.hexdigest()[:16]


def _inside(folder: Path, name: str) -> Path | None:
    """The file of that name; None for "..", or a link, that leads out of the folder."""
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError):  # circular links, a zero byte, a lone surrogate
        return None
    stays = not Path(name).is_absolute() and ".." not in Path(name).parts
    return path if stays and path.is_relative_to(folder.resolve()) else None


def _found(folder: Path, rows: dict[str, Row], names: list[str]) -> Iterator[Found]:
    for name in names:
        path = _inside(folder, name)
        if path is None:
            read = refuse("it is not in the folder")
        elif not path.is_file():
            read = refuse("it is not there")
        else:
            read = path.read_bytes
        yield name, read, {"image_id": name, "captions": rows[name][1], "objects": []}


def _text(path: Path) -> str:
    """The content of a text file: UTF-16 if it begins with a byte-order mark, else UTF-8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        if "file_name" not in columns or not set(CAPTIONS[:2]) & set(columns):
            raise UserError(
                f"{path}: its first line must name the columns file_name and caption, separated by "
                f"a comma, but names {', '.join(columns)[:100] or 'none'}; fix it"
            )
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}, line {reader.line_num}: {'more' if None in row else 'fewer'} than "
                    f'{len(columns)} columns; put quotes (") around a caption with commas'
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num + 1}: not readable as CSV ({error}); fix the line"
        ) from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); fix the line") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not an object {{...}}; fix the line")
        yield number, row
