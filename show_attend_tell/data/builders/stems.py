"""A folder of pictures, each with a text file of the same stem beside it."""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from show_attend_tell.data.builders.common import SUFFIXES
from show_attend_tell.data.builders.gathered import Gathered, Item, reader, split_in
from show_attend_tell.data.origin import Origin
from show_attend_tell.errors import UserError

TABLES = (".csv", ".tsv", ".json", ".jsonl")

_log = logging.getLogger(__name__)


class Stems(Gathered, skip_registration=True):
    """Pictures such as `a.jpg` with captions in `a.txt`, one a line, in UTF-8.

    They may lie in folders below. If all lie in folders called train, val (or validation, dev) and
    test, these are the splits. Otherwise a tenth each are for val and test, chosen by the hashes of
    their paths. Pictures without a text are left out and counted.

    Version 1.0.0. Citation: yours.
    """

    name = "folder"
    FORM = "texts"
    MAX_UNUSABLE = 0.5  # as for a folder with a table
    REMEDY = (
        "set --config.data.manual_dir to the folder of images, each with a .txt file of the same "
        "stem beside it"
    )

    def digest(self) -> str:
        content = hashlib.sha256()
        for picture, text in find_pairs(self._folder()):
            name = picture.relative_to(self._folder()).as_posix()
            size = picture.stat().st_size if picture.is_file() else None
            content.update(f"{name} {size} ".encode(errors="surrogateescape"))
            content.update(hashlib.sha256(_content(text)).digest())
        return content.hexdigest()

    def items(self) -> Iterator[Item]:
        folder = self._folder()
        pairs = find_pairs(folder)
        without = [p.name for p in _pictures(folder) if not p.with_suffix(".txt").is_file()]
        if without:
            _log.warning(
                "%s: %d images have no text beside them and are left out: %s%s",
                *(folder, len(without), ", ".join(without[:3]), ", ..." * (len(without) > 3)),
            )
        names = [picture.relative_to(folder) for picture, _ in pairs]
        splits = [split_in(n.parts[0]) if len(n.parts) > 1 else None for n in names]
        for name, split, (picture, text) in zip(names, splits, pairs, strict=True):
            captions = _decoded(text).splitlines()
            split = split if all(splits) else None
            yield Item(name.as_posix(), captions, reader(picture), split)


def holds_texts(origin: Origin) -> bool:
    """Whether a folder has no table, but a picture with a text of the same stem."""
    folder = origin.manual_dir
    if folder is None or not folder.is_dir():
        return False
    stems = {path.stem for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
    tables = [path for path in folder.iterdir() if path.suffix in TABLES and path.stem not in stems]
    return not tables and any(p.with_suffix(".txt").is_file() for p in _pictures(folder))


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Each picture below a folder that has a text beside it, and that text, by path."""
    texts = ((picture, picture.with_suffix(".txt")) for picture in _pictures(folder))
    return [(picture, text) for picture, text in texts if text.is_file()]


def _pictures(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES):
                yield Path(place, name)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def _decoded(path: Path) -> str:
    try:
        return _content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8; save the file as UTF-8") from error
