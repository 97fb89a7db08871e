"""The built-in data set: generated scenes of coloured shapes, with exact boxes."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from show_attend_tell.data.builders.common import Builder, features
from show_attend_tell.data.examples import Index
from show_attend_tell.data.phrase_index import Annotations, Images, Stamp
from show_attend_tell.data.phrases import Described
from show_attend_tell.data.records import Record
from show_attend_tell.data.scenes import in_german, render_scene
from show_attend_tell.data.terms import Terms

SPLITS = {"train": 6000, "val": 500, "test": 500}


class NamedObjects:
    """The scenes' own boxes as annotations: each is of a noun of the caption."""

    def stamp(self) -> Stamp:
        return []  # the records hold all

    def describe(self, images: Images) -> Described:
        found = (images.example(number).description() for number in range(len(images.index)))
        return Described([() if one is None else (one,) for one in found], {})


class Shapes(Builder):
    """Images of 96 x 96 pixels with one to four shapes, one caption each, and the nouns' boxes.

    6,000 train, 500 val, 500 test. Generated, so there is nothing to get. Example i of a split
    depends only on the split and i. Captions are there in English and in German.

    Build and train: `./launch.sh quickstart`.
    Load: `load_images("shapes", "train", data_dir=Path(...))`.

    Version 1.1.0. Citation: this project.
    """

    VERSION = tfds.core.Version("1.1.0")
    LANGUAGE = "en"
    TERMS = Terms(
        "generated scenes of coloured shapes",
        "A program drew them, and they carry no terms.",
        generated=True,
    )

    def captions_in(self, language: str, index: Index) -> Sequence[Sequence[str]] | None:
        if language == "de":
            return [list(map(in_german, captions)) for _, captions in index]
        return super().captions_in(language, index)

    def languages(self) -> Sequence[str]:
        return ["en", "de"]

    def annotations(self) -> Annotations | None:
        return NamedObjects()

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Scenes of one to four coloured shapes with one caption each.",
            features=features("png"),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[tuple[str, Record]]]:
        return {split: self._generate_examples(split, count) for split, count in SPLITS.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, Record]]:
        number = list(SPLITS).index(split)
        for i in range(count):
            image, caption, objects = render_scene(np.random.default_rng([number, i]))
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, "PNG")
            image_id = f"{split}-{i:05}"
            record = {
                "image": encoded.getvalue(),
                "image_id": image_id,
                "captions": [caption],
                "objects": [o | {"bbox": tfds.features.BBox(*o["bbox"])} for o in objects],
            }
            yield image_id, record
