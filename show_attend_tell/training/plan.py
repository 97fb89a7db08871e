"""The batches of a run's training split."""

from functools import cache

import numpy as np
from jaxtyping import Int

from show_attend_tell.data.batches import BatchPlan
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.settings import Settings
from show_attend_tell.tokens import EOS
from show_attend_tell.training.phrase_maps import Supervision


def make_plan(
    settings: Settings, examples: ExampleSource, vocabulary: AnyVocabulary, *, batch_size: int
) -> BatchPlan:
    """Plans a training split's batches of `batch_size` inputs, for a known vocabulary."""
    return plan_batches(settings, encode(examples, vocabulary), batch_size, None)


def encode(examples: ExampleSource, vocabulary: AnyVocabulary) -> list[list[list[int]]]:
    """The ids of each caption of each example, <eos> included."""
    ids_of = cache(vocabulary.encode_text)  # most copies of an image share their captions
    return [[[*ids_of(c), EOS] for c in of_one] for of_one in examples.captions()]


def plan_batches(
    settings: Settings,
    encoded: list[list[list[int]]],
    batch_size: int,
    input_lengths: Int[np.ndarray, " N"] | None,
    supervision: Supervision | None = None,
) -> BatchPlan:
    """Plans the batches of captions that are encoded already.

    Args:
      settings: of the run.
      encoded: of `encode`.
      batch_size: inputs of a batch.
      input_lengths: tokens of each of the N inputs, if they are text.
      supervision: maps of phrases, if attention is supervised.
    """
    return BatchPlan(
        encoded,
        batch_size=batch_size,
        rows=settings.train.rows,
        buckets=settings.train.buckets,
        max_length=settings.data.max_length,
        seed=settings.seed,
        input_lengths=input_lengths,
        maps=None if supervision is None else supervision.numbers,
    )
