"""Flickr8k as a TFDS data set, from the original download."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from show_attend_tell.data.builders.common import (
    DAMAGE,
    Builder,
    ImagesBuilder,
    digest_of,
    features,
    find_files,
    refuse,
)
from show_attend_tell.data.builders.kaggle import KaggleFlickr8k, holds_table
from show_attend_tell.data.builders.karpathy import Karpathy
from show_attend_tell.data.entities import find_entities
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.phrase_index import Annotations
from show_attend_tell.data.records import Record
from show_attend_tell.data.terms import RESEARCH, Terms
from show_attend_tell.data.text_files import names_in
from show_attend_tell.errors import UserError

IMAGES_ZIP, TEXT_ZIP = "Flickr8k_Dataset.zip", "Flickr8k_text.zip"
# Where the two halves lie once extracted; the original spelling of the images' folder first.
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
SPLITS_OF_KARPATHY = "dataset_flickr8k.json"  # may come beside another form of the data
REMEDY = (
    f"set --config.data.manual_dir to the folder with {IMAGES_ZIP} and {TEXT_ZIP}, "
    "or with the files extracted from them"
)

_log = logging.getLogger(__name__)


class Flickr8k(ImagesBuilder):
    """8,000 photographs with five captions each (Hodosh, Young and Hockenmaier 2013).

    The official splits: 6,000 train, 1,000 val ("dev"), 1,000 test. For non-commercial research.

    Get: ask for the two archives at the homepage (see `_info`), or take the copies that
    machinelearningmastery.com links to, and put both into one folder, extracted or not:

        https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_Dataset.zip
        https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip

    Build, once, and train:

        ./launch.sh train --config experiments/flickr8k.py:soft --workdir runs/flickr8k-soft \\
            --config.data.manual_dir=FOLDER

    Load: `load_images("flickr8k", "train", data_dir=Path(...), manual_dir=Path(...))`; only the
    first call needs manual_dir. Captions or lists that differ from those of the first call make a
    data set beside it, and each call needs them.

    Kaggle's form of it, `captions.txt` and `Images/`, is taken as well (`builders/kaggle.py`),
    with the splits of Karpathy and Li where `dataset_flickr8k.json` is beside it.

    Captions of missing images (five in the original) are left out and counted; unusable images are
    left out and named. The data set's `metadata.json` has both.

    German descriptions are those of Multi30k's task 2, five independent ones of most images
    (https://github.com/multi30k/dataset, `data/task2/raw`, with the lists of
    `data/task2/image_splits` beside them as `train_images.txt` and so on):

        --config.data.captions_dir=FOLDER --config.data.languages="('en', 'de')"

    Multi30k splits the images of Flickr30k, of which Flickr8k's are a part, in another way: 871
    test images of Flickr8k are in its training list. Flickr8k's official split decides, whatever
    the language.

    Boxes of phrases (`ImageSource.descriptions`) are those of Flickr30k Entities, if they are in
    the folder as flickr30k_entities.zip, as annotations.zip of
    https://github.com/BryanPlummer/flickr30k_entities, or extracted. For non-commercial research.
    They may come later: nothing else is built again.

    Version 1.0.0.

    Citation: M. Hodosh, P. Young, J. Hockenmaier. Framing image description as a ranking task:
    data, models and evaluation metrics. JAIR 47 (2013), 853-899.
    """

    VERSION = tfds.core.Version("1.0.0")
    REMEDY = REMEDY
    LANGUAGE = "en"
    TERMS = Terms(
        "Flickr8k (Hodosh, Young and Hockenmaier 2013)",
        "The photographs are for non-commercial research, and so is this model.",
        RESEARCH,
    )

    def __init__(self, *, other: str = "", config: tfds.core.BuilderConfig | None = None, **kwargs):
        """Takes the content of files that differ from those of the data set built first.

        Unpickling gives `config` in its place.
        """
        if other:
            config = tfds.core.BuilderConfig(name=f"files-{other}", description="Of other files.")
        super().__init__(config=config, **kwargs)

    @classmethod
    def for_files(cls, origin: Origin, **kwargs) -> Builder:
        folder = origin.manual_dir
        if folder is not None and not _holds_original(folder):
            if (folder / SPLITS_OF_KARPATHY).is_file():
                return Karpathy.for_files(origin, **kwargs)
            if holds_table(origin):
                return KaggleFlickr8k.for_files(origin, **kwargs)
        return super().for_files(origin, **kwargs)

    def content(self) -> str:
        try:
            _, texts = _find_texts(self._folder())
            return digest_of(texts[file]() for file in (CAPTIONS, *SPLITS.values()))
        except (UserError, KeyError, *DAMAGE):
            return ""

    def annotations(self) -> Annotations | None:
        return find_entities(self._manual_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="8,000 photographs with five captions each.",
            features=features("jpeg"),
            homepage="https://hockenmaier.cs.illinois.edu/8k-pictures.html",
            metadata=tfds.core.MetadataDict(
                captions_without_image=0, unusable_images={}, content=""
            ),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[tuple[str, Record]]]:
        source = _Source(self._folder())
        captions = read_captions(source.text(CAPTIONS), source.describe(CAPTIONS))
        names = {split: names_in(source.text(file)) for split, file in SPLITS.items()}
        for split, file in SPLITS.items():
            if not names[split]:
                raise UserError(f"{source.describe(file)}: names no image; get {TEXT_ZIP} again")
        splits: dict[str, str] = {}
        for split, name in ((split, name) for split, listed in names.items() for name in listed):
            if splits.setdefault(name, split) != split:
                raise UserError(
                    f"{source.describe(SPLITS[split])}: names {name}, which is in split "
                    f"{splits[name]} already; get {TEXT_ZIP} again"
                )
        missing = sum(len(v) for name, v in captions.items() if name not in source.images)
        if missing:
            _log.warning("flickr8k: %d captions name an image that is not there; skipped", missing)
        self._metadata["captions_without_image"] = missing
        self._metadata["content"] = self.content()
        return {s: self._generate_examples(source, captions, s, names[s]) for s in SPLITS}

    def _generate_examples(
        self, source: "_Source", captions: dict[str, list[str]], split: str, names: list[str]
    ) -> Iterator[tuple[str, Record]]:
        found = (
            (
                name,
                source.images.get(name, refuse("it is not there")),
                {"image_id": name, "captions": captions.get(name, []), "objects": []},
            )
            for name in names
        )
        remedy = f"get {IMAGES_ZIP} again"
        return self._usable(split, found, len(names), source.images_place, remedy)


def _holds_original(folder: Path) -> bool:
    """Whether a folder has the captions of the original download."""
    texts = (TEXT_ZIP, *(f"{place}/{CAPTIONS}" for place in TEXT_FOLDERS))
    return any((folder / name).is_file() for name in texts)


def read_captions(text: str, name: str) -> dict[str, list[str]]:
    """Reads captions by image name, from lines `NAME.jpg#K<TAB>caption`.

    Blank lines are skipped. Blank captions are, too, and counted.

    Args:
      text: the content of the file.
      name: of the file, for messages.

    Raises:
      UserError: there is none, or a line has another form; the message names the line.
    """
    captions: dict[str, list[str]] = {}
    blank = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([^\t]+)#\d+(?:\s*|\t(.*\S.*))", line)
        if not match:
            raise UserError(
                f"{name}, line {number}: not NAME.jpg#K<TAB>caption; fix or remove the line"
            )
        if match[2] is None:
            blank += 1
        else:
            captions.setdefault(match[1], []).append(match[2].strip())
    if blank:
        _log.warning("%s: %d blank captions skipped", name, blank)
    if not captions:
        raise UserError(f"{name}: holds no captions; get {TEXT_ZIP} again")
    return captions


def _find_texts(folder: Path) -> tuple[Path, dict[str, Callable[[], bytes]]]:
    """Where the captions and the lists are, and by name the functions that read them."""
    return find_files(folder, TEXT_FOLDERS, CAPTIONS, "*.txt", TEXT_ZIP, REMEDY)


class _Source:
    """The two halves of the original download, zips or extracted folders; extracts nothing."""

    def __init__(self, folder: Path):
        self.text_place, self._text = _find_texts(folder)
        self.images_place, self.images = find_files(
            folder, IMAGE_FOLDERS, "*.jpg", "*.jpg", IMAGES_ZIP, REMEDY
        )

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
