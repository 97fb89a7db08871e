"""Rewards on the device against the scorers that evaluate, and by hand."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from show_attend_tell.data.packing import pack_captions
from show_attend_tell.objectives import rewards
from show_attend_tell.objectives.rewards import caption_scores, idf_table

EOS = 2


def corpus(images: int, seed: int = 0, words: int = 6) -> list[list[list[int]]]:
    """Captions of few words, so that n-grams of all lengths come again."""
    rng = np.random.default_rng(seed)
    return [
        [[*rng.integers(4, 4 + words, rng.integers(1, 9)).tolist(), EOS] for _ in range(5)]
        for _ in range(images)
    ]


def rows(references: list[list[list[int]]]) -> jax.Array:
    packed = [pack_captions(captions, 3) for captions in references]
    tokens = np.zeros((len(packed), 3, max(len(row) for of in packed for row in of)), np.int32)
    for of, into in zip(packed, tokens, strict=True):
        for row, ids in zip(of, into, strict=True):
            ids[: len(row)] = row
    return jnp.asarray(tokens)


def padded(captions: list[list[list[int]]]) -> jax.Array:
    longest = max(len(c) for of in captions for c in of)
    return jnp.array([[c + [0] * (longest - len(c)) for c in of] for of in captions])


@pytest.fixture(scope="module")
def scored():
    references = corpus(30)
    sampled = [captions[:4] for captions in corpus(30, seed=1)]
    sampled[0][0] = references[0][0]  # one is right
    sampled[1][1] = sampled[1][1][:-1]  # one is cut, without its <eos>
    scores = jax.jit(caption_scores)(padded(sampled), rows(references), idf_table(references))
    return references, sampled, jax.tree.map(np.array, scores)


def test_cider_is_the_scorers(scored):
    references, sampled, scores = scored

    def text(captions):
        return [" ".join(map(str, caption)) for caption in captions]

    truth = {i: text(captions) for i, captions in enumerate(references)}
    for n in range(4):
        said = {i: text(captions[n : n + 1]) for i, captions in enumerate(sampled)}
        expected = Cider().compute_score(truth, said)[1]
        np.testing.assert_allclose(scores.cider[:, n], expected, rtol=1e-4, atol=1e-5)
    assert scores.cider.max() > 1


def test_bleu_is_its_formula(scored):
    references, sampled, scores = scored

    def grams(caption, n):
        return Counter(tuple(caption[i : i + n]) for i in range(len(caption) - n + 1))

    for i, captions in enumerate(sampled):
        for k, caption in enumerate(captions):
            product = 1.0
            for n in (1, 2, 3, 4):
                said = grams(caption, n)
                most = Counter()
                for reference in references[i]:
                    most |= grams(reference, n)
                add = n > 1
                matched = sum(min(count, most[g]) for g, count in said.items())
                product *= (matched + add) / max(sum(said.values()) + add, 1)
            closest = min((abs(len(r) - len(caption)), len(r)) for r in references[i])[1]
            brevity = min(1.0, math.exp(1 - closest / len(caption)))
            expected = brevity * product**0.25
            assert scores.bleu[i, k] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert scores.bleu[0, 0] == pytest.approx(1.0)


def test_f_mean_is_its_formula(scored):
    references, sampled, scores = scored
    for i, captions in enumerate(sampled):
        for k, caption in enumerate(captions):
            best = 0.0
            for reference in references[i]:
                matched = sum((Counter(caption) & Counter(reference)).values())
                if matched:
                    precision, recall = matched / len(caption), matched / len(reference)
                    f = precision * recall / (0.85 * precision + 0.15 * recall)
                    best = max(best, f)
            assert scores.f_mean[i, k] == pytest.approx(best, rel=1e-5)
    assert scores.f_mean[0, 0] == pytest.approx(1.0) and scores.f_mean.std() > 0.1


def test_the_table_counts_the_images_that_have_an_ngram(monkeypatch):
    references = [*corpus(7), [[5, 2]], [[2], [2]]]
    counts = Counter()
    for of_image in references:
        ngrams = {
            tuple(c[i : i + n])
            for c in of_image
            for n in (1, 2, 3, 4)
            for i in range(len(c) - n + 1)
        }
        counts.update(ngrams)
    expected = np.sort(np.log(len(references)) - np.log([*counts.values()]))
    whole = idf_table(references)
    np.testing.assert_allclose(np.sort(whole.idf), expected, rtol=1e-6)
    assert np.all(np.diff(np.asarray(whole.hashes, np.int64)) > 0)
    monkeypatch.setattr(rewards, "_AT_ONCE", 2)  # the last part has one image of one word
    for one, other in zip(whole, idf_table(iter(references)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_padding_and_other_images_change_nothing():
    references = corpus(3)
    sampled = padded([captions[:2] for captions in corpus(3, seed=1)])
    table = idf_table(references)
    score = jax.jit(caption_scores)
    whole = score(sampled, rows(references), table)
    wide = jnp.pad(rows(references), [(0, 0), (0, 1), (0, 4)])
    alone = score(jnp.pad(sampled, [(0, 0), (0, 0), (0, 3)])[:1], wide[:1], table)
    for a, b in zip(whole, alone, strict=True):
        np.testing.assert_allclose(a[:1], b, rtol=1e-5)
    nothing = score(sampled, jnp.zeros_like(rows(references)), table)
    assert not any(np.any(score) for score in nothing)
