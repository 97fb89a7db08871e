"""Images with captions, sentences with translations, and the splits that hold them."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from show_attend_tell.data.copies import LEAST_SIDE, Sides, draw_crop, mirror_sides, mirror_text
from show_attend_tell.data.holdout import SEED
from show_attend_tell.data.images import WHOLE
from show_attend_tell.data.phrases import Counts, Described, Description, Phrase
from show_attend_tell.data.records import AnyRecords, Item, Record, Records

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

    @property
    def sides(self) -> Sides:
        return self.ymin, self.xmin, self.ymax, self.xmax

    def at(self, sides: Sides) -> "Box":
        """The same object in another place."""
        ymin, xmin, ymax, xmax = sides
        return replace(self, ymin=ymin, xmin=xmin, ymax=ymax, xmax=xmax)


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
            captions=tuple(map(mirror_text, self.captions)),
            boxes=tuple(box.at(mirror_sides(box.sides)) for box in self.boxes),
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
        crop = draw_crop(self.image_id, number)
        cut = [(box, crop.cut(box.sides)) for box in self.boxes]
        return replace(
            self,
            image_id=f"{self.image_id} crop {number}",
            boxes=tuple(box.at(sides) for box, sides in cut if sides is not None),
            window=crop.window,
        )

    def description(self) -> Description | None:
        """The first caption, with each noun that boxes name as a phrase; None if they name none.

        Of use where words between spaces are the caption's tokens, from which nouns are counted.
        """
        nouns: dict[int, list[Sides]] = {}
        for box in self.boxes:
            if box.word_index >= 0:
                nouns.setdefault(box.word_index, []).append(box.sides)
        if not nouns:
            return None
        phrases = (Phrase(i, i, str(i), ("object",), tuple(nouns[i])) for i in sorted(nouns))
        return Description(" ".join(self.captions[0].split()), tuple(phrases), 0)


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
      drawn: how splits that the source lacks were made; empty if all are the source's.
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
    def drawn(self) -> str: ...
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

    def descriptions(self) -> list[tuple[Description, ...]]:
        """The sentences of each image whose phrases are annotated, in order; empty without any."""
        ...

    def phrase_counts(self) -> Counts:
        """By reason, what of the stored split's phrases could not be used or had to be changed."""
        ...


class ImageSource:
    """A split of images with captions. Can be pickled, and read by several threads.

    Ids and captions are in memory; an image is read when its example is asked for, and so are the
    phrases of all.

    Attributes: as in `ExampleSource`.
    """

    def __init__(
        self,
        records: AnyRecords,
        read: Callable[[Record], Example],
        index: Index,
        *,
        name: str,
        parts: Sequence[str],
        describe: Callable[[], Described],
        mirrored: bool = False,
        crops: int = 0,
        holdout: tuple[str, float] | None = None,
    ):
        """Makes a source of stored records and copies of them.

        Args:
          records: of the joined `parts`.
          read: makes an example of a record.
          index: id and captions of the records to take, from the first.
          name: of the data set.
          parts: stored splits that make up this one; the first gives it its name.
          describe: reads the descriptions of all stored records of the `parts`; called when they
            are first asked for. Can be pickled.
          mirrored: whether a mirrored copy of every example follows.
          crops: cropped copies of every example that follow; with `mirrored`, every second one is
            mirrored, too.
          holdout: the split that this one is, and the share of "train" that is held out of it, if
            the records are but one of these two parts of the stored split "train".
        """
        self._records, self._read, self._describe = records, read, describe
        self._described: Described | None = None
        self._captions = [captions for _, captions in index]
        self._stored_ids = [image_id for image_id, _ in index]
        # One round over the stored examples after the other: (crop, mirrored), crop 0 for none.
        self._rounds: list[tuple[int, bool]] = [(0, False)]
        self._rounds += [(0, True)] * mirrored
        self._rounds += [(crop, mirrored and crop % 2 == 0) for crop in range(1, crops + 1)]
        self.stored = len(index)
        self.name, self.split = name, holdout[0] if holdout else parts[0]
        self.splits = tuple(records.info.splits) + ("val",) * bool(holdout)
        self.ids = [
            image_id + f" crop {crop}" * (crop > 0) + " mirrored" * mirror
            for crop, mirror in self._rounds
            for image_id in self._stored_ids
        ]
        self.left_out = _left_out(records.info.metadata or {})
        self.drawn: str = (records.info.metadata or {}).get("splits", "")
        self.fingerprint = _fingerprint(records, name, parts, self._stored_ids)
        if records.info.config_name:
            self.fingerprint["config"] = records.info.config_name
        if holdout:
            self.fingerprint["holdout"] = [*holdout, SEED]
        if mirrored:
            self.fingerprint["mirrored"] = True
        if crops:
            self.fingerprint["crops"] = [crops, LEAST_SIDE]

    @property
    def rounds(self) -> list[bool]:
        """Whether each round over the stored examples is mirrored; the first are the stored ones.

        Example number n is number n % `stored` of round n // `stored`.
        """
        return [mirror for _, mirror in self._rounds]

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
            stored[True] = [tuple(map(mirror_text, of_image)) for of_image in self._captions]
        return [captions for _, mirror in self._rounds for captions in stored[mirror]]

    def descriptions(self) -> list[tuple[Description, ...]]:
        """The annotated sentences of every example, in order, copies included; reads no image.

        An example without annotations has none. Copies are as `Example.crop` and `Example.mirror`
        make them. The first call reads the annotations or what is kept of them.

        Raises:
          UserError: the annotations cannot be read.
        """
        stored = self._phrases().descriptions[: self.stored]
        found: list[tuple[Description, ...]] = []
        for crop, mirror in self._rounds:
            for image_id, of_image in zip(self._stored_ids, stored, strict=True):
                if crop and of_image:
                    part = draw_crop(image_id, crop)
                    of_image = tuple(description.crop(part) for description in of_image)
                found.append(tuple(d.mirror() for d in of_image) if mirror else of_image)
        return found

    def phrase_counts(self) -> Counts:
        """By reason, what of the whole stored split could not be used or had to be changed.

        Raises:
          UserError: as for `descriptions`.
        """
        return self._phrases().counts

    def _phrases(self) -> Described:
        if self._described is None:
            self._described = self._describe()
        return self._described


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
        further: Sequence[Pair] = (),
    ):
        """Reads the pairs.

        Args:
          records: of the split.
          read: makes a pair of a record.
          name: of the data set.
          split: its name.
          limit: number of pairs to take, from the first; 0 takes all.
          further: pairs that follow those of the split; `stored` does not count them.

        Raises:
          UserError: a file of the records is damaged or missing.
        """
        count = min(limit or len(records), len(records))
        self._pairs = [*(read(records[i]) for i in range(count)), *further]
        self.name, self.split, self.stored = name, split, count
        self.splits = tuple(records.info.splits)
        self.ids = [pair.pair_id for pair in self._pairs]
        self.left_out: dict[str, list[str]] = {}
        self.drawn = ""
        self.fingerprint = _fingerprint(records, name, [split], self.ids)
        self.fingerprint["pair"] = records.info.config_name
        if further:
            self.fingerprint["further"] = texts_digest(further)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int, /) -> Pair:
        return self._pairs[index]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    def captions(self) -> list[tuple[str, ...]]:
        """The translation of each sentence, in the form of an image's captions."""
        return [(pair.target,) for pair in self._pairs]

    def descriptions(self) -> list[tuple[Description, ...]]:
        """None for any pair: sentences have no boxes."""
        return [()] * len(self)

    def phrase_counts(self) -> Counts:
        """Empty, as there are no phrases."""
        return {}


def texts_digest(pairs: Iterable[Pair]) -> str:
    """Twelve hexadecimal digits that identify the texts of pairs."""
    texts = "\n".join(f"{pair.source}\t{pair.target}" for pair in pairs)
    return hashlib.sha256(texts.encode()).hexdigest()[:12]


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
    records: AnyRecords, name: str, parts: Sequence[str], ids: Sequence[str]
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
