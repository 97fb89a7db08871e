"""All that the verb `evaluate` measures of a run on a split."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.clip_score import ClipScorer
from show_attend_tell.evaluation.faithfulness import split_faithfulness
from show_attend_tell.evaluation.given_split import GivenSplit
from show_attend_tell.evaluation.readings import likelihood, nats_of_readings
from show_attend_tell.evaluation.split_grounding import split_grounding
from show_attend_tell.evaluation.split_scores import score_split
from show_attend_tell.inference.captioning import caption_examples
from show_attend_tell.inference.run import Run
from show_attend_tell.settings import Decode


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What `evaluate_split` found.

    Attributes:
      records: what the score file of each context holds.
      texts: the captions of the last context, by id.
    """

    records: list[dict[str, Any]]
    texts: dict[str, str]


def evaluate_split(
    run: Run, split: str, decoding: Decode, contexts: Sequence[str], clip: str = ""
) -> Evaluated:
    """Measures a run over a split's texts, captions the split, and writes captions and scores.

    Args:
      run: a trained run.
      split: its name.
      decoding: how to search for captions.
      contexts: what a step reads; each has files of its own.
      clip: weights for CLIPScore, see `ClipScorer.load`; empty: without it.

    Raises:
      UserError: the data set or the weights cannot be read, or CLIPScore is asked for sentences.
    """
    scorer = _clip_scorer(run, clip) if clip else None
    given = GivenSplit.load(run, split)
    nats = nats_of_readings(given)
    measured = {
        "likelihood": likelihood(given, nats["own"]),
        "grounding": split_grounding(given),
        "faithfulness": split_faithfulness(given, nats),
    }
    records, captions = [], []
    for context in contexts:
        decoding = dataclasses.replace(decoding, context=context)
        captions = caption_examples(run, given.examples, given.inputs, decoding)
        what = (decoding, given.examples, captions, measured)
        records.append(score_split(run, split, *what, clip=scorer))
    spoken = (caption.text for caption in captions)
    return Evaluated(records, dict(zip(given.examples.ids, spoken, strict=True)))


def _clip_scorer(run: Run, weights: str) -> ClipScorer:
    if run.task.scorer != "captions":
        raise UserError(f"{run.workdir}: --clip scores captions of images, not {run.task.noun}")
    return ClipScorer.load(weights)
