"""The scorers by name: a task names the one that scores its kind of text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from show_attend_tell.evaluation import caption_metrics, translation_metrics
from show_attend_tell.evaluation.scores import Scores


@dataclass(frozen=True)
class Scorer:
    """How one kind of text is scored.

    Attributes:
      score: (references, hypotheses, *, meteor=True) -> Scores. References are lists of texts by
        id, hypotheses single texts by the same ids; `meteor` says whether to run METEOR, where the
        scorer has it.
      describe: (references, hypotheses, examples=None) -> what a score file says about the metrics.
        `tokenizer` identifies how texts are split into tokens; other keys are the scorer's own.
        `examples` are those of a split, where they are known.
      noun: what has a text each, in messages.
    """

    score: Callable[..., Scores]
    describe: Callable[..., dict[str, Any]]
    noun: str


SCORERS = {
    "captions": Scorer(caption_metrics.score, caption_metrics.describe, "images"),
    "translations": Scorer(translation_metrics.score, translation_metrics.describe, "sentences"),
}
