"""Free-running captions of splits, files and images, and translations of sentences."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, PyTree, UInt8

from show_attend_tell import devices, programs
from show_attend_tell.data import vocabulary as vocabularies
from show_attend_tell.data.batches import Inputs, eval_batches
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.images import Picture, naming
from show_attend_tell.data.subject import Places, Subject, places_in_picture
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.inference.attention_record import COMPUTED, MEASURED, AttentionRecord
from show_attend_tell.inference.beside import beside_picture
from show_attend_tell.inference.decoding import DecodeFunction, as_compiled
from show_attend_tell.inference.ensemble import (
    Images,
    contexts_of,
    decode_of,
    inputs_of,
    read_for,
    weights_of,
)
from show_attend_tell.inference.neighbours import Neighbours, neighbours_of
from show_attend_tell.inference.run import Run
from show_attend_tell.models import search
from show_attend_tell.models.encoders import ImageEncoder
from show_attend_tell.runs.build import build_picture_encoder
from show_attend_tell.runs.encoding import annotate_one, as_inputs, row_shape, structure
from show_attend_tell.settings import Decode
from show_attend_tell.tokens import EOS_WORD


@dataclasses.dataclass(frozen=True)
class Spoken:
    """The words of a caption, and how probable they are (T tokens).

    Attributes:
      tokens: words, then "<eos>" if the caption finished.
      log_prob: log p of the tokens, in nats.
      score: log_prob / T ** length_penalty.
      token_log_probs: log p of each token given those before it; None unless asked for.
    """

    tokens: tuple[str, ...]
    log_prob: float
    score: float
    token_log_probs: Float[np.ndarray, " T"] | None = dataclasses.field(default=None, kw_only=True)

    @property
    def text(self) -> str:
        """The words, without `<eos>`."""
        return vocabularies.join(token for token in self.tokens if token != EOS_WORD)


class Look(NamedTuple):
    """Where a second attention looked, in the picture beside a sentence; see `Caption`."""

    alpha: Float[np.ndarray, "T P"]
    beta: Float[np.ndarray, " T"]
    location: Int[np.ndarray, " T"]


class Maps(NamedTuple):
    """Where one model of an ensemble looked; see `Caption`."""

    alpha: Float[np.ndarray, "T L"]
    beta: Float[np.ndarray, " T"]
    location: Int[np.ndarray, " T"]
    self_alpha: Float[np.ndarray, "T T"] | None
    look: Look | None = None


@dataclasses.dataclass(frozen=True)
class Caption(Spoken):
    """A decoded caption with the attention of the pass that produced it (T steps).

    Attributes:
      alpha: attention weights of the real places; a null place has the rest of each row.
      beta: the gate.
      location: the place read by hard attention; otherwise, or if it read a null place, the real
        place with the largest alpha.
      self_alpha: weights of self-attention.
      look: at the picture beside the sentence, if the model has one.
      n_best: the best captions, this one first: at most `n_best` of the settings.
      others: the same of the further models of an ensemble.
    """

    alpha: Float[np.ndarray, "T L"]
    beta: Float[np.ndarray, " T"]
    location: Int[np.ndarray, " T"]
    self_alpha: Float[np.ndarray, "T T"] | None = None
    look: Look | None = None
    n_best: tuple[Spoken, ...] = ()
    others: tuple[Maps, ...] = ()

    def seen_by(self, number: int) -> "Caption":
        """The caption with the attention of one model of an ensemble, counted from 0."""
        if not number:
            return self
        return dataclasses.replace(self, **self.others[number - 1]._asdict())


def caption_inputs(
    decode: DecodeFunction,
    params: Any,
    inputs: Inputs | tuple[Inputs, ...],
    vocabulary: AnyVocabulary,
    batch_size: int,
    n_best: int = 1,
    *,
    begin: int | Int[np.ndarray, " N"] = 0,
    near: Neighbours | None = None,
) -> Iterator[Caption]:
    """The best caption of every input, in order; for an ensemble `inputs` has those of each run.

    `begin` is the number of the first input, or that of each; what is drawn for an input follows
    from its number. `near` are the training pictures that help a consensus to choose.
    """
    batch_size = math.ceil(batch_size / jax.device_count()) * jax.device_count()
    local = devices.local_slice(batch_size)
    helped = {} if near is None else {"near": near}  # compiled functions know no other arguments
    for first, (batch, count) in enumerate(_batches(inputs, batch_size)):
        numbers = np.arange(first * batch_size, (first + 1) * batch_size, dtype=np.int32)
        numbers = begin + numbers if isinstance(begin, int) else begin.take(numbers, mode="clip")
        batch, numbers = devices.shard_batch(jax.tree.map(lambda x: x[local], (batch, numbers)))
        found = jax.tree.map(np.asarray, decode(params, batch, numbers, **helped))
        for i in range(count):
            best = jax.tree.map(lambda x, i=i: x[i, :n_best], found._replace(trace=()))
            spoken = [_spoken(best, k, vocabulary) for k in range(len(best.lengths))]
            steps = int(best.lengths[0])
            traces = found.trace if isinstance(found.trace, tuple) else (found.trace,)
            own, *others = (_maps(trace, i, steps) for trace in traces)
            told = {f.name: getattr(spoken[0], f.name) for f in dataclasses.fields(Spoken)}
            kept = tuple(one for one in spoken if one.tokens) or (spoken[0],)
            yield Caption(**told, **own._asdict(), n_best=kept, others=tuple(others))


def _batches(inputs: Inputs | tuple[Inputs, ...], batch_size: int) -> Iterator[tuple[PyTree, int]]:
    """`eval_batches` of the inputs of one run, or of each."""
    if not isinstance(inputs, tuple):
        yield from eval_batches(inputs, batch_size)
        return
    for of_each in zip(*(eval_batches(one, batch_size) for one in inputs), strict=True):
        yield tuple(batch for batch, _ in of_each), of_each[0][1]


def _spoken(found: search.Hypotheses, k: int, vocabulary: AnyVocabulary) -> Spoken:
    """Hypothesis `k` of one input."""
    length = int(found.lengths[k])
    words = vocabulary.decode(found.tokens[k, :length].tolist())
    each = found.token_log_probs
    return Spoken(
        tokens=(*words, EOS_WORD) if found.finished[k] else tuple(words),
        log_prob=float(found.log_probs[k]),
        score=float(found.scores[k]),
        token_log_probs=None if each is None else np.asarray(each[k, :length]),
    )


def _maps(trace: Mapping[str, np.ndarray], i: int, steps: int) -> Maps:
    """The maps of input `i`'s best caption."""
    self_alpha, look = trace.get("self_alpha"), trace.get("picture")
    return Maps(
        alpha=trace["alpha"][i, 0, :steps],
        beta=trace["beta"][i, 0, :steps],
        location=trace["location"][i, 0, :steps],
        self_alpha=None if self_alpha is None else self_alpha[i, 0, :steps, :steps],
        look=None if look is None else Look(*(each[i, 0, :steps] for each in look)),
    )


def texts(examples: ExampleSource, captions: Iterable[Caption]) -> dict[str, str]:
    """The text of each caption, by the id of its example."""
    return {name: caption.text for name, caption in zip(examples.ids, captions, strict=True)}


def caption_split(run: Run, split: str, decoding: Decode) -> tuple[ExampleSource, list[Caption]]:
    """The examples of a split and the caption of each."""
    examples = run.task.load(split)
    inputs = inputs_of(run, examples)
    return examples, caption_examples(run, examples, inputs, decoding)


def caption_examples(
    run: Run, examples: ExampleSource, inputs: Inputs | tuple[Inputs, ...], decoding: Decode
) -> list[Caption]:
    """The caption of each example; `inputs` are the model's, see `ensemble.inputs_of`."""
    from rich.progress import track

    from show_attend_tell.terminal import Terminal

    captions = _caption_all(run, inputs, decoding)
    bar = track(captions, "captions", total=len(examples), console=Terminal(stderr=True))
    return list(bar)


def _caption_all(
    run: Run, inputs: Inputs | tuple[Inputs, ...], decoding: Decode, begin: int = 0
) -> Iterator[Caption]:
    near = _asked(run, decoding)
    decode, params = decode_of(run, decoding), weights_of(run)
    size, n_best = decoding.batch_size, decoding.n_best
    return caption_inputs(
        decode, params, inputs, run.vocabulary, size, n_best, begin=begin, near=near
    )


def _asked(run: Run, decoding: Decode) -> Neighbours | None:
    """The training pictures that help to choose; None if none does."""
    return neighbours_of(run.members[0]) if decoding.neighbours else None


class Described(NamedTuple):
    """What became of some of the pictures that were to be captioned.

    Attributes:
      subjects: those that could be read.
      captions: one for each.
      wrong: what is wrong with each of the others.
    """

    subjects: list[Subject]
    captions: list[Caption]
    wrong: list[str]


def caption_files(
    run: Run, subjects: Sequence[Subject], decoding: Decode, *, per_token: bool = False
) -> Iterator[Described]:
    """Captions pictures, which are read like training images.

    Holds one batch of pictures in memory, and yields once for each. `per_token`: `caption_images`.
    """
    for begin in range(0, len(subjects), decoding.batch_size):
        readable, numbers, images, wrong = [], [], [], []
        for number, subject in enumerate(subjects[begin : begin + decoding.batch_size], begin):
            assert subject.picture is not None
            try:
                with naming(subject.name):
                    images.append(read_for(run, subject.picture))
                readable.append(subject)
                numbers.append(number)
            except UserError as error:
                wrong.append(str(error))
        size = decoding.batch_size if len(subjects) > decoding.batch_size else None  # one for all
        begun = np.array(numbers, np.int32)
        captions = caption_images(run, images, decoding, size, per_token=per_token, begin=begun)
        yield Described(readable, captions, wrong)


def caption_images(
    run: Run,
    images: Sequence[Images],
    decoding: Decode,
    batch_size: int | None = None,
    *,
    per_token: bool = False,
    begin: int | Int[np.ndarray, " N"] = 0,
) -> list[Caption]:
    """Captions images as `ensemble.read_for` returns them.

    Args:
      run: a trained run, or an ensemble.
      images: what to caption.
      decoding: how to search for captions.
      batch_size: images decoded together; None: all, but at most `decoding.batch_size`.
      per_token: whether captions have `token_log_probs`.
      begin: the first image's number, or each one's, which random draws depend on.
    """
    if not images:
        return []
    batch_size, near = batch_size or min(len(images), decoding.batch_size), _asked(run, decoding)
    with ThreadPoolExecutor(1) as thread:
        # The program that decodes compiles while the encoder's compile and run.
        decode = thread.submit(_compiled_decode, run, decoding, batch_size, per_token)
        inputs = _inputs_of_images(run, images)
        return list(
            caption_inputs(
                decode.result(),
                weights_of(run),
                inputs,
                run.vocabulary,
                batch_size,
                decoding.n_best,
                begin=begin,
                near=near,
            )
        )


def _compiled_decode(
    run: Run, decoding: Decode, batch_size: int, per_token: bool
) -> DecodeFunction:
    """`decode_of` for images in batches of one size."""
    function = decode_of(run, decoding, per_token=per_token)
    if decoding.neighbours or any(one.encoder.trained for one in run.members):
        return function
    shapes = (row_shape(cast(ImageEncoder, one.encoder)) for one in run.members)
    inputs = tuple(jax.ShapeDtypeStruct((batch_size, *shape), np.float16) for shape in shapes)
    numbers = jax.ShapeDtypeStruct((batch_size,), np.int32)
    graphs = " ".join(structure(nnx.graphdef(one.model)) for one in run.members)
    how = as_compiled(decoding), contexts_of(run, decoding), per_token
    name = f"decode {how} {graphs}"
    given = inputs if run.others else inputs[0]
    return programs.compiled(name, function, weights_of(run), given, numbers)


def _inputs_of_images(run: Run, images: Sequence[Images]) -> Inputs | tuple[Inputs, ...]:
    """The inputs of one run, or of each; equal frozen encoders encode once."""
    if not run.others:
        return image_inputs(run, cast(Sequence[np.ndarray], images))
    made: dict[str, Inputs] = {}
    found = []
    for number, one in enumerate(run.members):
        encoder = cast(ImageEncoder, one.encoder)
        key = str(number) if encoder.trained else json.dumps(encoder.fingerprint(), sort_keys=True)
        if key not in made:
            made[key] = image_inputs(one, [image[number] for image in images])
        found.append(made[key])
    return tuple(found)


def image_inputs(run: Run, images: Sequence[UInt8[np.ndarray, "S S 3"]]) -> Inputs:
    """A model's inputs for images: their annotation vectors, unless its encoder was trained."""
    if run.encoder.trained:
        return np.stack(images)
    encoder = cast(ImageEncoder, run.encoder)
    return as_inputs(encoder, np.concatenate([annotate_one(encoder, image) for image in images]))


def translate(
    run: Run,
    sentences: Sequence[str],
    decoding: Decode,
    picture: Picture | None = None,
    *,
    begin: int = 0,
) -> tuple[list[Caption], list[int]]:
    """Translations of sentences, and the indices (from 0) of those that were cut.

    Args:
      run: on sentences, or an ensemble of such runs.
      sentences: to translate.
      decoding: how to search.
      picture: that all of them describe, for a run that looks at one.
      begin: number of the first sentence among all; what is drawn for a sentence follows from its
        own.

    Raises:
      UserError: the picture cannot be read, or the run reads none.
    """
    if not sentences:
        return [], []
    inputs, cut = [], set()
    for one in run.members:
        assert one.source_vocabulary is not None
        ids, here = one.task.encode(sentences, one.source_vocabulary)
        seen = picture is not None or one.settings.picture is not None
        inputs.append(beside_picture(one, ids, picture) if seen else ids)
        cut |= {*here}
    captions = _caption_all(run, tuple(inputs) if run.others else inputs[0], decoding, begin)
    return list(captions), sorted(cut)


def attention_records(
    run: Run, decoding: Decode, subjects: Iterable[Subject], captions: Sequence[Caption]
) -> list[AttentionRecord]:
    """The captions' attention, as it is dumped, drawn and measured.

    Args:
      run, decoding: those that made the captions.
      subjects: what was captioned. They are taken one at a time, since a large split's images
        would fill the memory.
      captions: one per subject.
    """
    normalised = run.settings.attention.normalised
    records = []
    for subject, caption in zip(subjects, captions, strict=True):
        count = caption.alpha.shape[1]
        places = run.task.places(subject, count, run.encoder, run.source_vocabulary)
        records.append(attention_record(subject.name, places, caption, decoding, normalised))
    return records


def picture_records(
    run: Run, decoding: Decode, subjects: Iterable[Subject], captions: Sequence[Caption]
) -> list[AttentionRecord]:
    """The attention of translations over the pictures beside their sentences.

    Args:
      run, decoding: those that translated.
      subjects: the pictures, taken one at a time.
      captions: the translation of each.
    """
    encoder, records = build_picture_encoder(run.settings), []
    for subject, caption in zip(subjects, captions, strict=True):
        assert caption.look is not None
        looked = dataclasses.replace(caption, **caption.look._asdict(), self_alpha=None)
        places = places_in_picture(subject, encoder)
        records.append(attention_record(subject.name, places, looked, decoding, True))
    return records


def attention_record(
    name: str, places: Places, caption: Caption, decoding: Decode, normalised: bool
) -> AttentionRecord:
    """A caption's attention.

    Args:
      name: of what is captioned.
      places: that the caption looks at.
      caption: with the attention of its pass.
      decoding: that made it.
      normalised: whether every row of alpha sums to 1 (`Attention.normalised` of the settings).

    Raises:
      ValueError: the caption has weights that are no distribution, such as NaN.
    """
    # A sentence's other places are padding.
    count = len(places.source) if places.source else caption.alpha.shape[1]
    return AttentionRecord(
        image_id=name,
        tokens=caption.tokens,
        alpha=caption.alpha[:, :count],
        beta=caption.beta,
        location=caption.location,
        context=decoding.context,
        row_centres=places.row_centres,
        column_centres=places.column_centres,
        centres=MEASURED if places.measured else COMPUTED,
        original_size=places.original_size,
        image_side=places.image_side,
        score=caption.score,
        log_prob=caption.log_prob,
        boxes=places.boxes,
        source=places.source,
        self_alpha=caption.self_alpha,
        normalised=normalised,
    )
