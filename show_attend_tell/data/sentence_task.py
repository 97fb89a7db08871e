"""Translating sentences, with or without the pictures that they describe."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float16, Int

from show_attend_tell.data.base_task import Task, data_folder, manual_dir
from show_attend_tell.data.batches import Inputs, pack_words, source_ids
from show_attend_tell.data.examples import (
    Example,
    ExampleSource,
    ImageSource,
    Pair,
    PairSource,
)
from show_attend_tell.data.load import load_images, load_pairs
from show_attend_tell.data.pictured_pairs import (
    REMEDY,
    PicturedPair,
    PicturedPairs,
    read_pairs,
    words_to_hide,
)
from show_attend_tell.data.row_cache import RowCache
from show_attend_tell.data.subject import Places, Subject
from show_attend_tell.data.text_files import one_line
from show_attend_tell.data.vocabulary import AnyVocabulary, build_vocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.settings import PicturedData, SentenceData
from show_attend_tell.tokens import PAD


@dataclass(frozen=True)
class SentenceTask(Task):
    """Translations of sentences."""

    data: SentenceData
    language: str = ""
    noun = "sentences"
    copies = "further pairs"
    token = "tokens"
    verb = "translate"
    scorer = "translations"
    metrics = ("BLEU", "chrF", "exact")
    progress_metric = "BLEU"
    reads_words = True
    sorts_inputs = True

    def load(self, split: str, *, training: bool = False) -> PairSource:
        languages = (self.data.source, self.data.target) if self.data.source else None
        further = self.data.further_dir
        return load_pairs(
            self.data.name,
            split,
            data_dir=data_folder(self.data) / "datasets",
            manual_dir=manual_dir(self.data),
            limit=self.data.limit,
            languages=languages,
            further_dir=Path(further) if further and training and split == "train" else None,
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
        own = list(islice(examples, examples.stored))
        texts = [pair.source for pair in own]
        if self.data.joint:
            texts += [pair.target for pair in own]
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
            warn(
                f"{examples.name} {examples.split}: {cut} of {len(ids)} source sentences cut to "
                f"{limit} tokens (config.data.max_source_length)"
            )
        return ids

    def encode(
        self, sentences: Sequence[str], source: AnyVocabulary
    ) -> tuple[Int[np.ndarray, "N S"], list[int]]:
        limit = self.data.max_source_length
        cut = [i for i, text in enumerate(sentences) if len(source.encode_text(text)) > limit]
        return self.of_one_length(source_ids(sentences, source, limit)[0]), cut

    def of_one_length(self, ids: Int[np.ndarray, "N _"]) -> Int[np.ndarray, "N S"]:
        """Inputs of the same length for any sentences, so that nothing compiles twice."""
        return np.pad(ids, ((0, 0), (0, self.data.max_source_length + 1 - ids.shape[1])))

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
    sorts_inputs = False

    def load(self, split: str, *, training: bool = False) -> PicturedPairs:
        def images(split: str) -> ImageSource:
            found = load_images(
                "flickr8k",
                split,
                data_dir=data_folder(self.data) / "datasets",
                manual_dir=pictures_dir(self.data),
            )
            assert isinstance(found, ImageSource)
            return found

        if not (self.data.manual_dir and self.data.source and self.data.target):
            raise UserError(
                f"{REMEDY}, and config.data.source and .target to their languages, such as en and "
                "de"
            )
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
        assert isinstance(examples, PicturedPairs)
        ids = cast(np.ndarray, super().inputs(examples, source, make, warn))
        words = pack_words(self.of_one_length(ids))
        return np.concatenate([words, self.picture_rows(examples, make(examples.images))], axis=1)

    def picture_rows(self, examples: PicturedPairs, cache: RowCache) -> Float16[np.ndarray, "N n"]:
        """The annotation vectors of each pair's picture, in a row."""
        return np.asarray(cache.load()[np.array(examples.rows)]).reshape(len(examples), -1)

    def input_lengths(self, inputs: Inputs) -> Int[np.ndarray, " N"] | None:
        return None

    def beside(self, example: Example | Pair) -> Subject:
        assert isinstance(example, PicturedPair)
        return Subject(example.pair_id, example.picture())


def tidied(sentences: Sequence[str]) -> list[str]:
    """Sentences to translate, as `read_lines` returns those of a file.

    Raises:
      UserError: there is none, one is empty, or one has characters that are none.
    """
    if isinstance(sentences, str):
        raise UserError(f"{sentences!r} is one sentence; give a list of sentences")
    found = [one_line(sentence) for sentence in sentences]
    for number, sentence in enumerate(found, 1):
        if not sentence:
            raise UserError(f"sentence {number} is empty; give words to translate")
        if any("\ud800" <= character <= "\udfff" for character in sentence):
            raise UserError(f"sentence {number} is not UTF-8; convert it")
    if not found:
        raise UserError(
            "no sentence was given; pass some as arguments, or one a line on standard input"
        )
    return found


def pictures_dir(data: PicturedData) -> Path:
    """The folder of the pictures.

    Raises:
      UserError: none is named.
    """
    if not data.pictures_dir:
        raise UserError(
            "config.data.pictures_dir is empty: set it to the folder of Flickr8k's download"
        )
    return Path(data.pictures_dir)
