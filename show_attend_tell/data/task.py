"""Images or sentences? The only module that asks.

A task knows how to read a data set, what a model sees of an example, and what results are called.
Everything else treats both kinds alike.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from show_attend_tell.data.base_task import Task, data_folder, manual_dir
from show_attend_tell.data.batches import Inputs
from show_attend_tell.data.examples import (
    Example,
    ExampleSource,
    ImageSource,
    Pair,
)
from show_attend_tell.data.in_languages import InLanguages
from show_attend_tell.data.load import check_split, load_images
from show_attend_tell.data.row_cache import ChosenRows, RowCache
from show_attend_tell.data.sentence_task import PicturedTask, SentenceTask, pictures_dir
from show_attend_tell.data.subject import Places, Subject, Viewer, places_in_picture
from show_attend_tell.data.vocabulary import AnyVocabulary, build_vocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.settings import ImageData, PicturedData, SentenceData


@dataclass(frozen=True)
class ImageTask(Task):
    """Captions of images."""

    data: ImageData
    language: str = ""
    noun = "images"
    copies = "mirrored or cropped copies"
    token = "words"
    verb = "caption"
    progress_metric = "CIDEr"
    reads_words = False
    sorts_inputs = False

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

    def load(self, split: str, *, training: bool = False) -> ImageSource | InLanguages:
        return load_images(
            self.data.name,
            split,
            data_dir=data_folder(self.data) / "datasets",
            manual_dir=manual_dir(self.data),
            limit=self.data.limit,
            mirrored=training and self.data.mirrored,
            crops=self.data.crops if training else 0,
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
    if isinstance(data, PicturedData):
        check_split("flickr8k", split, data_dir=folder, manual_dir=pictures_dir(data))
        return
    holdout = data.holdout if isinstance(data, ImageData) else 0.0
    check_split(data.name, split, data_dir=folder, manual_dir=manual_dir(data), holdout=holdout)
