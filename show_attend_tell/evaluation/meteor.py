"""METEOR 1.5 for English, with the scores of its Java program.

Denkowski and Lavie (2014), "Meteor Universal: Language Specific Translation Evaluation for Any
Target Language", https://aclanthology.org/W14-3348. Parameters are those of the ranking task, which
METEOR takes by default. pycocoevalcap runs the same: `-l en -norm`. The tables of words are
pycocoevalcap's, in its archive of METEOR; no Java runs.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from show_attend_tell.evaluation import meteor_alignment
from show_attend_tell.evaluation.meteor_alignment import Text

ALPHA = 0.85  # weight of recall in the mean
BETA = 0.2  # exponent of the fragmentation penalty
GAMMA = 0.6  # weight of the penalty
DELTA = 0.75  # weight of content words; that of function words is 1 - DELTA
WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # of equal words, stems, synonyms and paraphrases


class Side(NamedTuple):
    """Counts of the words of captions, or of those of their references."""

    words: int
    function_words: int
    content_matches: tuple[int, ...]  # by kind of match, in the order of WEIGHTS
    function_matches: tuple[int, ...]

    @property
    def matched(self) -> int:
        return sum(self.content_matches) + sum(self.function_matches)

    @property
    def share(self) -> float:
        """The weighted share of the words that match, in [0, 1]."""
        content = self.words - self.function_words
        whole = DELTA * content + (1.0 - DELTA) * self.function_words
        found = 0.0  # added in METEOR's order, so that the last digit is the same
        for weight, matches in zip(WEIGHTS, self.content_matches, strict=True):
            found += matches * weight * DELTA
        for weight, matches in zip(WEIGHTS, self.function_matches, strict=True):
            found += matches * weight * (1.0 - DELTA)
        return found / whole


class Counts(NamedTuple):
    """What a score is computed from. The counts of several captions add up."""

    said: Side
    truth: Side
    chunks: int

    @property
    def perfect(self) -> bool:
        """Whether all words match, in one chunk."""
        matched = self.said.matched == self.said.words and self.truth.matched == self.truth.words
        return matched and self.chunks == 1

    def score(self) -> float:
        """The METEOR score, in [0, 1]."""
        if not self.said.matched:
            return 0.0
        mean = 1.0 / ((1.0 - ALPHA) / self.said.share + ALPHA / self.truth.share)
        matched = (self.said.matched + self.truth.matched) / 2
        pieces = 0.0 if self.perfect else self.chunks / matched
        return max(mean * (1.0 - GAMMA * pieces**BETA), 0.0)


def score(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str]
) -> tuple[float, list[float]]:
    """METEOR of one caption for each image.

    Args:
      references: captions by image id, at least one each, as written or as tokens joined by spaces.
      hypotheses: one caption by image id, for the same images. An empty one scores 0.

    Returns:
      The score of all captions, from their summed counts, and that of each in the order of
      `hypotheses`; all in [0, 1]. Of several references the one with the highest score counts.

    Raises:
      UserError: pycocoevalcap's tables are missing or damaged.
    """
    texts = {*hypotheses.values()}.union(*(references[image_id] for image_id in hypotheses))
    texts = sorted(texts)
    read = dict(zip(texts, meteor_alignment.read(texts), strict=True))
    counts = []
    for image_id, caption in hypotheses.items():
        each = [count(read[caption], read[text]) for text in references[image_id]]
        counts.append(max(each, key=Counts.score))
    return total(counts).score(), [one.score() for one in counts]


def count(said: Text, truth: Text) -> Counts:
    """The counts of a caption against one reference."""
    matches, chunks = meteor_alignment.align(said, truth)
    return Counts(
        _side(said, [(match.kind, match.said_start, match.said_count) for match in matches]),
        _side(truth, [(match.kind, match.start, match.count) for match in matches]),
        chunks,
    )


def _side(text: Text, matched: Sequence[tuple[int, int, int]]) -> Side:
    """The counts of a text from its matches: their kinds, first words and numbers of words."""
    content, function = [0] * len(WEIGHTS), [0] * len(WEIGHTS)
    for kind, start, size in matched:
        light = sum(text.function[start : start + size])
        function[kind] += light
        content[kind] += size - light
    return Side(len(text.words), sum(text.function), tuple(content), tuple(function))


def total(counts: Sequence[Counts]) -> Counts:
    """The summed counts of captions. A perfect one adds no chunk."""
    return Counts(
        _summed([one.said for one in counts]),
        _summed([one.truth for one in counts]),
        sum(one.chunks for one in counts if not one.perfect),
    )


def _summed(sides: Sequence[Side]) -> Side:
    return Side(
        sum(side.words for side in sides),
        sum(side.function_words for side in sides),
        tuple(map(sum, zip(*(side.content_matches for side in sides), strict=True))),
        tuple(map(sum, zip(*(side.function_matches for side in sides), strict=True))),
    )
