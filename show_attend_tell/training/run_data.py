"""What a run trains and validates on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from show_attend_tell.data.base_task import Task
from show_attend_tell.data.batches import BatchPlan, Inputs
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.vocabulary import AnyVocabulary, encode_captions
from show_attend_tell.models.encoders import Encoder
from show_attend_tell.objectives.distillation import Teacher
from show_attend_tell.objectives.rewards import IdfTable
from show_attend_tell.runs.build import build_encoder
from show_attend_tell.runs.folder import SOURCE, TARGET, RunFolder, contents
from show_attend_tell.runs.inputs import load_inputs
from show_attend_tell.settings import Settings
from show_attend_tell.training import teachers
from show_attend_tell.training.optimizer import check_schedule
from show_attend_tell.training.phrase_maps import Supervision, boxed_descriptions, supervise
from show_attend_tell.training.plan import (
    document_frequencies,
    languages_of,
    plan_batches,
)
from show_attend_tell.training.teachers import Origins


@dataclass(frozen=True, eq=False)
class RunData:
    """See the module."""

    encoder: Encoder
    vocabulary: AnyVocabulary
    source_vocabulary: AnyVocabulary | None
    plan: BatchPlan
    supervision: Supervision | None
    tables: tuple[IdfTable, ...]  # of each language's training captions, for rewards
    train_inputs: Inputs
    val_inputs: Inputs
    val_examples: ExampleSource
    fingerprints: dict[str, Any]
    drawn: str  # how splits that the source lacks were made
    teachers: tuple[Teacher, ...]
    origins: Origins  # of the teachers


def load_data(
    settings: Settings,
    task: Task,
    folder: RunFolder,
    encoder: Encoder | None,
    console: Console,
    warn: Callable[[str], object],
) -> RunData:
    """Opens the data of a run, makes what it lacks, and says what there is.

    All that can be wrong with words and settings comes up before images are encoded, which may
    take an hour.

    Args:
      settings, task, folder: of the run.
      encoder: of images; None: one of sentences is built.
      console: where the data are summarised.
      warn: called with a line about inputs that were cut.

    Raises:
      UserError: the data cannot be read or are not those of the run, or settings do not fit them.
    """
    val = task.load("val")  # first: without it, nothing is built in vain
    train = task.load("train", training=True)
    descriptions = boxed_descriptions(train) if settings.attention.supervision else None
    fingerprints = {train.split: contents(train, descriptions), val.split: contents(val)}
    folder.check_data(fingerprints)
    folder.keep_places(settings)
    source = folder.vocabulary(SOURCE, lambda: task.source_vocabulary(train))
    encoder = encoder or build_encoder(settings, len(source or ()))

    def inputs(examples: ExampleSource) -> Inputs:
        return load_inputs(
            settings,
            task,
            examples,
            encoder,
            source,
            split=examples.split,
            warn=warn,
            progress=not console.quiet,
        )

    # The copies of an image do not make its words more frequent.
    stored = train.captions()[: train.stored]
    texts = [caption for of_one in stored for caption in of_one]
    vocabulary = folder.vocabulary(TARGET, lambda: task.target_vocabulary(texts, source))
    assert vocabulary is not None
    taught, origins = teachers.load(settings, task, folder, vocabulary, source)
    encoded = encode_captions(train.captions(), vocabulary)
    supervision, limit = None, settings.data.max_length
    if descriptions is not None:
        supervision = supervise(descriptions, encoded, vocabulary.encode_text, limit)
        console.print(supervision.summary())
    words = inputs(train) if task.sorts_inputs else None
    lengths = None if words is None else task.input_lengths(words)
    batch_size = settings.train.batch_size
    plan = plan_batches(settings, encoded, batch_size, lengths, supervision, languages_of(train))
    check_schedule(settings.optimizer, total_steps(settings, plan))
    console.print(_summary(task, settings, train, source, plan, len(vocabulary)))
    return RunData(
        encoder=encoder,
        vocabulary=vocabulary,
        source_vocabulary=source,
        plan=plan,
        supervision=supervision,
        tables=document_frequencies(train, encoded, limit) if settings.reward.samples else (),
        train_inputs=inputs(train) if words is None else words,
        val_inputs=inputs(val),
        val_examples=val,
        fingerprints=fingerprints,
        drawn=train.drawn,
        teachers=taught,
        origins=origins,
    )


def total_steps(settings: Settings, plan: BatchPlan) -> int:
    """The number of steps of the whole run."""
    return math.ceil(round(settings.train.epochs * plan.batches_per_epoch, 6))  # 0.07 * 100 > 7


def _summary(
    task: Task,
    settings: Settings,
    train: ExampleSource,
    source: AnyVocabulary | None,
    plan: BatchPlan,
    words: int,
) -> str:
    """The captions of an epoch in a line."""
    known = "" if source is None else f" (vocabulary: {len(source)})"
    if len(train) > train.stored:
        known += f" ({len(train)} with {task.copies})"
    most = f"{settings.data.max_length} {task.token}"
    cut = f" ({plan.truncated} cut to {most})" if plan.truncated else ""
    padding = 1 - plan.tokens_per_epoch / plan.positions_per_epoch
    *shorter, longest = map(str, plan.lengths)
    lengths = f"{', '.join(shorter)} or {longest}" if shorter else longest
    return (
        f"{train.stored} {task.noun}{known}, {plan.captions} captions{cut}, a vocabulary of "
        f"{words}, {plan.batches_per_epoch} steps per epoch in rows of {lengths} {task.token}, "
        f"{padding:.0%} padding"
    )
