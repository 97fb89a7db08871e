"""The caption that agrees most with the others: minimum Bayes risk over a search's hypotheses.

The most probable caption is rarely the best one: probability is spread over many ways to say the
same, and a short or a bland caption has more of it. Minimum Bayes risk (Kumar and Byrne 2004,
"Minimum Bayes-risk decoding for statistical machine translation") takes the hypothesis with the
highest expected score if another one, drawn from the model, were the reference:

    argmax_i sum_j p_j F(i, j) + e_i

p_j is the model's probability of hypothesis j, divided by the sum over those found; one that was
found several times, as samples are, counts once. F is the
F_mean of METEOR 1.5 with exact matches only (`objectives.rewards`): m / (0.85 r + 0.15 c) for m
common words, c words of the hypothesis and r of the reference. e_i is what else speaks for
hypothesis i (`inference.neighbours`), 0 if nothing does.

Symbols: as in `search`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from show_attend_tell.models.choosing import take
from show_attend_tell.models.search import Hypotheses

RECALL = 0.85  # weight of recall in F_mean


def f_mean(tokens: Int[Array, "B K T"], lengths: Int[Array, "B K"]) -> Float[Array, "B K K"]:
    """F_mean of each hypothesis (second axis) with each other one as the reference (third).

    Args:
      tokens: of the hypotheses.
      lengths: words of each, from its beginning; what follows them does not count.
    """
    inside = jnp.arange(tokens.shape[2])[None, None] < lengths[..., None]
    same = tokens[:, :, None, :, None] == tokens[:, None, :, None, :]  # (B, i, j, t, u)
    same &= inside[:, :, None, :, None] & inside[:, None, :, None, :]
    # The n-th time that i says a word, j matches it if j says it n times.
    times = same.sum(axis=4)
    own = jnp.einsum("biitu->bitu", same)
    before = jnp.tril(own, k=-1).sum(axis=3)
    matches = (times > before[:, :, None]).sum(axis=3)
    c, r = lengths[:, :, None], lengths[:, None, :]
    return matches / jnp.maximum(RECALL * r + (1 - RECALL) * c, 1e-6)


def by_consensus(found: Hypotheses, evidence: Float[Array, "B K"] | None = None) -> Hypotheses:
    """The same hypotheses, by falling expected F_mean plus evidence; finished ones come first.

    `<eos>` is no word here. Scores and log-probabilities stay with their hypotheses.

    Args:
      found: the hypotheses.
      evidence: e >= 0, what else speaks for each of them.
    """
    # Unfinished hypotheses are references only where nothing finished.
    counts = found.finished | ~found.finished.any(axis=1, keepdims=True)
    counts &= found.log_probs > -jnp.inf
    given = counts & ~_repeated(found)
    p = jax.nn.softmax(jnp.where(given, found.log_probs, -jnp.inf), axis=1, where=given)
    words = found.lengths - found.finished
    expected = jnp.einsum("bij,bj->bi", f_mean(found.tokens, words), p)
    if evidence is not None:
        expected += evidence
    order = jnp.argsort(-jnp.where(counts, expected, -1.0), axis=1)
    return take(found, order)


def _repeated(found: Hypotheses) -> Bool[Array, "B K"]:
    """Which hypotheses have the words of an earlier one."""
    inside = jnp.arange(found.tokens.shape[2])[None, None] < found.lengths[..., None]
    words = jnp.where(inside, found.tokens, -1)
    same = (words[:, :, None] == words[:, None]).all(axis=3)
    return jnp.tril(same, k=-1).any(axis=2)
