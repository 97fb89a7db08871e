"""Flickr8k and Flickr30k as Kaggle hands them out: one table of captions, and a folder of images.

The folder may be extracted or the one archive that Kaggle gives.
"""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from show_attend_tell.data.builders import tables
from show_attend_tell.data.builders.common import DAMAGE, read_match, refuse, zip_members
from show_attend_tell.data.builders.gathered import Gathered, Item, content_digest, ends_digest
from show_attend_tell.data.entities import find_entities
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.phrase_index import Annotations
from show_attend_tell.data.picture_names import PictureNames
from show_attend_tell.data.text_files import names_in
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
    LANGUAGE = "en"
    REMEDY = (
        "set --config.data.manual_dir to the folder with captions.txt or results.csv and the images"
    )

    def annotations(self) -> Annotations | None:
        return find_entities(self._manual_dir)

    def digest(self) -> str:
        table = find_table(self._folder())
        if table is None:
            raise UserError(f"{self._manual_dir}: holds none of {', '.join(TABLES)}; {self.REMEDY}")
        lists = _lists_beside(table, self._folder()).values()
        if table.suffix == ".zip":
            return (
                ends_digest([table])[:8] + content_digest(lists) if lists else ends_digest([table])
            )
        return content_digest([table, *lists])

    def items(self) -> Iterator[Item]:
        folder = self._folder()
        table = find_table(folder)
        assert table is not None
        pictures = PictureNames(folder)
        files, where, read = None, str(table), table.read_bytes
        lists = {split: path.read_bytes for split, path in _lists_beside(table, folder).items()}
        if table.suffix == ".zip":
            files = zip_members(table)
            name = next(name for name in TABLES if name in files)
            where, read = f"{table}, {name}", files[name]
            inside = {s: files[n] for s, names in LISTS.items() for n in names if n in files}
            lists = inside | lists
        captions = read_table(_text(read, where), where)
        splits = _splits(lists, captions, where)
        unlisted = [image for image in captions if splits and image not in splits]
        if unlisted:
            _log.warning(
                "%s: %d images are in no list of a split and are left out", where, len(unlisted)
            )
        for image, of_image in captions.items():
            if not splits or image in splits:
                if files is None:
                    read = read_match(pictures.find_below(image))
                else:
                    read = files.get(image, refuse("it is not there"))
                yield Item(image, of_image, read, splits.get(image))
        pictures.report(self.name)


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
    """Image name and caption of each row."""
    lines = text.splitlines()
    if lines and re.fullmatch(r".+#\d+\t.*", lines[0]):
        for number, line in enumerate(lines, 1):
            image, tab, caption = line.partition("\t")
            if line.strip() and not tab:
                raise UserError(
                    f"{where}, line {number}: not NAME.jpg#K<TAB>caption; fix or remove the line"
                )
            if tab:
                yield image.strip(), caption
        return
    for _, row in tables.separated_rows(text, where):
        columns = tables.columns_of(row)
        for caption in columns.captions:
            yield row[cast(str, columns.file)], row[caption]  # the header names it


def _text(read: Callable[[], bytes], where: str) -> str:
    try:
        return read().decode("utf-8-sig")
    except DAMAGE as error:
        raise UserError(f"{where}: cannot be read ({error}); get it again") from error


def _lists_beside(table: Path, folder: Path) -> dict[str, Path]:
    """The files that list the images of splits."""
    found = {}
    for split, names in LISTS.items():
        for path in (place / name for place in (table.parent, folder) for name in names):
            if path.is_file():
                found.setdefault(split, path)
    return found


def _splits(
    lists: dict[str, Callable[[], bytes]], captions: dict[str, list[str]], where: str
) -> dict[str, str]:
    """The split of each listed image; empty without lists."""
    if not lists:
        return {}
    full = {Path(image).stem: image for image in captions}
    splits: dict[str, str] = {}
    for split, read in lists.items():
        for name in names_in(_text(read, f"{where}: list of {split}")):
            image = name if name in captions else full.get(Path(name).stem, name)
            if image in captions:
                splits[image] = split
    if not splits:
        names = ", ".join(name for of_split in LISTS.values() for name in of_split)
        raise UserError(f"{where}: the lists beside it ({names}) name none of its images; fix them")
    return splits
