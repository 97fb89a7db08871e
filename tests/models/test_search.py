"""Beam search against enumeration, plain NumPy loops and hand-worked tables."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from searches import BOS, EOS, IDS, PAD, UNK, TinyCaptioner, search, words_of

from show_attend_tell.errors import UserError
from show_attend_tell.models.search import beam_search, sample

STATIC = ("beam", "max_length", "banned", "length_penalty", "min_length", "groups")


@partial(jax.jit, static_argnames=STATIC)
def search_bigrams(log_probs, **settings):
    """Beam search with a step that looks up the last word and appends to `calls`."""

    def step(state, words):
        jax.debug.callback(lambda: calls.append(1))
        return log_probs[words], state, {}

    return beam_search(step, {}, batch=1, **IDS, **settings)


calls = []


def run(table, *, beam=2, max_length=4, length_penalty=0.0):
    """Beam search with the bigrams {word: {next word: probability}}; what is not named has 0."""
    probabilities = np.zeros((6, 6), np.float32)
    for word, following in table.items():
        probabilities[word, list(following)] = list(following.values())
    with np.errstate(divide="ignore"):
        log_probs = np.log(probabilities)
    calls.clear()
    settings = dict(beam=beam, max_length=max_length, length_penalty=length_penalty)
    found = jax.tree.map(np.asarray, search_bigrams(log_probs, **settings))
    jax.effects_barrier()
    return found


def plain_beam_search(model, image, beam, max_length, banned, length_penalty):
    """Lists of whole histories and no bound.

    Stops at `beam` finished hypotheses, the best of them no worse than the best unfinished one.
    """

    def score(candidate):
        return candidate[0] / len(candidate[1]) ** length_penalty

    unfinished, finished = [(0.0, [], model.weights["initial"][image])], []
    for _ in range(max_length):
        candidates = []
        for log_prob, tokens, hidden in unfinished:
            log_probs, after = model.step(image, hidden, ([BOS] + tokens)[-1])
            for token in set(range(len(log_probs))) - {PAD, BOS, *banned}:
                candidates.append((log_prob + log_probs[token], tokens + [token], after))
        candidates.sort(key=lambda candidate: -candidate[0])
        finished += [c for c in candidates[:beam] if c[1][-1] == EOS]
        unfinished = [c for c in candidates if c[1][-1] != EOS][:beam]
        if len(finished) >= beam and score(unfinished[0]) <= max(map(score, finished)):
            break

    best = max(finished or unfinished, key=score)
    return best[1], score(best)


@pytest.mark.parametrize(("length_penalty", "banned"), [(0.0, ()), (0.7, (UNK,)), (1.0, ())])
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all_sequences(length_penalty, banned):
    model, max_length = TinyCaptioner(images=8, vocabulary=6), 4
    words = sorted({UNK, 4, 5} - set(banned))
    sequences = [[*start, EOS] for n in range(max_length) for start in product(words, repeat=n)]
    beam = len(words) ** (max_length - 1) * (len(words) + 1)
    found = model.search(
        beam=beam, max_length=max_length, banned=banned, length_penalty=length_penalty
    )
    for image in range(8):
        scores = [
            model.teacher_force(image, tokens)[0] / len(tokens) ** length_penalty
            for tokens in sequences
        ]
        assert words_of(found, image) == sequences[np.argmax(scores)]
        np.testing.assert_allclose(found.scores[image, 0], max(scores), rtol=1e-5)
    assert found.finished[:, 0].all()
    assert len(set(found.lengths[:, 0].tolist())) > 1  # the penalties matter


@pytest.mark.parametrize("length_penalty", [0.0, 0.7])
def test_the_early_exit_gives_what_the_search_without_it_gives(length_penalty):
    model = TinyCaptioner(images=12, vocabulary=9, eos_bias=-2.0)
    settings = dict(beam=4, max_length=7, banned=(UNK,), length_penalty=length_penalty)
    found = model.search(**settings)
    for image in range(12):
        tokens, score = plain_beam_search(model, image, **settings)
        assert words_of(found, image) == tokens
        np.testing.assert_allclose(found.scores[image, 0], score, rtol=1e-5)


def test_given_words_leave_the_best_of_the_sequences_that_have_them():
    model, max_length = TinyCaptioner(images=8, vocabulary=6), 4
    given = np.full((8, max_length), -1)
    given[0, :2] = [5, 4]
    given[1, 1] = 4
    given[2, 2] = EOS
    given[3, :2] = [UNK, 5]  # which is banned elsewhere
    given[4, 0] = EOS
    found = model.search(
        beam=108, max_length=max_length, banned=(UNK,), length_penalty=0.7, given=given
    )
    sequences = [[*start, EOS] for n in range(4) for start in product([UNK, 4, 5], repeat=n)]
    for image in range(8):
        must = {t: word for t, word in enumerate(given[image]) if word >= 0}
        fit = [
            s
            for s in sequences
            if all(t >= len(s) or s[t] == word for t, word in must.items())
            and all(word != UNK or must.get(t) == UNK for t, word in enumerate(s))
        ]
        scores = [model.teacher_force(image, s)[0] / len(s) ** 0.7 for s in fit]
        assert words_of(found, image) == fit[np.argmax(scores)]
        np.testing.assert_allclose(found.scores[image, 0], max(scores), rtol=1e-5)


def test_beam_1_is_greedy_decoding():
    model = TinyCaptioner(images=12, vocabulary=9, eos_bias=-1.0)
    found = model.search(beam=1, max_length=7, banned=(UNK,), length_penalty=0.7)
    for image in range(12):
        hidden, tokens = model.weights["initial"][image], []
        while len(tokens) < 7 and EOS not in tokens:
            log_probs, hidden = model.step(image, hidden, ([BOS] + tokens)[-1])
            log_probs[[PAD, BOS, UNK]] = -np.inf
            tokens.append(int(log_probs.argmax()))
        assert words_of(found, image) == tokens
        assert found.finished[image, 0] == (tokens[-1] == EOS)
    assert 0 < found.finished.sum() < 12

    # Greedy decoding stops at <eos>, though log(0.4) / 2 = -0.46 would beat log(0.6) = -0.51.
    found = run({BOS: {EOS: 0.6, 4: 0.4}, 4: {EOS: 1.0}}, beam=1, length_penalty=1.0)
    assert words_of(found, 0) == [EOS]


def test_every_hypothesis_has_the_log_prob_and_the_trace_of_its_own_tokens():
    model = TinyCaptioner(images=12, vocabulary=9, eos_bias=-1.0)
    found = model.search(beam=4, max_length=7, banned=(UNK,), length_penalty=0.7, per_token=True)
    for image, k in np.ndindex(12, 4):
        tokens, length = words_of(found, image, k), found.lengths[image, k]
        total, alphas, betas = model.teacher_force(image, tokens)
        totals = [model.teacher_force(image, tokens[:n])[0] for n in range(length + 1)]
        each = found.token_log_probs[image, k]
        np.testing.assert_allclose(each[:length], np.diff(totals), atol=1e-5)
        assert (each[length:] == 0).all()
        np.testing.assert_allclose(found.log_probs[image, k], total, rtol=1e-5)
        np.testing.assert_allclose(found.scores[image, k], total / length**0.7, rtol=1e-5)
        trace = {name: leaf[image, k] for name, leaf in found.trace.items()}
        np.testing.assert_allclose(trace["alpha"][:length], alphas, atol=1e-5)
        np.testing.assert_allclose(trace["beta"][:length], betas, atol=1e-5)
        np.testing.assert_array_equal(trace["count"][:length], 1 + np.arange(length))
        assert all((leaf[length:] == 0).all() for leaf in trace.values())

        assert not {PAD, BOS, UNK} & set(tokens)
        assert (found.tokens[image, k, length:] == PAD).all()
        assert found.finished[image, k] == (tokens[-1] == EOS)
        assert EOS not in tokens[:-1]
    # The hypotheses of an image differ; the finished come first, then the better scores.
    for image in range(12):
        assert len({tuple(words_of(found, image, k)) for k in range(4)}) == 4
        assert np.lexsort((-found.scores[image], ~found.finished[image])).tolist() == [0, 1, 2, 3]
    assert 0 < found.finished.sum() < found.finished.size


def test_a_batch_gives_what_its_images_give_alone():
    model = TinyCaptioner(images=12, vocabulary=9, eos_bias=-1.0)
    settings = dict(beam=4, max_length=7, banned=(UNK,), length_penalty=0.7)
    together = model.search(**settings)
    for b in range(12):
        own = {name: model.weights[name][b : b + 1] for name in ("initial", "memory")}
        alone = search(model.weights | own, **settings)
        for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(one[0], many[b], rtol=1e-6, atol=1e-6)
    assert len(set(together.lengths[:, 0].tolist())) > 1  # the images end at different steps


def test_the_best_unfinished_hypothesis_is_returned_if_none_finished():
    model = TinyCaptioner(images=8, vocabulary=6, eos_bias=-np.inf)
    found = model.search(beam=108, max_length=4, banned=(), length_penalty=1.0)
    sequences = list(product([UNK, 4, 5], repeat=4))
    for image in range(8):
        log_probs = [model.teacher_force(image, tokens)[0] for tokens in sequences]
        assert tuple(words_of(found, image)) == sequences[np.argmax(log_probs)]
        np.testing.assert_allclose(found.scores[image, 0], max(log_probs) / 4, rtol=1e-5)
    assert not found.finished.any()
    assert (found.lengths == np.where(np.arange(108) < 81, 4, 0)).all()  # 81 hypotheses exist


def test_length_penalty_by_hand():
    table = {BOS: {EOS: 0.4, 4: 0.6}, 4: {EOS: 0.6, 5: 0.4}}
    found = run(table, length_penalty=0.0)
    assert words_of(found, 0) == [EOS]
    np.testing.assert_allclose(found.scores[0, 0], np.log(0.4), rtol=1e-6)
    found = run(table, length_penalty=1.0)  # log(0.36) / 2 = -0.51 > log(0.4) = -0.92
    assert found.tokens[0].tolist() == [[4, EOS, PAD, PAD], [EOS, PAD, PAD, PAD]]
    np.testing.assert_allclose(found.log_probs[0], np.log([0.36, 0.4]), rtol=1e-6)
    np.testing.assert_allclose(found.scores[0], [np.log(0.36) / 2, np.log(0.4)], rtol=1e-6)


def test_finished_hypotheses_do_not_crowd_out_unfinished_ones():
    # "<eos>" is the best after one step. One slot fewer would lose "5" and so the best caption.
    table = {BOS: {EOS: 0.4, 4: 0.35, 5: 0.25}, 4: {4: 1.0}, 5: {EOS: 1.0}}
    found = run(table, length_penalty=1.0)
    assert words_of(found, 0) == [5, EOS]  # log(0.25) / 2 = -0.69 > log(0.4) = -0.92


def test_all_beams_may_finish_without_an_unfinished_one_being_lost():
    # The four best extensions of the second step: "3 <eos>", "3 3", "4 <eos>", "4 5". Only the
    # fourth leads to the best caption, with the mean log(0.216) / 3 = -0.51 per word.
    table = {
        BOS: {UNK: 0.55, 4: 0.45},
        UNK: {EOS: 0.52, UNK: 0.48},
        4: {EOS: 0.52, 5: 0.48},
        5: {EOS: 1.0},
    }
    assert words_of(run(table, length_penalty=1.0), 0) == [4, 5, EOS]


def test_a_finished_hypothesis_precedes_a_more_probable_unfinished_one():
    found = run({BOS: {4: 0.9, EOS: 0.1}, 4: {4: 1.0}})
    assert found.tokens[0].tolist() == [[EOS, PAD, PAD, PAD], [4, 4, 4, 4]]
    assert found.finished[0].tolist() == [True, False]


def test_slots_without_a_hypothesis_are_empty():
    found = run({BOS: {EOS: 0.1, 4: 0.5, 5: 0.4}}, beam=5, max_length=1)
    assert found.tokens[0].tolist() == [[EOS], [4], [5], [PAD], [PAD]]
    assert found.lengths[0].tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_array_equal(found.log_probs[0, 3:], -np.inf)


def test_equal_candidates_are_taken_in_the_order_of_beam_then_word():
    found = run({word: {UNK: 0.3, 4: 0.3, 5: 0.3} for word in (BOS, UNK, 4, 5)})
    assert found.tokens[0].tolist() == [[UNK, UNK, UNK, UNK], [UNK, UNK, UNK, 4]]


@pytest.mark.parametrize(
    ("table", "length_penalty", "steps"),
    [
        # Nothing that continues "4" (0.4) can beat "<eos>" (0.6).
        ({BOS: {EOS: 0.6, 4: 0.4}, 4: {4: 1.0}}, 0.0, 1),
        # As a mean of four tokens log(0.4) / 4 = -0.23 would beat log(0.6) = -0.51: no early end.
        ({BOS: {EOS: 0.6, 4: 0.4}, 4: {4: 1.0}}, 1.0, 4),
        # Both slots are filled after two steps, by "<eos>" and "4 <eos>".
        ({BOS: {EOS: 0.6, 4: 0.4}, 4: {4: 0.5, EOS: 0.5}}, 1.0, 2),
        # After "4 5" no word is left, <pad> being banned.
        ({BOS: {EOS: 0.4, 4: 0.6}, 4: {5: 1.0}, 5: {PAD: 1.0}}, 1.0, 3),
        # Nothing ever finishes.
        ({BOS: {4: 1.0}, 4: {4: 1.0}}, 0.0, 4),
    ],
)
def test_the_search_ends_as_soon_as_it_may(table, length_penalty, steps):
    run(table, length_penalty=length_penalty)
    assert len(calls) == steps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam": 0}, "beam"),
        ({"max_length": 0}, "max_length"),
        ({"length_penalty": -0.1}, "length_penalty"),
        ({"banned": (UNK, EOS)}, "<eos>"),
        ({"min_length": 2}, "min_length"),
        ({"groups": 2}, "does not divide into 2"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    settings = dict(beam=1, max_length=1, length_penalty=0.0) | settings
    with pytest.raises(UserError, match=message):
        search_bigrams(np.zeros((6, 6), np.float32), **settings)


def of_one(step, **settings):
    """Six steps of a search for one image, whose state counts them."""
    ids = {"bos": BOS, "eos": EOS, "pad": PAD}
    return beam_search(step, jnp.zeros(1), batch=1, max_length=6, **ids, **settings)


def test_poor_early_ends_do_not_cut_off_a_better_caption():
    # <eos> is the second best word at every step, until the fourth, where it is nearly certain.
    # After two steps two poor hypotheses have finished; the sure one still continues.
    going, ending = jnp.log(jnp.array([0.9, 0.1])), jnp.log(jnp.array([0.01, 0.99]))

    def step(state, words):
        chosen = jnp.where((state >= 3)[..., None], ending, going)
        logits = jnp.full((*words.shape, 5), -jnp.inf).at[..., 4].set(chosen[..., 0])
        return logits.at[..., EOS].set(chosen[..., 1]), state + 1, {}

    for length_penalty in (0.0, 0.7):
        found = of_one(step, beam=2, length_penalty=length_penalty)
        assert words_of(found, 0) == [4, 4, 4, EOS]
        assert float(found.log_probs[0, 0]) == pytest.approx(
            3 * np.log(0.9) + np.log(0.99), abs=1e-5
        )


def test_hypotheses_behind_the_first_are_whole_if_they_matter():
    # The first word ends at once, and nothing can beat it; the second best goes on for long.
    ending, going = jnp.log(jnp.array([0.6, 0.4])), jnp.log(jnp.array([0.5, 0.5]))

    def step(state, words):
        chosen = jnp.where((state == 0)[..., None], ending, going)
        logits = jnp.full((*words.shape, 5), -jnp.inf).at[..., 4].set(chosen[..., 1])
        return logits.at[..., EOS].set(chosen[..., 0]), state + 1, {}

    for several, finished in ((False, 1), (True, 3)):
        found = of_one(step, beam=3, length_penalty=0.0, several=several)
        assert words_of(found, 0) == [EOS] and found.finished.sum() == finished


def test_samples_are_drawn_anew_for_every_word_sample_and_image():
    """Two words of equal probability: every pair of words is as frequent as any other."""
    images, samples, length = 20, 50, 4

    def step(state, words):
        return jnp.zeros((*words.shape, 6)), state, {}

    settings = dict(batch=images, samples=samples, max_length=length, **IDS)
    drawn = np.asarray(sample(step, {}, jax.random.key(0), **settings, banned=(EOS, UNK)))
    assert set(drawn.ravel().tolist()) == {4, 5}
    signs = np.where(drawn == 4, 1.0, -1.0)
    for axis in range(3):
        first, second = np.take(signs, 0, axis), np.take(signs, 1, axis)
        # The mean of n products of independent signs has a standard deviation of n ** -0.5.
        assert abs((first * second).mean()) < 4 * first.size**-0.5
