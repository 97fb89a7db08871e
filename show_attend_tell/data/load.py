"""Data sets: TFDS builders, and one way to read what they built."""

import difflib
import hashlib
import importlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from show_attend_tell import files
from show_attend_tell.data.images import WHOLE
from show_attend_tell.errors import UserError

BUILDERS = ("shapes", "flickr8k", "coco", "karpathy", "folder", "multi30k", "reversal")
SENTENCES = ("multi30k", "reversal")  # of them those of sentence pairs
GENERATED = ("shapes", "reversal")
SPLITS = ("train", "val", "test")
LEAST_SIDE = 0.75  # of a crop, of the picture's
MANY = 10_000  # from so many examples on, a pass over the records is told


@dataclass(frozen=True)
class Box:
    """An object in an example's picture; coordinates in [0, 1].

    It is behind a noun of the first caption; or `word_index` is -1, where all that is known of the
    object is its class, which any word of a caption may name.
    """

    label: str  # the noun, or the name of the class
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
        return replace(
            self,
            image_id=f"{self.image_id} mirrored",
            captions=_mirror_words(self.captions),
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


def _mirror_words(captions: tuple[str, ...]) -> tuple[str, ...]:
    def swap(match: re.Match) -> str:
        other = {"left": "right", "right": "left"}[match[0].lower()]
        return other.capitalize() if match[0][0].isupper() else other

    return tuple(
        re.sub(r"\b(left|right)\b", swap, caption, flags=re.IGNORECASE) for caption in captions
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
      name, split, splits, left_out, fingerprint: as of `Examples`.
      ids: of all pairs, in order.
      stored: their number.
    """

    def __init__(self, source: Any, count: int, name: str, split: str):
        fields = ("pair_id", "source", "target")
        records = (source[i] for i in range(count))
        self._pairs = [Pair(*(record[f].decode() for f in fields)) for record in records]
        self.left_out: dict[str, list[str]] = {}
        self.name, self.split, self.stored = name, split, count
        self.splits = tuple(source.dataset_info.splits)
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

    Ids and captions are held; a record, with its image, is read when its example is asked for.

    Attributes:
      name: of the data set.
      split: "train", "val" or "test".
      splits: all that the data set has.
      ids: of all examples, in order: the stored ones, mirrored copies, cropped copies.
      stored: the number of examples that are no copies.
      left_out: images that the data set was built without, of all splits, by what is wrong.
      fingerprint: names the content: data set, version, split, count, a hash of the ids and the
        bytes of the whole split, which tell other images of the same names apart; what it was built
        from, where there are several; and what copies there are.
    """

    def __init__(
        self,
        source: Any,
        read: Callable[[dict[str, Any]], Example],
        index: "Index",
        name: str,
        split: str,
        *,
        mirrored: bool = False,
        crops: int = 0,
    ):
        """Takes the records, what makes an example of one, and id and captions of those to take."""
        self._source, self._read = source, read
        image_ids = [image_id for image_id, _ in index]
        self._captions = [captions for _, captions in index]
        # What is done to the stored examples, one full round of them after the other.
        self._rounds: list[tuple[int, bool]] = [(0, False)]
        self._rounds += [(0, True)] * mirrored
        self._rounds += [(crop, mirrored and crop % 2 == 0) for crop in range(1, crops + 1)]
        self.stored = len(image_ids)
        self.name = name
        self.split = split.split("+")[0]
        self.splits = tuple(source.dataset_info.splits)
        self.ids = image_ids
        self.left_out: dict[str, list[str]] = {}
        unusable = (source.dataset_info.metadata or {}).get("unusable_images", {})
        if isinstance(unusable, list):  # of a build from before reasons were kept
            unusable = dict.fromkeys(unusable, "cannot be used")
        for image_id, reason in unusable.items():
            self.left_out.setdefault(reason, []).append(image_id)
        self.fingerprint = _fingerprint(source.dataset_info, name, split, image_ids)
        if source.dataset_info.config_name:
            self.fingerprint["config"] = source.dataset_info.config_name
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
        example = self._read(self._source[index])
        if crop:
            example = example.crop(crop)
        return example.mirror() if mirror else example

    def captions(self) -> list[tuple[str, ...]]:
        """The captions of every example; no record is read for them."""
        stored = {False: self._captions}
        if any(mirror for _, mirror in self._rounds):
            stored[True] = [_mirror_words(of_one) for of_one in self._captions]
        return [captions for _, mirror in self._rounds for captions in stored[mirror]]


Index = list[tuple[str, tuple[str, ...]]]  # id and captions of each example of a split


def _fingerprint(info: Any, name: str, split: str, ids: list[str]) -> dict[str, Any]:
    """Names the content of a split; see `Examples`."""
    return {
        "name": name,
        "version": str(info.version),
        "split": split,
        "images": len(ids),
        "ids": hashlib.sha256("\n".join(ids).encode()).hexdigest()[:12],
        "bytes": sum(int(info.splits[part].num_bytes) for part in split.split("+")),
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
    restval: bool = False,
    languages: tuple[str, str] | None = None,
) -> Examples | Pairs:
    """A split of a data set, which is built first where it is not.

    Args:
      name: of `BUILDERS`.
      split: "train", "val" or "test".
      data_dir: where built data sets lie.
      manual_dir: the folder of what a user has: a download (flickr8k, multi30k, coco), images with
        a JSON file of splits (karpathy), or with a table of captions (folder).
      limit: how many examples to take, from the first; 0 takes all.
      mirrored: whether each of them comes a second time, mirrored (`Example.mirror`).
      crops: how many more times each comes, cropped (`Example.crop`); where `mirrored`, every
        second crop is mirrored, too.
      restval: whether "train" also has the split of that name (coco, karpathy).
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

    parts = [split, "restval"] if restval and split == "train" else [split]
    for part in parts:
        if builder.info.splits and part not in builder.info.splits:
            raise UserError(
                f"{builder.data_path}: has no split {part!r}, only {', '.join(builder.info.splits)}"
                "; build it from data that has one"
            )
    try:
        if name in SENTENCES:
            source = builder.as_data_source(split)
            return Pairs(source, min(limit or len(source), len(source)), name, split)
        index = [entry for part in parts for entry in _index(builder, part)]
        whole = "+".join(parts)
        source, read = _source(builder, whole)
        index = index[: limit or None]
        return Examples(source, read, index, name, whole, mirrored=mirrored, crops=crops)
    except Exception as error:  # a missing or damaged file of any kind; all are checksummed
        raise _damaged(Path(builder.data_path), error) from error


def _source(builder: Any, split: str) -> tuple[Any, Callable[[dict[str, Any]], Example]]:
    """The records of a split, and what makes an example of one."""
    import tensorflow_datasets as tfds

    # Encoded images pass through, so that decoding is images.py's alone.
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    if builder.name == "coco":
        return source, partial(_coco_example, builder.info.features["objects"]["label"].names)
    return source, _example


def _example(record: dict[str, Any]) -> Example:
    """Of a record of `common.features`."""
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


def _coco_example(classes: Sequence[str], record: dict[str, Any]) -> Example:
    """Of a record of TFDS's COCO; the boxes of crowds hold more than one object, and go."""
    objects = record["objects"]
    return Example(
        image_id=record["image/filename"].decode(),
        image=record["image"],
        captions=tuple(
            said for c in record["captions"]["text"] if (said := " ".join(c.decode().split()))
        ),
        boxes=tuple(
            Box(classes[label], -1, *map(float, box))
            for label, crowd, box in zip(
                objects["label"], objects["is_crowd"], objects["bbox"], strict=True
            )
            if not crowd
        ),
    )


def _index(builder: Any, split: str) -> Index:
    """Id and captions of each example of a stored split, in order.

    A record holds its image, too, so what the one pass over all of them finds is kept beside them.
    The file's first line tells which records it was made of, and the hash of the other lines; where
    it does not fit, it is made anew.
    """
    path = Path(builder.data_path) / f"index-{split}.jsonl"
    stats = [(Path(p).name, Path(p).stat()) for p in builder.info.splits[split].filepaths]
    shards = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    lines = _kept_lines(path, shards)
    try:
        if lines is None:
            with files.locked(_lock(Path(builder.data_dir_root), builder.name)):
                lines = _kept_lines(path, shards)  # another process may have made them meanwhile
                if lines is None:
                    lines = _index_lines(builder, split)
                    with files.replacing(path) as file:
                        file.write(_head(shards, lines) + lines)
    except OSError as error:  # read only, or full: the data can be used all the same
        logging.warning("%s: cannot be kept (%s)", path, _first_line(error))
        lines = _index_lines(builder, split) if lines is None else lines
    entries = map(json.loads, lines.splitlines())
    return [(image_id, tuple(captions)) for image_id, *captions in entries]


def _kept_lines(path: Path, shards: list[list[Any]]) -> bytes | None:
    """The lines of an index but for its head; None where it is absent, old or damaged."""
    try:
        head, end, lines = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return lines if head + end == _head(shards, lines) else None


def _head(shards: list[list[Any]], lines: bytes) -> bytes:
    head = {"of": shards, "sha256": hashlib.sha256(lines).hexdigest()}
    return json.dumps(head).encode() + b"\n"


def _index_lines(builder: Any, split: str) -> bytes:
    source, read = _source(builder, split)
    if len(source) >= MANY:
        print(f"{builder.name} {split}: reading the captions of {len(source):,} images", flush=True)
    examples = (read(source[i]) for i in range(len(source)))
    return b"".join(json.dumps([e.image_id, *e.captions]).encode() + b"\n" for e in examples)


def _lock(data_dir: Path, name: str) -> Path:
    """The file that who builds or indexes a data set holds."""
    return data_dir / f".{name}.lock"


def _built(
    name: str, data_dir: Path, manual_dir: Path | None, languages: tuple[str, str] | None
) -> Any:
    """The builder of a data set that stands in its folder.

    TFDS writes to a folder `incomplete.*` and renames it, so what has the final name is whole.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    module = importlib.import_module(f"show_attend_tell.data.builders.{name}")
    options: dict[str, Any] = {} if name in GENERATED else {"manual_dir": manual_dir}
    if name == "multi30k":
        options["languages"] = languages

    def make() -> tfds.core.DatasetBuilder:
        try:
            builder = getattr(module, name.capitalize())
            return builder(data_dir=data_dir, file_format="array_record", **options)
        except ParseError as error:
            raise _damaged(data_dir / name, error) from error

    builder = make()
    if builder.data_path.exists():
        return builder
    data_dir.mkdir(parents=True, exist_ok=True)
    with files.locked(_lock(data_dir, name)):
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
