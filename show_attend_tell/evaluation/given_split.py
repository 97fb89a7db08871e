"""A split whose texts are given: all that measuring a run over them needs, read once.

Symbols: n images, R texts of an image, T steps, K phrases or words, L places.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Int, Shaped

from show_attend_tell.data.batches import Inputs
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.phrases import Description
from show_attend_tell.evaluation.boxes import Places
from show_attend_tell.evaluation.mentions import Mention, mentions_of
from show_attend_tell.evaluation.pointing import other_images
from show_attend_tell.inference.forced import encoded_texts
from show_attend_tell.inference.run import Run
from show_attend_tell.models.encoders import ImageEncoder
from show_attend_tell.runs.inputs import load_inputs

SEED = 0  # of the pairing of images, of the words that are drawn, and of resamples
SHORT = 16  # steps: words that come earlier are measured in shorter texts, which is faster


class Phrases(NamedTuple):
    """The phrases to measure."""

    mentions: list[Mention]
    steps: Int[np.ndarray, "K 3"]  # image, description and step of each mention
    untold: int  # phrases whose step cannot be told, or lies behind the longest text


class WordBatch(NamedTuple):
    """Some words in their texts; the last `filled` of them repeat others."""

    inputs: Shaped[np.ndarray, "B ..."]
    tokens: Int[np.ndarray, "B T"]
    step: Int[np.ndarray, " B"]
    numbers: Int[np.ndarray, " B"]  # which of the words
    filled: int


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """Words of given texts.

    Attributes:
      inputs: of n images.
      tokens: their texts.
      steps: image, text and step of each word.
    """

    inputs: Inputs
    tokens: Int[np.ndarray, "n R T"]
    steps: Int[np.ndarray, "K 3"]

    def batches(self, chosen: Int[np.ndarray, " k"], size: int) -> Iterator[WordBatch]:
        """The chosen words, early steps first, `size` at once.

        The texts of a batch end after `SHORT` steps where that is late enough: there are two
        shapes, so a function of them compiles twice at most.
        """
        chosen = chosen[np.argsort(self.steps[chosen, 2], kind="stable")]
        for begin in range(0, len(chosen), size):
            part = chosen[begin : begin + size]
            numbers = np.resize(part, size)
            image, row, step = self.steps[numbers].T
            end = SHORT if step.max() < SHORT else None
            texts = self.tokens[image, row, :end]
            yield WordBatch(self.inputs[image], texts, step, numbers, size - len(part))

    def drawn(self, most: int) -> Int[np.ndarray, " k"]:
        """The numbers of at most so many words, at random."""
        return np.random.default_rng(SEED).permutation(len(self.steps))[:most]


@dataclasses.dataclass(frozen=True, eq=False)
class GivenSplit:
    """A split that a run is measured on, its texts given. Make one with `load`.

    Attributes:
      run: a trained run.
      split: its name.
      examples: of the split.
      inputs: of the model, one for each example.
    """

    run: Run
    split: str
    examples: ExampleSource
    inputs: Inputs

    @classmethod
    def load(cls, run: Run, split: str) -> "GivenSplit":
        """Reads a split.

        Raises:
          UserError: the data set cannot be read.
        """
        examples = run.task.load(split)
        inputs = load_inputs(run.settings, run.task, examples, run.encoder, run.source_vocabulary)
        return cls(run, split, examples, inputs)

    @cached_property
    def references(self) -> Int[np.ndarray, "n R T"]:
        """The references, as ids."""
        return self._encoded(self.examples.captions())

    @cached_property
    def descriptions(self) -> list[tuple[Description, ...]]:
        """The annotated sentences of each image; see `ExampleSource`."""
        return self.examples.descriptions()

    @cached_property
    def phrases(self) -> Phrases:
        """The phrases of the descriptions that have boxes."""
        limit = self.run.settings.data.max_length
        return find_phrases(
            self.examples.ids, self.descriptions, self.run.vocabulary.encode_text, limit
        )

    @cached_property
    def words(self) -> Words:
        """The last words of the phrases, in the descriptions."""
        tokens = self._encoded([[d.text for d in of_image] for of_image in self.descriptions])
        return Words(self.inputs, tokens, self.phrases.steps)

    @cached_property
    def others(self) -> Int[np.ndarray, " n"] | None:
        """The number of another image for each, see `pointing.other_images`; None for one image."""
        ids = self.examples.ids
        if len(ids) < 2:
            return None
        number = {name: i for i, name in enumerate(ids)}
        pairs = other_images(ids, SEED)
        return np.array([number[pairs[name]] for name in ids])

    @cached_property
    def places(self) -> Places:
        """The places of the maps of a run over images."""
        return places_of(self.run)

    @cached_property
    def train(self) -> ExampleSource:
        """The training split."""
        return self.run.task.load("train")

    def _encoded(self, texts: Sequence[Sequence[str]]) -> Int[np.ndarray, "n R T"]:
        encode, limit = self.run.vocabulary.encode_text, self.run.settings.data.max_length
        ids = [[encode(text)[:limit] for text in of_image] for of_image in texts]
        return encoded_texts(ids, max(map(len, ids), default=0))


def places_of(run: Run) -> Places:
    """The places of the maps of a run over images."""
    centres = np.array(cast(ImageEncoder, run.encoder).centres)
    return Places(centres, centres)


def find_phrases(
    ids: Sequence[str],
    descriptions: Sequence[Sequence[Description]],
    encode: Callable[[str], Sequence[int]],
    limit: int,
) -> Phrases:
    """The phrases with boxes, as mentions at their steps.

    Args:
      ids: of the images.
      descriptions: of each image.
      encode: text to word ids.
      limit: tokens of a text that are kept.
    """
    encode = lru_cache(maxsize=1000)(encode)
    mentions, steps, untold = [], [], 0
    for image, (name, of_image) in enumerate(zip(ids, descriptions, strict=True)):
        for row, phrase, mention in mentions_of(name, of_image):
            step = of_image[row].last_token(phrase, encode)
            if step is None or step >= limit:
                untold += 1
                continue
            mentions.append(mention)
            steps.append((image, row, step))
    return Phrases(mentions, np.array(steps, int).reshape(-1, 3), untold)
