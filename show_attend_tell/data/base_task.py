"""What a task is: what differs between captioning images and translating sentences."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import platformdirs
from jaxtyping import Int

from show_attend_tell.data.batches import Inputs
from show_attend_tell.data.examples import (
    Example,
    ExampleSource,
    Pair,
)
from show_attend_tell.data.row_cache import RowCache
from show_attend_tell.data.subject import Places, Subject
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.settings import ImageData, SentenceData


class Task(ABC):
    """What differs between captioning images and translating sentences.

    Attributes:
      noun: what examples are called: "images" or "sentences".
      copies: what examples are called that only training sees.
      token: what the parts of a target are called: "words" or "tokens".
      verb: the command that describes new inputs: "caption" or "translate".
      scorer: name of the scorer in `evaluation.scoring`.
      metrics: validation scores that can pick the best weights.
      progress_metric: the score by which progress is compared.
      language: of the captions, where a run that speaks several is to speak this one; empty: all.
      languages: between which the task's models choose; empty if there is no choice.
      reads_words: whether inputs are text, so that the encoder needs a vocabulary.
      sorts_inputs: whether examples are put into batches by the lengths of their inputs, too.
    """

    noun: ClassVar[str]
    copies: ClassVar[str]
    token: ClassVar[str]
    verb: ClassVar[str]
    scorer: str
    metrics: tuple[str, ...]
    progress_metric: ClassVar[str]
    reads_words: ClassVar[bool]
    sorts_inputs: ClassVar[bool]
    language: str
    languages: tuple[str, ...] = ()

    def speaking(self, language: str) -> "Task":
        """The same task in one of its languages.

        Raises:
          UserError: it has no such language, or no choice of languages.
        """
        raise UserError(f"there is no choice of languages for {self.noun}; leave --language out")

    @abstractmethod
    def load(self, split: str, *, training: bool = False) -> ExampleSource:
        """The examples of a split; with `training`, also those that only training sees."""

    @abstractmethod
    def target_vocabulary(
        self, texts: Iterable[str], source: AnyVocabulary | None = None
    ) -> AnyVocabulary:
        """The vocabulary of training targets; `source` itself if both languages have one."""

    @abstractmethod
    def source_vocabulary(self, examples: ExampleSource) -> AnyVocabulary | None:
        """The vocabulary of training inputs; None if inputs are not text."""

    @abstractmethod
    def row_cache(self, examples: ExampleSource, make: Callable[..., RowCache]) -> RowCache | None:
        """The cache `make(examples)` of the inputs; None if inputs need none."""

    @abstractmethod
    def inputs(
        self,
        examples: ExampleSource,
        source: AnyVocabulary | None,
        make: Callable[..., RowCache],
        warn: Callable[[str], object],
    ) -> Inputs:
        """The model's input for each example.

        Args:
          examples: a split.
          source: vocabulary of the inputs.
          make: see `row_cache`.
          warn: called with a line about inputs that were cut.
        """

    @abstractmethod
    def encode(
        self, sentences: Sequence[str], source: AnyVocabulary
    ) -> tuple[Int[np.ndarray, "N S"], list[int]]:
        """New sentences as inputs of one shape, and the indices of those that were cut."""

    @abstractmethod
    def input_lengths(self, inputs: Inputs) -> Int[np.ndarray, " N"] | None:
        """The number of words of each input; None if all inputs have one size."""

    @abstractmethod
    def pictures(self, examples: ExampleSource) -> ExampleSource[Example] | None:
        """The examples as images to look at; None if they are not images."""

    @abstractmethod
    def subject(self, example: Example | Pair) -> Subject:
        """An example from `load`, as a subject to describe."""

    def beside(self, example: Example | Pair) -> Subject | None:
        """The picture beside an example; None if there is none."""
        return None

    @abstractmethod
    def places(
        self, subject: Subject, count: int, encoder: object, source: AnyVocabulary | None
    ) -> Places:
        """The positions of the `count` places that a model attended to."""


def expect(task: Task, verb: str, where: Path) -> None:
    """Rejects a run that a verb cannot use.

    Raises:
      UserError: the task has another verb; the message names it.
    """
    if task.verb != verb:
        raise UserError(f"{where}: a run on {task.noun}; use `{task.verb}`")


def data_folder(data: ImageData | SentenceData) -> Path:
    """The folder of built data sets and caches: `config.data.dir`, or the user's cache folder."""
    return Path(data.dir or platformdirs.user_cache_dir("show_attend_tell"))


def manual_dir(data: ImageData | SentenceData) -> Path | None:
    """The folder of the user's download, if one is named."""
    return Path(data.manual_dir) if data.manual_dir else None
