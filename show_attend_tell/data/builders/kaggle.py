"""Flickr8k and Flickr30k as Kaggle hands them out: one table of captions, and a folder of images.

The folder may be extracted or the one archive that Kaggle gives.
"""

import csv
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from show_attend_tell.data.builders.common import DAMAGE, SUFFIXES, refuse, zip_members
from show_attend_tell.data.builders.gathered import Gathered, Item, content_digest, ends_digest
from show_attend_tell.data.entities import find_entities
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.phrase_index import Annotations
from show_attend_tell.errors import UserError

TABLES = ("captions.txt", "results.csv", "captions.csv", "results_20130124.token")
ARCHIVES = (
    *("archive.zip", "flickr8k.zip", "flickr30k.zip", "flickr-image-dataset.zip"),
    "flickr8kimagescaptions.zip",
)
# The lists of each split, by the names that people give them: of images, with or without suffix.
LISTS = {
    "train": ("Flickr_8k.trainImages.txt", "train.txt"),
    "val": ("Flickr_8k.devImages.txt", "val.txt", "dev.txt"),
    "test": ("Flickr_8k.testImages.txt", "test.txt"),
}
IMAGE_COLUMNS = ("image", "image_name", "file_name", "filename")
CAPTION_COLUMNS = ("caption", "comment", "captions", "text")

_log = logging.getLogger(__name__)


class Kaggle(Gathered, skip_registration=True):
    """A table of captions with a header, the images in some folder, and perhaps lists of splits.

    Get: the download named below. Extract it into a folder, or leave it as the zip that it is.
    `captions.txt` or `results.csv` may lie in that folder or one below; the images anywhere below.
    Lists of the images of each split, such as `Flickr_8k.trainImages.txt` or `train.txt`, are used
    if they lie beside the table or in the folder. Without them, a tenth of the images each are for
    val and test, chosen by the hashes of their names.

    Version 1.0.0. Citation: that of Flickr8k or Flickr30k. For non-commercial research.
    """

    FORM = "kaggle"
    REMEDY = (
        "set --config.data.manual_dir to the folder with captions.txt or results.csv and the images"
    )

    def annotations(self) -> Annotations | None:
        return find_entities(self._manual_dir)

    def digest(self) -> str:
        table = find_table(self._folder())
        if table is None:
            raise UserError(f"{self._manual_dir}: holds none of {', '.join(TABLES)}; {self.REMEDY}")
        if table.suffix == ".zip":
            return ends_digest([table])
        return content_digest([table, *_lists_beside(table, self._folder()).values()])

    def items(self) -> Iterator[Item]:
        folder = self._folder()
        table = find_table(folder)
        assert table is not None
        files = zip_members(table) if table.suffix == ".zip" else _files_below(folder)
        name = next(name for name in TABLES if name in files) if table.suffix == ".zip" else None
        where = f"{table}, {name}" if name else str(table)
        captions = read_table(_text(files[name] if name else table.read_bytes, where), where)
        lists = {
            split: next((files[n] for n in names if n in files), None)
            for split, names in LISTS.items()
        }
        if not name:
            beside = _lists_beside(table, folder)
            lists = {
                split: beside[split].read_bytes if split in beside else None for split in LISTS
            }
        splits = _splits(lists, captions, where)
        unlisted = [image for image in captions if splits and image not in splits]
        if unlisted:
            _log.warning(
                "%s: %d images are in no list of a split and are left out", where, len(unlisted)
            )
        for image, of_image in captions.items():
            if not splits or image in splits:
                read = files.get(image, refuse("it is not there"))
                yield Item(image, of_image, read, splits.get(image))


class KaggleFlickr8k(Kaggle, skip_registration=True):
    """Flickr8k by Kaggle: `captions.txt` (a header `image,caption`) and `Images/`.

    Other files, splits and terms: see `Kaggle`.
    """

    name = "flickr8k"


class KaggleFlickr30k(Kaggle, skip_registration=True):
    """Flickr30k by Kaggle: `results.csv` (`image_name| comment_number| comment`) and its images.

    Other files, splits and terms: see `Kaggle`.
    """

    name = "flickr30k"


def holds_table(origin: Origin) -> bool:
    """Whether a folder has Kaggle's form."""
    folder = origin.manual_dir
    return folder is not None and folder.is_dir() and find_table(folder) is not None


def find_table(folder: Path) -> Path | None:
    """The table in a folder or one below; else an archive that holds one; else None."""
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in (folder, *below):
        for name in TABLES:
            if (place / name).is_file():
                return place / name
    for name in ARCHIVES:
        if (folder / name).is_file() and not zip_members(folder / name).keys().isdisjoint(TABLES):
            return folder / name
    return None


def read_table(text: str, where: str) -> dict[str, list[str]]:
    """Captions by image name.

    Args:
      text: the content of the table: a header and lines separated by `,` or `|`, or lines
        `NAME.jpg#K<TAB>caption` without a header.
      where: the file, for messages.

    Raises:
      UserError: it has another form; the message names the line.
    """
    captions: dict[str, list[str]] = {}
    for image, caption in _rows(text, where):
        captions.setdefault(re.sub(r"#\d+$", "", Path(image).name), []).append(caption)
    if not captions:
        raise UserError(f"{where}: holds no captions; get the file again")
    return captions


def _rows(text: str, where: str) -> Iterator[tuple[str, str]]:
    lines = text.splitlines()
    head = lines[0] if lines else ""
    if re.fullmatch(r".+#\d+\t.*", head):
        for number, line in enumerate(lines, 1):
            image, tab, caption = line.partition("\t")
            if line.strip() and not tab:
                _wrong(where, number)
            if tab:
                yield image.strip(), caption
        return
    separator = "|" if "|" in head else ","
    columns = [column.strip().strip('"').lower() for column in head.split(separator)]
    image = next((columns.index(c) for c in IMAGE_COLUMNS if c in columns), None)
    caption = next((columns.index(c) for c in CAPTION_COLUMNS if c in columns), None)
    if image is None or caption is None:
        raise UserError(
            f"{where}: its first line must name the columns image and caption, separated by a "
            f"comma, or image_name and comment, separated by |, but is {head[:80]!r}; fix it"
        )
    for number, row in _split_lines(lines, separator, where):
        if len(row) == len(columns) - 1 and separator == "|":
            row = _with_number(row)  # one line of Flickr30k lacks a separator
        if len(row) > len(columns) and caption == len(columns) - 1:
            row = [*row[:caption], separator.join(row[caption:])]
        if len(row) != len(columns):
            _wrong(where, number)
        yield row[image].strip(), row[caption]


def _split_lines(lines: list[str], separator: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line after the header that is not blank; `|` knows no quotes."""
    quoting = csv.QUOTE_NONE if separator == "|" else csv.QUOTE_MINIMAL
    table = csv.reader((f"{line}\n" for line in lines), delimiter=separator, quoting=quoting)
    try:
        for row in table:
            if table.line_num > 1 and any(field.strip() for field in row):
                yield table.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{where}, line {table.line_num + 1}: not readable as CSV ({error}); fix the line"
        ) from error


def _with_number(row: list[str]) -> list[str]:
    match = re.fullmatch(r"\s*(\d+)\s+(.*)", row[-1])
    return [*row[:-1], match[1], match[2]] if match else row


def _wrong(where: str, line: int) -> NoReturn:
    raise UserError(f"{where}, line {line}: not of the form of its header; fix or remove the line")


def _text(read: Callable[[], bytes], where: str) -> str:
    try:
        return read().decode("utf-8-sig")
    except DAMAGE as error:
        raise UserError(f"{where}: cannot be read ({error}); get it again") from error


def _files_below(folder: Path) -> dict[str, Callable[[], bytes]]:
    """The functions that read the image files below a folder, by name."""
    return {
        name: Path(place, name).read_bytes
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES)
    }


def _lists_beside(table: Path, folder: Path) -> dict[str, Path]:
    """The files that list the images of splits."""
    found = {}
    for split, names in LISTS.items():
        for path in (place / name for place in (table.parent, folder) for name in names):
            if path.is_file():
                found.setdefault(split, path)
    return found


def _splits(
    lists: dict[str, Callable[[], bytes] | None], captions: dict[str, list[str]], where: str
) -> dict[str, str]:
    """The split of each listed image; empty without lists."""
    if not any(lists.values()):
        return {}
    full = {Path(image).stem: image for image in captions}
    splits: dict[str, str] = {}
    for split, read in lists.items():
        for name in _text(read, f"{where}: list of {split}").split() if read else ():
            image = name if name in captions else full.get(Path(name).stem, name)
            if image in captions:
                splits[image] = split
    if not splits:
        names = ", ".join(name for of_split in LISTS.values() for name in of_split)
        raise UserError(f"{where}: the lists beside it ({names}) name none of its images; fix them")
    return splits
