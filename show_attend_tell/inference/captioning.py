"""Free-running captions of splits, files and images, and translations of sentences."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from show_attend_tell import devices, programs
from show_attend_tell.data import vocabulary as vocabularies
from show_attend_tell.data.batches import Inputs, eval_batches
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.images import naming, read_image
from show_attend_tell.data.task import Places, Subject
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.inference.attention_record import COMPUTED, MEASURED, AttentionRecord
from show_attend_tell.inference.given_steps import GivenSteps, choice_of
from show_attend_tell.inference.run import Run
from show_attend_tell.models import recurrence, search
from show_attend_tell.models.attention import Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import ImageEncoder
from show_attend_tell.runs.encoding import annotate_one, as_inputs, row_shape, structure
from show_attend_tell.runs.inputs import load_inputs
from show_attend_tell.settings import Decode
from show_attend_tell.tokens import BOS, EOS, EOS_WORD, PAD, UNK

# (parameters, inputs (B, ...), numbers (B,), given steps if any) -> hypotheses.
DecodeFunction = Callable[..., search.Hypotheses]


@dataclasses.dataclass(frozen=True)
class Caption:
    """A decoded caption with the attention of the pass that produced it (T steps).

    Attributes:
      tokens: words, then "<eos>" if the caption finished.
      log_prob: log p of the tokens, in nats.
      score: log_prob / T ** length_penalty.
      alpha: attention weights of the real places; a null place has the rest of each row.
      beta: the gate.
      location: the place read by hard attention; otherwise, or if it read a null place, the real
        place with the largest alpha.
      self_alpha: weights of self-attention.
    """

    tokens: tuple[str, ...]
    log_prob: float
    score: float
    alpha: Float[np.ndarray, "T L"]
    beta: Float[np.ndarray, " T"]
    location: Int[np.ndarray, " T"]
    self_alpha: Float[np.ndarray, "T T"] | None = None

    @property
    def text(self) -> str:
        """The words, without `<eos>`."""
        return vocabularies.join(token for token in self.tokens if token != EOS_WORD)


def make_decode(model: Captioner, decoding: Decode) -> DecodeFunction:
    """A jitted function (parameters, inputs (B, ...), numbers (B,), given=None) -> hypotheses.

    Only the structure of `model` matters. The numbers of the inputs seed their random draws
    (context `sample`). With `given` (`GivenSteps`) some steps are decided from outside. The same
    arguments give the same function, so that nothing compiles twice.
    """
    return _decode_function(nnx.graphdef(model), decoding)


@lru_cache(maxsize=16)
def _decode_function(graph: nnx.GraphDef, decoding: Decode) -> DecodeFunction:
    banned = (UNK,) if decoding.ban_unk else ()

    @partial(jax.jit, out_shardings=devices.everywhere())
    def run(
        params: Any, inputs: Array, numbers: Int[Array, " B"], given: GivenSteps | None = None
    ) -> search.Hypotheses:
        model = nnx.merge(graph, params)
        decoder = model.decoder
        annotations = model.annotations(inputs)
        memory, locations = decoder.memory(annotations), annotations.vectors.shape[1]
        weights = decoder.weights()
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), numbers)

        def choose(time: Int[Array, "B K"]) -> Choice | None:
            shape = (*time.shape, memory.annotations.shape[1])
            noise = jnp.zeros(shape)
            if decoding.context == "sample":
                step_keys = jax.vmap(jax.random.fold_in)(keys, time[:, 0])
                noise = jax.vmap(lambda key: jax.random.gumbel(key, shape[1:]))(step_keys)
            places = None if given is None else jnp.asarray(given.places)[:, time[0, 0]]
            return choice_of(decoding.context, noise, places)

        def step(state: recurrence.State, words: Int[Array, "B K"]):
            choice = choose(state.time)
            mixture = decoding.context == "mixture"
            logits, state, output = decoder.emit(
                weights, memory, state, words, choice, mixture=mixture
            )
            alpha, location = output.alpha[..., :locations], output.location
            location = jnp.where(location < locations, location, jnp.argmax(alpha, axis=-1))
            trace = {"alpha": alpha, "beta": output.beta, "location": location}
            if output.self_log_alpha is not None:
                trace["self_alpha"] = jnp.exp(output.self_log_alpha)
            return logits, state, trace

        initial = recurrence.initial_state(weights, memory, 1, decoding.max_length)
        return search.beam_search(
            step,
            jax.tree.map(lambda s: s[:, 0], initial),
            batch=inputs.shape[0],
            beam=decoding.beam,
            max_length=decoding.max_length,
            bos=BOS,
            eos=EOS,
            pad=PAD,
            banned=banned,
            length_penalty=decoding.length_penalty,
            given=None if given is None else jnp.asarray(given.words),
        )

    return run


def caption_inputs(
    decode: DecodeFunction,
    params: Any,
    inputs: Inputs,
    vocabulary: AnyVocabulary,
    batch_size: int,
) -> Iterator[Caption]:
    """The best caption of every input, in order."""
    batch_size = math.ceil(batch_size / jax.device_count()) * jax.device_count()
    local = devices.local_slice(batch_size)
    for first, (batch, count) in enumerate(eval_batches(inputs, batch_size)):
        numbers = np.arange(first * batch_size, (first + 1) * batch_size, dtype=np.int32)
        batch, numbers = devices.shard_batch((batch[local], numbers[local]))
        best = jax.tree.map(lambda x: np.asarray(x)[:, 0], decode(params, batch, numbers))
        for i in range(count):
            length = int(best.lengths[i])
            self_alpha = best.trace.get("self_alpha")
            words = vocabulary.decode(best.tokens[i, :length].tolist())
            yield Caption(
                tokens=(*words, EOS_WORD) if best.finished[i] else tuple(words),
                log_prob=float(best.log_probs[i]),
                score=float(best.scores[i]),
                alpha=best.trace["alpha"][i, :length],
                beta=best.trace["beta"][i, :length],
                location=best.trace["location"][i, :length],
                self_alpha=None if self_alpha is None else self_alpha[i, :length, :length],
            )


def texts(examples: ExampleSource, captions: Iterable[Caption]) -> dict[str, str]:
    """The text of each caption, by the id of its example."""
    return {name: caption.text for name, caption in zip(examples.ids, captions, strict=True)}


def caption_split(run: Run, split: str, decoding: Decode) -> tuple[ExampleSource, list[Caption]]:
    """The examples of a split and the caption of each."""
    examples = run.task.load(split)
    inputs = load_inputs(run.settings, run.task, examples, run.encoder, run.source_vocabulary)
    return examples, caption_examples(run, examples, inputs, decoding)


def caption_examples(
    run: Run, examples: ExampleSource, inputs: Inputs, decoding: Decode
) -> list[Caption]:
    """The caption of each example; `inputs` are the model's, see `runs.inputs.load_inputs`."""
    from rich.progress import track

    from show_attend_tell.terminal import Terminal

    decode = make_decode(run.model, decoding)
    captions = caption_inputs(decode, run.params, inputs, run.vocabulary, decoding.batch_size)
    bar = track(captions, "captions", total=len(examples), console=Terminal(stderr=True))
    return list(bar)


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


def caption_files(run: Run, subjects: Sequence[Subject], decoding: Decode) -> Iterator[Described]:
    """Captions pictures, which are read like training images.

    Reads, and holds in memory, `decoding.batch_size` pictures at a time; yields once for each such
    batch.
    """
    many = len(subjects) > decoding.batch_size
    for begin in range(0, len(subjects), decoding.batch_size):
        readable, images, wrong = [], [], []
        for subject in subjects[begin : begin + decoding.batch_size]:
            assert subject.picture is not None
            try:
                with naming(subject.name):
                    images.append(read_image(subject.picture, run.image_size))
                readable.append(subject)
            except UserError as error:
                wrong.append(str(error))
        # One size for all batches, so that nothing compiles twice.
        size = decoding.batch_size if many else None
        yield Described(readable, caption_images(run, images, decoding, size), wrong)


def caption_images(
    run: Run,
    images: Sequence[UInt8[np.ndarray, "S S 3"]],
    decoding: Decode,
    batch_size: int | None = None,
) -> list[Caption]:
    """Captions images as `images.read_image` returns them.

    Args:
      run: a trained run.
      images: what to caption.
      decoding: how to search for captions.
      batch_size: images decoded together; None: all, but at most `decoding.batch_size`.
    """
    if not images:
        return []
    batch_size = batch_size or min(len(images), decoding.batch_size)
    with ThreadPoolExecutor(1) as thread:
        # The program that decodes compiles while the encoder's compile and run.
        decode = thread.submit(_compiled_decode, run, decoding, batch_size)
        inputs = image_inputs(run, images)
        return list(caption_inputs(decode.result(), run.params, inputs, run.vocabulary, batch_size))


def _compiled_decode(run: Run, decoding: Decode, batch_size: int) -> DecodeFunction:
    """`make_decode` for images in batches of one size."""
    function = make_decode(run.model, decoding)
    if run.encoder.trained:
        return function
    shape = (batch_size, *row_shape(cast(ImageEncoder, run.encoder)))
    inputs = jax.ShapeDtypeStruct(shape, np.float16)
    numbers = jax.ShapeDtypeStruct((batch_size,), np.int32)
    name = f"decode {decoding} {structure(nnx.graphdef(run.model))}"
    return programs.compiled(name, function, run.params, inputs, numbers)


def image_inputs(run: Run, images: Sequence[UInt8[np.ndarray, "S S 3"]]) -> Inputs:
    """A model's inputs for images: their annotation vectors, unless its encoder was trained."""
    if run.encoder.trained:
        return np.stack(images)
    encoder = cast(ImageEncoder, run.encoder)
    return as_inputs(encoder, np.concatenate([annotate_one(encoder, image) for image in images]))


def translate(
    run: Run, sentences: Sequence[str], decoding: Decode
) -> tuple[list[Caption], list[int]]:
    """Translations of sentences, and the indices (from 0) of those that were cut."""
    if not sentences:
        return [], []
    assert run.source_vocabulary is not None
    inputs, cut = run.task.encode(sentences, run.source_vocabulary)
    decode = make_decode(run.model, decoding)
    captions = caption_inputs(decode, run.params, inputs, run.vocabulary, decoding.batch_size)
    return list(captions), cut


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
