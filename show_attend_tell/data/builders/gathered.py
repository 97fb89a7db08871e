"""The common builder of sources that name images, captions and perhaps splits, in many forms.

A source is a subclass of `Gathered` that yields an `Item` for each image. Splits, records and
reports are made here, alike for all.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tensorflow_datasets as tfds

from show_attend_tell.data.builders.common import (
    SPLIT_NAMES,
    Builder,
    ImagesBuilder,
    features,
    refuse,
)
from show_attend_tell.data.holdout import shared_out
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.records import Record
from show_attend_tell.errors import UserError

SPLITS = SPLIT_NAMES | {"restval": "restval"}  # by what people call them
SHARE = 0.1  # of the images for each of val and test, where a source has no splits

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """An image as a source names it.

    Attributes:
      name: tells it from all other images of the source.
      captions: of the image; blank ones are left out later.
      read: reads the encoded image; may raise UserError or an error of the file.
      split: a value of `SPLITS`; None where the source has no splits.
      key: decides on the split where the source does not; empty: the name.
    """

    name: str
    captions: list[str]
    read: Callable[[], bytes]
    split: str | None = None
    key: str = ""


class Gathered(ImagesBuilder, skip_registration=True):
    """A data set of the items that a source yields.

    A later call needs the source again, unless it is remote: it tells which data set is meant.
    """

    VERSION = tfds.core.Version("1.0.0")
    FORM: str  # a word for the source's form

    def __init__(self, *, origin: Origin, **kwargs):
        """Takes where the source is, and what TFDS's builders take."""
        self.origin, self._manual_dir = origin, origin.manual_dir
        config = tfds.core.BuilderConfig(
            name=f"{self.FORM}-{self.digest()[:16]}", description=f"From {self.FORM}."
        )
        super().__init__(manual_dir=origin.manual_dir, config=config, **kwargs)

    @classmethod
    def for_files(cls, origin: Origin, **kwargs) -> Builder:
        return cls(origin=origin, **kwargs)

    def digest(self) -> str:
        """At least 16 hexadecimal digits that identify the source's content, found in seconds.

        Raises:
          UserError: the source is not there.
        """
        raise NotImplementedError

    def items(self) -> Iterator[Item]:
        """The images. Called once.

        Raises:
          UserError: the source cannot be read, or has another form.
        """
        raise NotImplementedError

    def place(self) -> Path:
        """Where the images lie, for messages."""
        return self._folder()

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images with captions.",
            features=features("jpeg"),
            metadata=tfds.core.MetadataDict(unusable_images={}, splits=""),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[tuple[str, Record]]]:
        items, blank = [], 0
        for item in self.items():
            kept = [text for caption in item.captions if (text := " ".join(caption.split()))]
            blank += len(item.captions) - len(kept)
            items.append(Item(item.name, kept, item.read, item.split, item.key))
        if blank:
            _log.warning("%s: %d blank captions skipped", self.place(), blank)
        if not items:
            raise UserError(f"{self.place()}: no image with a caption found; {self.REMEDY}")
        parts, how = assign(items, str(self.place()))
        if how:
            _log.warning("%s: %s", self.name, how)
        self._metadata["splits"] = how
        return {split: self._generate_examples(split, part) for split, part in parts.items()}

    def _generate_examples(self, split: str, items: list[Item]) -> Iterator[tuple[str, Record]]:
        found = (
            (i.name, i.read, {"image_id": i.name, "captions": i.captions, "objects": []})
            for i in items
        )
        return self._usable(split, found, len(items), self.place(), self.REMEDY)


def assign(items: list[Item], place: str) -> tuple[dict[str, list[Item]], str]:
    """The items of each split, and in a few words how missing splits were made.

    Where a split is missing, others give it images chosen by the hashes of their keys, so that an
    image stays in its split when others come or go:

    - no splits, or a single one: a tenth each to val and test
    - no test: half of val

    Where val is missing, `data.holdout` gives it a share of train.

    Raises:
      UserError: a name comes twice, only some items have a split, or there is no train.
    """
    seen: set[str] = set()
    given: dict[str | None, list[Item]] = {}
    for item in items:
        if item.name in seen:
            raise UserError(f"{place}: {item.name} comes twice; remove one of them")
        seen.add(item.name)
        given.setdefault(item.split, []).append(item)
    if None in given and len(given) > 1:
        raise UserError(
            f"{place}: {given[None][0].name} has no split, but others have; give all one, or none"
        )
    if len(given) == 1:
        parts = _shared_out(items, {"val": SHARE, "test": SHARE}, "train")
        had = next(iter(given))
        how = f"no splits{f' but {had}' if had else ''}; drawn by a hash of each image"
        return parts, f"{how}: {_counts(parts)}"
    named = {split: of_split for split, of_split in given.items() if split is not None}
    if "train" not in named:
        raise UserError(f"{place}: has the splits {', '.join(named)} but no train; add it")
    how = ""
    if "test" not in named and "val" in named:
        named |= _shared_out(named["val"], {"test": 0.5}, "val")
        how = "no split test; half of val, drawn by a hash of each image"
    return named, f"{how}: {_counts(named)}" if how else ""


def _shared_out(items: list[Item], shares: dict[str, float], rest: str) -> dict[str, list[Item]]:
    """Some shares of the items, and the rest."""
    named = {item.name: item for item in items}
    parts = shared_out({item.name: item.key or item.name for item in items}, shares, rest)
    return {split: [named[name] for name in part] for split, part in parts.items()}


def _counts(parts: dict[str, list[Item]]) -> str:
    return ", ".join(f"{len(part):,} {split}" for split, part in parts.items())


def split_in(name: str) -> str | None:
    """The split that a name of a file or folder speaks of, such as val in "my-valid-0001.tar"."""
    words = re.split(r"[^a-z]+", name.lower())
    found = dict.fromkeys(SPLITS[word] for word in words if word in SPLITS)
    return next(iter(found)) if len(found) == 1 else None


def split_of(path: Path) -> str | None:
    """The split that a file's name speaks of, or else its folder's."""
    return split_in(path.stem) or split_in(path.parent.name)


def reader(path: Path) -> Callable[[], bytes]:
    """The function that reads an image file."""
    return path.read_bytes if path.is_file() else refuse("it is not there")


def content_digest(paths: Iterable[Path]) -> str:
    """Identifies the content of some small files, wherever they lie.

    Raises:
      UserError: one of them cannot be read.
    """
    content = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                content.update(f"{path.name} ".encode(errors="surrogateescape"))
                content.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    return content.hexdigest()


def ends_digest(paths: Iterable[Path], ends: int = 2**16) -> str:
    """Identifies the content of some large files by their names, sizes, heads and tails.

    Of a folder's name counts which split it speaks of, where the file's own speaks of none.

    Raises:
      UserError: one of them cannot be read.
    """
    content = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                content.update(f"{path.name} {size} ".encode(errors="surrogateescape"))
                if not split_in(path.stem):
                    content.update((split_in(path.parent.name) or "").encode())
                for start in (0, max(0, size - ends)):
                    file.seek(start)
                    content.update(file.read(ends))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    return content.hexdigest()
