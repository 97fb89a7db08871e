"""Data sets: TFDS builders, and one way to read what they built."""

import difflib
import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from show_attend_tell import files
from show_attend_tell.errors import UserError
from show_attend_tell.images import WHOLE

BUILDERS = ("shapes", "flickr8k", "multi30k", "reversal")
SENTENCES = ("multi30k", "reversal")  # of them those of sentence pairs
SPLITS = ("train", "val", "test")
LEAST_SIDE = 0.75  # of a crop, of the picture's


@dataclass(frozen=True)
class Box:
    """The object behind a noun of an example's first caption; coordinates in [0, 1]."""

    label: str
    word_index: int  # of the noun among the caption's tokens
    ymin: float
    xmin: float
    ymax: float
    xmax: float


@dataclass(frozen=True)
class Example:
    """An image, encoded as JPEG or PNG, with its captions."""

    image_id: str
    image: bytes
    captions: tuple[str, ...]
    boxes: tuple[Box, ...]
    # How the picture is to be read; captions and boxes are as if it had been.
    window: tuple[float, float, float, float] = WHOLE  # ymin, xmin, ymax, xmax of the part to read
    mirrored: bool = False  # left for right, after the window is cut out

    def mirror(self) -> "Example":
        """The same scene seen in a mirror: "left" and "right" change places."""

        def swap(match: re.Match) -> str:
            other = {"left": "right", "right": "left"}[match[0].lower()]
            return other.capitalize() if match[0][0].isupper() else other

        return replace(
            self,
            image_id=f"{self.image_id} mirrored",
            captions=tuple(
                re.sub(r"\b(left|right)\b", swap, caption, flags=re.IGNORECASE)
                for caption in self.captions
            ),
            boxes=tuple(replace(box, xmin=1 - box.xmax, xmax=1 - box.xmin) for box in self.boxes),
            mirrored=not self.mirrored,
        )

    def crop(self, number: int) -> "Example":
        """The `number`-th random crop, whose sides are 0.75 to 1 of the picture's.

        The captions stay, so little may be cut off. Which crop it is hangs on `image_id` and
        `number` alone. Boxes are cut, too; one that is left outside goes.
        """
        if (self.window, self.mirrored) != (WHOLE, False):
            raise ValueError(f"{self.image_id}: a copy is not cropped again")
        image_id = f"{self.image_id} crop {number}"
        seed = hashlib.sha256(image_id.encode()).digest()
        height, width, top, left = np.random.default_rng(list(seed)).uniform(size=4).tolist()
        height, width = 1 - (1 - LEAST_SIDE) * height, 1 - (1 - LEAST_SIDE) * width
        top, left = top * (1 - height), left * (1 - width)

        boxes = []
        for box in self.boxes:
            ymin, ymax = (min(max((y - top) / height, 0.0), 1.0) for y in (box.ymin, box.ymax))
            xmin, xmax = (min(max((x - left) / width, 0.0), 1.0) for x in (box.xmin, box.xmax))
            if ymin < ymax and xmin < xmax:
                boxes.append(replace(box, ymin=ymin, xmin=xmin, ymax=ymax, xmax=xmax))
        return replace(
            self,
            image_id=image_id,
            boxes=tuple(boxes),
            window=(top, left, top + height, left + width),
        )


@dataclass(frozen=True)
class Pair:
    """A sentence and its translation."""

    pair_id: str
    source: str
    target: str


class Pairs(Sequence):
    """A split of sentence pairs, read at once: they are small.

    Attributes:
      name, split, fingerprint: as of `Examples`.
      ids: of all pairs, in order.
      stored: their number.
    """

    def __init__(self, source: Any, count: int, name: str, split: str):
        fields = ("pair_id", "source", "target")
        records = (source[i] for i in range(count))
        self._pairs = [Pair(*(record[f].decode() for f in fields)) for record in records]
        self.name, self.split, self.stored = name, split, count
        self.ids = [pair.pair_id for pair in self._pairs]
        info = source.dataset_info
        self.fingerprint = _fingerprint(info, name, split, self.ids) | {"pair": info.config_name}

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        return self._pairs[index]

    def captions(self) -> list[tuple[str, ...]]:
        """The translation of each, as the captions of an image are given."""
        return [(pair.target,) for pair in self._pairs]


class Examples(Sequence):
    """A split, read at random from its ArrayRecord files; may be pickled and read by threads.

    Attributes:
      name: of the data set.
      split: "train", "val" or "test".
      ids: of all examples, in order: the stored ones, mirrored copies, cropped copies.
      stored: the number of examples that are no copies.
      fingerprint: names the content: data set, version, split, count, a hash of the ids and the
        bytes of the whole split, which tell other images of the same names apart; and what copies
        there are.
    """

    def __init__(
        self,
        source: Any,
        image_ids: list[str],
        name: str,
        split: str,
        *,
        mirrored: bool = False,
        crops: int = 0,
    ):
        self._source = source
        # What is done to the stored examples, one full round of them after the other.
        self._rounds: list[tuple[int, bool]] = [(0, False)]
        self._rounds += [(0, True)] * mirrored
        self._rounds += [(crop, mirrored and crop % 2 == 0) for crop in range(1, crops + 1)]
        self.stored = len(image_ids)
        self.name = name
        self.split = split
        self.ids = image_ids
        self.fingerprint = _fingerprint(source.dataset_info, name, split, image_ids)
        for crop, mirror in self._rounds[1:]:
            suffix = f" crop {crop}" * (crop > 0) + " mirrored" * mirror
            self.ids = [*self.ids, *(f"{image_id}{suffix}" for image_id in image_ids)]
        if mirrored:
            self.fingerprint["mirrored"] = True
        if crops:
            self.fingerprint["crops"] = [crops, LEAST_SIDE]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        round_, index = divmod(index, self.stored)
        crop, mirror = self._rounds[round_]
        record = self._source[index]
        objects = record["objects"]
        example = Example(
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
        if crop:
            example = example.crop(crop)
        return example.mirror() if mirror else example

    def captions(self) -> list[tuple[str, ...]]:
        """The captions of every example, for which each stored one is read once."""
        stored = [self[i] for i in range(self.stored)]
        return [
            (example.mirror() if mirror else example).captions
            for _, mirror in self._rounds
            for example in stored
        ]


def _fingerprint(info: Any, name: str, split: str, ids: list[str]) -> dict[str, Any]:
    """Names the content of a split; see `Examples`."""
    return {
        "name": name,
        "version": str(info.version),
        "split": split,
        "images": len(ids),
        "ids": hashlib.sha256("\n".join(ids).encode()).hexdigest()[:12],
        "bytes": int(info.splits[split].num_bytes),
    }


def load(
    name: str,
    split: str,
    *,
    data_dir: Path,
    manual_dir: Path | None = None,
    limit: int = 0,
    mirrored: bool = False,
    crops: int = 0,
    languages: tuple[str, str] | None = None,
) -> Examples | Pairs:
    """A split of a data set, which is built first where it is not.

    Args:
      name: of `BUILDERS`.
      split: "train", "val" or "test".
      data_dir: where built data sets lie.
      manual_dir: the folder of a download that a user must make (flickr8k, multi30k).
      limit: how many examples to take, from the first; 0 takes all.
      mirrored: whether each of them comes a second time, mirrored (`Example.mirror`).
      crops: how many more times each comes, cropped (`Example.crop`); where `mirrored`, every
        second crop is mirrored, too.
      languages: source and target, of multi30k.

    Raises:
      UserError: an unknown name or split; the data set cannot be built from what is there; there is
        no room for it; or its files are damaged.
    """
    for what, value, known in (("data set", name, BUILDERS), ("split", split, SPLITS)):
        if value not in known:
            near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)[0]
            raise UserError(
                f"{what} {value!r} is not known; the nearest is {near!r} of {', '.join(known)}"
            )
    if name == "multi30k" and not languages:
        raise UserError("data set multi30k: name its languages, such as ('en', 'de')")
    try:
        builder = _built(name, data_dir, manual_dir, languages)
    except (OSError, RuntimeError) as error:  # ArrayRecord's writer raises RuntimeError
        raise UserError(
            f"{data_dir}: data set {name} cannot be built there ({_first_line(error)}); "
            "free some space or choose another folder with --config.data.dir"
        ) from error

    import tensorflow_datasets as tfds

    try:
        if name in SENTENCES:
            source = builder.as_data_source(split)
            return Pairs(source, min(limit or len(source), len(source)), name, split)
        # Encoded images pass through, so that decoding is images.py's alone.
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        count = min(limit, len(source)) if limit else len(source)
        image_ids = [source[i]["image_id"].decode() for i in range(count)]
        return Examples(source, image_ids, name, split, mirrored=mirrored, crops=crops)
    except Exception as error:  # a missing or damaged file of any kind; all are checksummed
        raise _damaged(Path(builder.data_path), error) from error


def _built(
    name: str, data_dir: Path, manual_dir: Path | None, languages: tuple[str, str] | None
) -> Any:
    """The builder of a data set that stands in its folder.

    TFDS writes to a folder `incomplete.*` and renames it, so what has the final name is whole.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    if name == "shapes":
        from show_attend_tell.datasets.shapes import Shapes as Builder

        options = {}
    elif name == "reversal":
        from show_attend_tell.datasets.reversal import Reversal as Builder

        options = {}
    elif name == "multi30k":
        from show_attend_tell.datasets.multi30k import Multi30k as Builder

        options = {"languages": languages, "manual_dir": manual_dir}
    else:
        from show_attend_tell.datasets.flickr8k import Flickr8k as Builder

        options = {"manual_dir": manual_dir}

    def make() -> tfds.core.DatasetBuilder:
        try:
            return Builder(data_dir=data_dir, file_format="array_record", **options)
        except ParseError as error:
            raise _damaged(data_dir / name, error) from error

    builder = make()
    if builder.data_path.exists():
        return builder
    data_dir.mkdir(parents=True, exist_ok=True)
    with files.locked(data_dir / f".{name}.lock"):
        builder = make()  # it reads what another process has built in the meantime
        if not builder.data_path.exists():
            for killed in Path(builder.data_path).parent.glob("incomplete.*"):
                shutil.rmtree(killed)
            print(f"building data set {name} in {data_dir}", flush=True)
            tfds.disable_progress_bar()
            builder.download_and_prepare()
    return builder


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{folder}: damaged ({_first_line(error)}); "
        "delete this folder and the data set is built again"
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
