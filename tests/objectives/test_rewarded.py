"""Training on rewards: the estimate's expectation is the gradient of the expected reward."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.errors import UserError
from show_attend_tell.models import search as decode
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.objectives import rewarded as sequence_training
from show_attend_tell.objectives.likelihood import token_log_probs
from show_attend_tell.objectives.reinforce import roll_out
from show_attend_tell.objectives.rewarded import Reward, draw_captions, reward_loss
from show_attend_tell.objectives.rewards import caption_scores, idf_table
from show_attend_tell.runs.build import Captioner
from show_attend_tell.training.optimizer import make_optimizer
from show_attend_tell.training.session import initial_state, make_train_step

EOS, L, T = 2, 2, 2
WORDS = (EOS, 4, 5)
REFERENCES = jnp.array([[[4, 5, EOS], [4, EOS, 0]]])
TABLE = idf_table([[[4, 5, EOS], [4, EOS]], [[5, 5, EOS]]])
REWARD = Reward(samples=2, cider=1.0, bleu=0.5, f_mean=0.3, max_length=T)
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
    words = token_log_probs(decode.without(out.logits, (0, 1, 3)), captions[None])[0].sum(-1)
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
    scores = caption_scores(captions[None], REFERENCES, TABLE)
    rewards = (scores.cider + 0.5 * scores.bleu + 0.3 * scores.f_mean)[0]

    def probabilities(params):
        words, path = log_p(params, captions, noise)
        return weight * jnp.exp(words + (path if hard else 0.0))

    p = probabilities(PARAMS)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-5)
    exact = jax.grad(lambda params: -(probabilities(params) * rewards).sum())(PARAMS)

    # The loss is per drawn word, which would tie pairs of captions: take the division back.
    def estimate(params, first, second):
        index = jnp.array([first, second])
        drawn = captions[index][None], as_choice(None if noise is None else noise[index])
        loss, report = reward_loss(
            nnx.merge(GRAPH, params), ANNOTATIONS, REFERENCES, jax.random.key(0), REWARD, TABLE,
            tiny.PURE if hard else None, doubly_stochastic=0.0, drawn=drawn,
        )  # fmt: skip
        return loss * report["tokens"] / REWARD.samples

    pairs = jnp.array(list(itertools.product(range(len(captions)), repeat=2)))
    gradients = jax.jit(jax.vmap(jax.grad(estimate), (None, 0, 0)))(PARAMS, *pairs.T)
    mean = jax.tree.map(lambda g: jnp.tensordot(p[pairs].prod(axis=1), g, 1), gradients)
    flat = [jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (mean, exact)]
    return float(jnp.abs(flat[0] - flat[1]).max() / jnp.abs(flat[1]).max())


@pytest.mark.parametrize("hard", [False, True])
def test_the_expected_estimate_is_the_gradient_of_the_expected_reward(hard):
    assert error_of_the_expected_estimate(hard) < 1e-5


def test_a_baseline_that_contains_its_own_sample_is_found_out(monkeypatch):
    monkeypatch.setattr(
        sequence_training, "leave_one_out", lambda r: r.mean(axis=1, keepdims=True) + 0 * r
    )
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
        decoder = nnx.merge(GRAPH, params)
        return reward_loss(
            decoder, annotations, tokens, jax.random.key(0), REWARD, TABLE,
            doubly_stochastic=0.1, drawn=(drawn, None),
        )[0]  # fmt: skip

    gradient = jax.jit(jax.grad(loss))
    alone = gradient(PARAMS, ANNOTATIONS, REFERENCES, drawn[:1])
    filled = gradient(PARAMS, annotations, tokens, drawn)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), alone, filled)


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 1},
        {"cider": -1.0},
        {"f_mean": -0.1},
        {"cider": 0.0, "bleu": 0.0, "f_mean": 0.0},
        {"max_length": 0},
    ],
)
def test_settings_out_of_range_are_told(settings):
    with pytest.raises(UserError, match="config.reward"):
        dataclasses.replace(REWARD, **settings)


def test_training_raises_the_reward():
    decoder = nnx.merge(GRAPH, jax.tree.map(jnp.copy, PARAMS))  # a step donates its own
    reward = dataclasses.replace(REWARD, samples=8)
    model = Captioner(None, decoder, tiny.PURE, None, reward)
    optimizer = make_optimizer(
        name="adam",
        learning_rate=0.02,
        schedule="constant",
        final=0.0,
        warmup_steps=0,
        total_steps=60,
        weight_decay=0.0,
        clip_norm=1.0,
    )
    step = make_train_step(
        model,
        optimizer,
        key=jax.random.key(0),
        average=0.0,
        doubly_stochastic=0.0,
        label_smoothing=0.0,
        table=TABLE,
    )
    state = initial_state(model, optimizer)
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
