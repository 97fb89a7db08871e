"""COCO with the captions and splits of Karpathy and Li, by TFDS's own builder."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.object_detection.coco import CocoConfig
from tensorflow_datasets.object_detection.coco_captions import CocoCaptions

from show_attend_tell.data.builders.common import DAMAGE, Found, ImagesBuilder, refuse, zip_members
from show_attend_tell.errors import UserError

# By archive the files in it that are read; of the others the images are.
TEXTS = {
    "annotations_trainval2014.zip": (
        "annotations/instances_train2014.json",
        "annotations/instances_val2014.json",
    ),
    "caption_datasets.zip": ("dataset_coco.json",),
}
ARCHIVES = ("train2014.zip", "val2014.zip", *TEXTS)
MAX_TEXT_BYTES = 2**31  # of an annotation file: the largest has 0.4 GB
REMEDY = f"set --config.data.manual_dir to the folder with {', '.join(ARCHIVES)}"
_TEXTS = "coco-annotations-"  # how folders of extracted annotations begin
(_ALL,) = CocoCaptions.BUILDER_CONFIGS


class Coco(ImagesBuilder, CocoCaptions, skip_registration=True):
    """123,287 photographs with five captions each, and the boxes of what is in them.

    The splits of Karpathy and Li: 82,783 train, 5,000 val, 5,000 test, and 30,504 "restval", which
    most papers train on, too (`data.restval`).

    Get: nothing, or, where they are there already, one folder with train2014.zip, val2014.zip and
    annotations_trainval2014.zip of https://cocodataset.org and
    https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip. What the folder does
    not have is downloaded (20 GB in all) and checked by its hash. The archives are read as they
    are; nothing but annotations is extracted, and those for the time of the build.

    Build, once (another 20 GB), and train:

        ./launch.sh train --config experiments/coco.py:soft --workdir runs/coco-soft \\
            --config.data.manual_dir=FOLDER

    Load: `datasets.load("coco", "train", data_dir=Path(...), restval=True)`.

    The records are those of TFDS's `coco_captions`; the box of an object carries its class alone.
    What cannot be used is left out, told, and kept in the data set's `metadata.json`.

    Version 1.1.0, of TFDS.

    Citation: T.-Y. Lin et al. Microsoft COCO: common objects in context. ECCV 2014, 740-755.
    """

    # Without the splits that have no annotations, 20 GB to download for nothing.
    BUILDER_CONFIGS = [
        CocoConfig(name=_ALL.name, description=_ALL.description, splits=_ALL.splits[:2])
    ]
    REMEDY = REMEDY

    def _info(self) -> tfds.core.DatasetInfo:
        """That of TFDS's builder, whose own needs TensorFlow for the name of a type."""
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

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        if self._manual_dir is not None:
            self._folder()
        archives = _Archives(self._manual_dir, dl_manager)
        with _schema("dataset_coco.json"):
            generators = super()._split_generators(archives)
        return {g.name: self._of_split(g.name, archives, **g.gen_kwargs) for g in generators}

    def _of_split(
        self,
        split: str,
        archives: "_Archives",
        image_filename_to_annotations: dict[str, Any],
        coco_gen_kwargs: dict[str, Any],
    ) -> Iterator:
        place = coco_gen_kwargs["image_dir"]
        count = len(image_filename_to_annotations)

        def found() -> Iterator[Found]:
            images = archives.images[place]  # held by this, the annotations stay on disk
            left = dict.fromkeys(image_filename_to_annotations)
            with _schema("an instances_*.json"):
                records = self._generate_examples(image_filename_to_annotations, coco_gen_kwargs)
                for name, record in records:
                    del left[name]
                    yield name, images.get(name, refuse("it is not there")), record
            for name in left:
                yield name, refuse("instances_*.json do not name it"), {}

        remedy = f"get {coco_gen_kwargs['split_name']}.zip again"
        return self._usable(split, found(), count, Path(place), remedy)


@contextmanager
def _schema(what: str) -> Iterator[None]:
    """Tells that an annotation file is of another form than TFDS's builder reads."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{what}: not COCO's ({why}); get its archive again") from error


class _Archives:
    """Stands before TFDS's download manager, whose extraction needs TensorFlow.

    Attributes:
      images: by the path of an archive of images, the functions that read them, by name.
    """

    def __init__(self, manual_dir: Path | None, downloads: tfds.download.DownloadManager):
        self.images: dict[str, dict[str, Callable[[], bytes]]] = {}
        self._manual_dir, self._downloads = manual_dir, downloads
        for killed in Path(downloads.download_dir).glob(f"{_TEXTS}*"):  # a build was
            shutil.rmtree(killed, ignore_errors=True)
        # Goes with this object, when all splits are written.
        self._texts = tempfile.TemporaryDirectory(prefix=_TEXTS, dir=downloads.download_dir)

    def download_and_extract(self, urls: Mapping[str, str]) -> dict[str, str]:
        """By the same keys the folders of texts, and of images the archives themselves."""
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
            # Where it is written hangs on our names alone, not on the archive's.
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
        print(f"coco: {name} is downloaded; if you have it: {REMEDY}", flush=True)
        try:
            return Path(self._downloads.download(url))
        except Exception as error:  # of the network, of a file system, a hash that differs
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{url}: cannot be downloaded ({why}); get it, and {REMEDY}") from error
