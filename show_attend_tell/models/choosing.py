"""One step of a search: which words may come next, and which extensions survive.

Symbols: as in `models.search`. The beams of an image form G groups of J = K / G. What belongs to a
group has the shape (B * G, J); with one group that is (B, K).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree


class Rules(NamedTuple):
    """Which words may come next."""

    eos: int
    never: Int[Array, " W"]  # words that are never emitted
    given: Int[Array, "B T"] | None  # words that must be emitted; negative where the search is free
    min_length: int = 1  # tokens of the shortest caption, <eos> included
    no_repeat: int = 0  # n: no sequence of n words occurs twice in a caption; 0: any may


class Sampling(NamedTuple):
    """How words are drawn."""

    # (step, (B, K, V)) -> standard Gumbel variables of that shape
    noise: Callable[[Int[Array, ""], tuple[int, ...]], Float[Array, "B K V"]]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


class Chosen(NamedTuple):
    """What survives a step. A group has J slots for ends, and J for hypotheses that continue."""

    closed: Float[Array, "b J"]  # log p of those that <eos> ends; -inf: none
    closed_parents: Int[Array, "b J"]  # the beam, of the K of the image, that each extends
    log_probs: Float[Array, "b J"]  # of those that continue
    parents: Int[Array, "b J"]
    words: Int[Array, "b J"]
    ranks: Float[Array, "b J"] | None = None  # what decides between them, if not their log p


def allowed(
    rules: Rules,
    logits: Float[Array, "B K V"],
    said: Int[Array, "B K T"] | None,
    time: Int[Array, ""],
) -> Float[Array, "B K V"]:
    """The model's log p of each next word, -inf for words that the rules forbid.

    The others do not inherit the probability of forbidden words. Given words keep no other rule. A
    caption that repeats itself with every word ends, however short it is.

    Args:
      rules: the rules.
      logits: of the model; they need not be normalised.
      said: words of the hypotheses before step `time`; needed for `no_repeat` only.
      time: the step, from 0.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    free = log_probs.at[:, :, rules.never].set(-jnp.inf)
    if rules.min_length > 1:
        short = time + 1 < rules.min_length
        free = free.at[:, :, rules.eos].add(jnp.where(short, -jnp.inf, 0.0))
    if rules.no_repeat:
        assert said is not None
        free = _without_repeats(free, said, time, rules.no_repeat)
        end = log_probs[:, :, rules.eos]
        stuck = (free == -jnp.inf).all(-1)
        free = free.at[:, :, rules.eos].set(jnp.where(stuck, end, free[:, :, rules.eos]))
    if rules.given is None:
        return free
    must = rules.given[:, time][:, None, None]
    only = jnp.where(jnp.arange(logits.shape[2])[None, None] == must, log_probs, -jnp.inf)
    return jnp.where(must >= 0, only, free)


def _without_repeats(
    log_probs: Float[Array, "B K V"], said: Int[Array, "B K T"], time: Int[Array, ""], n: int
) -> Float[Array, "B K V"]:
    """Forbids the words that would end a sequence of n words that a hypothesis has already said."""
    batch, beam, steps = said.shape
    windows = steps - n + 1
    if windows < 1:
        return log_probs
    last = [  # the n - 1 words before `time`; there may be fewer, but then no window has ended
        lax.dynamic_index_in_dim(said, jnp.maximum(time - n + 1 + j, 0), 2) for j in range(n - 1)
    ]
    repeats = jnp.broadcast_to(jnp.arange(windows) + n - 1 < time, (batch, beam, windows))
    for j, word in enumerate(last):
        repeats &= said[:, :, j : j + windows] == word
    index = np.ogrid[:batch, :beam, :1][:2]
    ends = said[:, :, n - 1 :]
    return log_probs.at[*index, ends].min(jnp.where(repeats, -jnp.inf, jnp.inf))


def filtered(
    log_probs: Float[Array, "*S V"], temperature: float, top_k: int, top_p: float
) -> Float[Array, "*S V"]:
    """The distribution that words are drawn from, as logits: in this order,

    - log-probabilities are divided by the temperature and normalised;
    - the `top_k` most probable words stay (Fan et al. 2018, arXiv:1805.04833, section 5.1), 0: all;
      then they are normalised again;
    - of these the most probable ones stay whose probabilities sum to `top_p` or just more: the
      nucleus (Holtzman et al. 2020, arXiv:1904.09751, section 3.1). The most probable word always
      stays.

    Equal words are taken in the order of their ids. The result is not normalised.

    Args:
      log_probs: of words; -inf for those that must not be drawn. They need not be normalised.
      temperature: above 0; the higher, the more even.
      top_k: at least 0; at V or more all words stay.
      top_p: in (0, 1].
    """
    scaled = log_probs if temperature == 1 else log_probs / temperature
    vocabulary = log_probs.shape[-1]
    if top_k in (0, vocabulary) and top_p == 1:
        return scaled
    best, words = lax.top_k(scaled, min(top_k or vocabulary, vocabulary))
    if top_p < 1:
        p = jax.nn.softmax(best)
        before = jnp.cumsum(p, -1) - p
        # In float32 `before` of the first word is 0 exactly.
        best = jnp.where(before < top_p, best, -jnp.inf)
    nothing = jnp.full_like(scaled, -jnp.inf)
    return jnp.put_along_axis(nothing, words, best, axis=-1, inplace=False)


def best(log_probs: Float[Array, "b J"], following: Float[Array, "b J V"], eos: int) -> Chosen:
    """Those among the J most probable extensions that end, and the J best others.

    Args:
      log_probs: of the hypotheses to extend.
      following: log p of each next word; -inf: forbidden.
      eos: the id of <eos>.
    """
    batch, beam, vocabulary = following.shape
    extended = following + log_probs[:, :, None]
    # At most J candidates end in <eos>, so the best 2 J hold the best J of the others.
    # (On a CPU one top_k over J * V is as fast as one per beam followed by one over the rest.)
    log_probs, index = lax.top_k(extended.reshape(batch, -1), 2 * beam)
    parents, words = jnp.divmod(index, vocabulary)
    ends = words == eos
    closed = jnp.where(ends, log_probs, -jnp.inf)[:, :beam]
    closed_parents = parents[:, :beam]
    log_probs, kept = lax.top_k(jnp.where(ends, -jnp.inf, log_probs), beam)
    words, parents = take((words, parents), kept)
    return Chosen(closed, closed_parents, log_probs, parents, words)


def diverse(
    log_probs: Float[Array, "b J"],
    ranks: Float[Array, "b J"],
    following: Float[Array, "B K V"],
    done: Bool[Array, "b 1"],
    eos: int,
    strength: float,
) -> Chosen:
    """Diverse beam search (Vijayakumar et al. 2018, arXiv:1610.02424, algorithm 1).

    The groups of an image choose one after the other, each as `best` does. A word costs a group
    `strength` for each hypothesis of the earlier groups that continues with it at this step
    (Hamming diversity). As in the authors' code, what a hypothesis has paid stays in its rank.

    Args:
      log_probs, ranks: of the hypotheses to extend: the model's log p, and that less what was paid.
      following: as for `best`.
      done: groups whose search has ended: their words cost nothing.
      eos: the id of <eos>.
      strength: nats.
    """
    batch, beam, vocabulary = following.shape
    size = log_probs.shape[1]
    images = np.arange(batch)[:, None]

    def choose(
        counts: Float[Array, "B V"], group: tuple[Array, ...]
    ) -> tuple[Float[Array, "B V"], Chosen]:
        log_probs, ranks, following, done, first = group
        found = best(ranks, following - strength * counts[:, None], eos)

        def log_p(ranks: Array, parents: Array, words: Array) -> Array:
            extended = log_probs[images, parents] + following[images, parents, words]
            return jnp.where(jnp.isfinite(ranks), extended, -jnp.inf)

        continues = jnp.isfinite(found.log_probs) & ~done
        return counts.at[images, found.words].add(continues), Chosen(
            log_p(found.closed, found.closed_parents, jnp.full_like(found.words, eos)),
            found.closed_parents + first,
            log_p(found.log_probs, found.parents, found.words),
            found.parents + first,
            found.words,
            ranks=found.log_probs,
        )

    def by_group(leaf: Array, *shape: int) -> Array:
        return jnp.moveaxis(leaf.reshape(batch, beam // size, *shape), 1, 0)

    groups = (
        *(by_group(leaf, size) for leaf in (log_probs, ranks)),
        by_group(following, size, vocabulary),
        by_group(done, 1),
        jnp.arange(0, beam, size),
    )
    _, found = lax.scan(choose, jnp.zeros((batch, vocabulary)), groups)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(-1, size), found)


def drawn(
    log_probs: Float[Array, "B K"],
    following: Float[Array, "B K V"],
    eos: int,
    sampling: Sampling,
    time: Int[Array, ""],
) -> Chosen:
    """One drawn extension of each hypothesis; `log_probs` stay the model's own.

    Args:
      log_probs, following, eos: as for `best`.
      sampling: how to draw.
      time: the step.
    """
    logits = filtered(following, sampling.temperature, sampling.top_k, sampling.top_p)
    words = jnp.argmax(logits + sampling.noise(time, logits.shape), -1)  # the Gumbel-max trick
    log_probs = log_probs + jnp.take_along_axis(following, words[..., None], -1)[..., 0]
    parents = jnp.broadcast_to(jnp.arange(words.shape[1])[None], words.shape)
    ends = words == eos
    closed, going = (jnp.where(e, log_probs, -jnp.inf) for e in (ends, ~ends))
    return Chosen(closed, parents, going, parents, words)


def take(tree: PyTree, index: Int[Array, "B N"]) -> PyTree:
    """leaf[b, index[b, n]] of every leaf (B, M, ...): (B, N, ...)."""
    images = np.arange(index.shape[0])[:, None]
    return jax.tree.map(lambda leaf: leaf[images, index], tree)
