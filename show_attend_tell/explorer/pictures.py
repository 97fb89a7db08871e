"""The pictures that can be asked about: generated ones, those of a split, and what people bring."""

import io
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from show_attend_tell.data.examples import Example, ExampleSource
from show_attend_tell.data.images import Picture, keepable, naming, picture_size
from show_attend_tell.evaluation.mentions import Mention, mentions_of
from show_attend_tell.explorer.answers import NamedBox, PictureFacts

LARGEST_SIDE, THUMBNAIL = 1024, 192  # pixels: served, and small
UPLOADS_KEPT = 100  # the last ones; the page sends a picture again where it was dropped
# Of a split's fingerprint, what changes none of its pictures; see `runs.folder.check_data`.
_NOT_OF_PICTURES = {"config", "languages", "kept"}


@dataclass(frozen=True, eq=False)
class Kept:
    """A picture with what is known of it."""

    facts: PictureFacts
    picture: bytes  # encoded
    mentions: tuple[Mention, ...] = ()  # of its references, with boxes


class Pictures:
    """All pictures of an explorer, by id. Safe to use from several threads.

    Args:
      examples: pictures to begin with, by name.
      split: a split to browse, if the data are there.
    """

    def __init__(self, examples: Mapping[str, bytes], split: ExampleSource[Example] | None = None):
        self._lock = threading.Lock()
        self._uploads: OrderedDict[str, Kept] = OrderedDict()
        self._split = split
        self._numbers: dict[str, int] = {}
        self._descriptions = None if split is None else split.descriptions()
        # Pictures of another data set may have the same names; a browser keeps those that it saw.
        self._data = "" if split is None else json.dumps(split.fingerprint, sort_keys=True)
        if split is not None:
            self._numbers = {self._key_of(name): i for i, name in enumerate(split.ids)}
        self._examples = {
            kept.facts.id: kept
            for name, picture in examples.items()
            for kept in [_kept("example", name, picture)]
        }

    @property
    def examples(self) -> list[PictureFacts]:
        """The pictures to begin with."""
        return [kept.facts for kept in self._examples.values()]

    @property
    def split(self) -> list[str]:
        """The ids of the split's pictures, in its order."""
        return list(self._numbers)

    def id_of(self, name: str, data: Mapping[str, Any]) -> str | None:
        """The id of the split's picture of that name.

        Args:
          name: of an example.
          data: the fingerprint of the split that has the example, perhaps with more in it. Pictures
            of other data may have the same names.

        Returns:
          None if the split has no such picture, or is not the example's.
        """
        key = self._key_of(name)
        return key if key in self._numbers and self._is_split(data) else None

    def _is_split(self, data: Mapping[str, Any]) -> bool:
        own = {} if self._split is None else self._split.fingerprint
        return all(data.get(key) == own[key] for key in own.keys() - _NOT_OF_PICTURES)

    def __getitem__(self, key: str) -> Kept:
        """The picture of an id.

        Raises:
          KeyError: there is none, or it was uploaded too long ago.
        """
        if key in self._examples:
            return self._examples[key]
        if key in self._numbers:
            return self._of_split(key)
        with self._lock:
            return self._uploads[key]

    def add(self, name: str, content: bytes) -> PictureFacts:
        """Adds an uploaded picture.

        Raises:
          UserError: it is not a picture that `images.read_image` reads.
        """
        name = name.strip()[:200] or "picture"
        with naming(name):
            kept = _kept("upload", name, keepable(content))
        with self._lock:
            self._uploads[kept.facts.id] = kept
            self._uploads.move_to_end(kept.facts.id)
            while len(self._uploads) > UPLOADS_KEPT:
                self._uploads.popitem(last=False)
        return kept.facts

    def _key_of(self, name: str) -> str:
        return _key("split", f"{self._data} {name}")

    def _of_split(self, key: str) -> Kept:
        assert self._split is not None and self._descriptions is not None
        number = self._numbers[key]
        with self._lock:  # a data set's reader need not be safe to share
            example = self._split[number]
        described = self._descriptions[number]
        mentions = tuple(m for _, _, m in mentions_of(example.image_id, described))
        boxes = dict.fromkeys((m.noun, sides) for m in mentions for sides in m.boxes)
        boxes |= dict.fromkeys((box.label, box.sides) for box in example.boxes if not mentions)
        with naming(example.image_id):
            height, width = picture_size(example.image)
        facts = PictureFacts(
            id=key,
            name=example.image_id,
            width=width,
            height=height,
            references=list(example.captions),
            boxes=[NamedBox(label=label, sides=_inside(sides)) for label, sides in boxes],
            origin="split",
        )
        return Kept(facts, example.image, mentions)


def encoded(picture: Picture) -> bytes:
    """A picture as a file's content.

    Raises:
      UserError: as for `images.read_image`.
    """
    if isinstance(picture, bytes):
        return keepable(picture)
    if isinstance(picture, Path):
        picture_size(picture)  # names the file if it is none
        with naming(str(picture)):
            return keepable(picture.read_bytes())
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _kept(origin: str, name: str, picture: bytes) -> Kept:
    height, width = picture_size(picture)
    key = _key(origin, name if origin == "example" else sha256(picture).hexdigest())
    return Kept(PictureFacts(id=key, name=name, width=width, height=height, origin=origin), picture)


def _key(origin: str, name: str) -> str:
    """An id that is safe in an address, and the same whenever the explorer starts."""
    return f"{origin}-{sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"


def _inside(sides: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    ymin, xmin, ymax, xmax = (min(max(edge, 0.0), 1.0) for edge in sides)
    return ymin, xmin, ymax, xmax
