"""All that the verb `evaluate` measures of a run on a split."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.clip_score import ClipScorer
from show_attend_tell.evaluation.faithfulness import split_faithfulness
from show_attend_tell.evaluation.given_split import GivenSplit
from show_attend_tell.evaluation.pictured import scores_by_picture
from show_attend_tell.evaluation.readings import likelihood, nats_of_readings
from show_attend_tell.evaluation.split_grounding import split_grounding
from show_attend_tell.evaluation.split_scores import score_split
from show_attend_tell.inference.captioning import caption_examples
from show_attend_tell.inference.ensemble import inputs_of
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
    run: Run,
    split: str,
    decoding: Decode,
    contexts: Sequence[str],
    clip: ClipScorer | None = None,
) -> Evaluated:
    """Measures a run over a split's texts, captions the split, and writes captions and scores.

    An ensemble is only scored: what is measured over given texts describes a single model.

    Args:
      run: a trained run, or an ensemble.
      split: its name.
      decoding: how to search for captions.
      contexts: what a step reads; each has files of its own.
      clip: adds CLIPScore, see `clip_scorer`; None: without it.

    Raises:
      UserError: the data set cannot be read.
    """
    examples, inputs, measured = _measured(run, split)
    records, captions = [], []
    for context in contexts:
        decoding = dataclasses.replace(decoding, context=context)
        captions = caption_examples(run, examples, inputs, decoding)
        if run.settings.picture is not None and not run.others:
            measured["pictures"] = scores_by_picture(run, examples, inputs, decoding, captions)
        what = (decoding, examples, captions, measured)
        records.append(score_split(run, split, *what, clip=clip))
    spoken = (caption.text for caption in captions)
    return Evaluated(records, dict(zip(examples.ids, spoken, strict=True)))


def _measured(run: Run, split: str) -> tuple[ExampleSource, Any, dict[str, Any]]:
    """The examples of a split, the model's inputs for them, and what is measured over its texts."""
    if run.others:
        examples = run.task.load(split)
        return examples, inputs_of(run, examples), {}
    given = GivenSplit.load(run, split)
    nats = nats_of_readings(given)
    measured = {
        "likelihood": likelihood(given, nats["own"]),
        "grounding": split_grounding(given),
    }
    if run.settings.picture is None:  # with one, the words' attention is half of the matter
        measured["faithfulness"] = split_faithfulness(given, nats)
    return given.examples, given.inputs, measured


def clip_scorer(runs: Sequence[Run], weights: str) -> ClipScorer:
    """What adds CLIPScore to the English captions among those of some runs.

    Raises:
      UserError: none captions images in English; or as `ClipScorer.load`.
    """
    if not any(run.task.scorer == "captions" for run in runs):
        run = runs[0]
        kind = f"captions in {run.language or 'other languages'}"
        what = run.task.noun if run.task.reads_words else kind
        raise UserError(f"{run.workdir}: --clip scores English captions of images, not {what}")
    return ClipScorer.load(weights)
