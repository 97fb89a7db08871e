"""Held-out likelihood: as trained, and where steps read something else.

A run is teacher-forced on the references, once as it is and then with what it reads changed; the
initial state and the words stay. Readings:

    own            as trained
    uniform        every real place weighs the same, but for a window's weights
    shuffled       a step looks where it did, but the vectors of the image have changed places
    mean           every place holds the image's mean vector
    other_image    the places of another input
    none           vectors of zeros

A state that reads a posterior still does, from the changed prior or places.

The difference to `own`, in nats a token, is what attention is worth. Hard attention whose places
can be summed out (see `exact_marginal`) is read as that mixture, all other with the expected
context. For soft attention and for the mixture this is the model's own likelihood. For other hard
attention it is neither the likelihood nor a bound of it, so `likelihood` states a bound: by
Jensen's inequality the mean of log p(y|s) over drawn places s is at most log p(y) (Xu et al. 2015,
eq. 10).

Symbols: B images, R texts, T steps, L places, M places with the null place.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from show_attend_tell.evaluation.given_split import SEED, GivenSplit
from show_attend_tell.models.attention import mean_vector
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.product_form import exponentials, log_marginal
from show_attend_tell.models.recurrence import Memory
from show_attend_tell.objectives.likelihood import token_log_probs
from show_attend_tell.objectives.sampling import TeacherForcing, draw_both, roll_out
from show_attend_tell.settings import Settings
from show_attend_tell.tokens import PAD

READINGS = ("own", "uniform", "shuffled", "mean", "other_image", "none")
IMAGES_AT_ONCE = 25
PATHS = 5  # for the bound: over 200 images of Flickr8k, sets of five agree within 0.01 nats a token


def exact_marginal(settings: Settings) -> bool:
    """Whether a run's likelihood is that of hard attention with the places summed out."""
    summed = settings.decoder.product_form and settings.attention.state_reads != "drawn"
    return settings.attention.hard and summed


def likelihood(given: GivenSplit, own: float) -> dict[str, Any]:
    """How probable the references are under the model, comparable across objectives.

    Args:
      given: a split.
      own: minus the mean log-probability of a token, of the reading `own`.

    Returns:
      `nats` (minus the mean log-probability of a token; words and <eos> are tokens), `perplexity`
      (e to that power), `tokens` (how many), `kind` and `paths`. Of kind `exact` the likelihood is
      the model's own. Of kind `bound` it is the mean over so many drawn `paths` of places, so the
      model's perplexity is at most the one stated, up to the draws; else `paths` is None. Figures
      compare where vocabularies are the same.
    """
    settings, paths = given.run.settings, None
    if settings.draws_places and not exact_marginal(settings):
        own, paths = _nats_of_paths(given), PATHS
    return {
        "nats": own,
        "perplexity": math.exp(own),
        "tokens": _count(given),
        "kind": "bound" if paths else "exact",
        "paths": paths,
    }


def log_probs(
    decoder: Decoder, memory: Memory, tokens: Int[Array, "B R T"], mixture: bool
) -> Float[Array, "B R T"]:
    """log p of the given words in nats: the exact `mixture`, or with the expected context."""
    out = decoder.over(memory, tokens)
    if not mixture:
        return token_log_probs(out.logits, tokens)
    assert out.factors is not None
    total, _ = log_marginal(exponentials(out.factors), tokens.reshape(len(tokens), -1))
    return jnp.where(tokens == PAD, 0.0, total.reshape(tokens.shape))


def changed(
    memory: Memory, others: Memory, reading: int | Int[Array, ""], order: Int[Array, " L"]
) -> Memory:
    """A memory of which steps read something else; see the module.

    Args:
      memory: of some images, with a mask.
      others: the memory of another image for each, for `other_image`.
      reading: index into `READINGS`; may be traced.
      order: a permutation of the places, for `shuffled`; of an input with padding behind its real
        places, these change places with each other in this order.
    """
    a, keys, mask = memory.annotations, memory.keys, memory.mask
    assert a is not None and keys is not None and mask is not None
    places = len(order)
    real = mask & (jnp.arange(keys.shape[1]) < places)[None]
    mean = mean_vector(a[:, :places], mask[:, :places])[:, None].astype(a.dtype)
    ranks = jnp.argsort(order)
    moved = jnp.argsort(jnp.where(mask[:, :places], ranks, places + ranks), axis=1)
    shuffled = jnp.take_along_axis(a[:, :places], moved[..., None], axis=1)
    made = {
        "own": memory,
        "uniform": memory._replace(keys=jnp.broadcast_to(keys[:, :1], keys.shape), mask=real),
        "shuffled": memory._replace(annotations=a.at[:, :places].set(shuffled)),
        "mean": memory._replace(annotations=a.at[:, :places].set(mean)),
        "other_image": memory._replace(
            annotations=others.annotations,
            keys=others.keys,
            mask=others.mask,
            extent=others.extent,
        ),
        "none": memory._replace(annotations=jnp.zeros_like(a)),
    }
    which = jnp.asarray(reading, jnp.int32)
    return jax.tree.map(lambda *of: jax.lax.select_n(which, *of), *(made[r] for r in READINGS))


def remember(model: Captioner, inputs: Array) -> Memory:
    """The decoder's memory of inputs, with a mask."""
    memory = model.decoder.memory(model.annotations(inputs))
    assert memory.keys is not None
    mask = jnp.ones(memory.keys.shape[:2], bool) if memory.mask is None else memory.mask
    return memory._replace(mask=mask)


def nats_of_readings(given: GivenSplit) -> dict[str, float]:
    """Minus the mean log-probability of a token, in nats, under every reading.

    `other_image` is left out where there is none.
    """
    run = given.run
    graph = nnx.graphdef(run.model)
    recall, total = _recall(graph), _total(graph, exact_marginal(run.settings))
    others = np.arange(len(given.examples)) if given.others is None else given.others
    sums = np.zeros(len(READINGS))
    for numbers, tokens in _batches(given):
        memories = [recall(run.params, given.inputs[of]) for of in (numbers, others[numbers])]
        sums += [total(run.params, *memories, tokens, k) for k in range(len(READINGS))]
    nats: dict[str, float] = dict(zip(READINGS, (-sums / _count(given)).tolist(), strict=True))
    if given.others is None:
        del nats["other_image"]
    return nats


def _nats_of_paths(given: GivenSplit) -> float:
    """The same along paths of places, of words and pictures, the mean over `PATHS` draws."""
    run = given.run
    along, key, total = _along(nnx.graphdef(run.model)), jax.random.key(SEED), 0.0
    for begin, (numbers, tokens) in enumerate(_batches(given)):
        for path in range(PATHS):
            drawn = jax.random.fold_in(jax.random.fold_in(key, begin), path)
            total += float(along(run.params, given.inputs[numbers], tokens, drawn))
    return -total / PATHS / _count(given)


def _count(given: GivenSplit) -> int:
    return max(int((given.references != PAD).sum()), 1)


def _batches(given: GivenSplit) -> Iterator[tuple[Int[np.ndarray, " B"], Int[np.ndarray, "B R T"]]]:
    """Numbers of images and their references, always as many; those that fill up are padding."""
    tokens = given.references
    for begin in range(0, len(tokens), IMAGES_AT_ONCE):
        numbers = np.arange(begin, min(begin + IMAGES_AT_ONCE, len(tokens)))
        filled = np.resize(numbers, IMAGES_AT_ONCE)
        texts = tokens[filled]
        texts[len(numbers) :] = PAD
        yield filled, texts


@lru_cache(maxsize=4)
def _recall(graph: nnx.GraphDef) -> Callable[[Any, Any], Memory]:
    return jax.jit(lambda params, inputs: remember(nnx.merge(graph, params), inputs))


@lru_cache(maxsize=4)
def _total(graph: nnx.GraphDef, mixture: bool) -> Callable[..., Float[Array, ""]]:
    """A jitted function: the sum of log p over all tokens, under any reading."""

    @jax.jit
    def run(
        params: Any,
        memory: Memory,
        others: Memory,
        tokens: Int[Array, "B R T"],
        reading: Int[Array, ""],
    ) -> Float[Array, ""]:
        decoder = nnx.merge(graph, params).decoder
        assert memory.keys is not None
        places = memory.keys.shape[1] - (decoder.attention.null_key is not None)
        order = jax.random.permutation(jax.random.key(SEED), places)
        read = changed(memory, others, reading, order)
        return log_probs(decoder, read, tokens, mixture).sum()

    return run


@lru_cache(maxsize=4)
def _along(graph: nnx.GraphDef) -> Callable[..., Float[Array, ""]]:
    """A jitted function: the sum of log p over all tokens, along paths of places that it draws."""

    @jax.jit
    def run(params: Any, inputs: Array, tokens: Int[Array, "B R T"], key: Array) -> Array:
        model: Captioner = nnx.merge(graph, params)
        given = TeacherForcing(model.decoder, model.annotations(inputs), tokens, key)
        choice = draw_both(given, samples=1, soft_probability=0.0, coin="image")
        return roll_out(model.decoder, given.annotations, tokens, None, choice).log_probs.sum()

    return run
