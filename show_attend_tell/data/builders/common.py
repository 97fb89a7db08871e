"""What data sets have in common: features, files of a download, and what is done with bad ones."""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from show_attend_tell.data.images import keepable
from show_attend_tell.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")  # of image files
MAX_MEMBER_BYTES = 2**26  # of an image in an archive: no real one comes near; a zip bomb does
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError)
TOLD = 10_000  # after so many images each, how far a build is

# The name of an example, what reads its image, and the rest of its record.
Found = tuple[str, Callable[[], bytes], dict[str, Any]]


class QuietBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS prints where it writes, before and after; `datasets.load` has said it in one line."""

    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


class ManualBuilder(QuietBuilder, skip_registration=True):
    """A builder from files that a user has."""

    REMEDY: str  # what to set, and to which folder

    def __init__(self, *, manual_dir: Path | None = None, **kwargs):
        self._manual_dir = manual_dir
        super().__init__(**kwargs)

    def _folder(self) -> Path:
        """The folder to build from.

        Raises:
          UserError: none is set, or it is not there.
        """
        if self._manual_dir is None:
            raise UserError(f"{self.name}: no folder to build it from is set; {self.REMEDY}")
        if not self._manual_dir.is_dir():
            raise UserError(f"{self._manual_dir}: no such folder; {self.REMEDY}")
        return self._manual_dir


class ImagesBuilder(ManualBuilder, skip_registration=True):
    """A builder from image files, some of which may be of no use."""

    # More unusable images than this share mean a broken download, not a few bad files.
    MAX_UNUSABLE = 0.01

    def _usable(
        self, split: str, found: Iterable[Found], count: int, place: Path, remedy: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The records of those of `count` images that can be decoded and have a caption.

        The others are told in a line, by what is wrong with them, and kept in the metadata.

        Args:
          split: its name.
          found: what is to be there.
          count: how many that are.
          place: where the images lie, for messages.
          remedy: to end a message with.

        Raises:
          UserError: more than the share `MAX_UNUSABLE`, but for one, cannot be used, or all.
        """
        wrong: dict[str, list[str]] = {}  # by what it is
        unusable = 0
        for number, (name, read, record) in enumerate(found, 1):
            try:
                record = record | {"image": _image(read)}
                if not record["captions"]:
                    raise UserError("it has no caption")
            except UserError as error:
                wrong.setdefault(str(error).removeprefix("image: "), []).append(name)
                unusable += 1
                if unusable > max(1, self.MAX_UNUSABLE * count) or unusable == count:
                    raise UserError(
                        f"{place}: {unusable} of {count} images of split {split!r} cannot be used: "
                        f"{_told(wrong)}; {remedy}"
                    ) from error
            else:
                yield name, record
            if number % TOLD == 0:
                print(f"{self.name} {split}: {number:,} of {count:,} images", flush=True)
        if wrong:
            print(f"{self.name} {split}: {unusable} of {count} images skipped: {_told(wrong)}")
        for reason, names in wrong.items():
            self.info.metadata["unusable_images"] |= dict.fromkeys(names, reason)


def _image(read: Callable[[], bytes]) -> bytes:
    try:
        encoded = read()
    except DAMAGE as error:
        raise UserError(f"it cannot be read ({error})") from error
    return keepable(encoded)


def _told(wrong: Mapping[str, list[str]]) -> str:
    """What is wrong with how many images, and the first three of them."""
    return "; ".join(
        f"{reason} ({len(names)}: {', '.join(names[:3])}{', ...' * (len(names) > 3)})"
        for reason, names in wrong.items()
    )


def refuse(reason: str) -> Callable[[], bytes]:
    """Stands for what reads an image that cannot be read."""

    def read() -> bytes:
        raise UserError(reason)

    return read


def find_files(
    folder: Path, subfolders: Iterable[str], sign: str, pattern: str, zip_name: str, remedy: str
) -> tuple[Path, dict[str, Callable[[], bytes]]]:
    """Where a part of a download lies, and by file name the functions that read its files.

    It may be extracted or an archive, out of which nothing is extracted.

    Args:
      folder: the manual directory.
      subfolders: where to look for it extracted; the first with a file like `sign` is taken.
      sign: a file name or pattern.
      pattern: which files of that folder belong to it.
      zip_name: of the archive, otherwise.
      remedy: to end a message with.

    Raises:
      UserError: it is neither there nor in an archive that can be read.
    """
    for place in (folder / subfolder for subfolder in subfolders):
        if next(place.glob(sign), None):
            return place, {path.name: path.read_bytes for path in place.glob(pattern)}
    path = folder / zip_name
    if not path.exists():
        raise UserError(f"{path}: not there; {remedy}")
    return path, zip_members(path)


def zip_members(path: Path, most: int | None = None) -> dict[str, Callable[[], bytes]]:
    """By file name the functions that read an archive's members.

    Larger ones than `most` bytes, else `MAX_MEMBER_BYTES`, are not read. Members are known by their
    last name alone, so a path in the archive leads nowhere.

    Raises:
      UserError: it is not an archive that can be read.
    """
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise UserError(f"{path}: not a readable zip ({error}); get it again") from error

    def read(member: zipfile.ZipInfo) -> bytes:
        if member.file_size > (most or MAX_MEMBER_BYTES):
            raise ValueError(f"{member.file_size:,} bytes are too many")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is compressed in a way that is not read")
        with archive.open(member) as file:  # no more than it says it has, whatever it has
            return file.read(member.file_size)

    return {
        Path(member.filename).name: lambda member=member: read(member)
        for member in archive.infolist()
        if not member.is_dir()
    }


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      UserError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error}); get it again") from error


def features(encoding: str) -> tfds.features.FeaturesDict:
    """Image, id, captions and, where they are known, the boxes of what the first caption names.

    Args:
      encoding: "jpeg" or "png", how images are stored.
    """
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format=encoding),
            "image_id": tfds.features.Text(),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.Text(),
                    "word_index": np.int32,
                }
            ),
        }
    )


def pair_features() -> tfds.features.FeaturesDict:
    """A sentence, its translation, and an id."""
    names = ("pair_id", "source", "target")
    return tfds.features.FeaturesDict({name: tfds.features.Text() for name in names})
