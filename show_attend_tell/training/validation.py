"""Validation: free-running greedy captions of the validation split, and their scores."""

import dataclasses
from typing import Any

from jaxtyping import PyTree

from show_attend_tell.data.batches import Inputs
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.task import Task
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.evaluation.scoring import SCORERS
from show_attend_tell.evaluation.split_scores import references
from show_attend_tell.inference.captioning import caption_inputs, make_decode, texts
from show_attend_tell.models.captioner import Captioner, all_weights
from show_attend_tell.settings import Decode

SHOWN = ("BLEU", "chrF", "BLEU-4", "CIDEr", "exact")  # scores shown on the console


class Validation:
    """Scores weights by the captions that they give the validation split."""

    def __init__(
        self,
        decoding: Decode,
        task: Task,
        model: Captioner,
        frozen: PyTree,
        vocabulary: AnyVocabulary,
        inputs: Inputs,
        examples: ExampleSource,
    ):
        """Prepares the split.

        Args:
          decoding: of the run; validation uses it, but decodes greedily.
          task, model, vocabulary: of the run.
          frozen: the weights that training does not change.
          inputs, examples: of the validation split.
        """
        self._decoding = dataclasses.replace(decoding, beam=1)
        self._decode = make_decode(model, self._decoding)
        self._scorer = SCORERS[task.scorer]
        self._frozen, self._vocabulary = frozen, vocabulary
        self._inputs, self._examples = inputs, examples
        self._references = references(examples)

    def score(self, weights: PyTree) -> dict[str, Any]:
        """The scores of trained weights by name, without METEOR, which takes seconds."""
        captions = caption_inputs(
            self._decode,
            all_weights(weights, self._frozen),
            self._inputs,
            self._vocabulary,
            self._decoding.batch_size,
        )
        hypotheses = texts(self._examples, captions)
        return self._scorer.score(self._references, hypotheses, meteor=False).values
