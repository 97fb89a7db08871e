"""The caption that agrees most with the others, against counting by hand."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from show_attend_tell.models.consensus import by_consensus
from show_attend_tell.models.search import Hypotheses

EOS = 2


def hypotheses(captions, log_probs, finished):
    """One image's: captions are words without <eos>."""
    steps = 1 + max(map(len, captions))
    rows, lengths = np.zeros((1, len(captions), steps), int), []
    for row, words, closed in zip(rows[0], captions, finished, strict=True):
        said = [*words, EOS] if closed else words
        row[: len(said)] = said
        lengths.append(len(said))
    log_probs = jnp.asarray([log_probs], jnp.float32)
    trace = {"mark": jnp.arange(len(captions))[None, :, None] * jnp.ones((1, 1, steps), int)}
    lengths, finished = np.array([lengths]), jnp.asarray([finished])
    return Hypotheses(jnp.asarray(rows), lengths, log_probs, log_probs / lengths, finished, trace)


def expected_f_mean(captions, p):
    def f_mean(c, r):
        matches = (Counter(c) & Counter(r)).total()
        return matches / (0.85 * len(r) + 0.15 * len(c))

    return [sum(q * f_mean(c, r) for q, r in zip(p, captions, strict=True)) for c in captions]


def test_the_order_is_that_of_the_expected_f_mean():
    rng = np.random.default_rng(0)
    for _ in range(20):
        captions = [rng.integers(4, 9, rng.integers(1, 8)).tolist() for _ in range(5)]
        log_probs = rng.normal(-8, 2, 5)
        p = np.exp(log_probs) / np.exp(log_probs).sum()
        order = np.argsort(-np.array(expected_f_mean(captions, p)), kind="stable")
        found = jax.jit(by_consensus)(padded(hypotheses(captions, log_probs, [True] * 5), 8))
        np.testing.assert_array_equal(found.trace["mark"][0, :, 0], order)
        np.testing.assert_allclose(found.log_probs[0], log_probs[order], rtol=1e-6)
        words = [
            row[: n - 1].tolist() for row, n in zip(found.tokens[0], found.lengths[0], strict=True)
        ]
        assert words == [captions[i] for i in order]


def padded(found, steps):
    """With room for so many steps, so that one program serves all."""
    more = [(0, 0), (0, 0), (0, steps - found.tokens.shape[2])]
    pad = lambda x: jnp.pad(x, more)  # noqa: E731
    return found._replace(tokens=pad(found.tokens), trace={"mark": pad(found.trace["mark"])})


def test_two_that_agree_beat_a_more_probable_one():
    captions, log_probs = [[4, 5, 6], [7, 8, 9], [7, 8, 10]], np.log([0.4, 0.3, 0.3])
    found = by_consensus(hypotheses(captions, log_probs, [True] * 3))
    assert np.asarray(found.trace["mark"])[0, :, 0].tolist() == [1, 2, 0]


def test_a_caption_found_twice_counts_once():
    a, b, c, d = [4, 5, 6], [7, 8, 9], [7, 8, 10], [7, 8, 11]
    p = [0.4, 0.2, 0.2, 0.2]
    order = [np.argsort(-np.array(expected_f_mean([a, b, c, d], p)), kind="stable")]
    for captions in ([a, b, c, d], [a, b, a, c, d]):
        log_probs = np.log([p[[a, b, c, d].index(caption)] for caption in captions])
        found = by_consensus(hypotheses(captions, log_probs, [True] * len(captions)))
        assert found.tokens[0, 0, :3].tolist() == [a, b, c, d][order[0][0]]
        assert found.tokens[0, -1, :3].tolist() == a


def test_unfinished_and_missing_ones_come_last_and_do_not_count():
    captions = [[4, 5, 6], [7, 8], [7, 8], [7, 8]]
    log_probs = [np.log(0.1), np.log(0.3), np.log(0.3), -np.inf]
    found = by_consensus(hypotheses(captions, log_probs, [True, False, False, False]))
    assert found.trace["mark"][0, 0, 0] == 0 and found.finished[0].tolist() == [True] + [False] * 3
    none = by_consensus(hypotheses(captions, log_probs, [False] * 4))
    assert none.trace["mark"][0, 0, 0] == 1 and none.log_probs[0, 3] == -np.inf
