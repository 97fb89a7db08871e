"""Tables of captions as people write them: which files they are, and what their columns mean."""

import csv
import io
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from show_attend_tell.data.builders.common import split_name
from show_attend_tell.errors import UserError
from show_attend_tell.files import parse_json, read_text

JSON = (".jsonl", ".json")
KINDS = (".csv", ".tsv", *JSON)
SEPARATORS = (",", "\t", ";", "|")
# Files for a whole folder, where there is none called metadata: those of Kaggle's Flickr8k and 30k.
OTHERS = (*(f"captions{kind}" for kind in KINDS), "captions.txt", "results.csv")
# Columns, in lower case and without anything but letters and digits, in order of preference.
FILE_COLUMNS = (
    *("filename", "image", "imagename", "imagefile", "imagefilename", "imagepath"),
    *("filepath", "file", "path", "img"),
)
CAPTION_COLUMNS = r"(caption|text)s?\d*"  # all are taken; of the following, only one kind
OF_LANGUAGE = r"(?:caption|text)s?[ _.-]([a-z]{2})(?:[ _.-]?\d+)?"  # before all these, as written
NEXT_COLUMNS = (r"descriptions?\d*", r"comments?\d*", r"sentences?\d*")
# Codes of ISO 639-1, but for "id", "no" and "is", which are words for other things in such names.
CODES = frozenset(
    re.findall(
        "..",
        "aaabaeafakamanarasavayazbabebgbhbibmbnbobrbscacechcocrcscucvcydadedvdzeeeleneoeseteufaff"
        "fifjfofrfygagdglgngugvhahehihohrhthuhyhziaieigiiikioitiujajvkakgkikjkkklkmknkokrkskukvkw"
        "kylalblglilnloltlulvmgmhmimkmlmnmrmsmtmynanbndnengnlnnnrnvnyocojomorospapiplpsptqurmrnro"
        "rurwsascsdsesgsiskslsmsnsosqsrssstsusvswtatetgthtitktltntotrtstttwtyugukuruzvevivowawoxh"
        "yiyozazhzu",
    )
)
LOOKED_UP = 100  # names that tell which folder a table's images lie in


@dataclass(frozen=True)
class Table:
    """A table of captions.

    Attributes:
      path: of the file.
      split: that its name, or that of its folder, gives all its images; None if they say nothing.
    """

    path: Path
    split: str | None = None


@dataclass(frozen=True)
class Columns:
    """Which columns, or keys, of a table are read.

    Attributes:
      file: of the file's name; None if there is none.
      captions: of captions, in order; empty if there are none.
      split: of the split; None if there is none.
      language: of the language of a row's captions; None if there is none.
      languages: those of the `captions` whose names say them, such as `caption_de`.
    """

    file: str | None
    captions: tuple[str, ...]
    split: str | None
    language: str | None
    languages: Mapping[str, str]


def find_tables(folder: Path) -> list[Table]:
    """Finds the table or the tables of a folder of images.

    One file for the folder, `metadata.csv` (or .tsv, .jsonl, .json); or one for each split,
    `train.csv` and so on; or one in each folder `train` and so on, `train/metadata.csv`; or one of
    `OTHERS`. The first of these kinds that is there counts. Case does not matter.

    Raises:
      UserError: there is none, or several that contradict each other.
    """
    files = _files(folder)
    whole = [Table(path) for path in _named(files, [f"metadata{kind}" for kind in KINDS])]
    groups: list[list[Table]] = [
        whole,
        [Table(path, split) for path in files if (split := _split_of(path))],
        list(in_folders(folder)),
        [Table(path) for path in _named(files, OTHERS)],
    ]
    found = next(filter(None, groups), [])
    if not found:
        raise UserError(
            f"{folder}: has no table of captions such as metadata.csv or metadata.jsonl, no "
            "train.csv and val.csv, and no folders train and val with a metadata.csv each"
        )
    places: dict[str | None, Path] = {}
    for table in found:
        other = places.setdefault(table.split, table.path)
        if other != table.path:
            names = f"{other.relative_to(folder)} and {table.path.relative_to(folder)}"
            of = f" for split {table.split}" if table.split else ""
            raise UserError(f"{folder}: holds {names}{of}; keep one of them")
    order = ("train", "val", "test")
    return sorted(found, key=lambda table: order.index(table.split) if table.split else 0)


def columns_of(names: Iterable[str]) -> Columns:
    """What the columns of a table, or the keys of a JSON object, mean.

    Case, spaces and underscores do not matter. Columns of captions may be numbered.
    """
    return _columns_of(tuple(names))


def separator_of(where: str, header: str) -> str:
    """The separator of a table's columns, from its first line and the suffix of its file.

    Raises:
      UserError: with no separator it names a column of file names and one of captions.
    """
    if where.lower().endswith(".tsv"):
        separators: tuple[str, ...] = ("\t",)
    else:
        separators = SEPARATORS
    for separator in separators:
        columns = columns_of(split_line(header, separator))
        if columns.file is not None and columns.captions:
            return separator
    names = split_line(header, max(separators, key=header.count))
    raise UserError(
        f"{where}: its first line must name the columns file_name and caption, separated by a "
        f"comma, semicolon or tab, but names {', '.join(names)[:100] or 'none'}; fix it"
    )


def split_line(line: str, separator: str) -> list[str]:
    """The cells of a line, without spaces around them."""
    return [cell.strip() for cells in csv.reader([line], dialect(separator)) for cell in cells]


def dialect(separator: str) -> csv.Dialect:
    """How tables are read. Between `|` quotation marks are text, as in Kaggle's `results.csv`."""

    class Separated(csv.excel):
        delimiter = separator
        quoting = csv.QUOTE_NONE if separator == "|" else csv.QUOTE_MINIMAL
        strict = True

    return Separated()


def fitted(cells: list[str], count: int, separator: str) -> list[str]:
    """A row without empty cells beyond its `count` columns, where that is what makes it fit.

    Spreadsheets add such cells. Between `|`, the last column may hold further `|`; and a separator
    may be missing after a number, as in one line of Kaggle's `results.csv`
    (`2199200615.jpg| 4   A dog runs across the grass .`).
    """
    while len(cells) > count and not cells[-1].strip():
        cells = cells[:-1]
    if separator == "|":
        if len(cells) > count:
            cells = [*cells[: count - 1], separator.join(cells[count - 1 :])]
        joined = re.fullmatch(r"\s*(\d+)\s+(\S.*)", cells[-1])
        if len(cells) == count - 1 and joined:
            cells = [*cells[:-1], *joined.groups()]
    return cells


def place_of(folder: Path, names: Collection[str]) -> str:
    """The folder directly below a table's that its images lie in; "" for the table's own.

    A folder below counts if some of the first names are there, and none is beside the table or in
    another folder below.
    """
    first = list(islice(names, LOOKED_UP))
    if any(os.path.isfile(folder / name) for name in first):
        return ""
    found = [
        place for place in _folders(folder) if any(os.path.isfile(place / name) for name in first)
    ]
    return found[0].name if len(found) == 1 else ""


def rows_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table, each with its place for messages.

    Raises:
      UserError: it cannot be read, or has another form; the message names the line.
    """
    if path.suffix.lower() in JSON:
        return _json_rows(path)
    return separated_rows(read_text(path), str(path))


def separated_rows(text: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table of separated columns, each with its place for messages.

    Args:
      text: its content.
      where: the file, for messages; its suffix may tell the separator.

    Raises:
      UserError: it has another form; the message names the line.
    """
    header = next(filter(str.strip, io.StringIO(text)), "").strip("\r\n")
    number = 0
    try:
        separator = separator_of(where, header)
        columns = split_line(header, separator)
        for column in filter(None, columns):
            if columns.count(column) > 1:
                raise UserError(
                    f"{where}: has {columns.count(column)} columns {column!r}; give them different "
                    f"names, such as {column}_1 and {column}_2"
                )
        rows = csv.reader(io.StringIO(text, newline=""), dialect(separator))
        below_header = False
        for cells in rows:
            number = rows.line_num
            if not any(map(str.strip, cells)):
                continue
            if not below_header:
                below_header = True
                continue
            cells = fitted(cells, len(columns), separator)
            if len(cells) != len(columns):
                more = len(cells) > len(columns)
                name = "commas" if separator == "," else f"{separator!r}"
                raise UserError(
                    f"{where}, line {number}: {'more' if more else 'fewer'} than {len(columns)} "
                    f'columns; put quotes (") around a caption with {name}'
                )
            yield f"{where}, line {number}", dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{where}, line {number + 1}: not readable as CSV ({error}); fix the line"
        ) from error


@lru_cache(maxsize=64)  # the rows of a table have the same keys
def _columns_of(names: tuple[str, ...]) -> Columns:
    plain = {name: re.sub(r"[\W_]+", "", name.lower()) for name in names if name}
    files = [name for known in FILE_COLUMNS for name in names if plain.get(name) == known]
    if "file_name" in files:
        files = ["file_name"]
    captions: tuple[str, ...] = ()
    for pattern in (CAPTION_COLUMNS, *NEXT_COLUMNS):
        if not captions:
            captions = tuple(name for name in plain if re.fullmatch(pattern, plain[name]))
    known = ("caption", "text", "captions")
    captions = tuple(
        sorted(captions, key=lambda n: known.index(plain[n]) if plain[n] in known else len(known))
    )
    split, language = (
        next((name for name in plain if plain[name] == known), None)
        for known in ("split", "language")
    )
    languages: dict[str, str] = {}
    for name in plain:
        match = re.fullmatch(OF_LANGUAGE, name.strip().lower())
        if match and match[1] in CODES:
            languages[name] = match[1]
    captions = tuple(name for name in captions if name not in languages) + tuple(languages)
    return Columns(files[0] if files else None, captions, split, language, languages)


def _files(folder: Path) -> list[Path]:
    """The files that may be tables by their suffix."""
    paths = (path for path in folder.iterdir() if path.suffix.lower() in (*KINDS, ".txt"))
    return sorted(path for path in paths if os.path.isfile(path))  # False for circular links


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if os.path.isdir(entry.path))


def _named(files: Iterable[Path], names: Collection[str]) -> list[Path]:
    return [path for path in files if path.name.lower() in names]


def _split_of(path: Path) -> str | None:
    """The split that a table's name says, such as `train.csv` or `captions_val.jsonl`."""
    if path.suffix.lower() not in KINDS:
        return None
    about = "metadata|captions|annotations"
    pattern = rf"(?:(?:{about})[_. -])?([a-z]+)(?:[_. -](?:{about}))?"
    match = re.fullmatch(pattern, path.stem.lower())
    return split_name(match[1]) if match else None


def in_folders(folder: Path) -> Iterator[Table]:
    """The tables in folders that are called like splits."""
    for place in _folders(folder):
        split = split_name(place.name)
        if split:
            for path in _named(_files(place), [f"metadata{kind}" for kind in KINDS]):
                yield Table(path, split)


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_text(path)
    if text.lstrip().startswith("["):
        try:
            entries = parse_json(text)
        except ValueError as error:
            raise UserError(f"{path}: not a JSON list ({error}); fix it") from error
        for number, entry in enumerate(entries, 1):
            where = f"{path}, entry {number}"
            yield where, _object(where, entry)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: not JSON ({error}); write one object {{...}} a line, or a "
                "list [{...}, ...]"
            ) from error
        yield f"{path}, line {number}", _object(f"{path}, line {number}", row)


def _object(where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: not an object {{...}}; fix it")
    return row
