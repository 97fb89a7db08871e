"""Words that name something in a picture, with the boxes of what they name."""

import dataclasses
from collections.abc import Iterator, Sequence

from show_attend_tell.data.phrases import Description, Phrase, bare
from show_attend_tell.data.vocabulary import whole_words
from show_attend_tell.evaluation.boxes import Boxes
from show_attend_tell.evaluation.nouns import same_noun


@dataclasses.dataclass(frozen=True)
class Mention:
    """A phrase about an image, and the entity that it names.

    Attributes:
      image_id: of the image.
      kinds: of the entity, such as ("people",); it may have several, or none.
      noun: the phrase's last word, in lower case.
      boxes: of the entity, each (ymin, xmin, ymax, xmax) in shares of the picture's sides.

    Raises:
      ValueError: there are no boxes, or a box has no area inside the picture.
    """

    image_id: str
    kinds: tuple[str, ...]
    noun: str
    boxes: Boxes

    def __post_init__(self):
        if not self.boxes:
            raise ValueError(f"{self.image_id}: {self.noun!r} has no boxes")
        for ymin, xmin, ymax, xmax in self.boxes:
            if not (max(ymin, 0) < min(ymax, 1) and max(xmin, 0) < min(xmax, 1)):
                raise ValueError(f"{self.image_id}: a box of {self.noun!r} has no area inside")


def mentions_of(
    name: str, descriptions: Sequence[Description]
) -> Iterator[tuple[int, Phrase, Mention]]:
    """The phrases of an image that have boxes.

    Args:
      name: of the image.
      descriptions: of the image.

    Yields:
      The index of the phrase's description, the phrase, and the phrase as a mention.
    """
    for row, description in enumerate(descriptions):
        words = description.text.split(" ")
        for phrase in description.phrases:
            if phrase.boxes:
                noun = bare(words[phrase.last].lower())
                yield row, phrase, Mention(name, phrase.kinds, noun, phrase.boxes)


def mentions_in_caption(
    tokens: Sequence[str], phrases: Sequence[Mention]
) -> list[tuple[int, Mention]]:
    """The words of a caption that name what an image's phrases name.

    A word names a phrase whose noun it is, in the singular or the plural (see `nouns.same_noun`). A
    word that fits several phrases names all of them: their boxes and kinds are joined.

    Args:
      tokens: of the caption, words or pieces of words.
      phrases: of the caption's image, from its reference captions.

    Returns:
      Each step that names something, in order, with the word as a mention. For a word of several
      pieces it is the step of the last, as for the words of descriptions.
    """
    found = []
    for step, word in whole_words(tokens):
        word = word.lower()
        named = [phrase for phrase in phrases if same_noun(word, phrase.noun)]
        if named:
            kinds = dict.fromkeys(kind for phrase in named for kind in phrase.kinds)
            boxes = dict.fromkeys(box for phrase in named for box in phrase.boxes)
            mention = Mention(named[0].image_id, tuple(kinds), word, tuple(boxes))
            found.append((step, mention))
    return found
