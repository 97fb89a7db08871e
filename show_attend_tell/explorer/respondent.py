"""A run that can be asked: about any picture or sentence, with some steps decided by the asker.

Symbols: T steps, L places, M places with the null place, S side of the encoder's image.
"""

import dataclasses
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped, UInt8
from scipy.special import entr

from show_attend_tell.data.images import Picture, read_image
from show_attend_tell.data.subject import Places, Subject
from show_attend_tell.data.vocabulary import WORD_BEGINS, join
from show_attend_tell.errors import UserError
from show_attend_tell.explorer.answers import (
    Gaze,
    GivenStep,
    Grid,
    Reading,
    RunFacts,
    Sides,
    Step,
    WordChance,
)
from show_attend_tell.explorer.offline import compact, compact_cells
from show_attend_tell.inference import explaining
from show_attend_tell.inference.attention_record import AttentionRecord
from show_attend_tell.inference.captioning import image_inputs
from show_attend_tell.inference.decoding import make_decode
from show_attend_tell.inference.explaining import Explained, Gazes
from show_attend_tell.inference.given_steps import FREE, GivenSteps
from show_attend_tell.inference.run import Run
from show_attend_tell.models.search import Hypotheses
from show_attend_tell.settings import Decode
from show_attend_tell.tokens import EOS, EOS_WORD, PAD, SPECIALS

GREY = 127  # of a masked rectangle
_INPUTS_KEPT = 64  # encoded inputs to keep, the most recent ones


class Seen(NamedTuple):
    """Something that a run can be asked about, as its model takes it."""

    inputs: Shaped[np.ndarray, "1 ..."]
    places: Places
    cut: bool = False  # whether the sentence was too long


class Respondent:
    """A run that can be asked.

    Args:
      name: what askers call it.
      run: the run.

    Attributes:
      words: its words by id.
    """

    def __init__(self, name: str, run: Run):
        if run.settings.picture is not None:
            raise UserError(
                f"{run.workdir}: the explorer shows no pictures beside sentences; use `attend` or "
                "`translate --picture`"
            )
        self.name, self.run = name, run
        self.words = [*SPECIALS, *run.vocabulary.words]
        self._ids = {word: i for i, word in enumerate(self.words)}
        self._kept: OrderedDict[Hashable, Seen] = OrderedDict()

    @property
    def reads_words(self) -> bool:
        """Whether its inputs are sentences."""
        return self.run.task.reads_words

    @property
    def language(self) -> str:
        """Of its captions; empty for sentences."""
        languages = getattr(self.run.settings.data, "languages", ("",))
        return self.run.language or languages[0]

    @property
    def contexts(self) -> tuple[str, ...]:
        """What its steps can read, apart from places drawn at random."""
        mixture = ("mixture",) if self.run.settings.decoder.product_form else ()
        return ("expected", "argmax", *mixture)

    def facts(self) -> RunFacts:
        """What askers are told about it."""
        settings, decoding = self.run.settings, self.run.decoding
        attention = settings.attention
        how = f"{attention.kind} attention"
        if attention.hard:
            how += f" ({settings.hard.objective})"
        return RunFacts(
            name=self.name,
            kind=self.run.task.noun,
            context=decoding.context if decoding.context in self.contexts else "argmax",
            contexts=list(self.contexts),
            hard=attention.hard,
            posterior=settings.decoder.product_form,
            gate=settings.decoder.gate,
            null_place=attention.null_place,
            places=0 if self.reads_words else int(np.prod(self.run.encoder.grid or (0,))),
            beam=decoding.beam,
            max_length=decoding.max_length,
            length_penalty=decoding.length_penalty,
            vocabulary=len(self.run.vocabulary),
            step=self.run.step,
            description=how,
        )

    # What it is asked about

    def see_picture(self, key: str, picture: Picture, masks: Sequence[Sides] = ()) -> Seen:
        """A picture as the model takes it; the most recent ones are kept.

        Args:
          key: tells pictures apart.
          picture: the picture.
          masks: rectangles to paint over in grey.
        """
        if self.reads_words:
            raise UserError(f"{self.name} translates sentences; give it a text")

        def encode() -> Seen:
            image = masked(read_image(picture, self.run.image_size), masks)
            inputs = np.asarray(image_inputs(self.run, [image]))
            return self._seen(inputs, Subject(key, picture))

        return self._keep((key, tuple(map(tuple, masks))), encode)

    def see_text(self, text: str) -> Seen:
        """A source sentence as the model takes it."""
        text = " ".join(text.split())
        if not self.reads_words:
            raise UserError(f"{self.name} captions pictures; give it a picture")
        if not text:
            raise UserError("the sentence is empty; give words to translate")

        def encode() -> Seen:
            assert self.run.source_vocabulary is not None
            inputs, cut = self.run.task.encode([text], self.run.source_vocabulary)
            return self._seen(inputs, Subject("sentence", text=text), bool(cut))

        return self._keep(text, encode)

    def _keep(self, key: Hashable, make: Callable[[], Seen]) -> Seen:
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > _INPUTS_KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    # What it answers

    def caption(
        self,
        seen: Seen,
        steps: Sequence[GivenStep] = (),
        *,
        beam: int | None = None,
        context: str | None = None,
    ) -> Reading:
        """The best caption that keeps to the given steps, and what happened at each step."""
        began = time.perf_counter()
        decoding = self.decoding(beam, context)
        given = self._given(steps, decoding.max_length)
        _check_places(seen, given)
        found = make_decode(self.run.model, decoding)(
            self.run.params, seen.inputs, np.zeros(1, np.int32), given
        )
        [reading] = self._readings([seen], found, given, decoding)
        reading.seconds = time.perf_counter() - began
        return reading

    def captions(self, seen: Sequence[Seen]) -> list[Reading]:
        """The caption of each input, without given steps, all in one go."""
        decoding = self.decoding(None, None)
        inputs = np.concatenate([one.inputs for one in seen])
        given = self._given((), decoding.max_length, len(seen))
        decode = make_decode(self.run.model, decoding)
        found = decode(self.run.params, inputs, np.zeros(len(seen), np.int32), given)
        return self._readings(seen, found, given, decoding)

    def gaze(
        self,
        seen: Seen,
        steps: Sequence[GivenStep],
        word: str | None = None,
        context: str | None = None,
    ) -> Gaze:
        """What the step after the given ones would say, for each place that it might read.

        Raises:
          UserError: one of the given steps has no word, or a word is unknown.
        """
        context = self.decoding(None, context).context
        length = self.run.decoding.max_length
        if any(step.word is None for step in steps):
            raise UserError("all steps before the one in question need words")
        if len(steps) >= length:
            raise UserError(f"captions of {self.name} have at most {length} words")
        given, at = self._given(steps, length), len(steps)
        _check_places(seen, given)
        before = given.words[0, :at].tolist()
        said = _text([*before, EOS if word is None else self._id(word)], length)[None]
        own = self._explain([seen], given._replace(words=said), context)
        mapped, log_p = int(said[0, at]), float(own.log_p[0, at])
        if word is None:
            mapped, log_p = int(own.likeliest[0, at, 0]), float(own.log_p_likeliest[0, at, 0])
        run, texts = self.run, given._replace(words=said)
        around = explaining.gazes(
            run.model, run.params, context, seen.inputs, texts, np.array([at]), np.array([mapped])
        )
        count = _count(seen.places)
        return Gaze(
            run=self.name,
            word=self.words[mapped],
            map=np.exp(np.asarray(around.log_p)[0, :count]).tolist(),
            own=math.exp(log_p),
            cells=self._cells(around, 0, count),
            grid=_grid(seen.places),
        )

    def gazes_of(self, seen: Seen, reading: Reading) -> list[list[list[WordChance]]]:
        """For each step of a caption, the five likeliest words at each place; see `Gaze.cells`."""
        length, drawn = self.run.decoding.max_length, reading.context == "sample"
        steps = [
            GivenStep(word=s.word, gaze=s.location if drawn else s.gaze) for s in reading.steps
        ]
        given = self._given(steps, length)
        said = _text(given.words[0, : len(reading.steps)].tolist(), length)[None]
        around = explaining.gazes(
            self.run.model,
            self.run.params,
            "argmax" if drawn else reading.context,
            np.repeat(seen.inputs, length, axis=0),
            GivenSteps(np.repeat(said, length, axis=0), np.repeat(given.places, length, axis=0)),
            np.arange(length),
            np.full(length, EOS),
        )
        return [self._cells(around, t, _count(seen.places)) for t in range(len(reading.steps))]

    def reading_of(self, seen: Seen, record: AttentionRecord) -> Reading:
        """What happened at each step of a caption that the run has made of `seen`.

        The record may not be one of drawn places, of a run with a null place: it does not say which
        steps read that.
        """
        drawn, count = record.context == "sample", len(record.tokens)
        # Places that were drawn are given, so that they are the same again.
        places = record.location.tolist() if drawn else [None] * count
        steps = [GivenStep(word=w, gaze=i) for w, i in zip(record.tokens, places, strict=True)]
        context = "argmax" if drawn else record.context
        decoding = dataclasses.replace(self.run.decoding, context=context)
        given = self._given(steps, decoding.max_length)
        found = Hypotheses(
            tokens=jnp.asarray(given.words[:, None]),
            lengths=jnp.array([[count]]),
            log_probs=jnp.array([[record.log_prob]]),
            scores=jnp.array([[record.score]]),
            finished=jnp.array([[record.finished]]),
            trace=(),
        )
        [reading] = self._readings([seen], found, given, decoding)
        for step in reading.steps:
            step.gaze = None  # nobody decided it
        reading.context = record.context
        return reading

    def for_file(
        self, key: str, picture: Picture, record: AttentionRecord | None = None
    ) -> tuple[dict[str, Any], list[Any]]:
        """Its caption of a picture and the words of every place, as a page without a server has it.

        Args:
          key, picture: as for `see_picture`.
          record: the caption, if it is made already; see `reading_of`.

        Returns:
          The reading, and its part of `gazes`; see `offline.content`.
        """
        seen = self.see_picture(key, picture)
        reading = self.caption(seen) if record is None else self.reading_of(seen, record)
        return compact(reading), compact_cells(self.gazes_of(seen, reading))

    def decoding(self, beam: int | None, context: str | None) -> Decode:
        """How it searches: as the run does, but for what the asker changes."""
        facts = self.facts()
        context = context or facts.context
        if context not in facts.contexts:
            known = ", ".join(facts.contexts)
            raise UserError(f"context {context!r}: steps of {self.name} read {known}")
        own = self.run.decoding
        if beam is not None:  # without the run's groups, and searching where it draws
            agreed = {"consensus": own.consensus, "neighbours": own.neighbours} if beam > 1 else {}
            own = dataclasses.replace(own.greedy, beam=beam, **agreed)
        return dataclasses.replace(own, context=context)

    def begins(self, start: str, most: int = 20) -> list[str]:
        """Its most frequent words that begin with `start`."""
        start = start.lower()
        words = self.run.vocabulary.words[len(self.run.vocabulary.languages) :]
        found = (w for w in words if w.lower().removeprefix(WORD_BEGINS).startswith(start))
        return [word for word, _ in zip(found, range(most), strict=False)]

    # Inside

    def _id(self, word: str) -> int:
        # As it is, in lower case, or the piece with which that word begins.
        spellings = (word, word.lower(), WORD_BEGINS + word)
        number = next((self._ids[w] for w in spellings if w in self._ids), None)
        if number is None or number in (PAD, *self.run.model.decoder.starts.unsaid):
            raise UserError(f"{word!r}: not a word of {self.name}")
        return number

    def _given(self, steps: Sequence[GivenStep], length: int, batch: int = 1) -> GivenSteps:
        if len(steps) > length:
            raise UserError(f"{len(steps)} steps: captions of {self.name} have at most {length}")
        words = np.full((batch, length), FREE, np.int32)
        places = words.copy()
        for t, step in enumerate(steps):
            words[:, t] = FREE if step.word is None else self._id(step.word)
            places[:, t] = FREE if step.gaze is None else step.gaze
        return GivenSteps(words, places)

    def _seen(
        self, inputs: Shaped[np.ndarray, "1 ..."], subject: Subject, cut: bool = False
    ) -> Seen:
        run = self.run
        _, count, _ = jax.eval_shape(self._annotate, run.params, inputs).shape
        places = run.task.places(subject, count, run.encoder, run.source_vocabulary)
        return Seen(inputs, places, cut)

    def _annotate(self, params: Any, inputs: Array) -> Array:
        return nnx.merge(nnx.graphdef(self.run.model), params).annotations(inputs).vectors

    def _explain(self, seen: Sequence[Seen], texts: GivenSteps, context: str) -> Explained:
        inputs = np.concatenate([one.inputs for one in seen])
        found = explaining.explain(self.run.model, self.run.params, context, inputs, texts)
        return jax.tree.map(np.asarray, found)

    def _readings(
        self, seen: Sequence[Seen], found: Hypotheses, given: GivenSteps, decoding: Decode
    ) -> list[Reading]:
        found = jax.tree.map(lambda x: np.asarray(x)[:, 0], found)
        texts = [t[:n].tolist() for t, n in zip(found.tokens, found.lengths, strict=True)]
        said = np.stack([_text(text, decoding.max_length) for text in texts])
        explained = self._explain(seen, GivenSteps(said, given.places), decoding.context)
        made = []
        for b, one in enumerate(seen):
            steps = [
                self._step(explained, b, t, texts[b], one.places) for t in range(len(texts[b]))
            ]
            for step, gaze in zip(steps, given.places[b].tolist(), strict=False):
                step.gaze = None if gaze < 0 else gaze
            made.append(
                Reading(
                    run=self.name,
                    text=join(step.word for step in steps if step.word != EOS_WORD),
                    steps=steps,
                    log_prob=float(found.log_probs[b]),
                    score=float(found.scores[b]),
                    finished=bool(found.finished[b]),
                    context=decoding.context,
                    hard=decoding.context == "argmax",
                    grid=_grid(one.places),
                    source=list(one.places.source),
                    cut=one.cut,
                    seconds=0,
                )
            )
        return made

    def _step(
        self, explained: Explained, b: int, t: int, text: Sequence[int], places: Places
    ) -> Step:
        alpha, count = explained.alpha[b, t], _count(places)
        prior, posterior = np.asarray(alpha[:count]), explained.posterior
        location = int(explained.location[b, t])
        null = self.run.settings.attention.null_place
        return Step(
            word=self.words[text[t]],
            log_p=float(explained.log_p[b, t]),
            top=self._chances(explained.likeliest[b, t], explained.log_p_likeliest[b, t]),
            beta=float(explained.beta[b, t]),
            location=location if location < count else int(prior.argmax()),
            gaze=None,
            prior=prior.tolist(),
            null=float(alpha[-1]) if null else 0.0,
            entropy=float(entr(alpha).sum()),
            posterior=None if posterior is None else posterior[b, t, :count].tolist(),
        )

    def _cells(self, around: Gazes, b: int, count: int) -> list[list[WordChance]]:
        words, log_p = np.asarray(around.likeliest)[b], np.asarray(around.log_p_likeliest)[b]
        return [self._chances(words[i], log_p[i]) for i in range(count)]

    def _chances(
        self, words: Int[Array | np.ndarray, " K"], log_p: Float[Array | np.ndarray, " K"]
    ) -> list[WordChance]:
        pairs = zip(np.asarray(words).tolist(), np.exp(log_p).tolist(), strict=True)
        return [WordChance(word=self.words[word], p=p) for word, p in pairs]


def _text(words: Sequence[int], length: int) -> Int[np.ndarray, " T"]:
    """A whole text, as `explain` takes it: closed by <eos>, unless it fills all steps."""
    closed = [*words, *([] if EOS in words else [EOS])][:length]
    return np.array(closed + [PAD] * (length - len(closed)), np.int32)


def _count(places: Places) -> int:
    return len(places.row_centres) * len(places.column_centres)


def _check_places(seen: Seen, given: GivenSteps) -> None:
    last, count = int(given.places.max(initial=FREE)), _count(seen.places)
    if last >= count:
        raise UserError(f"gaze {last}: there is no such place; they are numbered 0 to {count - 1}")


def masked(image: UInt8[np.ndarray, "S S 3"], masks: Sequence[Sides]) -> UInt8[np.ndarray, "S S 3"]:
    """An image with rectangles (shares of its sides) painted over in grey."""
    if not masks:
        return image
    image, side = image.copy(), len(image)
    for ymin, xmin, ymax, xmax in masks:
        top, left, bottom, right = (round(edge * side) for edge in (ymin, xmin, ymax, xmax))
        image[top:bottom, left:right] = GREY
    return image


def _grid(places: Places) -> Grid:
    return Grid(
        rows=places.row_centres.tolist(),
        columns=places.column_centres.tolist(),
        measured=places.measured,
    )
