"""Images or sentences? The only module that asks.

A task knows how to read a data set, what a model sees of an example, and what results are called.
Everything else treats both kinds alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import platformdirs
from jaxtyping import Float16, Int

from show_attend_tell.data.batches import Inputs, pack_words, source_ids
from show_attend_tell.data.examples import (
    Example,
    ExampleSource,
    ImageSource,
    Pair,
    PairSource,
)
from show_attend_tell.data.in_languages import InLanguages
from show_attend_tell.data.load import check_split, load_images, load_pairs
from show_attend_tell.data.pictured_pairs import (
    REMEDY,
    PicturedPair,
    PicturedPairs,
    read_pairs,
    words_to_hide,
)
from show_attend_tell.data.row_cache import ChosenRows, RowCache
from show_attend_tell.data.subject import Places, Subject, Viewer, places_in_picture
from show_attend_tell.data.vocabulary import AnyVocabulary, build_vocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.settings import ImageData, PicturedData, SentenceData
from show_attend_tell.tokens import PAD


class Task(ABC):
    """What differs between captioning images and translating sentences.

    Attributes:
      noun: what examples are called: "images" or "sentences".
      token: what the parts of a target are called: "words" or "tokens".
      verb: the command that describes new inputs: "caption" or "translate".
      scorer: name of the scorer in `evaluation.scoring`.
      metrics: validation scores that can pick the best weights.
      progress_metric: the score by which progress is compared.
      language: of the captions, where a run that speaks several is to speak this one; empty: all.
      languages: between which the task's models choose; empty if there is no choice.
      reads_words: whether inputs are text, so that the encoder needs a vocabulary.
    """

    noun: ClassVar[str]
    token: ClassVar[str]
    verb: ClassVar[str]
    scorer: str
    metrics: tuple[str, ...]
    progress_metric: ClassVar[str]
    reads_words: ClassVar[bool]
    language: str
    languages: tuple[str, ...] = ()

    def speaking(self, language: str) -> "Task":
        """The same task in one of its languages.

        Raises:
          UserError: it has no such language, or no choice of languages.
        """
        raise UserError(f"there is no choice of languages for {self.noun}; leave --language out")

    @abstractmethod
    def load(self, split: str, *, copies: bool = False) -> ExampleSource:
        """The examples of a split; with `copies`, also the copies that only training sees."""

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


@dataclass(frozen=True)
class ImageTask(Task):
    """Captions of images."""

    data: ImageData
    language: str = ""
    noun = "images"
    token = "words"
    verb = "caption"
    progress_metric = "CIDEr"
    reads_words = False

    @property
    def scorer(self) -> str:
        # Before a choice there is one language, or the references of each are scored by themselves.
        return "captions" if (self.language or self.data.languages[0]) == "en" else "captions 13a"

    @property
    def metrics(self) -> tuple[str, ...]:
        common = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")
        english = self.data.languages == ("en",)
        return (*common, *(("METEOR",) if english else ()), "exact")

    @property
    def languages(self) -> tuple[str, ...]:
        return self.data.spoken

    def speaking(self, language: str) -> "ImageTask":
        known = self.data.languages
        if language not in known:
            raise UserError(
                f"--language {language}: this run speaks {', '.join(known)} "
                "(config.data.languages); choose one of them"
            )
        return replace(self, language=language if self.languages else "")

    def load(self, split: str, *, copies: bool = False) -> ImageSource | InLanguages:
        return load_images(
            self.data.name,
            split,
            data_dir=data_folder(self.data) / "datasets",
            manual_dir=_manual_dir(self.data),
            limit=self.data.limit,
            mirrored=copies and self.data.mirrored,
            crops=self.data.crops if copies else 0,
            restval=self.data.restval,
            download=self.data.download,
            repo=self.data.repo,
            image_column=self.data.image_column,
            caption_column=self.data.caption_column,
            holdout=self.data.holdout,
            languages=(self.language,) if self.language else self.data.languages,
            captions_dir=Path(self.data.captions_dir) if self.data.captions_dir else None,
        )

    def target_vocabulary(
        self, texts: Iterable[str], source: AnyVocabulary | None = None
    ) -> AnyVocabulary:
        return build_vocabulary(
            texts,
            kind=self.data.vocabulary,
            min_count=self.data.min_count,
            size=self.data.vocabulary_size,
            subwords=self.data.subwords * len(self.data.languages),
            languages=self.data.spoken,
        )

    def source_vocabulary(self, examples: ExampleSource) -> AnyVocabulary | None:
        return None

    def row_cache(self, examples: ExampleSource, make: Callable[..., RowCache]) -> RowCache | None:
        return make(examples.whole if isinstance(examples, InLanguages) else examples)

    def inputs(
        self,
        examples: ExampleSource,
        source: AnyVocabulary | None,
        make: Callable[..., RowCache],
        warn: Callable[[str], object],
    ) -> Inputs:
        if not isinstance(examples, InLanguages):
            return make(examples).load()
        rows = make(examples.whole).load()
        if len(examples) == len(examples.whole):
            return rows
        return ChosenRows(rows, np.array(examples.numbers))

    def encode(
        self, sentences: Sequence[str], source: AnyVocabulary
    ) -> tuple[Int[np.ndarray, "N S"], list[int]]:
        raise TypeError("an image model reads no sentences")

    def input_lengths(self, inputs: Inputs) -> Int[np.ndarray, " N"] | None:
        return None

    def pictures(self, examples: ExampleSource) -> ExampleSource[Example] | None:
        return examples

    def subject(self, example: Example | Pair) -> Subject:
        assert isinstance(example, Example)
        return Subject(example.image_id, example.image, example.boxes)

    def places(
        self, subject: Subject, count: int, encoder: object, source: AnyVocabulary | None
    ) -> Places:
        assert isinstance(encoder, Viewer)
        return places_in_picture(subject, encoder)


@dataclass(frozen=True)
class SentenceTask(Task):
    """Translations of sentences."""

    data: SentenceData
    language: str = ""
    noun = "sentences"
    token = "tokens"
    verb = "translate"
    scorer = "translations"
    metrics = ("BLEU", "chrF", "exact")
    progress_metric = "BLEU"
    reads_words = True

    def load(self, split: str, *, copies: bool = False) -> PairSource:
        languages = (self.data.source, self.data.target) if self.data.source else None
        return load_pairs(
            self.data.name,
            split,
            data_dir=data_folder(self.data) / "datasets",
            manual_dir=_manual_dir(self.data),
            limit=self.data.limit,
            languages=languages,
        )

    def target_vocabulary(
        self, texts: Iterable[str], source: AnyVocabulary | None = None
    ) -> AnyVocabulary:
        if self.data.joint and source is not None:
            return source
        return build_vocabulary(
            texts,
            kind=self.data.vocabulary,
            min_count=self.data.min_count,
            size=0,
            subwords=self.data.subwords,
        )

    def source_vocabulary(self, examples: ExampleSource) -> AnyVocabulary | None:
        texts = [pair.source for pair in examples]
        if self.data.joint:
            texts += [pair.target for pair in examples]
        return self.target_vocabulary(texts)

    def row_cache(self, examples: ExampleSource, make: Callable[..., RowCache]) -> RowCache | None:
        return None

    def inputs(
        self,
        examples: ExampleSource,
        source: AnyVocabulary | None,
        make: Callable[..., RowCache],
        warn: Callable[[str], object],
    ) -> Inputs:
        assert source is not None
        limit = self.data.max_source_length
        ids, cut = source_ids([pair.source for pair in examples], source, limit)
        if cut:
            warn(self._cut(examples, cut))
        return ids

    def _cut(self, examples: ExampleSource, count: int) -> str:
        return (
            f"{examples.name} {examples.split}: {count} of {len(examples)} source sentences cut to "
            f"{self.data.max_source_length} tokens (config.data.max_source_length)"
        )

    def encode(
        self, sentences: Sequence[str], source: AnyVocabulary
    ) -> tuple[Int[np.ndarray, "N S"], list[int]]:
        limit = self.data.max_source_length
        cut = [i for i, text in enumerate(sentences) if len(source.encode_text(text)) > limit]
        ids, _ = source_ids(sentences, source, limit)
        # The same length for any sentences, so that nothing compiles twice.
        return np.pad(ids, ((0, 0), (0, limit + 1 - ids.shape[1]))), cut

    def input_lengths(self, inputs: Inputs) -> Int[np.ndarray, " N"] | None:
        return (cast(np.ndarray, inputs) != PAD).sum(axis=1)

    def pictures(self, examples: ExampleSource) -> ExampleSource[Example] | None:
        return None

    def subject(self, example: Example | Pair) -> Subject:
        assert isinstance(example, Pair)
        return Subject(example.pair_id, text=example.source)

    def places(
        self, subject: Subject, count: int, encoder: object, source: AnyVocabulary | None
    ) -> Places:
        assert source is not None
        ids = source.encode_text(subject.text)[: self.data.max_source_length]
        words = (*source.decode(ids), "<eos>")
        if count == 1:  # a fixed context: one place for the whole sentence
            words = ("(sentence)",)
        along = (np.arange(len(words)) + 0.5) / len(words)
        return Places(np.array([0.5]), along, (1, len(words)), 1, source=words)


@dataclass(frozen=True)
class PicturedTask(SentenceTask):
    """Translations of sentences beside their pictures."""

    data: PicturedData

    def load(self, split: str, *, copies: bool = False) -> PicturedPairs:
        def images(split: str) -> ImageSource:
            found = load_images(
                "flickr8k",
                split,
                data_dir=data_folder(self.data) / "datasets",
                manual_dir=Path(self.data.pictures_dir) if self.data.pictures_dir else None,
            )
            assert isinstance(found, ImageSource)
            return found

        if not self.data.manual_dir:
            raise UserError(REMEDY)
        return PicturedPairs(
            images(split),
            read_pairs(Path(self.data.manual_dir), (self.data.source, self.data.target)),
            name=self.data.name,
            limit=self.data.limit,
            hidden=words_to_hide(self.data.masked, lambda: images("train")),
        )

    def row_cache(self, examples: ExampleSource, make: Callable[..., RowCache]) -> RowCache | None:
        assert isinstance(examples, PicturedPairs)
        return make(examples.images)

    def inputs(
        self,
        examples: ExampleSource,
        source: AnyVocabulary | None,
        make: Callable[..., RowCache],
        warn: Callable[[str], object],
    ) -> Inputs:
        assert isinstance(examples, PicturedPairs) and source is not None
        ids, cut = self.encode([pair.source for pair in examples], source)
        if cut:
            warn(self._cut(examples, len(cut)))
        words = pack_words(ids)
        return np.concatenate([words, self.picture_rows(examples, make(examples.images))], axis=1)

    def picture_rows(self, examples: PicturedPairs, cache: RowCache) -> Float16[np.ndarray, "N n"]:
        """The annotation vectors of each pair's picture, in a row."""
        return np.asarray(cache.load()[np.array(examples.rows)]).reshape(len(examples), -1)

    def input_lengths(self, inputs: Inputs) -> Int[np.ndarray, " N"] | None:
        return None

    def beside(self, example: Example | Pair) -> Subject:
        assert isinstance(example, PicturedPair)
        return Subject(example.pair_id, example.picture())


def task_of(data: ImageData | SentenceData) -> Task:
    """The task of a data set."""
    if isinstance(data, PicturedData):
        return PicturedTask(data)
    return ImageTask(data) if isinstance(data, ImageData) else SentenceTask(data)


def check_has_split(data: ImageData | SentenceData, split: str) -> None:
    """Rejects a split that a data set lacks; builds nothing.

    Raises:
      UserError: as `load.check_split`.
    """
    folder = data_folder(data) / "datasets"
    holdout = data.holdout if isinstance(data, ImageData) else 0.0
    check_split(data.name, split, data_dir=folder, manual_dir=_manual_dir(data), holdout=holdout)


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


def _manual_dir(data: ImageData | SentenceData) -> Path | None:
    return Path(data.manual_dir) if data.manual_dir else None
