"""Beam search and sampling over a step function, in fixed shapes, knowing nothing of the model.

Symbols: B images, K beams, N samples, T = `max_length` steps, V words. A beam is one of the K slots
of an image's unfinished hypotheses. Beams may form G groups of J = K / G; without groups G = 1.

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
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from show_attend_tell.errors import UserError
from show_attend_tell.models import choosing
from show_attend_tell.models.choosing import Rules, Sampling, take

# step(state, words) -> (logits, state, trace); every leaf of state and trace is (B, K, ...).
Step = Callable[[PyTree, Int[Array, "B K"]], tuple[Float[Array, "B K V"], PyTree, PyTree]]


class Hypotheses(NamedTuple):
    """The K hypotheses of each image: finished before unfinished, then by falling score.

    If the search found fewer than K hypotheses, the slots left over have length 0 and
    log-probability -inf. With groups, each contributes its own J hypotheses.
    """

    tokens: Int[Array, "B K T"]  # words, <eos> where finished, then <pad>
    lengths: Int[Array, "B K"]  # emitted tokens, <eos> included
    log_probs: Float[Array, "B K"]  # the model's log p of those tokens, in nats
    scores: Float[Array, "B K"]  # log_probs / lengths ** length_penalty
    finished: Bool[Array, "B K"]  # closed by <eos> within T steps
    trace: PyTree  # leaves (B, K, T, ...): what `step` emitted with each token, then zeros
    # log p of each token given those before it, then zeros; None unless asked for.
    token_log_probs: Float[Array, "B K T"] | None = None


class _Pool(NamedTuple):
    """Hypotheses without their histories. Every field is (B * G, J)."""

    log_probs: Float[Array, "b J"]  # -inf: an empty slot
    scores: Float[Array, "b J"]
    lengths: Int[Array, "b J"]
    beams: Int[Array, "b J"]  # the beam from which to trace the history back


class _Search(NamedTuple):
    """What the loop carries."""

    time: Int[Array, ""]
    state: PyTree  # leaves (B, K, ...)
    words: Int[Array, "B K"]  # last word of each unfinished hypothesis
    unfinished: _Pool
    finished: _Pool
    done: Bool[Array, "b 1"]  # the search of this group has ended: its pools no longer change
    history: PyTree  # (words, parents, trace) of every step; leaves (T, B, K, ...)
    said: Int[Array, "B K T"] | None = None  # words of the unfinished, if a rule asks for them
    ranks: Float[Array, "b J"] | None = None  # of the unfinished, see `choosing.diverse`


class _Method(NamedTuple):
    """What stays the same in all steps."""

    bos: int
    pad: int
    rules: Rules
    divisors: Float[Array, " T"]  # length ** length_penalty for the lengths 1 to T
    groups: int
    diversity: float
    sampling: Sampling | None
    per_token: bool
    several: bool


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
    min_length: int = 1,
    no_repeat: int = 0,
    groups: int = 1,
    diversity: float = 0.0,
    sampling: Sampling | None = None,
    per_token: bool = False,
    several: bool = False,
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
      the first hypothesis, but those behind it may be cut off. With `several` it is not taken;
    - after T steps.

    Finished hypotheses are ranked before unfinished ones whatever their scores, so an unfinished
    hypothesis comes first only if none finished. Equal candidates are taken in the order of beam,
    then word id; of equal hypotheses the one that finished earlier comes first. An image's result
    does not depend on the others in its batch.

    With `groups` each group of J beams is such a search of its own, but for the diversity that
    `choosing.diverse` asks of it. With `sampling` there is no search: each beam holds one caption,
    drawn word by word from the model's distribution, filtered. It ends when all have ended.

    Pure and jit-able; every argument but `state`, `given` and the arrays `step` and `sampling`
    close over is static. Options that are not used leave the program as it is without them.

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
        They obey no other rule either.
      min_length: tokens, <eos> included, before which no caption ends.
      no_repeat: n >= 1: no caption says the same n words twice; 0: any may.
      groups: G, a divisor of K.
      diversity: nats that a word costs for each hypothesis of an earlier group that says it.
      sampling: draw captions; None: search.
      per_token: whether to return the log-probability of each token.
      several: whether hypotheses behind the first matter, too.

    Raises:
      UserError: an option out of range, options that exclude each other, or <eos> banned.
    """
    _check(beam, max_length, length_penalty, min_length, groups)
    if eos in banned:
        raise UserError("<eos> is among the banned words, so no caption could end; remove it")
    if sampling and groups > 1:
        raise UserError(f"{groups} groups of beams: captions that are drawn form none")
    never = jnp.array(sorted({bos, pad, *banned}))
    rules = Rules(eos, never, given, min_length, no_repeat)
    divisors = jnp.arange(1, max_length + 1, dtype=jnp.float32) ** length_penalty
    method = _Method(bos, pad, rules, divisors, groups, diversity, sampling, per_token, several)
    search = lax.while_loop(
        lambda search: (search.time < max_length) & ~search.done.all(),
        partial(_advance, step, method),
        _start(step, state, method, batch, beam, max_length),
    )
    return _collect(search, method)


def _check(beam: int, max_length: int, length_penalty: float, min_length: int, groups: int) -> None:
    if beam < 1 or max_length < 1:
        raise UserError(f"beam ({beam}) and max_length ({max_length}) must be at least 1")
    if length_penalty < 0:
        raise UserError(f"length_penalty is {length_penalty}; it must be 0 (none) or more")
    if not 1 <= min_length <= max_length:
        raise UserError(f"min_length is {min_length}; it must lie in [1, {max_length}]")
    if groups < 1 or beam % groups:
        raise UserError(f"a beam of {beam} does not divide into {groups} equal groups")


def _start(
    step: Step, state: PyTree, method: _Method, batch: int, beam: int, max_length: int
) -> _Search:
    """The search before its first step."""
    first = jnp.full((batch, beam), method.bos)
    state = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], beam, axis=1), state)
    trace = jax.eval_shape(step, state, first)[2]
    if method.per_token:
        trace = trace, jax.ShapeDtypeStruct(first.shape, jnp.float32)
    grouped = batch * method.groups, beam // method.groups
    nothing = jnp.full(grouped, -jnp.inf)
    beams = jnp.broadcast_to(jnp.arange(beam)[None], (batch, beam)).reshape(grouped)
    empty = _Pool(nothing, nothing, jnp.zeros(grouped, first.dtype), beams)
    # Beams start equal: only the first of a group is alive, or all of them would stay equal. Those
    # that hold drawn captions part by themselves.
    alive = nothing.at[:, 0].set(0.0) if method.sampling is None else jnp.zeros(grouped)
    return _Search(
        time=jnp.array(0),
        state=state,
        words=first,
        unfinished=empty._replace(log_probs=alive),
        finished=empty,
        done=jnp.zeros((grouped[0], 1), bool),
        history=jax.tree.map(
            lambda leaf: jnp.zeros((max_length, *leaf.shape), leaf.dtype), (first, first, trace)
        ),
        said=jnp.zeros((batch, beam, max_length), int) if method.rules.no_repeat else None,
        ranks=alive if method.groups > 1 else None,
    )


def _advance(step: Step, method: _Method, search: _Search) -> _Search:
    """The search after one more step."""
    batch, beam = search.words.shape
    logits, state, trace = step(search.state, search.words)
    following = choosing.allowed(method.rules, logits, search.said, search.time)
    chosen = _choose(method, search, following)
    words, parents = (x.reshape(batch, beam) for x in (chosen.words, chosen.parents))
    if method.per_token:
        trace = trace, search.unfinished.log_probs.reshape(batch, beam)

    lengths = jnp.full(chosen.closed.shape, search.time + 1)
    divisor = method.divisors[search.time]
    closed = _Pool(chosen.closed, chosen.closed / divisor, lengths, chosen.closed_parents)
    closed = _join(search.finished, closed)
    finished = take(closed, lax.top_k(closed.scores, lengths.shape[1])[1])
    log_probs = chosen.log_probs
    unfinished = _Pool(log_probs, log_probs / divisor, lengths, search.unfinished.beams)

    finished, unfinished = jax.tree.map(
        lambda old, new: jnp.where(search.done, old, new),
        (search.finished, search.unfinished),
        (finished, unfinished),
    )
    said = search.said
    if said is not None:
        said = take(said, parents).at[:, :, search.time].set(words)
    return _Search(
        time=search.time + 1,
        state=take(state, parents),
        words=words,
        unfinished=unfinished,
        finished=finished,
        done=_is_done(finished, unfinished, method),
        history=jax.tree.map(
            lambda leaf, now: leaf.at[search.time].set(now),
            search.history,
            (words, parents, trace),
        ),
        said=said,
        ranks=chosen.ranks,
    )


def _choose(method: _Method, search: _Search, following: Float[Array, "B K V"]) -> choosing.Chosen:
    """The extensions of the hypotheses that survive."""
    log_probs, eos = search.unfinished.log_probs, method.rules.eos
    if method.sampling is not None:
        return choosing.drawn(log_probs, following, eos, method.sampling, search.time)
    if search.ranks is not None:
        return choosing.diverse(
            log_probs, search.ranks, following, search.done, eos, method.diversity
        )
    return choosing.best(log_probs, following, eos)


def _is_done(finished: _Pool, unfinished: _Pool, method: _Method) -> Bool[Array, "b 1"]:
    """Whether a group's search may end; `beam_search` gives the reasons."""
    if method.sampling is not None:
        return ~jnp.isfinite(unfinished.log_probs).any(1, keepdims=True)
    full = jnp.isfinite(finished.log_probs).all(1, keepdims=True)
    best = finished.scores.max(1, keepdims=True)
    behind = unfinished.scores.max(1, keepdims=True) <= best
    bound = unfinished.log_probs.max(1, keepdims=True) / method.divisors[-1]
    return (full & behind) | (bound <= (-jnp.inf if method.several else best))


def _collect(search: _Search, method: _Method) -> Hypotheses:
    """The best K hypotheses of a search that has ended."""
    # Both pools of a search are sorted (the unfinished of an image share one length): move the
    # empty slots to the end and keep as many as there are beams.
    size = search.finished.beams.shape[1]
    both = _join(search.finished, search.unfinished)
    order = lax.top_k(jnp.isfinite(both.log_probs).astype(jnp.int32), size)[1]
    best = take(both, order)
    exists = jnp.isfinite(best.log_probs)
    closed = exists & (order < size)
    if method.groups > 1 or method.sampling is not None:
        best, closed = jax.tree.map(lambda x: x.reshape(search.words.shape), (best, closed))
        best, closed = take((best, closed), jnp.lexsort((-best.scores, ~closed)))
        exists = jnp.isfinite(best.log_probs)
    lengths = jnp.where(exists, best.lengths, 0)
    tokens, trace = _retrace(search.history, best.beams, lengths, closed, method)
    found = Hypotheses(tokens, lengths, best.log_probs, best.scores, closed, trace)
    if not method.per_token:
        return found
    trace, before = trace
    steps = jnp.arange(before.shape[2])[None, None]
    last = steps == lengths[:, :, None] - 1
    after = jnp.where(last, best.log_probs[:, :, None], jnp.roll(before, -1, axis=2))
    each = jnp.where(steps < lengths[:, :, None], after - before, 0.0)
    return found._replace(trace=trace, token_log_probs=each)


def _retrace(
    history: PyTree,
    beams: Int[Array, "B K"],
    lengths: Int[Array, "B K"],
    closed: Bool[Array, "B K"],
    method: _Method,
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
        words = jnp.where(final, method.rules.eos, take(words, beams))
        beams = jnp.where(emitted & ~final, take(parents, beams), beams)
        trace = jax.tree.map(
            lambda leaf: jnp.where(jnp.expand_dims(emitted, range(2, leaf.ndim)), leaf, 0),
            take(trace, beams),
        )
        return beams, (jnp.where(emitted, words, method.pad), trace)

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
    bos: int | Int[Array, " N"],
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
        probability of those never emitted (see `without`). Captions may begin with different
        tokens, which are to be banned, too.

    Returns:
      Words, <eos> where the caption ended within T steps, then <pad>.
    """
    never = (bos, pad, *banned) if isinstance(bos, int) else (pad, *banned)

    def advance(carried):
        time, state, words, ended, tokens = carried
        logits, state, _ = step(state, words)
        drawn = jax.random.categorical(jax.random.fold_in(key, time), without(logits, never))
        words = jnp.where(ended, pad, drawn)
        return time + 1, state, words, ended | (words == eos), tokens.at[time].set(words)

    words = jnp.full((batch, samples), bos, int)
    initial = (0, state, words, words == eos, jnp.full((max_length, batch, samples), pad))
    tokens = lax.while_loop(lambda c: (c[0] < max_length) & ~c[3].all(), advance, initial)[-1]
    return jnp.moveaxis(tokens, 0, 2)


def without(logits: Float[Array, "*S V"], words: tuple[int, ...]) -> Float[Array, "*S V"]:
    """The logits of a distribution in which some words do not exist."""
    return logits.at[..., jnp.array(words)].set(-jnp.inf)


def _join(first: _Pool, second: _Pool) -> _Pool:
    return jax.tree.map(lambda *fields: jnp.concatenate(fields, 1), first, second)
