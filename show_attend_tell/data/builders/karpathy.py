"""Photographs in the splits of Karpathy and Li: one JSON file, and a folder of images."""

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from show_attend_tell.data.builders.common import (
    SPLIT_NAMES,
    Builder,
    Found,
    ImagesBuilder,
    features,
    read_match,
    split_name,
)
from show_attend_tell.data.builders.kaggle import KaggleFlickr30k, holds_table
from show_attend_tell.data.entities import find_entities
from show_attend_tell.data.examples import Index
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.phrase_index import Annotations
from show_attend_tell.data.picture_names import ABSENT, Match, PictureNames
from show_attend_tell.data.records import Record
from show_attend_tell.data.terms import RESEARCH, Terms
from show_attend_tell.errors import UserError
from show_attend_tell.files import read_json

RESTVAL = "restval"  # COCO's further training images

# By file name the folder (or "") and the captions of an image.
Entries = dict[str, tuple[str, list[str]]]

_log = logging.getLogger(__name__)


class Karpathy(ImagesBuilder):
    """Flickr8k, Flickr30k or COCO, in the splits that most papers report on.

    Flickr30k: 29,000 train, 1,014 val, 1,000 test, five captions each; for non-commercial research.
    Images of COCO have no boxes here; use `coco` for those.

    Get: `dataset_flickr30k.json`, `dataset_flickr8k.json` or `dataset_coco.json` out of

        https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip

    and the images from the data set's homepage (Flickr30k: by the form at
    https://shannon.cs.illinois.edu/DenotationGraph). Put the JSON file into a folder, and the
    images, or links to them, anywhere below it.

    Splits may also be called dev, valid, training and so on, in any case. Sentences need `raw`, or
    else `tokens`.

    Kaggle's form of Flickr30k, `results.csv` and `flickr30k_images/`, is taken as well, without the
    splits of Karpathy and Li (`builders/kaggle.py`).

    Build, once, and train:

        ./launch.sh train --config experiments/flickr30k.py:soft --workdir runs/flickr30k-soft \\
            --config.data.manual_dir=FOLDER

    Load: `load_images("karpathy", "train", data_dir=Path(...), manual_dir=Path(...))`. Later calls
    only need the JSON file there: it says which data set is meant.

    Boxes of phrases (`ImageSource.descriptions`) for images of Flickr30k and Flickr8k are those of
    Flickr30k Entities, if they are in the folder as flickr30k_entities.zip, as annotations.zip of
    https://github.com/BryanPlummer/flickr30k_entities, or extracted. For non-commercial research.
    They may come later: nothing else is built again.

    Unusable images are left out, reported, and listed in the data set's `metadata.json`.

    Version 1.0.0.

    Citation: A. Karpathy, L. Fei-Fei. Deep visual-semantic alignments for generating image
    descriptions. CVPR 2015, 3128-3137.
    """

    VERSION = tfds.core.Version("1.0.0")
    REMEDY = (
        "set --config.data.manual_dir to the folder with one file such as dataset_flickr30k.json, "
        "and the images anywhere below it"
    )
    TERMS = Terms(
        "Flickr8k, Flickr30k or COCO in the splits of Karpathy and Li (2015)",
        "Flickr8k and Flickr30k are for non-commercial research, and so are models of them. The "
        "photographs of COCO are under the terms of use of Flickr.",
        RESEARCH,
    )

    def __init__(self, *, manual_dir: Path | None = None, **kwargs):
        """Takes the folder of the JSON file and the images."""
        self._manual_dir = manual_dir
        self._json = self._find_json()
        digest = hashlib.sha256(self._json.read_bytes()).hexdigest()[:10]
        name = f"{self._json.stem}-{digest}"
        config = tfds.core.BuilderConfig(name=name, description=f"Of {self._json.name}.")
        super().__init__(manual_dir=manual_dir, config=config, **kwargs)

    @classmethod
    def for_files(cls, origin: Origin, **kwargs) -> Builder:
        folder = origin.manual_dir
        if folder is not None and not [*folder.glob("*.json")] and holds_table(origin):
            return KaggleFlickr30k.for_files(origin, **kwargs)
        return super().for_files(origin, **kwargs)

    def _find_json(self) -> Path:
        folder = self._folder()
        found = sorted(folder.glob("*.json"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise UserError(f"{folder}: must hold one .json file, has {names}; {self.REMEDY}")
        return found[0]

    @property
    def source(self) -> Path:
        return self._json

    @cached_property
    def _entries(self) -> dict[str, Entries]:
        return read_entries(self._json)

    def stated_splits(self) -> Collection[str]:
        return self._entries.keys()

    def captions_in(self, language: str, index: Index) -> Sequence[Sequence[str]] | None:
        # The three data sets are English; others in this form may not be.
        return [captions for _, captions in index] if language in ("", "en") else None

    def annotations(self) -> Annotations | None:
        return find_entities(self._manual_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photographs with captions, in the splits of Karpathy and Li.",
            features=features("jpeg"),
            homepage="https://cs.stanford.edu/people/karpathy/deepimagesent",
            metadata=tfds.core.MetadataDict(unusable_images={}),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[tuple[str, Record]]]:
        pictures = PictureNames(self._folder())
        places = {n: f for entries in self._entries.values() for n, (f, _) in entries.items()}
        matches = _find_all(places, pictures)
        return {s: self._generate_examples(s, e, matches) for s, e in self._entries.items()}

    def _generate_examples(
        self, split: str, entries: Entries, matches: Mapping[str, Match]
    ) -> Iterator[tuple[str, Record]]:
        remedy = "put good ones anywhere below that folder"
        found = _found(entries, matches)
        return self._usable(split, found, len(entries), self._folder(), remedy)


def read_entries(path: Path) -> dict[str, Entries]:
    """The images of each split in a file; see `entries_of`."""
    return entries_of(read_json(path), path)


def entries_of(content: Any, path: Path) -> dict[str, Entries]:
    """The images of each split.

    Args:
      content: of the JSON file.
      path: of it, for messages.

    Raises:
      UserError: the file has another form, or an image comes twice; the message names the image.
    """
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise UserError(f"{path}: has no list of images as dataset_flickr30k.json has; get it")
    entries: dict[str, Entries] = {}
    names: set[str] = set()
    blank = 0
    for number, image in enumerate(images, 1):
        name, split, folder, captions = _read_entry(f"{path}, image {number}", image)
        if name in names:
            raise UserError(f"{path}, image {number}: {name} comes twice; remove one of them")
        names.add(name)
        kept = [caption for caption in captions if caption]
        entries.setdefault(split, {})[name] = (folder, kept)
        blank += len(captions) - len(kept)
    if blank:
        _log.warning("%s: %d blank captions skipped", path, blank)
    return entries


def _read_entry(where: str, image: Any) -> tuple[str, str, str, list[str]]:
    """Name, split, folder and captions of an image, as the file has it.

    Raises:
      UserError: it has another form; the message begins with `where`.
    """
    name = given = folder = ""
    captions: list[str] = []
    try:
        name, given, folder = image["filename"], image["split"], image.get("filepath", "")
        captions = [_caption(sentence) for sentence in image["sentences"]]
        wrong = None if isinstance(name, str) and isinstance(folder, str) else "filename"
    except (AttributeError, KeyError, TypeError) as error:
        wrong = error.args[0]
    if wrong:
        raise UserError(f"{where}: not in the form of dataset_flickr30k.json ({wrong}); get it")
    split = RESTVAL if given == RESTVAL else split_name(given)
    if split is None:
        raise UserError(
            f"{where} ({name}): split {given!r} is not known; "
            f"choose one of {', '.join((*SPLIT_NAMES, RESTVAL))}"
        )
    return name, split, folder, captions


def _caption(sentence: Any) -> str:
    """The text of a sentence; the file may have its tokens only."""
    text = sentence.get("raw")
    if text is None:
        tokens = sentence["tokens"]
        if isinstance(tokens, str):
            raise TypeError("tokens")
        text = " ".join(tokens)
    return " ".join(text.split())


def _find_all(places: Mapping[str, str], pictures: PictureNames) -> dict[str, Match]:
    """The file of each image, by its name; `places` are the folders that entries say besides.

    A file is one image: where others are called like it and lack a file of their own, it is that of
    the entry with its whole path.
    """
    matches = {name: pictures.find_below(name, place) for name, place in places.items()}
    named = Counter(match.path for match in matches.values())
    for name, match in matches.items():
        whole = f"/{match.name}".endswith(f"/{name}") and "/" in name
        if match.path is not None and named[match.path] > 1 and not whole:
            matches[name] = Match(None, name, ABSENT, match.name)
            pictures.taken.pop(name, None)
    pictures.report("karpathy")
    return matches


def _found(entries: Entries, matches: Mapping[str, Match]) -> Iterator[Found]:
    for name, (_, captions) in entries.items():
        record = {"image_id": name, "captions": captions, "objects": []}
        yield name, read_match(matches[name]), record
