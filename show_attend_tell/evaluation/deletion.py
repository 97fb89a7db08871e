"""Does a word go where the places that it looked at go?

Deletion: before a phrase's last word, a share of the places is replaced by the mean vector of the
training split, in the encoder's output, so that the initial state and the scene change, too. What
counts is the fall of the word's log-probability. Insertion begins with nothing but mean vectors and
puts a share of the places back; what counts is the rise. (Petsiuk et al. 2018, arXiv:1806.07421;
there with pixels.) The places go in the order of alpha at the word's step, largest first, or at
random.

Symbols: B words, T steps, L places, F features, O orders, S shares.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from show_attend_tell.evaluation.given_split import SEED, Words
from show_attend_tell.evaluation.readings import exact_marginal
from show_attend_tell.inference.run import Run
from show_attend_tell.models.attention import Annotations, read_context
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.product_form import exponentials, log_marginal
from show_attend_tell.models.recurrence import Memory
from show_attend_tell.objectives.likelihood import token_log_probs

WORDS_AT_ONCE = 100
SHARES = (0.05, 0.1, 0.2, 0.4, 0.6)  # of the places
SHARE = 0.2  # the one that tables show
RANDOM_ORDERS = 2  # for each of many words
MOST_WORDS = 2000  # phrases that are measured, drawn at random


def curves(run: Run, words: Words, mean: Float[np.ndarray, " F"]) -> dict[str, dict[str, Any]]:
    """The mean change of log p of words, in nats, when places are deleted or inserted.

    Args:
      run: a trained run.
      words: of which at most `MOST_WORDS` are measured.
      mean: the mean annotation vector of the training split.

    Returns:
      `deletion` and `insertion`, each with `words` (how many were measured), `share`, `ordered` and
      `random` (the change at that share, by order of the places), `shares`, `ordered_curve` and
      `random_curve` (the change at each share), `all` (at a share of 1), and `ordered_area` and
      `random_area` (the mean of the curve between the shares 0 and 1, by trapezoids).
    """
    drawn = words.drawn(MOST_WORDS)
    compute = _changes(nnx.graphdef(run.model), exact_marginal(run.settings))
    everything, sums = 0.0, np.zeros((2, 1 + RANDOM_ORDERS, len(SHARES)))
    for number, batch in enumerate(words.batches(drawn, WORDS_AT_ONCE)):
        key = jax.random.fold_in(jax.random.key(SEED), number)
        found = compute(run.params, batch.inputs, batch.tokens, batch.step, mean, key)
        counted = len(batch.step) - batch.filled
        everything += float(found[0][:counted].sum())
        sums += np.asarray(found[1])[..., :counted].sum(axis=-1)
    count = max(len(drawn), 1)
    both = zip(("deletion", "insertion"), sums / count, strict=True)
    return {name: _described(len(drawn), everything / count, of) for name, of in both}


def _described(words: int, everything: float, changes: Float[np.ndarray, "O S"]) -> dict[str, Any]:
    found: dict[str, Any] = {"words": words, "share": SHARE, "shares": list(SHARES)}
    found["all"] = everything
    for name, curve in (("ordered", changes[0]), ("random", changes[1:].mean(axis=0))):
        found[name] = float(curve[SHARES.index(SHARE)])
        found[f"{name}_curve"] = curve.tolist()
        area = np.trapezoid([0.0, *curve, everything], [0.0, *SHARES, 1.0])
        found[f"{name}_area"] = float(area)
    return found


def log_p_at(
    decoder: Decoder,
    memory: Memory,
    tokens: Int[Array, "B T"],
    step: Int[Array, " B"],
    mixture: bool,
) -> tuple[Float[Array, " B"], Float[Array, "B M"]]:
    """log p of one word of each text, in nats, and alpha at its step.

    Like `readings.log_probs`, with the output of one step instead of all.
    """
    out, texts = decoder.over(memory, tokens[:, None]), jnp.arange(len(tokens))
    embedded, h, log_alpha, beta = (
        x[texts, 0, step][:, None] for x in (out.embedded, out.h, out.log_alpha, out.beta)
    )
    word = tokens[texts, step][:, None]
    alpha = jnp.exp(log_alpha[:, 0])
    if mixture:
        factors = decoder.factors(memory, embedded, h, log_alpha)
        total, _ = log_marginal(exponentials(factors), word)
        return total[:, 0], alpha
    assert memory.annotations is not None
    context, _ = read_context(log_alpha, memory.annotations)
    logits = decoder.output(embedded, h, beta[..., None] * context, None, memory.scene)
    return token_log_probs(logits, word)[:, 0], alpha


@lru_cache(maxsize=4)
def _changes(graph: nnx.GraphDef, mixture: bool) -> Callable[..., tuple[Array, Array]]:
    """A jitted function of words: the fall of log p without any place, and all changes (2 O S B).

    Every place's vector and key depend on that place only. So they are computed twice, of the
    picture and of the mean vector, and chosen from for each of the many sets of places.
    """

    @jax.jit
    def run(
        params: Any,
        inputs: Array,
        tokens: Int[Array, "B T"],
        step: Int[Array, " B"],
        mean: Float[Array, " F"],
        key: Array,
    ) -> tuple[Float[Array, " B"], Float[Array, "2 O S B"]]:
        model: Captioner = nnx.merge(graph, params)
        decoder, given = model.decoder, model.annotations(inputs)
        blank = jnp.broadcast_to(mean.astype(given.vectors.dtype), given.vectors[:1].shape)
        own, without = (
            (vectors, decoder.memory(Annotations(vectors))) for vectors in (given.vectors, blank)
        )

        def after(deleted: Bool[Array, "B L"]) -> Float[Array, " B"]:
            memory = replaced(decoder, own, without, deleted)
            return log_p_at(decoder, memory, tokens, step, mixture)[0]

        _, alpha = log_p_at(decoder, own[1], tokens, step, mixture)
        count, places = given.vectors.shape[:2]
        noise = jax.random.uniform(key, (RANDOM_ORDERS, count, places))
        orders = jnp.concatenate([alpha[None, :, :places], noise])
        # Most places of a sparse map are equal, and as many of them as are asked for go at random.
        ties = jax.random.uniform(jax.random.fold_in(key, 1), orders.shape)
        rank = jnp.argsort(jnp.lexsort((ties, -orders), axis=-1), axis=-1)
        least = jnp.array([round(share * places) for share in SHARES])
        first = rank[:, None] < least[None, :, None, None]  # O S B L
        flat = first.reshape(-1, count, places)
        ends = jnp.zeros((1, count, places), bool)
        log_p = jax.lax.map(after, jnp.concatenate([ends, flat, ~flat, ~ends]))
        deleted, inserted = log_p[1 : 1 + len(flat)], log_p[1 + len(flat) : -1]
        changes = jnp.stack([log_p[:1] - deleted, inserted - log_p[-1:]])
        return log_p[0] - log_p[-1], changes.reshape(2, *first.shape[:3])

    return run


def replaced(
    decoder: Decoder,
    own: tuple[Float[Array, "B L F"], Memory],
    other: tuple[Float[Array, "1 L F"], Memory],
    which: Bool[Array, "B L"],
) -> Memory:
    """The memory of annotation vectors some of which were replaced.

    Args:
      decoder: that made the memories.
      own: annotation vectors, and the memory of them.
      other: the vectors to replace them, the same for all images, and the memory of them.
      which: the places to replace.
    """

    def mixed(mine: Float[Array, "B M _"], theirs: Float[Array, "1 M _"]) -> Float[Array, "B M _"]:
        null = ((0, 0), (0, mine.shape[1] - which.shape[1]))
        return jnp.where(jnp.pad(which, null)[..., None], theirs, mine)

    (vectors, memory), (blank, without) = own, other
    assert memory.annotations is not None and without.annotations is not None
    assert memory.keys is not None and without.keys is not None
    annotations = mixed(memory.annotations, without.annotations)
    read = annotations[:, : which.shape[1]]
    # The cache has half precision, in which large features cannot be standardised.
    encoded = mixed(vectors, blank).astype(jnp.float32)
    h0, c0 = decoder.begin(decoder.parts.to_begin_with(read, encoded, decoder.layer_norm), None)
    return memory._replace(
        annotations=annotations,
        keys=mixed(memory.keys, without.keys),
        h0=h0,
        c0=c0,
        scene=decoder.scene(encoded, None, None),
    )
