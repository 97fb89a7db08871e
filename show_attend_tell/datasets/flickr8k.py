"""Flickr8k as a TFDS data set, from the original download."""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from show_attend_tell.datasets.common import QuietBuilder, features
from show_attend_tell.errors import UserError
from show_attend_tell.images import read_image

IMAGES_ZIP, TEXT_ZIP = "Flickr8k_Dataset.zip", "Flickr8k_text.zip"
# Where the halves lie once extracted; the original's own spelling of the images' folder first.
IMAGE_FOLDERS = (
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
)
TEXT_FOLDERS = (".", "Flickr8k_text")
CAPTIONS = "Flickr8k.token.txt"
SPLITS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
REMEDY = (
    f"set --config.data.manual_dir to the folder with {IMAGES_ZIP} and {TEXT_ZIP}, "
    "or with what is extracted from them"
)
# More unusable images than this share mean a broken download, not a few bad files.
MAX_UNUSABLE = 0.01
MAX_MEMBER_BYTES = 2**26  # nothing in the original comes near; a zip bomb does
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError)


class Flickr8k(QuietBuilder):
    """8,000 photographs with five captions each (Hodosh, Young and Hockenmaier 2013).

    The official splits: 6,000 train, 1,000 val ("dev"), 1,000 test. For non-commercial research.

    Get: ask for the two archives at the homepage below, or take the copies that
    machinelearningmastery.com links to, and put both into one folder (extracting them is fine, not
    needed):

        https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_Dataset.zip
        https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip

    Build, once, and train:

        ./launch.sh train --config experiments/flickr8k.py:soft --workdir runs/flickr8k-soft \\
            --config.data.manual_dir=FOLDER

    Load: `datasets.load("flickr8k", "train", data_dir=Path(...), manual_dir=Path(...))`, where
    manual_dir is needed the first time only.

    Captions of images that are not there (five in the original) are left out and counted; an
    unreadable image is left out and named; both are kept in the data set's `metadata.json`.

    Version 1.0.0.

    Citation: M. Hodosh, P. Young, J. Hockenmaier. Framing image description as a ranking task:
    data, models and evaluation metrics. JAIR 47 (2013), 853-899.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, manual_dir: Path | None = None, **kwargs):
        self._manual_dir = manual_dir
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="8,000 photographs with five captions each.",
            features=features("jpeg"),
            homepage="https://hockenmaier.cs.illinois.edu/8k-pictures.html",
            metadata=tfds.core.MetadataDict(captions_without_image=0, unusable_images=[]),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        if self._manual_dir is None:
            raise UserError(
                f"flickr8k is not built yet and no folder to build it from is set; {REMEDY}"
            )
        if not self._manual_dir.is_dir():
            raise UserError(f"{self._manual_dir}: no such folder; {REMEDY}")
        source = _Source(self._manual_dir)
        captions = read_captions(source.text(CAPTIONS), source.describe(CAPTIONS))
        names = {split: source.text(file).split() for split, file in SPLITS.items()}
        for split, file in SPLITS.items():
            if not names[split]:
                raise UserError(f"{source.describe(file)}: names no image; get {TEXT_ZIP} again")
        missing = sum(len(v) for name, v in captions.items() if not source.has_image(name))
        if missing:
            print(f"flickr8k: {missing} captions name an image that is not there; skipped")
        self.info.metadata["captions_without_image"] = missing
        return {s: self._generate_examples(source, captions, names[s]) for s in SPLITS}

    def _generate_examples(
        self, source: "_Source", captions: dict[str, list[str]], names: list[str]
    ) -> Iterator:
        unusable = 0
        for name in names:
            try:
                image = source.image(name)
                if name not in captions:
                    raise UserError("it has no caption")
            except UserError as reason:
                print(f"flickr8k: {name} is skipped: {reason}")
                self.info.metadata["unusable_images"].append(name)
                unusable += 1
                if unusable > max(1, MAX_UNUSABLE * len(names)):
                    raise UserError(
                        f"{source.images_place}: {unusable} images of a split cannot be used, "
                        f"{name} among them ({reason}); get {IMAGES_ZIP} again"
                    ) from reason
                continue
            record = {"image": image, "image_id": name, "captions": captions[name], "objects": []}
            yield name, record


def read_captions(text: str, name: str) -> dict[str, list[str]]:
    """Image name to its captions, from lines `NAME.jpg#K<TAB>caption`.

    Args:
      text: the content of the file.
      name: of the file, for messages.

    Raises:
      UserError: there is none, or a line has another form; the line is named.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(.+)#\d+\t(.*\S.*)", line)
        if not match:
            raise UserError(
                f"{name}, line {number}: not NAME.jpg#K<TAB>caption; mend or remove the line"
            )
        captions.setdefault(match[1], []).append(match[2].strip())
    if not captions:
        raise UserError(f"{name}: holds no captions; get {TEXT_ZIP} again")
    return captions


class _Source:
    """The original download: halves that are zips or extracted folders. Nothing is extracted."""

    def __init__(self, folder: Path):
        self.text_place, self._text = _find(folder, TEXT_FOLDERS, CAPTIONS, "*.txt", TEXT_ZIP)
        self.images_place, self._images = _find(folder, IMAGE_FOLDERS, "*.jpg", "*.jpg", IMAGES_ZIP)

    def describe(self, file: str) -> str:
        return str(self.text_place / file)

    def text(self, file: str) -> str:
        if file not in self._text:
            raise UserError(f"{self.describe(file)}: not there; {REMEDY}")
        try:
            return self._text[file]().decode("utf-8-sig")
        except DAMAGE as error:
            raise UserError(
                f"{self.describe(file)}: damaged ({error}); get {TEXT_ZIP} again"
            ) from error

    def has_image(self, name: str) -> bool:
        return name in self._images

    def image(self, name: str) -> bytes:
        """The encoded image, decoded once in passing to see that it can be."""
        if name not in self._images:
            raise UserError("it is not there")
        try:
            image = self._images[name]()
        except DAMAGE as error:
            raise UserError(f"it cannot be read ({error})") from error
        read_image(image, 1)
        return image


def _find(
    folder: Path, subfolders: tuple[str, ...], sign: str, pattern: str, zip_name: str
) -> tuple[Path, dict[str, Callable[[], bytes]]]:
    """Where a half of the download lies, and by file name the functions that read its files.

    Args:
      folder: the manual directory.
      subfolders: where to look for it extracted; the first with a file like `sign` is taken.
      sign: a file name or pattern.
      pattern: which files of that folder belong to it.
      zip_name: of the archive, otherwise.
    """
    for place in (folder / subfolder for subfolder in subfolders):
        if next(place.glob(sign), None):
            return place, {path.name: path.read_bytes for path in place.glob(pattern)}
    path = folder / zip_name
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {REMEDY}") from None
    except DAMAGE as error:
        raise UserError(f"{path}: not a readable zip ({error}); get it again") from error

    def read(member: zipfile.ZipInfo) -> bytes:
        if member.file_size > MAX_MEMBER_BYTES:
            raise ValueError(f"{member.file_size:,} bytes are too many")
        return archive.read(member)

    # Members are known by their last name alone, so a path in the archive leads nowhere.
    return path, {
        Path(member.filename).name: lambda member=member: read(member)
        for member in archive.infolist()
        if not member.is_dir()
    }
