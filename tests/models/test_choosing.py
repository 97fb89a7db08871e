"""Options of the search against enumeration, plain NumPy loops and exact distributions."""

from collections import Counter
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from searches import BOS, EOS, IDS, PAD, UNK, TinyCaptioner, words_of

from show_attend_tell.models import choosing
from show_attend_tell.models.search import sample


def repeats(tokens, n):
    """Whether some n tokens in a row occur twice."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) < len(grams)


@pytest.mark.parametrize(("no_repeat", "min_length", "max_length"), [(1, 1, 4), (2, 4, 5)])
def test_rules_leave_the_best_of_the_sequences_that_keep_them(no_repeat, min_length, max_length):
    model = TinyCaptioner(images=8, vocabulary=6)
    free = [[*start, EOS] for n in range(max_length) for start in product([UNK, 4, 5], repeat=n)]
    fit = [s for s in free if not repeats(s, no_repeat) and len(s) >= min_length]
    found = model.search(
        beam=4 * 3 ** (max_length - 1),
        max_length=max_length,
        banned=(),
        length_penalty=0.7,
        no_repeat=no_repeat,
        min_length=min_length,
    )
    changed = 0
    for image in range(8):
        scores = {tuple(s): model.teacher_force(image, s)[0] / len(s) ** 0.7 for s in free}
        best = max(fit, key=lambda s: scores[tuple(s)])
        assert words_of(found, image) == best
        np.testing.assert_allclose(found.scores[image, 0], scores[tuple(best)], rtol=1e-5)
        changed += best != list(max(scores, key=scores.get))
    assert changed  # the rules matter


def test_a_caption_that_can_only_repeat_itself_ends():
    rules = choosing.Rules(EOS, jnp.array([PAD, BOS]), None, min_length=9, no_repeat=1)
    said = jnp.array([[[UNK, 4, PAD], [UNK, UNK, PAD]]])
    found = choosing.allowed(rules, jnp.zeros((1, 2, 5)), said, jnp.int32(2))
    np.testing.assert_array_equal(np.isfinite(found[0]).nonzero(), [[0, 1], [EOS, 4]])


def plain_groups(model, image, *, groups, beam, diversity, max_length, no_repeat, min_length):
    """Diverse beam search with lists: algorithm 1 of Vijayakumar et al., Hamming diversity.

    A hypothesis is (rank, log p, tokens, state). Every group searches as `beam_search` says. The
    rank is the log p less what was paid; it decides which hypotheses survive.
    """
    size, penalty = beam // groups, 0.7

    def score(hypothesis):
        return hypothesis[1] / len(hypothesis[2]) ** penalty

    unfinished = [[(0.0, 0.0, [], model.weights["initial"][image])] for _ in range(groups)]
    finished = [[] for _ in range(groups)]
    done = [False] * groups
    for time in range(max_length):
        said = Counter()
        for g in range(groups):
            if done[g]:
                continue
            extensions = []
            for rank, log_prob, tokens, hidden in unfinished[g]:
                log_probs, after = model.step(image, hidden, ([BOS] + tokens)[-1])
                for word in set(range(len(log_probs))) - {PAD, BOS, UNK}:
                    whole = [*tokens, word]
                    if word == EOS and time + 1 < min_length:
                        continue
                    if no_repeat and repeats(whole, no_repeat):
                        continue
                    paid = rank + log_probs[word] - diversity * said[word]
                    extensions.append((paid, log_prob + log_probs[word], whole, after))
            extensions.sort(key=lambda e: -e[0])
            finished[g] += [e for e in extensions[:size] if e[2][-1] == EOS]
            finished[g] = sorted(finished[g], key=score, reverse=True)[:size]
            unfinished[g] = [e for e in extensions if e[2][-1] != EOS][:size]
            said.update(e[2][-1] for e in unfinished[g])
            best = max(map(score, finished[g]), default=-np.inf)
            full = len(finished[g]) == size and max(map(score, unfinished[g])) <= best
            bound = max(e[1] for e in unfinished[g]) / max_length**penalty
            done[g] = full or bound <= best
    found = []
    for ended, going in zip(finished, unfinished, strict=True):
        found += (ended + going)[:size]
    return sorted(found, key=lambda e: (e[2][-1] != EOS, -score(e))), score


@pytest.mark.parametrize(
    ("groups", "diversity", "no_repeat", "min_length", "eos_bias"),
    [(3, 0.8, 0, 1, 1.0), (1, 0.0, 2, 4, -1.0)],  # some groups end before others
)
def test_groups_and_rules_find_what_plain_loops_find(
    groups, diversity, no_repeat, min_length, eos_bias
):
    model = TinyCaptioner(images=12, vocabulary=9, eos_bias=eos_bias)
    settings = dict(groups=groups, diversity=diversity, no_repeat=no_repeat)
    settings |= dict(min_length=min_length, max_length=7)
    found = model.search(beam=6, banned=(UNK,), length_penalty=0.7, **settings)
    for image in range(12):
        expected, score = plain_groups(model, image, beam=6, **settings)
        for k, hypothesis in enumerate(expected):
            assert words_of(found, image, k) == hypothesis[2], (image, k)
            np.testing.assert_allclose(found.log_probs[image, k], hypothesis[1], rtol=1e-5)
            np.testing.assert_allclose(found.scores[image, k], score(hypothesis), rtol=1e-5)
        assert found.finished[image].tolist() == [e[2][-1] == EOS for e in expected]
    assert 0 < found.finished.sum() < found.finished.size


@pytest.mark.slow  # plain loops are compared with groups of one and of several beams above
def test_groups_without_diversity_are_so_many_equal_searches():
    model = TinyCaptioner(images=12, vocabulary=9, eos_bias=-1.0)
    settings = dict(max_length=7, banned=(UNK,), length_penalty=0.7)
    one = model.search(beam=2, **settings)
    three = model.search(beam=6, groups=3, no_repeat=0, min_length=1, diversity=0.0, **settings)
    for image in range(12):
        expected = [words_of(one, image, k) for k in (0, 0, 0, 1, 1, 1)]
        assert [words_of(three, image, k) for k in range(6)] == expected


def test_one_group_chooses_like_a_beam_without_groups():
    generator = np.random.default_rng(0)
    following = jax.nn.log_softmax(jnp.asarray(generator.normal(size=(3, 4, 7)), jnp.float32))
    log_probs = jnp.asarray(-generator.random((3, 4)), jnp.float32)
    done = jnp.zeros((3, 1), bool)
    chosen = choosing.diverse(log_probs, log_probs, following, done, EOS, 0.5)
    plain = choosing.best(log_probs, following, EOS)
    for name in plain._fields[:-1]:
        np.testing.assert_array_equal(getattr(chosen, name), getattr(plain, name))


def exact_filtered(log_probs, temperature, top_k, top_p):
    """The distribution that words are drawn from, in NumPy."""
    p = np.exp(log_probs / temperature)
    order = np.argsort(-p, kind="stable")
    order = order[: top_k or len(p)]
    kept = p[order] / p[order].sum()
    order = order[: np.searchsorted(np.cumsum(kept), top_p - 1e-9) + 1]
    found = np.zeros_like(p)
    found[order] = p[order] / p[order].sum()
    return found


@pytest.mark.parametrize(
    "options", [(0.5, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.7), (1.7, 5, 0.6), (1.0, 99, 1e-6)]
)
def test_the_filtered_distribution_is_exact(options):
    log_probs = np.random.default_rng(1).normal(size=(20, 9)) * 2
    log_probs[:, 3] = -np.inf
    filtered = jax.nn.softmax(choosing.filtered(jnp.asarray(log_probs, jnp.float32), *options))
    expected = np.array([exact_filtered(row, *options) for row in log_probs])
    np.testing.assert_array_equal(filtered > 0, expected > 0)
    np.testing.assert_allclose(filtered, expected, rtol=1e-4)


def test_the_first_of_equal_words_are_kept():
    equal = jnp.log(jnp.array([0.2, 0.2, 0.2, 0.2, 0.2]))
    kept = choosing.filtered(equal, 1.0, 3, 1.0) > -jnp.inf
    assert kept.tolist() == [True, True, True, False, False]
    kept = choosing.filtered(equal, 1.0, 0, 0.3) > -jnp.inf
    assert kept.tolist() == [True, True, False, False, False]
    unfiltered = choosing.filtered(equal, 1.0, 5, 1.0)
    np.testing.assert_array_equal(unfiltered, equal)


def test_captions_are_drawn_as_often_as_the_filtered_model_says():
    model, options, count, length = TinyCaptioner(images=2, vocabulary=6), (2.0, 3, 0.9), 2000, 3
    found = model.search(
        key=jax.random.key(3), sampled=options, beam=count, max_length=length,
        banned=(), length_penalty=0.7,
    )  # fmt: skip
    for image in range(2):
        exact = {}

        def extend(tokens, p, hidden, image=image, exact=exact):
            if len(tokens) == length or tokens[-1:] == (EOS,):
                exact[tokens] = p
                return
            log_probs, hidden = model.step(image, hidden, ((BOS, *tokens))[-1])
            log_probs[[PAD, BOS]] = -np.inf
            for word, chance in enumerate(exact_filtered(log_probs, *options)):
                if chance:
                    extend((*tokens, word), p * chance, hidden)

        extend((), 1.0, model.weights["initial"][image])
        drawn = Counter(tuple(words_of(found, image, k)) for k in range(count))
        assert drawn.keys() <= exact.keys() and 5 < len(exact) < 40
        often = [s for s in exact if count * exact[s] >= 5]
        seen = np.array([drawn[s] for s in often] + [0.0])
        wanted = np.array([count * exact[s] for s in often] + [0.0])
        seen[-1], wanted[-1] = count - seen.sum(), max(count - wanted.sum(), 1e-9)
        chosen = wanted > 1
        assert stats.chisquare(seen[chosen], wanted[chosen], sum_check=False).pvalue > 0.01
        for k in (0, 7, count - 1):  # probabilities stay the model's own
            total, _, _ = model.teacher_force(image, words_of(found, image, k))
            np.testing.assert_allclose(found.log_probs[image, k], total, rtol=1e-4)
        order = np.lexsort((-found.scores[image], ~found.finished[image]))
        np.testing.assert_array_equal(order, np.arange(count))


def test_drawing_without_a_filter_is_plain_sampling():
    model, key = TinyCaptioner(images=3, vocabulary=9, eos_bias=-1.0), jax.random.key(0)
    settings = dict(max_length=6, banned=(UNK,))
    found = model.search(key=key, sampled=(1.0, 0, 1.0), beam=5, length_penalty=0.0, **settings)
    weights = model.weights

    def step(hidden, words):
        hidden = jnp.tanh(hidden @ weights["recur"] + jnp.asarray(weights["embed"])[words])
        return hidden @ weights["out"] + weights["memory"][:, None], hidden, {}

    start = jnp.repeat(weights["initial"][:, None], 5, axis=1)
    plain = np.asarray(sample(step, start, key, batch=3, samples=5, **IDS, **settings))
    for image in range(3):
        assert sorted(found.tokens[image].tolist()) == sorted(plain[image].tolist())
    assert len({tuple(row) for row in plain.reshape(-1, 6).tolist()}) > 5
