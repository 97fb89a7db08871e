"""Photographs in the splits of Karpathy and Li: one JSON file, and a folder of images."""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from show_attend_tell.data.builders.common import (
    SUFFIXES,
    Builder,
    Found,
    ImagesBuilder,
    features,
    read_json,
    refuse,
)
from show_attend_tell.data.builders.kaggle import KaggleFlickr30k, holds_table
from show_attend_tell.data.entities import find_entities
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.phrase_index import Annotations
from show_attend_tell.data.records import Record
from show_attend_tell.errors import UserError

SPLITS = ("train", "val", "test", "restval")

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
    images anywhere below it.

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
        entries = read_entries(self._json)
        images = find_images(self._folder())
        return {s: self._generate_examples(s, entries[s], images) for s in entries}

    def _generate_examples(
        self,
        split: str,
        entries: Entries,
        images: dict[str, list[Path]],
    ) -> Iterator[tuple[str, Record]]:
        remedy = "put good ones anywhere below that folder"
        found = _found(entries, images)
        return self._usable(split, found, len(entries), self._folder(), remedy)


def read_entries(path: Path) -> dict[str, Entries]:
    """The images of each split.

    Raises:
      UserError: the file has another form, or an image comes twice; the message names the image.
    """
    content = read_json(path)
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
    name = split = folder = ""
    captions: list[str] = []
    try:
        name, split, folder = image["filename"], image["split"], image.get("filepath", "")
        captions = [" ".join(sentence["raw"].split()) for sentence in image["sentences"]]
        wrong = None if isinstance(name, str) and isinstance(folder, str) else "filename"
    except (AttributeError, KeyError, TypeError) as error:
        wrong = error.args[0]
    if wrong:
        raise UserError(f"{where}: not in the form of dataset_flickr30k.json ({wrong}); get it")
    if split not in SPLITS:
        raise UserError(
            f"{where} ({name}): split {split!r} is not known; choose one of {', '.join(SPLITS)}"
        )
    return name, split, folder, captions


def find_images(folder: Path) -> dict[str, list[Path]]:
    """Finds the images below a folder, by file name. Links to folders are not followed."""
    images: dict[str, list[Path]] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(SUFFIXES):
                images.setdefault(name, []).append(Path(place, name))
    return images


def _found(entries: Entries, images: dict[str, list[Path]]) -> Iterator[Found]:
    for name, (folder, captions) in entries.items():
        paths = images.get(name, [])
        if len(paths) > 1:
            paths = [path for path in paths if path.parent.name == Path(folder).name]
        if len(paths) == 1:
            read = paths[0].read_bytes
        else:
            read = refuse("it is in several folders" if name in images else "it is not there")
        yield name, read, {"image_id": name, "captions": captions, "objects": []}
