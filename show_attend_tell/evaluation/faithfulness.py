"""Does what a run says depend on where it looked?

A model may point at a dog and say "dog" because its state told it so. Two questions:

Held-out likelihood under other readings. A run is teacher-forced on the references, once as it is
and then with what it reads changed; the initial state and the words stay. Readings:
    own            as trained
    uniform        every real place weighs the same
    shuffled       a step looks where it did, but the vectors of the image have changed places
    mean           every place holds the image's mean vector
    other_image    the places of another image
    none           vectors of zeros
The difference to `own`, in nats a token, is what attention is worth. The likelihood is that of the
run's own objective: the exact mixture over places where it was trained on it, else that of the
expected context (for REINFORCE no bound of its own likelihood: the reading that scores report).

Deletion. Before a phrase's last word, the places with the largest alpha are replaced by the mean
vector of the training split, in the encoder's output, so that the initial state changes, too. The
fall of the word's log-probability is compared with that after deleting as many places at random.

Symbols: B images, R texts, T steps, L places.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from show_attend_tell.data.batches import Inputs
from show_attend_tell.data.images import read_image
from show_attend_tell.evaluation.split_grounding import (
    SEED,
    Measured,
    measured,
    other_numbers,
)
from show_attend_tell.inference.forced import encoded_texts
from show_attend_tell.inference.run import Run
from show_attend_tell.models.attention import Annotations, mean_vector
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.product_form import log_marginal
from show_attend_tell.models.recurrence import Memory
from show_attend_tell.objectives.likelihood import token_log_probs
from show_attend_tell.runs.encoding import annotate
from show_attend_tell.runs.inputs import load_inputs
from show_attend_tell.tokens import PAD

READINGS = ("own", "uniform", "shuffled", "mean", "other_image", "none")
IMAGES_AT_ONCE = 25
WORDS_AT_ONCE = 100
SHARE = 0.2  # of the places that are deleted
RANDOM_ORDERS = 5
MEAN_OF = 100  # training images; each has many places
MOST_WORDS = 2000  # phrases that deletion is measured on, drawn at random


def log_probs(
    decoder: Decoder, memory: Memory, tokens: Int[Array, "B R T"], mixture: bool
) -> Float[Array, "B R T"]:
    """log p of the given words in nats: the exact `mixture`, or with the expected context."""
    out = decoder.over(memory, tokens)
    if not mixture:
        return token_log_probs(out.logits, tokens)
    assert out.factors is not None
    total, _ = log_marginal(out.factors, tokens.reshape(len(tokens), -1))
    return jnp.where(tokens == PAD, 0.0, total.reshape(tokens.shape))


def changed(
    memory: Memory, reading: str, order: Int[Array, " L"], others: Memory | None, places: int
) -> Memory:
    """A memory of which steps read something else; see the module.

    Args:
      memory: of some images.
      reading: one of `READINGS`.
      order: a permutation of the real places, for `shuffled`.
      others: the memory of another image for each, for `other_image`.
      places: L, without the null place.
    """
    a, keys = memory.annotations, memory.keys
    assert a is not None and keys is not None
    if reading == "uniform":
        mask = jnp.ones(keys.shape[:2], bool) if memory.mask is None else memory.mask
        real = mask & (jnp.arange(keys.shape[1]) < places)[None]
        return memory._replace(keys=jnp.broadcast_to(keys[:, :1], keys.shape), mask=real)
    if reading == "shuffled":
        return memory._replace(annotations=a.at[:, :places].set(a[:, order]))
    if reading == "mean":
        mask = None if memory.mask is None else memory.mask[:, :places]
        mean = mean_vector(a[:, :places], mask)[:, None].astype(a.dtype)
        return memory._replace(annotations=a.at[:, :places].set(mean))
    if reading == "other_image":
        assert others is not None
        return memory._replace(annotations=others.annotations, keys=others.keys, mask=others.mask)
    if reading == "none":
        return memory._replace(annotations=jnp.zeros_like(a))
    return memory


def likelihoods(
    run: Run, inputs: Inputs, tokens: Int[np.ndarray, "n R T"], others: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Minus the mean log-probability of a token, in nats, under every reading.

    Args:
      run: a trained run.
      inputs: of the images.
      tokens: the references of each image.
      others: another image for each.
    """
    compute = _likelihoods(nnx.graphdef(run.model), run.decoding.context == "mixture")
    sums, count = np.zeros(len(READINGS)), int((tokens != PAD).sum())
    for begin in range(0, len(tokens), IMAGES_AT_ONCE):
        numbers = np.arange(begin, min(begin + IMAGES_AT_ONCE, len(tokens)))
        filled = np.resize(numbers, IMAGES_AT_ONCE)
        texts = tokens[filled]
        texts[len(numbers) :] = PAD
        sums += np.asarray(compute(run.params, inputs[filled], inputs[others[filled]], texts))
    return dict(zip(READINGS, (-sums / max(count, 1)).tolist(), strict=True))


@lru_cache(maxsize=4)
def _likelihoods(graph: nnx.GraphDef, mixture: bool) -> Callable[..., Float[Array, " 6"]]:
    @jax.jit
    def run(params: Any, inputs: Array, of_others: Array, tokens: Array) -> Float[Array, " 6"]:
        model: Captioner = nnx.merge(graph, params)
        annotations = model.annotations(inputs)
        memory = model.decoder.memory(annotations)
        others = model.decoder.memory(model.annotations(of_others))
        places = annotations.vectors.shape[1]
        order = jax.random.permutation(jax.random.key(SEED), places)
        return jnp.stack(
            [
                log_probs(
                    model.decoder,
                    changed(memory, reading, order, others, places),
                    tokens,
                    mixture,
                ).sum()
                for reading in READINGS
            ]
        )

    return run


def deletion(
    run: Run,
    inputs: Inputs,
    tokens: Int[np.ndarray, "n R T"],
    found: Measured,
    mean: Float[np.ndarray, " F"],
) -> dict[str, int | float]:
    """The mean fall of log p of phrases' last words, in nats, when places are deleted.

    Args:
      run: a trained run.
      inputs: of the images.
      tokens: the descriptions of each image.
      found: the phrases.
      mean: the mean annotation vector of the training split.

    Returns:
      `words` (how many were measured), `share` (of the places), `ordered` (deleting those with the
      largest alpha) and `random`.
    """
    drawn = np.random.default_rng(SEED).permutation(len(found.steps))[:MOST_WORDS]
    compute = _deletion(nnx.graphdef(run.model), run.decoding.context == "mixture")
    falls = np.zeros(2)
    for begin in range(0, len(drawn), WORDS_AT_ONCE):
        part = drawn[begin : begin + WORDS_AT_ONCE]
        image, row, step = found.steps[np.resize(part, WORDS_AT_ONCE)].T
        texts = tokens[image, row][:, None]
        ordered, random = compute(run.params, inputs[image], texts, step, mean, begin)
        falls += [np.asarray(x)[: len(part)].sum() for x in (ordered, random)]
    ordered, random = (falls / max(len(drawn), 1)).tolist()
    return {"words": len(drawn), "share": SHARE, "ordered": ordered, "random": random}


@lru_cache(maxsize=4)
def _deletion(graph: nnx.GraphDef, mixture: bool) -> Callable[..., tuple[Array, Array]]:
    @jax.jit
    def run(params: Any, inputs: Array, tokens: Array, step: Array, mean: Array, number: Array):
        model: Captioner = nnx.merge(graph, params)
        given = model.annotations(inputs)
        images = jnp.arange(len(tokens))

        def of_word(vectors: Float[Array, "B L F"]) -> Float[Array, " B"]:
            memory = model.decoder.memory(Annotations(vectors, given.mask))
            return log_probs(model.decoder, memory, tokens, mixture)[images, 0, step]

        def without(scores: Float[Array, "B L"]) -> Float[Array, " B"]:
            """log p of the words without the places of the largest scores."""
            count = round(SHARE * scores.shape[1])
            rank = jnp.argsort(jnp.argsort(-scores, axis=-1), axis=-1)
            gone = (rank < count)[..., None]
            return of_word(jnp.where(gone, mean.astype(given.vectors.dtype), given.vectors))

        before = of_word(given.vectors)
        alpha = model.decoder(given, tokens).alpha[images, 0, step]
        alpha = alpha[:, : given.vectors.shape[1]]
        key = jax.random.fold_in(jax.random.key(SEED), number)
        random = [
            without(jax.random.uniform(jax.random.fold_in(key, k), alpha.shape))
            for k in range(RANDOM_ORDERS)
        ]
        return before - without(alpha), before - jnp.stack(random).mean(axis=0)

    return run


def split_faithfulness(run: Run, split: str) -> dict[str, Any] | None:
    """Measures on a split whether a run's words depend on where it looked.

    Returns:
      `nll` (nats a token under each reading) and `deletion` (None where no phrase has boxes, or the
      encoder is trained); None for a split of a single example.
    """
    examples = run.task.load(split)
    if len(examples) < 2:
        return None
    limit, encode = run.settings.data.max_length, run.vocabulary.encode_text
    inputs = load_inputs(run.settings, run.task, examples, run.encoder, run.source_vocabulary)
    captions = [[encode(text)[:limit] for text in texts] for texts in examples.captions()]
    others = other_numbers(examples.ids)
    nll = likelihoods(run, inputs, encoded_texts(captions, _most(captions)), others)
    descriptions = examples.descriptions()
    found = measured(examples.ids, descriptions, encode, limit)
    deleted = None
    if found.mentions and not run.encoder.trained:
        texts = [[encode(d.text)[:limit] for d in ds] for ds in descriptions]
        tokens = encoded_texts(texts, _most(texts))
        deleted = deletion(run, inputs, tokens, found, _mean_annotation(run))
    return {"nll": nll, "deletion": deleted}


def _most(texts: Sequence[Sequence[Sequence[int]]]) -> int:
    return max(map(len, texts))


def _mean_annotation(run: Run) -> Float[np.ndarray, " F"]:
    """The mean annotation vector of the first images of the training split."""
    train = run.task.load("train")
    graph, state = nnx.split(run.encoder)
    total, count = np.zeros(run.encoder.features), min(MEAN_OF, len(train))
    for i in range(count):
        image = read_image(train[i].image, run.image_size)
        total += np.asarray(annotate(graph, state, image[None])[0], np.float64)[0].mean(0)
    return (total / count).astype(np.float32)
