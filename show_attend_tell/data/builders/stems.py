"""A folder of pictures, each with a text file of the same stem beside it."""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from show_attend_tell.data.builders import tables
from show_attend_tell.data.builders.gathered import Gathered, Item, reader, split_in
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.picture_names import SUFFIXES, pictures_below
from show_attend_tell.printable import first_few

_log = logging.getLogger(__name__)


class Stems(Gathered, skip_registration=True):
    """Pictures such as `a.jpg` with captions in `a.txt`, one a line, in UTF-8 or UTF-16.

    They may lie in folders below. If all lie in folders called train, val (or validation, dev) and
    test, these are the splits; with train and another one, none may lie elsewhere. Otherwise a
    tenth each are for val and test, chosen by the hashes of their paths. Pictures without a text
    are left out and counted.

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
            content.update(hashlib.sha256(tables.read_text(text).encode()).digest())
        return content.hexdigest()

    def items(self) -> Iterator[Item]:
        folder = self._folder()
        pairs = find_pairs(folder)
        without = [p.name for p in _pictures(folder) if not p.with_suffix(".txt").is_file()]
        if without:
            _log.warning(
                "%s: %d images have no text beside them and are left out: %s",
                *(folder, len(without), first_few(without)),
            )
        names = [picture.relative_to(folder) for picture, _ in pairs]
        splits = [split_in(n.parts[0]) if len(n.parts) > 1 else None for n in names]
        # A folder may be called like a split by chance, several hardly: then all need one.
        own = all(splits) or {"train"} < {split for split in splits if split}
        for name, split, (picture, text) in zip(names, splits, pairs, strict=True):
            captions = tables.read_text(text).splitlines()
            split = split if own else None
            yield Item(name.as_posix(), captions, reader(picture), split)


def holds_texts(origin: Origin) -> bool:
    """Whether a folder has no table, but a picture with a text of the same stem."""
    folder = origin.manual_dir
    if folder is None or not folder.is_dir():
        return False
    stems = {path.stem for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
    others = [path for path in folder.iterdir() if path.stem not in stems]
    if any(p.suffix.lower() in tables.KINDS or p.name.lower() in tables.OTHERS for p in others):
        return False
    if any(tables.in_folders(folder)):
        return False
    return any(p.with_suffix(".txt").is_file() for p in _pictures(folder))


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Each picture below a folder that has a text beside it, and that text, by path."""
    texts = ((picture, picture.with_suffix(".txt")) for picture in _pictures(folder))
    return sorted((picture, text) for picture, text in texts if text.is_file())


def _pictures(folder: Path) -> Iterator[Path]:
    return (folder / name for name in pictures_below(folder))
