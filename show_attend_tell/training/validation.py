"""Validation: free-running greedy captions of the validation split, and their scores.

The first few captions and their maps are kept in the run's folder for those who watch a run.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import PyTree

from show_attend_tell import devices
from show_attend_tell.data.base_task import Task
from show_attend_tell.data.batches import Inputs
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.in_languages import InLanguages
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.scores import Scores
from show_attend_tell.evaluation.scoring import SCORERS
from show_attend_tell.evaluation.split_scores import references
from show_attend_tell.inference.captioning import Caption, caption_inputs, texts
from show_attend_tell.inference.decoding import make_decode
from show_attend_tell.models.captioner import Captioner, all_weights, speaking
from show_attend_tell.models.encoders import Encoder
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.settings import Decode

SHOWN = ("BLEU", "chrF", "BLEU-4", "CIDEr", "exact")  # scores shown on the console
KEPT = 8  # captions that a validation leaves in the run's folder
WEIGHTS_KEPT = 100_000  # of attention, in all of them: under a megabyte


@runtime_checkable
class CaptionViewer(Protocol):
    """Shows the captions of validations to people."""

    def write(self, step: int, captions: Sequence[Caption]) -> None:
        """Shows the captions of the first examples, made after `step` steps."""
        ...


class LatestCaptions:
    """Writes the first captions of the newest validation to a run's folder."""

    def __init__(
        self,
        folder: RunFolder,
        task: Task,
        encoder: Encoder,
        source_vocabulary: AnyVocabulary | None,
        examples: ExampleSource,
    ):
        """All of the run; `examples` are those of the validation split."""
        self._folder, self._task, self._encoder = folder, task, encoder
        self._source_vocabulary, self._examples = source_vocabulary, examples

    def write(self, step: int, captions: Sequence[Caption]) -> None:
        """Writes the captions of the first examples, made after `step` steps.

        Only the first process writes. Training goes on if the file cannot be written.
        """
        if not devices.is_first():
            return
        kept, weights = [], 0
        for i, caption in enumerate(captions):
            weights += caption.alpha.size
            if weights > WEIGHTS_KEPT:
                break
            kept.append(self._entry(i, caption))
        try:
            self._folder.record_latest_captions({"step": step, "captions": kept})
        except OSError as error:
            logging.warning(
                "%s: the latest captions cannot be written (%s)", self._folder.path, error
            )

    def _entry(self, number: int, caption: Caption) -> dict[str, Any]:
        subject = self._task.subject(self._examples[number])
        count = caption.alpha.shape[1]
        places = self._task.places(subject, count, self._encoder, self._source_vocabulary)
        if places.source:  # the other places are padding
            count = len(places.source)
        return {
            "id": subject.name,
            "words": list(caption.tokens),
            "alpha": _rounded(caption.alpha[:, :count]),
            "beta": _rounded(caption.beta),
            "grid": [len(places.row_centres), len(places.column_centres)],
            "source": list(places.source),
        }


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
        viewers: Sequence[CaptionViewer],
        *,
        metric: str,
    ):
        """Prepares the split.

        Args:
          decoding: of the run; validation uses it, but decodes greedily.
          task, model, vocabulary: of the run.
          frozen: the weights that training does not change.
          inputs, examples: of the validation split.
          viewers: take the first captions.
          metric: the score that picks the best weights.
        """
        self._decoding = decoding.greedy
        self._spoken = [_Spoken(task, model, self._decoding, examples)]
        if isinstance(examples, InLanguages) and task.languages:
            self._spoken = [
                _Spoken(task.speaking(name), speaking(model, k), self._decoding, examples, name)
                for k, name in enumerate(task.languages)
            ]
        self._frozen, self._vocabulary = frozen, vocabulary
        self._inputs, self._examples = inputs, examples
        self._viewers, self._metric = viewers, metric

    def score(self, weights: PyTree, step: int) -> dict[str, Any]:
        """The scores of trained weights by name. METEOR takes seconds: only where it picks them.

        Of several languages, a score is the mean of those in each, which are there as `CIDEr (de)`
        and so on. `step` is the training step that made the weights.

        Raises:
          UserError: the score that picks the weights cannot be computed here.
        """
        of_each = []
        for spoken in self._spoken:
            captions = caption_inputs(
                spoken.decode,
                all_weights(weights, self._frozen),
                self._inputs,
                self._vocabulary,
                self._decoding.batch_size,
            )
            first = list(islice(captions, KEPT))
            hypotheses = texts(self._examples, chain(first, captions))
            if spoken is self._spoken[0]:
                for viewer in self._viewers:
                    viewer.write(step, first)
            scores = spoken.score(hypotheses, meteor=self._metric == "METEOR")
            if self._metric in scores.missing:
                why = scores.missing[self._metric]
                raise UserError(f"config.train.metric: {self._metric} {why}")
            of_each.append(scores.values)
        if len(of_each) == 1:
            return of_each[0]
        return _means([spoken.language for spoken in self._spoken], of_each)


class _Spoken:
    """How the captions in one language are made and scored."""

    def __init__(
        self, task: Task, model: Captioner, how: Decode, examples: ExampleSource, language: str = ""
    ):
        """Takes the task and the model in that language; `language` if there are several."""
        self.language, self.decode = language, make_decode(model, how)
        self._scorer, self._references = SCORERS[task.scorer], references(examples, language)

    def score(self, hypotheses: Mapping[str, str], *, meteor: bool) -> Scores:
        """Scores the captions of those images that have references in the language."""
        known = {name: text for name, text in hypotheses.items() if name in self._references}
        return self._scorer.score(self._references, known, meteor=meteor)


def _means(languages: Sequence[str], scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over languages of each score that all of them have, then those of each."""
    common = [name for name in scores[0] if all(of.get(name) is not None for of in scores)]
    means = {name: float(np.mean([of[name] for of in scores])) for name in common}
    for language, of in zip(languages, scores, strict=True):
        means |= {f"{name} ({language})": value for name, value in of.items()}
    return means


def worded(scores: Mapping[str, float], metric: str, *, only: bool = False) -> str:
    """Scores for the console, the watched `metric` first; with `only`, nothing else."""
    others = [] if only else [name for name in SHOWN if name in scores and name != metric]
    return ", ".join(f"{name} {scores[name]:.3f}" for name in (metric, *others))


def _rounded(weights: np.ndarray) -> list:
    """Weights for a JSON file, whose readers know no NaN: to four digits, with 0 for it."""
    return np.nan_to_num(weights.astype(np.float64), posinf=0.0, neginf=0.0).round(4).tolist()
