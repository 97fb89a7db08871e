"""COCO with the captions and splits of Karpathy and Li, by TFDS's own builder."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.object_detection.coco import CocoConfig
from tensorflow_datasets.object_detection.coco_captions import CocoCaptions

from show_attend_tell.data.builders.coco_own import CocoOwn, holds_captions
from show_attend_tell.data.builders.common import (
    DAMAGE,
    Builder,
    Found,
    ImagesBuilder,
    refuse,
    zip_members,
)
from show_attend_tell.data.examples import Box, Example
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.records import Record
from show_attend_tell.data.terms import Terms
from show_attend_tell.errors import UserError

# The files that are read of each archive of texts. The other archives hold the images.
TEXTS = {
    "annotations_trainval2014.zip": (
        "annotations/instances_train2014.json",
        "annotations/instances_val2014.json",
    ),
    "caption_datasets.zip": ("dataset_coco.json",),
}
ARCHIVES = {  # and their sizes in GB
    "train2014.zip": 13.51,
    "val2014.zip": 6.65,
    "annotations_trainval2014.zip": 0.25,
    "caption_datasets.zip": 0.04,
}
MAX_TEXT_BYTES = 2**31  # of an annotation file: the largest has 0.4 GB
REMEDY = f"set --config.data.manual_dir to the folder with {', '.join(ARCHIVES)}"
_TEXTS = "coco-annotations-"  # how the names of folders of extracted annotations begin
(_ALL,) = cast(list[CocoConfig], CocoCaptions.BUILDER_CONFIGS)

_log = logging.getLogger(__name__)


class Coco(ImagesBuilder, CocoCaptions, skip_registration=True):
    """123,287 photographs with five captions each, and the boxes of what is in them.

    The splits of Karpathy and Li: 82,783 train, 5,000 val, 5,000 test, and 30,504 "restval", which
    most papers train on, too (`data.restval`).

    Get: put train2014.zip, val2014.zip and annotations_trainval2014.zip of https://cocodataset.org
    and https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip into one folder.
    With `data.download`, archives that are not there are fetched (20 GB in all) and checked by
    their hashes; nothing is fetched unasked. The archives are read as they are: only annotations
    are extracted, and deleted after the build.

    A folder with COCO's own `captions_train2017.json`, `train2017/` and so on is taken as well,
    without the splits of Karpathy and Li (`builders/coco_own.py`).

    Build, once (another 20 GB), and train:

        ./launch.sh train --config experiments/coco.py:soft --workdir runs/coco-soft \\
            --config.data.manual_dir=FOLDER

    Load: `load_images("coco", "train", data_dir=Path(...), restval=True)`.

    The records are those of TFDS's `coco_captions`; an object's box only has a class. Unusable
    images are left out, reported, and listed in the data set's `metadata.json`.

    Version 1.1.0, of TFDS.

    Citation: T.-Y. Lin et al. Microsoft COCO: common objects in context. ECCV 2014, 740-755.
    """

    # Without the splits that have no annotations, whose 20 GB would be downloaded in vain.
    BUILDER_CONFIGS = [
        CocoConfig(name=_ALL.name, description=_ALL.description, splits=cast(list, _ALL.splits)[:2])
    ]
    REMEDY = REMEDY
    LANGUAGE = "en"
    TERMS = Terms(
        "COCO (Lin et al. 2014)",
        "The captions are under CC BY 4.0. The photographs belong to others and are under the "
        "terms of use of Flickr.",
        "other",
    )

    def __init__(self, *, download: bool = False, **kwargs):
        """Takes whether to fetch missing archives, and what other builders take."""
        self._download = download
        super().__init__(**kwargs)

    @classmethod
    def for_files(cls, origin: Origin, **kwargs) -> Builder:
        if holds_captions(origin):
            return CocoOwn.for_files(origin, **kwargs)
        return super().for_files(origin, download=origin.download, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        """As in TFDS's builder, which needs TensorFlow for the name of a type."""
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photographs with captions and boxes, in the splits of Karpathy and Li.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "image/filename": tfds.features.Text(),
                    "image/id": np.int64,
                    "captions": tfds.features.Sequence({"text": np.str_, "id": np.int64}),
                    "objects": tfds.features.Sequence(
                        {
                            "id": np.int64,
                            "area": np.int64,
                            "bbox": tfds.features.BBoxFeature(),
                            "label": tfds.features.ClassLabel(num_classes=80),
                            "is_crowd": np.bool_,
                        }
                    ),
                }
            ),
            homepage="https://cocodataset.org",
            metadata=tfds.core.MetadataDict(unusable_images={}),
        )

    def reader(self) -> Callable[[Record], Example]:
        features = cast(Any, self.info.features)  # TFDS types no fields
        return partial(_read_example, tuple(features["objects"]["label"].names))

    # TFDS takes either a list or a dict of splits.
    def _split_generators(self, dl_manager) -> Any:
        if self._manual_dir is not None:
            self._folder()
        if not self._download:
            _check_there(self._manual_dir)
        archives = _Archives(self._manual_dir, dl_manager)
        with _form_checked("dataset_coco.json"):
            generators = super()._split_generators(archives)
        return {g.name: self._of_split(g.name, archives, **g.gen_kwargs) for g in generators}

    def _of_split(
        self,
        split: str,
        archives: "_Archives",
        image_filename_to_annotations: dict[str, Any],
        coco_gen_kwargs: dict[str, Any],
    ) -> Iterator[tuple[str, Record]]:
        place = coco_gen_kwargs["image_dir"]
        count = len(image_filename_to_annotations)

        def found() -> Iterator[Found]:
            # This generator holds `archives`, so the annotations stay on disk until it ends.
            images = archives.images[place]
            left = dict.fromkeys(image_filename_to_annotations)
            records = self._generate_examples(image_filename_to_annotations, coco_gen_kwargs)
            while True:
                with _form_checked("an instances_*.json"):
                    following = next(records, None)
                    if following is not None:
                        del left[following[0]]
                if following is None:
                    break
                name, record = following
                yield name, images.get(name, refuse("it is not there")), record
            for name in left:
                yield name, refuse("instances_*.json do not name it"), {}

        remedy = f"get {coco_gen_kwargs['split_name']}.zip again"
        return self._usable(split, found(), count, Path(place), remedy)


def _check_there(folder: Path | None) -> None:
    """Rejects a build that would have to fetch archives.

    Raises:
      UserError: some are not in the folder; the message says what to get, and where to put it.
    """
    missing = [name for name in ARCHIVES if folder is None or not (folder / name).exists()]
    if missing:
        listed = ", ".join(f"{name} ({ARCHIVES[name]:g} GB)" for name in missing)
        place = folder or "one folder, and set --config.data.manual_dir to it"
        raise UserError(
            f"coco: needs {listed}; put them into {place}, or have missing files fetched with "
            "--config.data.download=True. A folder with annotations/captions_train2017.json, "
            "captions_val2017.json, train2017/ and val2017/ will do as well"
        )


def _read_example(classes: Sequence[str], record: Record) -> Example:
    """The example of a record, without the boxes of crowds, which hold several objects."""
    objects = record["objects"]
    captions = (" ".join(caption.decode().split()) for caption in record["captions"]["text"])
    return Example(
        image_id=record["image/filename"].decode(),
        image=record["image"],
        captions=tuple(caption for caption in captions if caption),
        boxes=tuple(
            Box(classes[int(label)], -1, *map(float, box))
            for label, crowd, box in zip(
                objects["label"], objects["is_crowd"], objects["bbox"], strict=True
            )
            if not crowd
        ),
    )


@contextmanager
def _form_checked(what: str) -> Iterator[None]:
    """Reports an annotation file of another form than TFDS's builder, in the body, can read."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{what}: not COCO's ({why}); get its archive again") from error


class _Archives:
    """Takes the place of TFDS's download manager, whose extraction needs TensorFlow.

    Attributes:
      images: for the path of each archive of images the functions that read them, by name.
    """

    def __init__(self, manual_dir: Path | None, downloads: tfds.download.DownloadManager):
        self.images: dict[str, dict[str, Callable[[], bytes]]] = {}
        self._manual_dir, self._downloads = manual_dir, downloads
        for killed in Path(downloads.download_dir).glob(f"{_TEXTS}*"):  # left by a killed build
            shutil.rmtree(killed, ignore_errors=True)
        # Deleted with this object, when all splits are written.
        self._texts = tempfile.TemporaryDirectory(prefix=_TEXTS, dir=downloads.download_dir)

    def download_and_extract(self, urls: Mapping[str, str]) -> dict[str, str]:
        """By the same keys the folders of texts, and for images the archives themselves."""
        places = {url: self._place(url) for url in dict.fromkeys(urls.values())}
        return {key: places[url] for key, url in urls.items()}

    def _place(self, url: str) -> str:
        name = url.rsplit("/")[-1]
        path = self._path(name, url)
        if name not in TEXTS:
            self.images[str(path)] = zip_members(path)
            return str(path)
        members = zip_members(path, MAX_TEXT_BYTES)
        for file in TEXTS[name]:
            # Our names decide where it is written, not the archive's.
            target = Path(self._texts.name, file)
            if target.name not in members:
                raise UserError(f"{path}: {target.name} is not in it; get {name} again")
            try:
                content = members[target.name]()
            except DAMAGE as error:
                raise UserError(f"{path}: damaged ({error}); get {name} again") from error
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
        return self._texts.name

    def _path(self, name: str, url: str) -> Path:
        if self._manual_dir is not None and (self._manual_dir / name).exists():
            return self._manual_dir / name
        _log.info("coco: downloading %s; if you have it: %s", name, REMEDY)
        try:
            return Path(self._downloads.download(url))
        except Exception as error:  # the network, the file system, another hash than published
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{url}: cannot be downloaded ({why}); get it, and {REMEDY}") from error
