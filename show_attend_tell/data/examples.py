"""Images with captions, sentences with translations, and the splits that hold them."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from show_attend_tell.data.images import WHOLE
from show_attend_tell.data.records import Item, Record, Records

LEAST_SIDE = 0.75  # smallest side of a cropped copy, as a share of the image's

# Id and captions of each example of a split.
Index = Sequence[tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Box:
    """An object in an example's image; coordinates in [0, 1].

    A noun of the first caption names it. Where the data only give the object's class, which any
    word of a caption may name, `word_index` is -1.
    """

    label: str  # the noun, or the name of the class
    word_index: int  # of the noun among the caption's tokens
    ymin: float
    xmin: float
    ymax: float
    xmax: float


@dataclass(frozen=True)
class Example:
    """An image, encoded as JPEG or PNG, with its captions.

    `window` and `mirrored` say how to read the image. Captions and boxes describe what is then
    seen.
    """

    image_id: str
    image: bytes
    captions: tuple[str, ...]
    boxes: tuple[Box, ...]
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
        """The `number`-th random crop, with sides of 0.75 to 1 of the image's.

        `image_id` and `number` determine the crop. It keeps the captions, which is why it cuts off
        so little. Boxes are cut, too; a box that lies outside is dropped.

        Raises:
          ValueError: this is a crop or a mirrored copy already.
        """
        if (self.window, self.mirrored) != (WHOLE, False):
            raise ValueError(f"{self.image_id}: a copy cannot be cropped again")
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
    def swap(match: re.Match[str]) -> str:
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


@runtime_checkable
class ExampleSource(Protocol[Item]):
    """A split of a data set: examples with images, or sentence pairs.

    Attributes:
      name: of the data set.
      split: "train", "val" or "test".
      splits: all that the data set has.
      ids: of all examples, in order, copies after the stored ones.
      stored: number of examples that are not copies of others.
      left_out: images, of all splits, that the data set was built without, by what is wrong with
        them.
      fingerprint: identifies the content: data set, version, split, count, a hash of the ids, and
        the bytes of the whole split, which tell other images of the same names apart. It also has
        the source that the data set was built from, where there are several, and which copies
        there are. Caches are keyed by it.
    """

    @property
    def name(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def splits(self) -> tuple[str, ...]: ...
    @property
    def ids(self) -> list[str]: ...
    @property
    def stored(self) -> int: ...
    @property
    def left_out(self) -> dict[str, list[str]]: ...
    @property
    def fingerprint(self) -> dict[str, Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item:
        """The example number `index`, 0 <= `index` < len."""
        ...

    def __iter__(self) -> Iterator[Item]: ...

    def captions(self) -> list[tuple[str, ...]]:
        """The captions of each image, or the one translation of each sentence, in order."""
        ...


class ImageSource:
    """A split of images with captions. Can be pickled, and read by several threads.

    Ids and captions are in memory; an image is read when its example is asked for.

    Attributes: as in `ExampleSource`.
    """

    def __init__(
        self,
        records: Records,
        read: Callable[[Record], Example],
        index: Index,
        *,
        name: str,
        parts: Sequence[str],
        mirrored: bool = False,
        crops: int = 0,
    ):
        """Makes a source of stored records and copies of them.

        Args:
          records: of the joined `parts`.
          read: makes an example of a record.
          index: id and captions of the records to take, from the first.
          name: of the data set.
          parts: stored splits that make up this one; the first gives it its name.
          mirrored: whether a mirrored copy of every example follows.
          crops: cropped copies of every example that follow; with `mirrored`, every second one is
            mirrored, too.
        """
        self._records, self._read = records, read
        self._captions = [captions for _, captions in index]
        stored_ids = [image_id for image_id, _ in index]
        # One round over the stored examples after the other: (crop, mirrored), crop 0 for none.
        self._rounds: list[tuple[int, bool]] = [(0, False)]
        self._rounds += [(0, True)] * mirrored
        self._rounds += [(crop, mirrored and crop % 2 == 0) for crop in range(1, crops + 1)]
        self.stored = len(index)
        self.name, self.split = name, parts[0]
        self.splits = tuple(records.info.splits)
        self.ids = [
            image_id + f" crop {crop}" * (crop > 0) + " mirrored" * mirror
            for crop, mirror in self._rounds
            for image_id in stored_ids
        ]
        self.left_out = _left_out(records.info.metadata or {})
        self.fingerprint = _fingerprint(records, name, parts, stored_ids)
        if records.info.config_name:
            self.fingerprint["config"] = records.info.config_name
        if mirrored:
            self.fingerprint["mirrored"] = True
        if crops:
            self.fingerprint["crops"] = [crops, LEAST_SIDE]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int, /) -> Example:
        """Reads an example, 0 <= `index` < len.

        Raises:
          UserError: its file is damaged or missing.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        round_, index = divmod(index, self.stored)
        crop, mirror = self._rounds[round_]
        example = self._read(self._records[index])
        if crop:
            example = example.crop(crop)
        return example.mirror() if mirror else example

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def captions(self) -> list[tuple[str, ...]]:
        """The captions of every example, in order; reads no record."""
        stored = {False: self._captions}
        if any(mirror for _, mirror in self._rounds):
            stored[True] = [_mirror_words(of_image) for of_image in self._captions]
        return [captions for _, mirror in self._rounds for captions in stored[mirror]]


class PairSource:
    """A split of sentence pairs, all read at once: they are small.

    Attributes: as in `ExampleSource`.
    """

    def __init__(
        self,
        records: Records,
        read: Callable[[Record], Pair],
        *,
        name: str,
        split: str,
        limit: int = 0,
    ):
        """Reads the pairs.

        Args:
          records: of the split.
          read: makes a pair of a record.
          name: of the data set.
          split: its name.
          limit: number of pairs to take, from the first; 0 takes all.

        Raises:
          UserError: a file of the records is damaged or missing.
        """
        count = min(limit or len(records), len(records))
        self._pairs = [read(records[i]) for i in range(count)]
        self.name, self.split, self.stored = name, split, count
        self.splits = tuple(records.info.splits)
        self.ids = [pair.pair_id for pair in self._pairs]
        self.left_out: dict[str, list[str]] = {}
        self.fingerprint = _fingerprint(records, name, [split], self.ids)
        self.fingerprint["pair"] = records.info.config_name

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int, /) -> Pair:
        return self._pairs[index]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def captions(self) -> list[tuple[str, ...]]:
        """The translation of each sentence, in the form of an image's captions."""
        return [(pair.target,) for pair in self._pairs]


def _left_out(metadata: Mapping[str, Any]) -> dict[str, list[str]]:
    """Images that a data set was built without, by what is wrong with them."""
    unusable = metadata.get("unusable_images", {})
    if isinstance(unusable, list):  # builds of early versions kept no reasons
        unusable = dict.fromkeys(unusable, "cannot be used")
    left_out: dict[str, list[str]] = {}
    for image_id, reason in unusable.items():
        left_out.setdefault(reason, []).append(image_id)
    return left_out


def _fingerprint(
    records: Records, name: str, parts: Sequence[str], ids: Sequence[str]
) -> dict[str, Any]:
    """Identifies the content of a split; see `ExampleSource`."""
    info = records.info
    return {
        "name": name,
        "version": str(info.version),
        "split": "+".join(parts),
        "images": len(ids),
        "ids": hashlib.sha256("\n".join(ids).encode()).hexdigest()[:12],
        "bytes": sum(int(info.splits[part].num_bytes) for part in parts),
    }
