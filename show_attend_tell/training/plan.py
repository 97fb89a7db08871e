"""The batches of a run's training split."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from show_attend_tell.data.batches import BatchPlan, closed
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.in_languages import InLanguages
from show_attend_tell.data.vocabulary import AnyVocabulary, encode_captions
from show_attend_tell.objectives.rewards import IdfTable, idf_table
from show_attend_tell.settings import Settings
from show_attend_tell.tokens import EOS
from show_attend_tell.training.phrase_maps import Supervision


def make_plan(
    settings: Settings, examples: ExampleSource, vocabulary: AnyVocabulary, *, batch_size: int
) -> BatchPlan:
    """Plans a training split's batches of `batch_size` inputs, for a known vocabulary."""
    encoded = encode_captions(examples.captions(), vocabulary)
    languages = languages_of(examples)
    return plan_batches(settings, encoded, batch_size, None, languages=languages)


def languages_of(examples: ExampleSource) -> list[tuple[int, ...]] | None:
    """For each caption the number of its language; None if they have one."""
    if isinstance(examples, InLanguages) and len(examples.languages) > 1:
        return examples.language_numbers()
    return None


def document_frequencies(
    examples: ExampleSource, encoded: Sequence[list[list[int]]], max_length: int
) -> tuple[IdfTable, ...]:
    """The table of each language's captions, without the copies of images; for rewards.

    Args:
      examples: a training split.
      encoded: their captions, see `encode_captions`.
      max_length: words of a caption. Longer ones are cut as in batches, whose captions are the
        rewards' references: an n-gram that only a cut one has would count as the rarest.
    """
    stored = [
        [closed(caption[:-1], max_length, EOS) for caption in of_image]
        for of_image in encoded[: examples.stored]
    ]
    return tuple(map(idf_table, by_language(stored, languages_of(examples))))


def by_language(
    encoded: Sequence[list[list[int]]], languages: Sequence[Sequence[int]] | None
) -> list[list[list[list[int]]]]:
    """For each language the captions of the images that have some in it.

    Args:
      encoded: captions of some images, from the first.
      languages: of `languages_of`.
    """
    if languages is None:
        return [list(encoded)]
    pairs = [
        list(zip(*of_image, strict=True))
        for of_image in zip(encoded, languages[: len(encoded)], strict=True)
    ]
    count = 1 + max(number for of_image in pairs for _, number in of_image)
    chosen = ([[c for c, n in of_image if n == k] for of_image in pairs] for k in range(count))
    return [list(filter(None, of_one)) for of_one in chosen]


def plan_batches(
    settings: Settings,
    encoded: list[list[list[int]]],
    batch_size: int,
    input_lengths: Int[np.ndarray, " N"] | None,
    supervision: Supervision | None = None,
    languages: Sequence[Sequence[int]] | None = None,
) -> BatchPlan:
    """Plans the batches of captions that are encoded already.

    Args:
      settings: of the run.
      encoded: their captions, see `encode_captions`.
      batch_size: inputs of a batch.
      input_lengths: tokens of each of the N inputs, if they are text.
      supervision: maps of phrases, if attention is supervised.
      languages: of `languages_of`.
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
        languages=languages,
    )
