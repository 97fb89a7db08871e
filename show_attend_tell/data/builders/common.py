"""What builders share: record features and their readers, files of a download, unusable images."""

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import tensorflow_datasets as tfds

from show_attend_tell.data.examples import Box, Example, Index, Pair
from show_attend_tell.data.images import keepable
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.phrase_index import Annotations
from show_attend_tell.data.picture_names import Match
from show_attend_tell.data.ptb_tokenizer import has_word
from show_attend_tell.data.records import Record, damage_reported
from show_attend_tell.data.terms import OWN, Terms
from show_attend_tell.errors import UserError
from show_attend_tell.files import stands_in, start_of
from show_attend_tell.literal import LiteralPath
from show_attend_tell.printable import printable, whole

MAX_MEMBER_BYTES = 2**26  # of an image in an archive: no real one is so large, but zip bombs are
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError)
REPORT_EVERY = 10_000  # images between two reports of a build's progress
# What people call the splits, in lower case.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

# A caption of a record: text, or TFDS's fields for COCO, of which one is "text".
Caption = str | Mapping[str, Any]
# Name of an example, the function that reads its image, and the rest of its record.
Found = tuple[str, Callable[[], bytes], Record]

_log = logging.getLogger(__name__)


def features(encoding: str) -> tfds.features.FeaturesDict:
    """Fields of a record: image, id, captions, and the boxes of the first caption's nouns if known.

    Args:
      encoding: "jpeg" or "png", the format of stored images.
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


def read_example(record: Record) -> Example:
    """The example that a record of `features` holds."""
    objects = record["objects"]
    return Example(
        image_id=record["image_id"].decode(),
        image=record["image"],
        captions=tuple(caption.decode() for caption in record["captions"]),
        boxes=tuple(
            Box(label.decode(), int(word), *map(float, box))
            for label, word, box in zip(
                objects["label"], objects["word_index"], objects["bbox"], strict=True
            )
        ),
    )


def split_name(value: object) -> str | None:
    """The split that a user's word means, in any case; None if it is not known."""
    return SPLIT_NAMES.get(value.strip().lower()) if isinstance(value, str) else None


_PAIR_FIELDS = ("pair_id", "source", "target")


def pair_features() -> tfds.features.FeaturesDict:
    """Fields of a record: an id, a sentence, and its translation."""
    return tfds.features.FeaturesDict({name: tfds.features.Text() for name in _PAIR_FIELDS})


def read_pair(record: Record) -> Pair:
    """The pair that a record of `pair_features` holds."""
    return Pair(*(record[name].decode() for name in _PAIR_FIELDS))


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder that knows how to read its records, and does not print.

    TFDS prints where it writes, before and after; load.py logs one line instead.
    """

    TERMS: ClassVar[Terms] = OWN
    LANGUAGE: ClassVar[str] = ""  # of all captions, as a code; "": the data do not say

    def __init__(self, *, manual_dir: Path | None = None, **kwargs):
        """Takes the folder of the user's files, if any, and what TFDS's builders take."""
        self._manual_dir = manual_dir
        super().__init__(**kwargs)

    @classmethod
    def for_files(cls, origin: Origin, **kwargs) -> "Builder":
        """The builder for the form in which a user has the data set."""
        return cls(manual_dir=origin.manual_dir, **kwargs)

    def reader(self) -> Callable[[Record], Example | Pair]:
        """The function that makes an example of a record; can be pickled."""
        return read_example

    def annotations(self) -> Annotations | None:
        """Where the phrases of captions are annotated; None if they are not."""
        return None

    def captions_in(self, language: str, index: Index) -> Sequence[Sequence[str]] | None:
        """The captions of each example of an index in one language, as they are written.

        Args:
          language: its code; "" for captions whose language the data do not say.
          index: ids and captions, as built.

        Returns:
          None if the data have none in that language.
        """
        return [captions for _, captions in index] if language == self.LANGUAGE else None

    def languages(self) -> Sequence[str]:
        """The languages for which `captions_in` has captions."""
        return [self.LANGUAGE]

    def stated_splits(self) -> Collection[str] | None:
        """The splits that a build would have; None if only building shows it."""
        return None

    @property
    def source(self) -> Path:
        """The user's file or folder that says which splits there are, for messages."""
        return self._manual_dir or Path(self.data_path)

    @property
    def data_path(self) -> LiteralPath:
        """The folder of the built data set."""
        return LiteralPath(super().data_path)

    @property
    def _metadata(self) -> dict[str, Any]:
        """The content of the data set's `metadata.json`."""
        return cast(dict[str, Any], self.info.metadata)

    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass


class ManualBuilder(Builder, skip_registration=True):
    """A builder from files that a user has."""

    REMEDY: str  # what to set, and to which folder

    @classmethod
    def for_files(cls, origin: Origin, **kwargs) -> Builder:
        """The builder for the form in which a user has the data set.

        A data set that needs its files only once is not named after them. If other ones are in the
        folder, theirs is: it stands beside the first. Which files made the first is not known of
        one that version 0.2 built.
        """
        builder = cast(ManualBuilder, super().for_files(origin, **kwargs))
        content = builder.content()
        if content:
            with damage_reported(Path(builder.data_path)):
                built_from = (builder.info.metadata or {}).get("content")
            if built_from not in (None, "", content):
                return cls(manual_dir=origin.manual_dir, other=content, **kwargs)
        return builder

    def content(self) -> str:
        """Tells files of a download from others; found in a moment.

        "" where the builder names data sets after their files, or some files are not there.
        """
        return ""

    def _folder(self) -> Path:
        """The folder to build from.

        Raises:
          UserError: it is not set, or does not exist.
        """
        if self._manual_dir is None:
            raise UserError(f"{self.name}: no folder to build it from is set; {self.REMEDY}")
        if not self._manual_dir.is_dir():
            raise UserError(f"{self._manual_dir}: no such folder; {self.REMEDY}")
        return self._manual_dir


class ImagesBuilder(ManualBuilder, skip_registration=True):
    """A builder from image files, some of which may be unusable."""

    # A larger share of unusable images means a broken download, not a few bad files.
    MAX_UNUSABLE = 0.01

    def _usable(
        self, split: str, found: Iterable[Found], count: int, place: Path, remedy: str
    ) -> Iterator[tuple[str, Record]]:
        """Records of those images that can be decoded and have a caption with a word.

        Captions without a word, such as "..." or an emoji, are left out and counted. Reports the
        other images in one line, grouped by what is wrong with them, and keeps their names in the
        data set's metadata.

        Args:
          split: its name.
          found: the images that should be there.
          count: their number.
          place: where they lie, for messages.
          remedy: ends the error message.

        Raises:
          UserError: all images are unusable, or several and more than the share `MAX_UNUSABLE`.
        """
        wrong: dict[str, list[str]] = {}  # names by what is wrong, as messages show them
        unusable: dict[str, str] = {}  # what is wrong, by name
        wordless = cut = 0
        for number, (name, read, record) in enumerate(found, 1):
            try:
                record = record | {"image": _image(read)}
                if name != whole(name):
                    raise UserError("its name is not UTF-8: rename the file")
                given = cast(list[Caption], record["captions"])
                cut += any(map(_is_cut, given))
                captions = [caption for caption in map(_whole, given) if caption]
                if not captions:
                    raise UserError("it has no caption")
                spoken = [caption for caption in captions if has_word(_text(caption))]
                if not spoken:
                    raise UserError("no caption of it has a word")
                wordless += len(captions) - len(spoken)
                record["captions"] = spoken
            except UserError as error:
                reason = str(error).removeprefix("image: ")
                near = f" (near: {error.near})" if isinstance(error, _Missing) else ""
                wrong.setdefault(reason, []).append(f"{name}{near}")
                unusable[name] = reason
                bad = len(unusable)
                if bad > max(1, self.MAX_UNUSABLE * count) or bad == count:
                    raise UserError(
                        f"{place}: {bad} of {count} images of split {split!r} cannot be used: "
                        f"{_summary(wrong)}; {remedy}"
                    ) from error
            else:
                yield name, record
            if number % REPORT_EVERY == 0:
                _log.info("%s %s: %s of %s images", self.name, split, f"{number:,}", f"{count:,}")
        if wordless:
            _log.warning("%s %s: %d captions without a word left out", self.name, split, wordless)
        if wrong:
            _log.warning(
                "%s %s: %d of %d images skipped: %s",
                *(self.name, split, len(unusable), count, _summary(wrong)),
            )
        if cut:
            _log.warning(
                "%s %s: captions of %d images hold half a character, as if cut; it is left out",
                *(self.name, split, cut),
            )
        self._metadata["unusable_images"] |= unusable


def _text(caption: Caption) -> str:
    """A caption of a record; COCO's are fields beside their ids."""
    return caption if isinstance(caption, str) else caption["text"]


def _is_cut(caption: Caption) -> bool:
    """Whether a caption holds half a character, which UTF-8 cannot."""
    return caption != _whole(caption)


def _whole(caption: Caption) -> Caption:
    """The caption without halves of characters."""
    if not isinstance(caption, str):
        return {**caption, "text": whole(caption["text"])}
    text = whole(caption)
    return caption if text == caption else " ".join(text.split())


def _image(read: Callable[[], bytes]) -> bytes:
    try:
        encoded = read()
    except DAMAGE as error:
        raise UserError(f"it cannot be read ({error})") from error
    return keepable(encoded)


def _summary(wrong: Mapping[str, list[str]]) -> str:
    """What is wrong with how many images, and the first three names."""
    return "; ".join(
        f"{reason} ({len(names)}: {printable(', '.join(names[:3]))}{', ...' * (len(names) > 3)})"
        for reason, names in wrong.items()
    )


class _Missing(UserError):
    """A picture is not there, though one of a near name is."""

    def __init__(self, why: str, near: str):
        super().__init__(why)
        self.near = near


def read_match(match: Match) -> Callable[[], bytes]:
    """The function that reads the file that a name means, or says why there is none."""
    if match.path is not None:
        return match.path.read_bytes

    def read() -> bytes:
        raise _Missing(match.why, match.near) if match.near else UserError(match.why)

    return read


def refuse(reason: str) -> Callable[[], bytes]:
    """A stand-in for the function that reads an image, where the image cannot be read."""

    def read() -> bytes:
        raise UserError(reason)

    return read


def digest_of(contents: Iterable[bytes]) -> str:
    """16 hexadecimal digits that tell the contents of some files from others."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def find_files(
    folder: Path, subfolders: Iterable[str], sign: str, pattern: str, zip_name: str, remedy: str
) -> tuple[Path, dict[str, Callable[[], bytes]]]:
    """Finds a part of a download, extracted or as an archive; extracts nothing.

    Args:
      folder: the manual directory.
      subfolders: where to look for extracted files; the first with a file like `sign` is taken.
      sign: a file name or pattern.
      pattern: which files of that folder belong to the part.
      zip_name: of the archive, used if there are no extracted files.
      remedy: ends the error message.

    Returns:
      The folder or the archive, and by file name the functions that read the files.

    Raises:
      UserError: the part is neither extracted nor in a readable archive.
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

    The last part of a member's path is its file name; the rest is ignored, so that no path in an
    archive leads anywhere.

    Args:
      path: of the archive.
      most: size in bytes of the largest member that may be read; None: `MAX_MEMBER_BYTES`.

    Raises:
      UserError: the archive cannot be read.
    """
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        instead = stands_in(start_of(path))
        why = f"it is {instead}" if instead else f"not a readable zip ({error}); get it again"
        raise UserError(f"{path}: {why}") from error

    def read(member: zipfile.ZipInfo) -> bytes:
        if member.file_size > (MAX_MEMBER_BYTES if most is None else most):
            raise ValueError(f"{member.file_size:,} bytes are too many")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("its compression method is not supported")
        # A member may hold more than it claims; reading stops at the size that it claims.
        with archive.open(member) as file:
            return file.read(member.file_size)

    return {
        Path(member.filename).name: lambda member=member: read(member)
        for member in archive.infolist()
        if member.filename and not member.is_dir()
    }
