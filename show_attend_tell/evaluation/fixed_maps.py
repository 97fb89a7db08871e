"""Maps that are the same for every picture: where things usually are.

N mentions, L places.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from show_attend_tell.evaluation.boxes import Places, box_covers
from show_attend_tell.evaluation.mentions import Mention

_AT_ONCE = 10_000  # mentions; bounds the memory for large splits


@dataclasses.dataclass(frozen=True, eq=False)
class FixedMaps:
    """Mean box maps of a training split.

    Attributes:
      overall: for each place the mean over all mentions of the share of its cell inside the boxes.
      by_noun: the same over the mentions of one head noun, for each frequent noun.
    """

    overall: Float[np.ndarray, " L"]
    by_noun: dict[str, Float[np.ndarray, " L"]]

    def of_nouns(self, nouns: Sequence[str]) -> Float[np.ndarray, "N L"]:
        """The map of each noun; the overall one for a noun without its own."""
        index = {noun: k for k, noun in enumerate(self.by_noun, 1)}
        maps = np.stack([self.overall, *self.by_noun.values()])
        return maps[[index.get(noun, 0) for noun in nouns]]


def mean_box_maps(mentions: Sequence[Mention], places: Places, least: int = 20) -> FixedMaps:
    """The mean box maps of a training split.

    Args:
      mentions: of the training split.
      places: of the maps.
      least: how many mentions a noun needs for a map of its own.

    Raises:
      ValueError: there are no mentions.
    """
    if not mentions:
        raise ValueError("there are no mentions whose boxes could be averaged")
    nouns, noun_of, counts = np.unique(
        [mention.noun for mention in mentions], return_inverse=True, return_counts=True
    )
    sums = np.zeros((len(nouns), len(places)))
    for begin in range(0, len(mentions), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        covers = box_covers([mention.boxes for mention in mentions[part]], places)
        # Sorted by noun, so that each noun's mentions are one run and are summed at once.
        order = np.argsort(noun_of[part], kind="stable")
        present, starts = np.unique(noun_of[part][order], return_index=True)
        sums[present] += np.add.reduceat(covers[order], starts)
    frequent = np.flatnonzero(counts >= least)
    return FixedMaps(
        overall=sums.sum(axis=0) / len(mentions),
        by_noun={str(nouns[k]): sums[k] / counts[k] for k in frequent},
    )
