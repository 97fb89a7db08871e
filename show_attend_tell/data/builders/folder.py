"""A folder of your own images, with a table of their captions."""

import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import tensorflow_datasets as tfds

from show_attend_tell.data.builders import tables
from show_attend_tell.data.builders.common import (
    SPLIT_NAMES,
    Builder,
    Found,
    ImagesBuilder,
    features,
    read_match,
    split_name,
)
from show_attend_tell.data.builders.stems import Stems, holds_texts
from show_attend_tell.data.builders.tables import Table
from show_attend_tell.data.examples import Index
from show_attend_tell.data.holdout import shared_out
from show_attend_tell.data.objects import Object, Objects, parse_objects
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.phrase_index import Annotations
from show_attend_tell.data.picture_names import Match, PictureNames, inside, pictures_below
from show_attend_tell.data.records import Record
from show_attend_tell.errors import UserError
from show_attend_tell.printable import first_few
from show_attend_tell.settings import LANGUAGE

# Languages that people write out.
LANGUAGES = {
    **{"english": "en", "german": "de", "deutsch": "de", "french": "fr", "spanish": "es"},
    **{"italian": "it", "chinese": "zh", "japanese": "ja", "arabic": "ar", "hindi": "hi"},
}
SHARE = 0.1  # of the images for each of val and test, where the table has no splits


class Row(NamedTuple):
    """An image in a table."""

    split: str | None  # if the table has one
    captions: list[str]
    languages: list[str]  # of each caption; "" where the table does not say


_log = logging.getLogger(__name__)


class Folder(ImagesBuilder):
    """Your own images, in the form known as "imagefolder".

    Get: put the images into a folder, or into folders below it, and one table beside them:

        metadata.csv     a line `file_name,caption`, then a line for each image
        metadata.jsonl   {"file_name": "a.jpg", "captions": ["A dog .", "A black dog runs ."]}

    `file_name` is the path from the table's folder. A name whose separators or suffix differ a
    little from those of the file is taken where only one can be meant. Links in the folder are
    followed. Several rows of one file give it several captions, and so do columns `caption_0`,
    `caption_1` and so on. A column `split` may say train, val (also valid, validation, dev) or
    test; without it, 80 % of the images are for training, and a tenth each for val and test, chosen
    by the hash of their names. The text is UTF-8, or UTF-16 with a byte-order mark.

    Captions may be in several languages, of which `config.data.languages` chooses: a column
    `language` says that of a row by its code, such as `de`; or columns are called `caption_en`,
    `caption_de` and so on.

    `builders.tables` has the other forms that are read: semicolons, tabs or `|` between columns;
    columns of other names; a JSON list; a table for each split, `train.csv` or
    `train/metadata.csv`; the `captions.txt` and `results.csv` of Kaggle's Flickr8k and Flickr30k.

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
    folder, or move it as a whole: every call looks at it, and after a change to the table, or to
    the name or size in bytes of an image, builds another data set beside the old one.

    Unusable images are left out, reported, and listed in the data set's `metadata.json`.

    Version 1.0.0. Citation: yours.
    """

    VERSION = tfds.core.Version("1.0.0")
    MAX_UNUSABLE = 0.5  # the images are few, and not a download that may have broken
    REMEDY = "set --config.data.manual_dir to the folder with the images and metadata.csv"

    def __init__(self, *, manual_dir: Path | None = None, **kwargs):
        """Takes the folder of the table and the images."""
        self._manual_dir = manual_dir
        folder = self._folder()
        self._tables = tables.find_tables(folder)
        self._pictures = PictureNames(folder)
        rows = read_rows(folder, self._tables)
        self._matches = {name: self._pictures.find(name) for name in rows}
        self._rows = _by_file(self.source, rows, self._matches)
        name, timed = digests(folder, self._tables, self._rows)
        built = Path(kwargs.get("data_dir") or "") / self.name / timed / str(self.VERSION)
        if built.is_dir():  # its caches and its runs are named after it
            name = timed
        config = tfds.core.BuilderConfig(name=name, description=f"Of {self.source.name}.")
        super().__init__(manual_dir=manual_dir, config=config, **kwargs)

    @classmethod
    def for_files(cls, origin: Origin, **kwargs) -> Builder:
        if holds_texts(origin):
            return Stems.for_files(origin, **kwargs)
        return super().for_files(origin, **kwargs)

    @property
    def source(self) -> Path:
        """The table, or the folder of several."""
        return self._tables[0].path if len(self._tables) == 1 else self._folder()

    def stated_splits(self) -> Collection[str]:
        return assign(self._rows).keys()

    def captions_in(self, language: str, index: Index) -> list[list[str]] | None:
        if language not in self.languages():
            return None
        of: dict[str, list[str]] = {}
        for name, row in self._rows.items():
            said = zip(row.languages, row.captions, strict=True)
            of[name] = [caption for own, caption in said if own == language]
        return [of[image_id] for image_id, _ in index]

    def languages(self) -> list[str]:
        return sorted({language for row in self._rows.values() for language in row.languages})

    def annotations(self) -> Annotations | None:
        folder, paths = self._folder(), tuple(table.path for table in self._tables)
        objects: dict[str, list[Object]] = {}
        for name, found in read_objects(folder, self._tables).items():
            objects.setdefault(self._matches[name].name, []).extend(found)
        return Objects(folder, paths, objects) if objects else None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="A folder of images with captions.",
            features=features("jpeg"),
            metadata=tfds.core.MetadataDict(unusable_images={}, splits=""),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[tuple[str, Record]]]:
        folder = self._folder()
        self._pictures.report("folder")
        unnamed = [name for name in pictures_below(folder) if name not in self._rows]
        # A file may be named by another way that links lead.
        named = {os.path.realpath(match.path) for match in self._matches.values() if match.path}
        unnamed = [name for name in unnamed if os.path.realpath(folder / name) not in named]
        if unnamed:
            _log.warning(
                "folder: %d images have no row in %s and are left out: %s",
                *(len(unnamed), self.source.name, first_few(unnamed)),
            )
        splits = assign(self._rows)
        if not _have_splits(self._rows):
            counts = ", ".join(f"{len(of_s):,} {s}" for s, of_s in splits.items())
            how = f"no splits; drawn by a hash of each image: {counts}"
            _log.warning("folder: %s", how)
            self._metadata["splits"] = how
        return {s: self._generate_examples(s, of_s) for s, of_s in splits.items()}

    def _generate_examples(self, split: str, names: list[str]) -> Iterator[tuple[str, Record]]:
        remedy = f"fix the images, or take them out of {self.source.name}"
        found = _found(self._rows, self._matches, names)
        return self._usable(split, found, len(names), self.source, remedy)


def read_rows(folder: Path, found: Sequence[Table]) -> dict[str, Row]:
    """Reads tables: split and captions by file name, as the path from the folder.

    Raises:
      UserError: a table cannot be read, has another form, or contradicts itself or another; the
        message names the line.
    """
    rows: dict[str, Row] = {}
    for table in found:
        of_table = _read_table(table)
        below = table.path.parent / tables.place_of(table.path.parent, of_table)
        for name, row in of_table.items():
            name = (below.relative_to(folder) / name).as_posix()
            if name in rows:
                raise UserError(f"{table.path}: {name} is in another table, too; remove one")
            rows[name] = row
    if len({row.split is None for row in rows.values()}) > 1:
        raise UserError(
            f"{found[0].path}: some images have a split, others none; give all one, or none"
        )
    return rows


def _read_table(table: Table) -> dict[str, Row]:
    """Split and captions by file name, as the table has it."""
    path = table.path
    rows: dict[str, Row] = {}
    blank = 0
    for where, row in tables.rows_of(path):
        columns = tables.columns_of(row)
        name = _file_name(where, row)
        split = _split(where, columns.split and row[columns.split], table.split)
        of_row = _language(where, columns.language and row[columns.language])
        image = rows.setdefault(name, Row(split, [], []))
        if split != image.split:
            raise UserError(
                f"{where}: {name} is in split {split} here but in {image.split} above; choose one"
            )
        for key in filter(row.get, columns.captions):
            language = columns.languages.get(key, of_row)
            for text in row[key] if isinstance(row[key], list) else [row[key]]:
                if not isinstance(text, str):
                    raise UserError(f"{where}: a caption is not text; write it in quotes")
                caption = " ".join(text.split())
                if caption:
                    image.captions.append(caption)
                    image.languages.append(language)
                else:
                    blank += 1
    if blank:
        _log.warning("%s: %d blank captions skipped", path, blank)
    if not rows:
        raise UserError(f"{path}: no image in it; write a line for each")
    return rows


def _file_name(where: str, row: dict[str, Any]) -> str:
    column = tables.columns_of(row).file
    name = row[column] if column is not None else None
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}: no file_name; name the image or remove the line")
    return Path(name.strip()).as_posix()


def _language(where: str, value: object) -> str:
    """The language of a row, as it names it; "" if it does not."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    code = LANGUAGES.get(value.strip().lower(), value.strip()) if isinstance(value, str) else ""
    if not re.fullmatch(LANGUAGE, code):
        raise UserError(f"{where}: language {value!r} is no code; write en, de, zh and so on")
    return code


def _split(where: str, value: object, of_table: str | None) -> str | None:
    """The split of a row, from its own column and from the table's name."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return of_table
    split = split_name(value)
    if split is None:
        raise UserError(
            f"{where}: split {value!r} is not known; choose one of {', '.join(SPLIT_NAMES)}"
        )
    if split != (of_table or split):
        raise UserError(f"{where}: split {value!r} in a table for {of_table}; choose one")
    return split


def read_objects(folder: Path, found: Iterable[Table]) -> dict[str, list[Object]]:
    """Reads the objects of tables by file name, as the path from the folder; only JSON has them.

    Raises:
      UserError: a table cannot be read, or its objects have another form; the message names the
        line.
    """
    objects: dict[str, list[Object]] = {}
    for table in found:
        if table.path.suffix.lower() not in tables.JSON:
            continue
        named = [(_file_name(where, row), where, row) for where, row in tables.rows_of(table.path)]
        place = table.path.parent
        below = place / tables.place_of(place, dict.fromkeys(name for name, _, _ in named))
        for name, where, row in named:
            if row.get("objects") is None:
                continue
            try:
                parsed = parse_objects(row["objects"])
            except (ValueError, OverflowError) as error:
                raise UserError(
                    f'{where}: objects need "bbox", a list of [x, y, width, height], and may have '
                    f'as long lists "category" and "words" ({error}); fix the line'
                ) from error
            objects.setdefault((below.relative_to(folder) / name).as_posix(), []).extend(parsed)
    return objects


def _have_splits(rows: dict[str, Row]) -> bool:
    """Whether the table says of its rows in which split they are: of all, or of none."""
    return next(iter(rows.values())).split is not None


def assign(rows: dict[str, Row]) -> dict[str, list[str]]:
    """The file names of each split: as in the table, or else chosen by the hashes of the names."""
    splits: dict[str, list[str]] = {}
    if _have_splits(rows):
        for name, row in rows.items():
            splits.setdefault(cast(str, row.split), []).append(name)
        return splits
    return shared_out({name: name for name in rows}, {"val": SHARE, "test": SHARE}, "train")


def digests(folder: Path, tables: Sequence[Table], rows: dict[str, Row]) -> tuple[str, str]:
    """Two names for a folder's content.

    Returns:
      The digest of the tables and of the size of each image, the same for each copy of the folder;
      and the one also of their times of change, which named data sets until version 0.2.
    """
    content = hashlib.sha256()
    for table in tables:
        content.update(table.path.read_bytes())
        if len(tables) > 1:
            content.update(f"{table.path.relative_to(folder)}\n".encode())
        else:
            content.update((table.split or "").encode())
    timed = content.copy()
    for name in sorted(rows):
        path = _inside(folder, name)
        stat = path.stat() if path and os.path.isfile(path) else None  # a name may be too long
        content.update(_bytes(f"{name} {stat and stat.st_size}\n"))
        timed.update(_bytes(f"{name} {stat and (stat.st_size, stat.st_mtime_ns)}\n"))
    return content.hexdigest()[:16], timed.hexdigest()[:16]


def _bytes(text: str) -> bytes:
    """The text in UTF-8, with halves of characters, which UTF-8 lacks, in the same way."""
    return text.encode(errors="surrogatepass")


def _inside(folder: Path, name: str) -> Path | None:
    """The path of that name; None if it leads out of the folder."""
    own = inside(folder, name)
    return None if own is None else folder / own


def _by_file(table: Path, rows: dict[str, Row], matches: dict[str, Match]) -> dict[str, Row]:
    """The rows by the names that their files have; those without a file keep the table's name.

    Raises:
      UserError: a file is in several splits under several names.
    """
    by_file: dict[str, Row] = {}
    for name, row in rows.items():
        own = matches[name].name
        together = by_file.setdefault(own, Row(row.split, [], []))
        if row.split != together.split:
            raise UserError(
                f"{table}: {own} is in split {together.split}, and as {name} in {row.split}; "
                "choose one"
            )
        together.captions.extend(row.captions)
        together.languages.extend(row.languages)
    return by_file


def _found(rows: dict[str, Row], matches: dict[str, Match], names: list[str]) -> Iterator[Found]:
    by_file = {match.name: match for match in matches.values()}
    for name in names:
        record = {"image_id": name, "captions": rows[name].captions, "objects": []}
        yield name, read_match(by_file[name]), record
