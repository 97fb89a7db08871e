"""Beam search and sampling over a step function, in fixed shapes, knowing nothing of the model.

Symbols: B images, K beams, N samples, T = `max_length` steps, V words. A beam is one of the K slots
of an image's unfinished hypotheses.

A hypothesis is a word sequence, finished when <eos> closes it. Its score is
log p / length ** length_penalty, where length counts the emitted tokens, <eos> included: a penalty
of 0 compares sums of log-probabilities, 1 compares means per token. (Wu et al. 2016,
arXiv:1609.08144, equation 14, divide by ((5 + length) / 6) ** length_penalty instead: the two
exponents are not interchangeable.)
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from show_attend_tell.errors import UserError

# step(state, words) -> (logits, state, trace); every leaf of state and trace is (B, K, ...).
Step = Callable[[PyTree, Int[Array, "B K"]], tuple[Float[Array, "B K V"], PyTree, PyTree]]


class Hypotheses(NamedTuple):
    """The K hypotheses of each image: finished before unfinished, then by falling score.

    If the search found fewer than K hypotheses, the slots left over have length 0 and
    log-probability -inf.
    """

    tokens: Int[Array, "B K T"]  # words, <eos> where finished, then <pad>
    lengths: Int[Array, "B K"]  # emitted tokens, <eos> included
    log_probs: Float[Array, "B K"]  # the model's log p of those tokens, in nats
    scores: Float[Array, "B K"]  # log_probs / lengths ** length_penalty
    finished: Bool[Array, "B K"]  # closed by <eos> within T steps
    trace: PyTree  # leaves (B, K, T, ...): what `step` emitted with each token, then zeros


class _Pool(NamedTuple):
    """Hypotheses without their histories. Every field is (B, K)."""

    log_probs: Float[Array, "B K"]  # -inf: an empty slot
    scores: Float[Array, "B K"]
    lengths: Int[Array, "B K"]
    beams: Int[Array, "B K"]  # the beam from which to trace the history back


class _Search(NamedTuple):
    """What the loop carries."""

    time: Int[Array, ""]
    state: PyTree  # leaves (B, K, ...)
    words: Int[Array, "B K"]  # last word of each unfinished hypothesis
    unfinished: _Pool
    finished: _Pool
    done: Bool[Array, "B 1"]  # the search of this image has ended: its pools no longer change
    history: PyTree  # (words, parents, trace) of every step; leaves (T, B, K, ...)


class _Words(NamedTuple):
    """Word ids with a meaning."""

    bos: int
    eos: int
    pad: int
    never: Int[Array, " W"]  # those that are never emitted
    given: Int[Array, "B T"] | None  # words that must be emitted; negative where the search is free


def beam_search(
    step: Step,
    state: PyTree,
    *,
    batch: int,
    beam: int,
    max_length: int,
    bos: int,
    eos: int,
    pad: int,
    banned: tuple[int, ...] = (),
    length_penalty: float,
    given: Int[Array, "B T"] | None = None,
) -> Hypotheses:
    """The K best captions of each image that a beam of K finds, with the trace of each.

    At every step the candidates are all one-word extensions of the K unfinished hypotheses. A
    candidate that ends in <eos> finishes if it is among the K most probable. The K most probable
    others continue, so finished hypotheses never displace unfinished ones. The search of an image
    ends

    - when K hypotheses have finished and no unfinished one scores better at its present length. A
      beam of 1 is therefore greedy decoding, for any length penalty. Without the second condition K
      poor early ends would cut off a much better caption;
    - when no unfinished hypothesis can still beat the best finished one. Log-probabilities only
      fall (log p' <= log p <= 0) and a length never exceeds T, so for a penalty >= 0 every
      completion scores log p' / length ** penalty <= log p / T ** penalty. This exit never changes
      the first hypothesis; those behind it are the ones found so far;
    - after T steps.

    Finished hypotheses are ranked before unfinished ones whatever their scores, so an unfinished
    hypothesis comes first only if none finished. Equal candidates are taken in the order of beam,
    then word id; of equal hypotheses the one that finished earlier comes first. An image's result
    does not depend on the others in its batch.

    Pure and jit-able; every argument but `state`, `given` and the arrays `step` closes over is
    static.

    Args:
      step: one decoding step, see `Step`. The logits need not be normalised. `step` closes over
        what the beams of an image share (annotation vectors, their keys). These are not part of the
        state, so they are never copied per beam nor re-ordered.
      state: initial state; every leaf is (B, ...) and is repeated here for the K beams.
      batch: B.
      beam: K >= 1.
      max_length: T >= 1, the largest number of tokens, <eos> included.
      bos: id fed at the first step; never emitted.
      eos: id that closes a hypothesis.
      pad: id that fills `tokens` behind the end; never emitted.
      banned: further ids never to emit, such as <unk>. The other words do not inherit their
        probability: log-probabilities stay the model's.
      length_penalty: exponent >= 0 of the length, see the module's docstring.
      given: words that the captions must have at these steps, such as a beginning; negative where
        the search is free. They may be banned words, and count with the model's log-probabilities.

    Raises:
      UserError: beam or max_length below 1, a negative length penalty, or <eos> banned.
    """
    if beam < 1 or max_length < 1:
        raise UserError(f"beam ({beam}) and max_length ({max_length}) must be at least 1")
    if length_penalty < 0:
        raise UserError(f"length_penalty is {length_penalty}; it must be 0 (none) or more")
    if eos in banned:
        raise UserError("<eos> is among the banned words, so no caption could end; remove it")
    ids = _Words(bos, eos, pad, jnp.array(sorted({bos, pad, *banned})), given)
    divisors = jnp.arange(1, max_length + 1, dtype=jnp.float32) ** length_penalty
    search = lax.while_loop(
        lambda search: (search.time < max_length) & ~search.done.all(),
        partial(_advance, step, ids, divisors),
        _start(step, state, ids, batch, beam, max_length),
    )
    return _collect(search, ids)


def _start(
    step: Step, state: PyTree, ids: _Words, batch: int, beam: int, max_length: int
) -> _Search:
    """The search before its first step."""
    first = jnp.full((batch, beam), ids.bos)
    state = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], beam, axis=1), state)
    trace = jax.eval_shape(step, state, first)[2]
    nothing = jnp.full((batch, beam), -jnp.inf)
    beams = jnp.broadcast_to(jnp.arange(beam)[None], (batch, beam))
    empty = _Pool(nothing, nothing, jnp.zeros_like(first), beams)
    return _Search(
        time=jnp.array(0),
        state=state,
        words=first,
        # The beams start equal: only the first is alive, or all K would stay equal.
        unfinished=empty._replace(log_probs=nothing.at[:, 0].set(0.0)),
        finished=empty,
        done=jnp.zeros((batch, 1), bool),
        history=jax.tree.map(
            lambda leaf: jnp.zeros((max_length, *leaf.shape), leaf.dtype), (first, first, trace)
        ),
    )


def _advance(step: Step, ids: _Words, divisors: Float[Array, " T"], search: _Search) -> _Search:
    """The search after one more step.

    Args:
      divisors: length ** length_penalty for the lengths 1 to T.
    """
    batch, beam = search.words.shape
    logits, state, trace = step(search.state, search.words)
    given = None if ids.given is None else ids.given[:, search.time]
    log_probs, parents, words = _best_extensions(logits, search.unfinished.log_probs, ids, given)
    ends = words == ids.eos

    lengths = jnp.full((batch, beam), search.time + 1)
    divisor = divisors[search.time]
    closed = jnp.where(ends, log_probs, -jnp.inf)[:, :beam]
    closed = _Pool(closed, closed / divisor, lengths, parents[:, :beam])
    closed = _join(search.finished, closed)
    finished = _take(closed, lax.top_k(closed.scores, beam)[1])

    log_probs, kept = lax.top_k(jnp.where(ends, -jnp.inf, log_probs), beam)
    words, parents = _take((words, parents), kept)
    unfinished = _Pool(log_probs, log_probs / divisor, lengths, search.unfinished.beams)

    finished, unfinished = jax.tree.map(
        lambda old, new: jnp.where(search.done, old, new),
        (search.finished, search.unfinished),
        (finished, unfinished),
    )
    return _Search(
        time=search.time + 1,
        state=_take(state, parents),
        words=words,
        unfinished=unfinished,
        finished=finished,
        done=_is_done(finished, unfinished, divisors[-1]),
        history=jax.tree.map(
            lambda leaf, now: leaf.at[search.time].set(now),
            search.history,
            (words, parents, trace),
        ),
    )


def _best_extensions(
    logits: Float[Array, "B K V"],
    log_probs: Float[Array, "B K"],
    ids: _Words,
    given: Int[Array, " B"] | None,
) -> tuple[Float[Array, "B M"], Int[Array, "B M"], Int[Array, "B M"]]:
    """Log-probabilities, parent beams and last words of the M = 2 K most probable extensions.

    Args:
      log_probs: of the hypotheses to extend.
      given: the word that must come next; negative: any.
    """
    batch, beam, vocabulary = logits.shape
    said = jax.nn.log_softmax(logits.astype(jnp.float32))
    extended = said.at[:, :, ids.never].set(-jnp.inf)
    if given is not None:
        must = given[:, None, None]
        only = jnp.where(jnp.arange(vocabulary)[None, None] == must, said, -jnp.inf)
        extended = jnp.where(must >= 0, only, extended)
    extended += log_probs[:, :, None]
    # At most K candidates end in <eos>, so the best 2 K hold the best K of the others.
    # (On a CPU one top_k over K * V is as fast as one per beam followed by one over the rest.)
    best, index = lax.top_k(extended.reshape(batch, -1), 2 * beam)
    return best, *jnp.divmod(index, vocabulary)


def _is_done(
    finished: _Pool, unfinished: _Pool, last_divisor: Float[Array, ""]
) -> Bool[Array, "B 1"]:
    """Whether an image's search may end; `beam_search` gives the two reasons."""
    full = jnp.isfinite(finished.log_probs).all(1, keepdims=True)
    best = finished.scores.max(1, keepdims=True)
    behind = unfinished.scores.max(1, keepdims=True) <= best
    bound = unfinished.log_probs.max(1, keepdims=True) / last_divisor
    return (full & behind) | (bound <= best)


def _collect(search: _Search, ids: _Words) -> Hypotheses:
    """The best K hypotheses of a search that has ended."""
    # Both pools are sorted (the unfinished of an image share one length): move the empty slots to
    # the end and keep K.
    beam = search.words.shape[1]
    both = _join(search.finished, search.unfinished)
    order = lax.top_k(jnp.isfinite(both.log_probs).astype(jnp.int32), beam)[1]
    best = _take(both, order)
    exists = jnp.isfinite(best.log_probs)
    closed = exists & (order < beam)
    lengths = jnp.where(exists, best.lengths, 0)
    tokens, trace = _retrace(search.history, best.beams, lengths, closed, ids)
    return Hypotheses(tokens, lengths, best.log_probs, best.scores, closed, trace)


def _retrace(
    history: PyTree,
    beams: Int[Array, "B K"],
    lengths: Int[Array, "B K"],
    closed: Bool[Array, "B K"],
    ids: _Words,
) -> tuple[Int[Array, "B K T"], PyTree]:
    """Tokens and trace of hypotheses, from the last step back to the first.

    Args:
      history: of `_Search`.
      beams: the beam of each hypothesis after its last step; if it is closed, before that.
      closed: whether <eos> ends it.
    """

    def step_back(beams, at):
        """One step back; `beams` are those after that step."""
        time, (words, parents, trace) = at
        emitted = time < lengths
        final = closed & (time == lengths - 1)  # <eos> itself was never among the unfinished
        words = jnp.where(final, ids.eos, _take(words, beams))
        beams = jnp.where(emitted & ~final, _take(parents, beams), beams)
        trace = jax.tree.map(
            lambda leaf: jnp.where(jnp.expand_dims(emitted, range(2, leaf.ndim)), leaf, 0),
            _take(trace, beams),
        )
        return beams, (jnp.where(emitted, words, ids.pad), trace)

    steps = jnp.arange(len(history[0]))
    _, retraced = lax.scan(step_back, beams, (steps, history), reverse=True)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 2), retraced)


def sample(
    step: Step,
    state: PyTree,
    key: PRNGKeyArray,
    *,
    batch: int,
    samples: int,
    max_length: int,
    bos: int,
    eos: int,
    pad: int,
    banned: tuple[int, ...] = (),
) -> Int[Array, "B N T"]:
    """N captions of each image, drawn word by word from the model's distribution.

    Pure and jit-able; every argument but `state`, `key` and the arrays `step` closes over is
    static. Sampling ends as soon as all captions have ended.

    Args:
      step: one decoding step, see `Step`, with K = N. Its trace is not used.
      state: initial state; every leaf is (B, N, ...).
      key: of all draws.
      batch, samples: B and N.
      max_length: T, the largest number of tokens, <eos> included; longer captions are cut there.
      bos, eos, pad, banned: as for `beam_search`, except that the other words inherit the
        probability of those never emitted (see `without`).

    Returns:
      Words, <eos> where the caption ended within T steps, then <pad>.
    """
    never = (bos, pad, *banned)

    def advance(carried):
        time, state, words, ended, tokens = carried
        logits, state, _ = step(state, words)
        drawn = jax.random.categorical(jax.random.fold_in(key, time), without(logits, never))
        words = jnp.where(ended, pad, drawn)
        return time + 1, state, words, ended | (words == eos), tokens.at[time].set(words)

    words = jnp.full((batch, samples), bos)
    initial = (0, state, words, words == eos, jnp.full((max_length, batch, samples), pad))
    tokens = lax.while_loop(lambda c: (c[0] < max_length) & ~c[3].all(), advance, initial)[-1]
    return jnp.moveaxis(tokens, 0, 2)


def without(logits: Float[Array, "*S V"], words: tuple[int, ...]) -> Float[Array, "*S V"]:
    """The logits of a distribution in which some words do not exist."""
    return logits.at[..., jnp.array(words)].set(-jnp.inf)


def _join(first: _Pool, second: _Pool) -> _Pool:
    return jax.tree.map(lambda *fields: jnp.concatenate(fields, 1), first, second)


def _take(tree: PyTree, index: Int[Array, "B N"]) -> PyTree:
    """leaf[b, index[b, n]] of every leaf (B, M, ...): (B, N, ...)."""
    images = np.arange(index.shape[0])[:, None]
    return jax.tree.map(lambda leaf: leaf[images, index], tree)
