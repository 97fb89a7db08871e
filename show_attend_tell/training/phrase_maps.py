"""What attention should look at in training: the boxes of what phrases name.

The target of a phrase stands at its last word. In an English noun phrase that is mostly the head,
which names the thing; the words before it ("a", "brown") are said while it is looked for. It is
also where grounding is measured (`evaluation.split_grounding`).

The target map beta over the places is the share of each place's cell that lies in the union of the
phrase's boxes, normalised to sum to 1 (the loss is in `objectives.supervision`). Cells lie around
the points where the encoder looks, so a place at the edge of a box counts in part. Phrases that end
at the same token are one.

Memory: a number for each token, and one map for each distinct union of boxes.

Symbols: K - 1 unions; L places.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float16

from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.phrases import Description
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.boxes import Boxes, Places, box_covers
from show_attend_tell.tokens import EOS

_AT_ONCE = 4096  # unions whose cells are computed together, in double precision

Descriptions = Sequence[Sequence[Description]]


@dataclass(frozen=True)
class Supervision:
    """The targets of a split's captions.

    Attributes:
      numbers: for each token of each caption of each image the number of its target, 0 for none.
      unions: boxes of the targets; union k has number k + 1.
      words: supervised tokens.
      captions: captions with such a token.
      undescribed: captions without a description.
      lost: phrases with boxes whose last word is not found in the caption, or is cut off.
    """

    numbers: list[list[list[int]]]
    unions: tuple[Boxes, ...]
    words: int
    captions: int
    undescribed: int
    lost: int

    def summary(self) -> str:
        """The counts in a line."""
        return (
            f"attention is supervised at {self.words:,} words of {self.captions:,} captions "
            f"({self.undescribed:,} have no description; {self.lost:,} phrases with boxes "
            "were not found or lie behind data.max_length)"
        )

    def maps(self, places: Places) -> Float16[np.ndarray, "K L"]:
        """The target maps by number. Each sums to 1; map 0 is all 0.

        Args:
          places: the grid that attention looks at.
        """
        maps = np.zeros((len(self.unions) + 1, len(places)), np.float16)
        for begin in range(0, len(self.unions), _AT_ONCE):
            covers = box_covers(self.unions[begin : begin + _AT_ONCE], places)
            maps[begin + 1 : begin + 1 + len(covers)] = covers / covers.sum(axis=1, keepdims=True)
        return maps


def boxed_descriptions(examples: ExampleSource) -> Descriptions:
    """The descriptions of a split.

    Raises:
      UserError: none has a phrase with boxes; or the annotations cannot be read.
    """
    descriptions = examples.descriptions()
    phrases = (p for of_image in descriptions for d in of_image for p in d.phrases)
    if not any(phrase.boxes for phrase in phrases):
        raise UserError(
            f"config.attention.supervision is over 0, but no phrase of {examples.name} "
            f"{examples.split} has boxes; set it to 0, or add boxes to config.data.manual_dir (see "
            "docs/howto/boxes.md)"
        )
    return descriptions


def supervise(
    descriptions: Descriptions,
    captions: Sequence[Sequence[Sequence[int]]],
    encode: Callable[[str], Sequence[int]],
    limit: int,
) -> Supervision:
    """Finds the tokens at which phrases with boxes end.

    Args:
      descriptions: of each image; copies of images have their own.
      captions: of each image, as word ids closed by `<eos>`.
      encode: text to word ids, as for the captions.
      limit: words of a caption that are kept.
    """
    encode = cache(encode)  # copies say the same, and `last_token` asks for parts of sentences
    targets: dict[Boxes, int] = {}
    numbers = []
    words = described = supervised = lost = 0
    for of_image, found in zip(captions, descriptions, strict=True):
        of_captions = [[0] * len(caption) for caption in of_image]
        described += len({d.caption for d in found if d.caption >= 0})
        for caption, said in enumerate(of_image):
            unions: dict[int, Boxes] = {}
            for description in found:
                if description.caption == caption:
                    lost += _add_unions(unions, description, said, encode, limit)
            for step, boxes in unions.items():
                of_captions[caption][step] = targets.setdefault(boxes, len(targets) + 1)
            words += len(unions)
            supervised += bool(unions)
        numbers.append(of_captions)
    total = sum(map(len, captions))
    return Supervision(numbers, tuple(targets), words, supervised, total - described, lost)


def _add_unions(
    unions: dict[int, Boxes],
    description: Description,
    caption: Sequence[int],
    encode: Callable[[str], Sequence[int]],
    limit: int,
) -> int:
    """Adds the boxes of a description's phrases by step; returns how many phrases have no step."""
    boxed = [phrase for phrase in description.phrases if phrase.boxes]
    # Texts that are equal but for case or a full stop can differ in tokens.
    if [*encode(description.text), EOS] != list(caption):
        return len(boxed)
    lost = 0
    for phrase in boxed:
        step = description.last_token(phrase, encode)
        if step is None or step >= limit:
            lost += 1
        else:
            unions[step] = tuple(dict.fromkeys((*unions.get(step, ()), *phrase.boxes)))
    return lost
