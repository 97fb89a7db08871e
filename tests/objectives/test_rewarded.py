"""Training on rewards: the estimate's expectation is the gradient of the expected reward."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.models import search
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives import rewarded
from show_attend_tell.objectives.likelihood import token_log_probs
from show_attend_tell.objectives.marginal import Marginal
from show_attend_tell.objectives.rewarded import Rewarded, draw_captions
from show_attend_tell.objectives.rewards import Scores, caption_scores, idf_table
from show_attend_tell.objectives.sampling import Rollout, roll_out
from show_attend_tell.runs.build import make_objective
from show_attend_tell.settings import Loss, Optimizer, Reward
from show_attend_tell.training.optimizer import make_optimizer
from show_attend_tell.training.step import initial_state, make_train_step

EOS, L, T = 2, 2, 2
WORDS = (EOS, 4, 5)
REFERENCES = jnp.array([[[4, 5, EOS], [4, EOS, 0]]])
TABLE = idf_table([[[4, 5, EOS], [4, EOS]], [[5, 5, EOS]]])
REWARD = Reward(samples=2, cider=1.0, bleu=0.5, f_mean=0.3, max_length=T)
PLAIN = Loss(doubly_stochastic=0.0, label_smoothing=0.0)
# All captions of at most two tokens over three words, and all paths of two locations.
CAPTIONS = jnp.array([(EOS, 0), *itertools.product((4, 5), WORDS)])
PATHS = jnp.array(list(itertools.product(range(L), repeat=T)))

GRAPH, PARAMS = tiny.decoder(projection=0, dropout=0.5, annotation_dropout=0.5)
ANNOTATIONS = Annotations(jax.random.normal(jax.random.key(2), (1, L, 4)))


def outcomes(hard):
    """All that can be drawn: captions (M, T) and the noise of their paths (M, T, L), or None."""
    if not hard:
        return CAPTIONS, None
    both = list(itertools.product(range(len(CAPTIONS)), range(len(PATHS))))
    captions, paths = (jnp.array(x) for x in zip(*both, strict=True))
    return CAPTIONS[captions], 1e9 * jax.nn.one_hot(PATHS[paths], L)


def as_choice(noise):
    return None if noise is None else Choice(noise[None], jnp.zeros((1, len(noise)), bool))


def log_p(params, captions, noise):
    """log p of each caption, and of its path: of the steps that it has."""
    decoder = nnx.merge(GRAPH, params)
    out = roll_out(decoder, ANNOTATIONS, captions[None], None, as_choice(noise))
    words = token_log_probs(search.without(out.logits, (0, 1, 3)), captions[None])[0].sum(-1)
    there = captions != 0
    return words, jnp.where(there, out.log_p_s[0], 0.0).sum(-1)


def distinct(captions, noise):
    """Weight of each outcome: a path's steps after the caption's end make no difference."""
    if noise is None:
        return jnp.ones(len(captions))
    return jnp.where(captions == 0, 1 / L, 1.0).prod(axis=-1)


def error_of_the_expected_estimate(hard):
    """Its largest difference from the gradient of the expected reward, over that one's largest."""
    captions, noise = outcomes(hard)
    weight = distinct(captions, noise)
    scores = jax.jit(caption_scores)(captions[None], REFERENCES, TABLE)
    rewards = (scores.cider + 0.5 * scores.bleu + 0.3 * scores.f_mean)[0]

    def probabilities(params):
        words, path = log_p(params, captions, noise)
        return weight * jnp.exp(words + (path if hard else 0.0))

    def loss_and_probabilities(params):
        p = probabilities(params)
        return -(p * rewards).sum(), p

    exact, p = jax.jit(jax.grad(loss_and_probabilities, has_aux=True))(PARAMS)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-5)

    # The loss is per drawn word, which would tie pairs of captions: take the division back.
    def estimate(params, first, second):
        index = jnp.array([first, second])
        drawn = captions[index][None], as_choice(None if noise is None else noise[index])
        objective = Rewarded(REWARD, tiny.PURE if hard else None, PLAIN, TABLE)
        decoder = nnx.merge(GRAPH, params)
        loss, report = objective.loss_of(decoder, ANNOTATIONS, REFERENCES, *drawn)
        return loss * report["tokens"] / REWARD.samples

    pairs = jnp.array(list(itertools.product(range(len(captions)), repeat=2)))
    gradients = jax.jit(jax.vmap(jax.grad(estimate), (None, 0, 0)))(PARAMS, *pairs.T)
    mean = jax.tree.map(lambda g: jnp.tensordot(p[pairs].prod(axis=1), g, 1), gradients)
    flat = [jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (mean, exact)]
    return float(jnp.abs(flat[0] - flat[1]).max() / jnp.abs(flat[1]).max())


@pytest.mark.parametrize("hard", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_expected_estimate_is_the_gradient_of_the_expected_reward(hard):
    assert error_of_the_expected_estimate(hard) < 1e-5


@pytest.mark.slow  # it tests the test above
def test_a_baseline_that_contains_its_own_sample_is_found_out(monkeypatch):
    with_own = lambda r: r.mean(axis=1, keepdims=True) + 0 * r  # noqa: E731
    monkeypatch.setattr(rewarded, "leave_one_out", with_own)
    assert error_of_the_expected_estimate(hard=False) > 0.1


def test_captions_are_drawn_as_often_as_they_are_probable():
    captions, noise = outcomes(hard=True)  # of which soft attention is the simpler case
    words, path = jax.jit(log_p)(PARAMS, captions, noise)
    p = distinct(captions, noise) * jnp.exp(words + path)
    count = 4000
    noise = jax.random.gumbel(jax.random.key(5), (1, count, T, L))
    choice = Choice(noise, jnp.zeros((1, count), bool))

    @jax.jit
    def draw(params):
        decoder, key = nnx.merge(GRAPH, params), jax.random.key(3)
        return draw_captions(decoder, ANNOTATIONS, key, choice, samples=count, max_length=T)[0]

    drawn = draw(PARAMS)
    for caption in CAPTIONS:
        expected = float(jnp.where((captions == caption[None]).all(-1), p, 0.0).sum())
        seen = float((drawn == caption[None]).all(-1).mean())
        assert abs(seen - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


def test_images_that_fill_a_batch_teach_nothing():
    vectors = ANNOTATIONS.vectors
    annotations = Annotations(jnp.concatenate([vectors, 2 * vectors]))
    tokens = jnp.concatenate([REFERENCES, jnp.zeros_like(REFERENCES)])
    drawn = jnp.array([[[4, EOS], [5, EOS]], [[4, 4], [5, 5]]])

    def loss(params, annotations, tokens, drawn):
        loss = dataclasses.replace(PLAIN, doubly_stochastic=0.1)
        objective = Rewarded(REWARD, None, loss, TABLE)
        return objective.loss_of(nnx.merge(GRAPH, params), annotations, tokens, drawn, None)[0]

    @jax.jit
    def gradients(params):
        alone = params, ANNOTATIONS, REFERENCES, drawn[:1]
        return jax.grad(loss)(*alone), jax.grad(loss)(params, annotations, tokens, drawn)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *gradients(PARAMS))


def test_words_are_drawn_along_the_paths_whose_gradient_is_taken():
    """Where the location decides the word, captions are certain along their own paths only."""
    vector = jax.random.normal(jax.random.key(2), (1, 1, 4))
    annotations = Annotations(jnp.concatenate([vector, -vector], axis=1))
    objective = Rewarded(Reward(samples=64, max_length=T), tiny.PURE, PLAIN, TABLE)

    @jax.jit
    def log_p(params, key):
        decoder = nnx.merge(GRAPH, params)
        decoder.attention.score.kernel[...] *= 0.0  # all locations are as probable
        decoder.output_z.kernel[...] *= 10.0
        decoder.output_word.kernel[...] *= 40.0
        captions, choice = objective.draw(decoder, annotations, key)
        other = choice._replace(noise=jnp.roll(choice.noise, 1, axis=1))
        found = []
        for along in (choice, other):
            out = roll_out(decoder, annotations, captions, None, along)
            words = token_log_probs(search.without(out.logits, (0, 1, 3)), captions)
            found.append(words.mean())
        return found

    own, others = log_p(PARAMS, jax.random.key(0))
    assert own > -0.1 and others < -1


@pytest.mark.parametrize("coin", ["image", "batch"])
def test_the_loss_takes_what_was_drawn_from_the_steps_key(monkeypatch, coin):
    """And the coin has `soft_probability`, which 1 makes certain."""
    captions, took = jnp.array([[[4, EOS], [5, EOS]]]), []

    def draw(decoder, annotations, key, choice, *, samples, max_length, mixture):
        assert not mixture
        took.append((jax.random.key_data(key), choice))
        return captions

    def loss_of(self, *arguments):
        took.append(arguments)
        return jnp.float32(1.0), {}

    monkeypatch.setattr(rewarded, "draw_captions", draw)
    monkeypatch.setattr(Rewarded, "loss_of", loss_of)
    model, key = Captioner(Precomputed(4, (1, 3)), nnx.merge(GRAPH, PARAMS)), jax.random.key(8)
    batch = {"inputs": ANNOTATIONS.vectors, "tokens": REFERENCES}
    for p in (0.0, 1.0):
        hard = dataclasses.replace(tiny.PURE, soft_probability=p, coin=coin)
        Rewarded(REWARD, hard, PLAIN, TABLE).loss(model, batch, key, {}, 0)
        (word_key, choice), (decoder, _, tokens, sampled, along) = took[-2:]
        assert (choice.expected == (p == 1.0)).all() and along is choice
        assert sampled is captions and tokens is REFERENCES and decoder is model.decoder
        assert choice.noise.shape == (1, 2, T, L)
        assert (word_key == jax.random.key_data(jax.random.split(key)[0])).all()


def test_the_references_likelihood_is_added_with_its_weight(monkeypatch):
    """Its objective gets the batch, a key of its own and its own state, which it hands on."""
    took, key = [], jax.random.key(8)

    class References:
        def init(self):
            return {"seen": 1.0}

        def loss(self, model, batch, key, state, step):
            took.append((model, batch, jax.random.key_data(key), step))
            return jnp.float32(3.0), {"seen": state["seen"] + 1}, {"nll": jnp.float32(2.5)}

    monkeypatch.setattr(Rewarded, "draw", lambda self, *_: (REFERENCES, None))
    drawn = jnp.float32(1.0), {"reward": jnp.float32(0.25)}
    monkeypatch.setattr(Rewarded, "loss_of", lambda self, *_: (drawn[0], dict(drawn[1])))
    model = Captioner(Precomputed(4, (1, 3)), nnx.merge(GRAPH, PARAMS))
    batch = {"inputs": ANNOTATIONS.vectors, "tokens": REFERENCES}
    weighted = dataclasses.replace(REWARD, likelihood=0.5)
    objective = Rewarded(weighted, None, PLAIN, TABLE, likelihood=References())
    loss, state, report = objective.loss(model, batch, key, objective.init(), 7)
    assert float(loss) == 1.0 + 0.5 * 3.0
    assert state == {"seen": 2.0} and report == {"reward": 0.25, "nll": 2.5}
    (given, given_batch, given_key, step) = took[0]
    assert given is model and given_batch is batch and step == 7
    assert (given_key != jax.random.key_data(key)).any()

    alone = Rewarded(REWARD, None, PLAIN, TABLE)
    loss, state, report = alone.loss(model, batch, key, alone.init(), 7)
    assert float(loss) == 1.0 and state == {} and report == {"reward": 0.25}


def test_every_term_has_its_sign_its_weight_and_its_steps(monkeypatch):
    """By hand: two images of two captions each; the second image's paths are soft."""
    sampled = jnp.array([[[4, EOS, 0], [5, 4, 4]], [[4, EOS, 0], [EOS, 0, 0]]])
    real = np.array(sampled != 0)
    words = real.sum()
    tokens = jnp.tile(REFERENCES, (2, 1, 1))
    mask = jnp.array([[True, True], [True, False]])
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(2, 2, 3, 6)), jnp.float32)
    log_p_s = jnp.asarray(rng.uniform(-2, -1, (2, 2, 3)), jnp.float32)
    log_alpha = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(2, 2, 3, L)), jnp.float32))
    alpha = np.array(jnp.exp(log_alpha), np.float64)
    scores = Scores(*(jnp.asarray(rng.uniform(size=(2, 2)), jnp.float32) for _ in range(3)))
    choice = Choice(jnp.zeros((2, 2, 3, L)), jnp.array([[False] * 2, [True] * 2]))
    annotations = Annotations(jnp.zeros((2, L, 4)), mask)
    hard = dataclasses.replace(tiny.PURE, reinforce=0.3, entropy=0.07)
    objective = Rewarded(REWARD, hard, Loss(doubly_stochastic=0.5, label_smoothing=0.1), TABLE)
    monkeypatch.setattr(rewarded, "caption_scores", lambda *_: scores)

    def loss(logits, log_p_s, log_alpha):
        rollout = Rollout(sampled, log_p_s, log_p_s, log_alpha, log_alpha, logits[:, 0, 0], logits)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rewarded, "roll_out", lambda *_, mixture: rollout)
            decoder = nnx.merge(GRAPH, PARAMS)
            return objective.loss_of(decoder, annotations, tokens, sampled, choice)

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (value, report), (by_word, by_choice, by_alpha) = both(logits, log_p_s, log_alpha)
    reward = np.array(scores.cider + 0.5 * scores.bleu + 0.3 * scores.f_mean)
    advantage = (reward - reward[:, ::-1])[..., None]
    drawn = real & np.array([True, False])[:, None, None]
    possible = np.array(logits, np.float64)
    possible[..., [0, 1, 3]] = -np.inf
    log_p = possible - np.log(np.exp(possible).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, np.array(sampled)[..., None], -1)[..., 0]
    chosen = np.where(real, chosen, 0)
    entropy = -(alpha * np.log(alpha)).sum(-1)
    ended = np.array([[True, False], [True, True]])[..., None]  # one caption is cut
    paid = (alpha * real[..., None]).sum(2)
    penalty = (np.square(1 - paid) * ended * np.array(mask)[:, None]).sum()
    wanted = (
        0.5 * penalty
        - (advantage * chosen).sum()
        - 0.3 * (advantage * np.array(log_p_s) * drawn).sum()
        - 0.07 * (entropy * drawn).sum()
    ) / words
    assert float(value) == pytest.approx(wanted, rel=1e-5)

    def close(found, wanted):
        np.testing.assert_allclose(np.array(found), wanted, rtol=1e-5, atol=1e-6)

    one_hot = np.eye(6)[np.array(sampled)]
    close(by_word, -(advantage * real)[..., None] * (one_hot - np.exp(log_p)) / words)
    close(by_choice, -0.3 * advantage * drawn / words)
    of_penalty = -2 * ((1 - paid) * ended * np.array(mask)[:, None])[:, :, None] * alpha
    of_entropy = alpha * (np.log(alpha) + 1) * drawn[..., None]
    close(by_alpha, (0.5 * of_penalty * real[..., None] + 0.07 * of_entropy) / words)
    assert float(report["reward"]) == pytest.approx(reward.mean(), rel=1e-5)
    assert float(report["penalty"]) == pytest.approx(penalty / 4, rel=1e-5)
    assert float(report["entropy"]) == pytest.approx((entropy * real).sum() / words, rel=1e-5)
    assert float(report["sampled_nll"]) == pytest.approx(-chosen.sum() / words, rel=1e-5)
    rms = np.sqrt(np.square(advantage).mean())
    assert float(report["advantage"]) == pytest.approx(rms, rel=1e-5)


def test_words_of_a_mixture_are_drawn_and_credited_with_places_summed_out(monkeypatch):
    changes = {"product_form": True, "gate": False, "output_tanh": False, "null_place": True}
    graph, params = tiny.decoder(**changes, kind="hard", state_reads="nothing")
    decoder = nnx.merge(graph, params)
    sampled = jnp.array([[[4, EOS, 0], [5, 4, EOS]]])
    annotations = Annotations(jax.random.normal(jax.random.key(2), (1, L, 4)))
    scores = Scores(*(jnp.array([[1.0, 0.25]]) for _ in range(3)))
    monkeypatch.setattr(rewarded, "caption_scores", lambda *_: scores)
    objective = Rewarded(REWARD, None, PLAIN, TABLE, mixture=True)

    @jax.jit
    def loss_and_factors():
        loss, _ = objective.loss_of(decoder, annotations, REFERENCES, sampled, None)
        return loss, decoder(annotations, sampled).factors

    value, logits = loss_and_factors()
    words = jax.nn.softmax(logits.state[:, :, None] + logits.place[:, None])
    mixture = np.einsum("bnl,bnlv->bnv", np.exp(logits.log_alpha), words).reshape(1, 2, 3, 6)
    mixture[..., [0, 1, 3]] = 0.0
    mixture /= mixture.sum(-1, keepdims=True)
    said = np.take_along_axis(mixture, np.array(sampled)[..., None], -1)[..., 0]
    log_probs = np.where(sampled != 0, np.log(said, where=said > 0, out=np.zeros_like(said)), 0)
    advantage = 1.8 * 0.75 * np.array([1.0, -1.0])[None, :, None]
    assert float(value) == pytest.approx(-(advantage * log_probs).sum() / 5, rel=1e-4)

    # Drawn captions have the frequencies of the mixture.
    many = partial(draw_captions, samples=4000, max_length=1, mixture=True)
    drawn = jax.jit(lambda key: many(decoder, annotations, key, None))(jax.random.key(0))
    counts = np.bincount(np.array(drawn).ravel(), minlength=6) / 4000
    np.testing.assert_allclose(counts, mixture[0, 0, 0], atol=0.03)


def test_captions_are_drawn_as_they_are_decoded(tmp_path):
    marginal = {
        "attention.kind": "hard",
        "attention.state_reads": "nothing",
        "hard.objective": "marginal",
        "decoder.product_form": True,
        "decoder.output_tanh": False,
        "decoder.gate": False,
        "reward.samples": 2,
    }

    def made(**changes):
        return make_objective(tiny.settings(tmp_path, marginal | changes), TABLE)

    summed = made(**{"decode.context": "mixture", "reward.likelihood": 0.5})
    drawn = made(**{"decode.context": "argmax"})
    assert summed.mixture and summed.hard is None
    assert isinstance(summed.likelihood, Marginal)
    assert not drawn.mixture and drawn.hard.objective == "marginal" and drawn.likelihood is None


@pytest.mark.slow  # the exact gradient is compared above
def test_training_raises_the_reward():
    decoder = nnx.merge(GRAPH, jax.tree.map(jnp.copy, PARAMS))  # a step donates its own
    reward = dataclasses.replace(REWARD, samples=8)
    model = Captioner(Precomputed(4, (1, 3)), decoder)
    objective = Rewarded(reward, tiny.PURE, PLAIN, TABLE)
    optimizer = make_optimizer(
        Optimizer(learning_rate=0.02, schedule="constant", warmup_steps=0, clip_norm=1.0),
        total_steps=60,
    )
    step = make_train_step(model, objective, optimizer, key=jax.random.key(0), average=0.0)
    state = initial_state(model, objective, optimizer)
    batch = {
        "inputs": jnp.tile(ANNOTATIONS.vectors, (8, 1, 1)),
        "tokens": jnp.tile(REFERENCES, (8, 1, 1)),
    }
    rewards = []
    for _ in range(60):
        state, metrics = step(state, batch)
        rewards.append(float(metrics["reward"]))
    # The empty caption, 0.18, has a probability of 0.84 at first; most others score 2.9 and more.
    assert np.mean(rewards[:2]) < 1 and np.mean(rewards[-10:]) > 2.5
    assert step.func._cache_size() == 1
