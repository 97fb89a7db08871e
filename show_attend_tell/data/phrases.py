"""Phrases of an image's captions, and the boxes of what they name."""

import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from show_attend_tell.data.copies import Crop, Sides, mirror_sides, mirror_text

SHOWN = 3  # names kept of what was counted for one reason
NO_AREA, CUT = "boxes of no area in the picture", "boxes cut at the edge of the picture"
_PICTURE = Crop(0.0, 0.0, 1.0, 1.0)
_SINGLE, _DOUBLE = "‘’‚‛", "“”„‟«»"  # quotation marks
_STRAIGHT = str.maketrans(dict.fromkeys(_SINGLE, "'") | dict.fromkeys(_DOUBLE, '"'))


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words of a description that name something.

    Attributes:
      first, last: indices of its first and last word among the description's words.
      entity: id of what it names; phrases of an image with the same id name the same. Flickr30k
        Entities has "0" for whatever was not annotated.
      kinds: types of the entity; in Flickr30k Entities people, clothing, bodyparts, animals,
        vehicles, instruments, scene, other, notvisual.
      boxes: of the entity, as (ymin, xmin, ymax, xmax) in [0, 1], shares of the picture's height
        and width; empty if it has none.
    """

    first: int
    last: int
    entity: str
    kinds: tuple[str, ...]
    boxes: tuple[Sides, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """A sentence about an image, with its phrases.

    Attributes:
      text: its words, joined by single spaces.
      phrases: in the order of the text.
      caption: index of the image's caption that has the same words; -1 if none has.
    """

    text: str
    phrases: tuple[Phrase, ...]
    caption: int

    def last_token(
        self, phrase: Phrase, tokenize: Callable[[str], Sequence[str] | Sequence[int]]
    ) -> int | None:
        """The index of a phrase's last word among the tokens of the text.

        A word of several tokens is where its last one is. A last word without a token, such as a
        quotation mark that the tokenizer drops, is where the phrase's last token is.

        Args:
          phrase: of this description.
          tokenize: splits a text into tokens or their ids. Most texts are split more than once: a
            cached function is faster.

        Returns:
          The index, or None where it cannot be told: the phrase has no token, or the tokens of the
          text up to the phrase's end are not the first tokens of the whole text.
        """
        words = self.text.split(" ")
        tokens = list(tokenize(" ".join(words[: phrase.last + 1])))
        before = len(tokenize(" ".join(words[: phrase.first])))
        if len(tokens) <= before or list(tokenize(self.text))[: len(tokens)] != tokens:
            return None
        return len(tokens) - 1

    def mirror(self) -> "Description":
        """The counterpart of `Example.mirror`."""
        return Description(
            mirror_text(self.text),
            tuple(replace(phrase, boxes=_mirrored(phrase.boxes)) for phrase in self.phrases),
            self.caption,
        )

    def crop(self, crop: Crop) -> "Description":
        """The counterpart of `Example.crop`: keeps all phrases; some may lose all their boxes."""
        return replace(
            self,
            phrases=tuple(
                replace(phrase, boxes=_cut(phrase.boxes, crop)) for phrase in self.phrases
            ),
        )


# The descriptions of an image name the same few entities. Cached, their copies share their boxes
# as they do: a training split has a million phrases with its copies.
@lru_cache(maxsize=64)
def _mirrored(boxes: tuple[Sides, ...]) -> tuple[Sides, ...]:
    return tuple(map(mirror_sides, boxes))


@lru_cache(maxsize=64)
def _cut(boxes: tuple[Sides, ...], crop: Crop) -> tuple[Sides, ...]:
    return tuple(cut for box in boxes if (cut := crop.cut(box)) is not None)


@dataclass(frozen=True)
class Counted:
    """How often something was found, and where at first.

    Attributes:
      count: how often.
      names: of at most `SHOWN` places.
    """

    count: int
    names: tuple[str, ...]


# By reason, what could not be used or had to be changed.
Counts = dict[str, Counted]


@dataclass(frozen=True)
class Described:
    """The descriptions of each image, in order, and what was counted out or changed."""

    descriptions: list[tuple[Description, ...]]
    counts: Counts


def count(counts: Counts, reason: str, name: str) -> None:
    """Counts one more for a reason."""
    before = counts.get(reason, Counted(0, ()))
    counts[reason] = Counted(before.count + 1, (*before.names, name)[:SHOWN])


def joined(parts: Iterable[Described]) -> Described:
    """The descriptions of several splits, one after the other, and the sums of their counts."""
    whole = Described([], {})
    for part in parts:
        whole.descriptions.extend(part.descriptions)
        for reason, more in part.counts.items():
            before = whole.counts.get(reason, Counted(0, ()))
            names = (*before.names, *more.names)[:SHOWN]
            whole.counts[reason] = Counted(before.count + more.count, names)
    return whole


def usable(sides: Sides, name: str, counts: Counts) -> tuple[Sides, ...]:
    """A box, cut at the edges of the picture; empty if it has no area there. Both are counted.

    Args:
      sides: of the box, in shares of the picture; may lie outside [0, 1].
      name: what the box is counted as.
      counts: to add to.
    """
    cut = _PICTURE.cut(sides)
    if cut is None:
        count(counts, NO_AREA, name)
        return ()
    if cut != sides:
        count(counts, CUT, name)
    return (cut,)


def bare(word: str) -> str:
    """A word without the punctuation around it, unless it is nothing else."""
    return word.strip(string.punctuation + _SINGLE + _DOUBLE) or word


def comparable(text: str) -> str:
    """A text as it is compared with others, however each was typed.

    In lower case, with straight quotation marks, and each letter with its marks one character.
    """
    return unicodedata.normalize("NFC", text.lower()).translate(_STRAIGHT)
