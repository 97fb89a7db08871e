"""Straight-through training: the loss of the drawn places, the gradient of their relaxation."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.baselines import MovingAverage
from show_attend_tell.objectives.likelihood import token_log_probs
from show_attend_tell.objectives.reinforce import Reinforce
from show_attend_tell.objectives.relaxed import Relaxed, draw_relaxed
from show_attend_tell.objectives.sampling import TeacherForcing, draw_choice, sampling_key
from show_attend_tell.runs.build import make_objective
from show_attend_tell.settings import Loss

L, T, EOS, PAD = 3, 3, 2, 0
PLAIN = Loss(doubly_stochastic=0.0, label_smoothing=0.0)
GUMBEL = dataclasses.replace(tiny.PURE, objective="gumbel", relaxation_temperature=0.8)
PRODUCT = {"product_form": True, "gate": False, "output_tanh": False}
ANNOTATIONS = Annotations(jax.random.normal(jax.random.key(2), (1, L, 4)))
TOKENS = jnp.array([[[4, 5, EOS], [4, EOS, EOS], [5, EOS, PAD]]])
COUNT = 8


def of_key(key, hard):
    rows = hard.samples * TOKENS.shape[1]
    return draw_relaxed(jax.random.key(key), (1, rows, T, L), hard)


def given_of(graph, params):
    return TeacherForcing(nnx.merge(graph, params), ANNOTATIONS, TOKENS)


@partial(jax.jit, static_argnames=("graph", "hard", "regularizers"))
def loss_of(graph, params, choice, hard=GUMBEL, regularizers=PLAIN):
    return Relaxed(hard, regularizers).loss_along(given_of(graph, params), choice)


@partial(jax.jit, static_argnames=("graph", "hard", "regularizers"))
def reinforced(graph, params, choice, hard, regularizers):
    given = given_of(graph, params)
    return Reinforce(hard, regularizers).loss_along(given, choice, MovingAverage.start())


def compared(found, wanted, tolerance=2e-5):
    paths = jax.tree_util.tree_leaves_with_path(wanted)
    for (path, a), b in zip(paths, jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, atol=tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("draws", "reads"),
    [
        (1, "drawn"),
        (4, "nothing"),
        pytest.param(1, "nothing", marks=pytest.mark.slow),
        pytest.param(4, "drawn", marks=pytest.mark.slow),
    ],
)
def test_forwards_it_is_the_loss_along_the_drawn_places(reads, draws):
    graph, params = tiny.decoder(state_reads=reads)
    hard = dataclasses.replace(
        GUMBEL, rao_samples=draws, samples=2, entropy=0.3, soft_probability=0.5
    )
    regularizers = Loss(doubly_stochastic=0.5, label_smoothing=0.1)
    choice = of_key(3, hard)
    soft = choice._replace(expected=jnp.array([[False, True, False] * 2]))
    for along in (choice, soft):
        found, report = loss_of(graph, params, along, hard, regularizers)
        # Without a score term that loss has the same terms.
        pure = dataclasses.replace(hard, objective="reinforce", reinforce=0.0)
        plain = along._replace(relaxation=None)
        wanted, _, wanted_report = reinforced(graph, params, plain, pure, regularizers)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        for name in ("nll", "entropy", "penalty", "tokens"):
            np.testing.assert_allclose(report[name], wanted_report[name], rtol=1e-6)


def reference(graph, params, choice, tau):
    """The straight-through loss where logits are b + sum_i w_i g_i: w one-hot, with a softmax's
    derivative."""
    out = nnx.merge(graph, params)(ANNOTATIONS, TOKENS)
    theta = out.log_alpha
    g = choice.noise
    drawn = jax.nn.one_hot(jnp.argmax(theta + g, axis=-1), L)
    soft = [jax.nn.softmax((theta + g) / tau)]
    for k in range(choice.relaxation.more.shape[-2]):
        e = choice.relaxation.more[..., k, :]
        top = (drawn * e).sum(-1, keepdims=True)
        below = -jnp.log(jnp.exp(-(theta + e)) + jnp.exp(-top))
        noise = jax.lax.stop_gradient(jnp.where(drawn > 0, top, below) - theta)
        soft.append(jax.nn.softmax((theta + noise) / tau))
    mean = sum(soft) / len(soft)
    weights = (drawn + mean - jax.lax.stop_gradient(mean)).reshape(1, -1, L)
    state, place, _ = out.factors
    logits = (state + jnp.einsum("bnl,blv->bnv", weights, place)).reshape(*TOKENS.shape, -1)
    return -token_log_probs(logits, TOKENS).sum() / COUNT


@pytest.mark.parametrize(
    ("draws", "reads"),
    [
        (1, "nothing"),
        (4, "expected"),
        pytest.param(1, "expected", marks=pytest.mark.slow),
        pytest.param(4, "nothing", marks=pytest.mark.slow),
    ],
)
def test_the_gradient_is_that_of_the_relaxed_weights(reads, draws):
    graph, params = tiny.decoder(**PRODUCT, kind="hard", state_reads=reads)
    hard = dataclasses.replace(GUMBEL, rao_samples=draws)
    choice = of_key(5, hard)
    wanted = jax.jit(jax.grad(lambda p: reference(graph, p, choice, 0.8)))(params)
    found = jax.jit(jax.grad(lambda p: loss_of(graph, p, choice, hard)[0]))(params)
    compared(found, wanted)


def test_where_the_state_reads_the_drawn_place_later_words_count_too():
    """The first step's scores have a gradient from the second word."""
    graph, params = tiny.decoder()
    tokens = jnp.array([[[4, 5, EOS]]])
    choice = draw_relaxed(jax.random.key(1), (1, 1, T, L), GUMBEL)
    # Places so certain that their softmax has no slope: only the first step's has one.
    certain = 1e9 * jax.nn.one_hot(jnp.array([[[1, 0]]]), L)
    choice = choice._replace(noise=choice.noise.at[:, :, 1:].set(certain))

    def second_word(params, choice):
        given = TeacherForcing(nnx.merge(graph, params), ANNOTATIONS, tokens)
        return given.along(choice).log_probs[0, 0, 1]

    gradient = jax.jit(jax.grad(second_word))
    plain = gradient(params, choice._replace(relaxation=None))
    relaxed = gradient(params, choice)
    of_scores = lambda g: np.asarray(g["attention"]["score"]["kernel"][...])  # noqa: E731
    assert not of_scores(plain).any()
    assert np.abs(of_scores(relaxed)).max() > 1e-3


def gradients(graph, params, hard, draws=3000):
    """Flat gradients along drawn paths, and that of L_s, which is exact in product form."""
    flat = lambda tree: jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])  # noqa: E731

    def one(key):
        choice = draw_relaxed(key, (1, TOKENS.shape[1], T, L), hard)
        return flat(jax.grad(lambda p: loss_of(graph, p, choice, hard)[0])(params))

    def bound(params):
        out = nnx.merge(graph, params)(ANNOTATIONS, TOKENS)
        logits = out.factors.state[:, :, None] + out.factors.place[:, None]
        words = jnp.repeat(TOKENS.reshape(1, -1, 1), L, axis=-1)
        log_p = token_log_probs(logits, words).reshape(out.alpha.shape)
        return -(out.alpha * log_p).sum() / COUNT

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), draws))
    return np.asarray(found), np.asarray(flat(jax.jit(jax.grad(bound))(params)))


@pytest.mark.slow  # `evaluation/test_gradient_variance` measures bias and variance
def test_it_is_biased_but_points_the_right_way_and_rao_lowers_the_variance():
    graph, params = tiny.decoder(**PRODUCT, kind="hard", state_reads="nothing")
    plain, exact = gradients(graph, params, GUMBEL)
    rao, _ = gradients(graph, params, dataclasses.replace(GUMBEL, rao_samples=16))
    mean, error = plain.mean(axis=0), plain.std(axis=0) / np.sqrt(len(plain))
    assert np.linalg.norm(mean - exact) > 5 * np.linalg.norm(error)
    assert mean @ exact > 0.5 * np.linalg.norm(mean) * np.linalg.norm(exact)
    assert np.linalg.norm(rao.mean(axis=0) - mean) < 3 * np.linalg.norm(error)
    assert rao.var(axis=0).sum() < 0.98 * plain.var(axis=0).sum()


def test_paths_are_those_of_the_key_whatever_the_relaxation():
    hard = dataclasses.replace(GUMBEL, rao_samples=3, coin="batch")
    shape = (4, 2, T, L)
    key = jax.random.key(8)
    choice = draw_relaxed(key, shape, hard, 0.5)
    plain = draw_choice(key, shape, 0.5, "batch")
    np.testing.assert_array_equal(choice.noise, plain.noise)
    np.testing.assert_array_equal(choice.expected, plain.expected)
    assert choice.relaxation is not None
    assert choice.relaxation.more.shape == (4, 2, T, 2, L)
    assert float(choice.relaxation.temperature) == pytest.approx(0.8)
    both = np.concatenate([np.ravel(choice.noise), np.ravel(choice.relaxation.more)])
    assert len(np.unique(both)) == both.size


def test_a_step_draws_its_paths_by_the_settings():
    graph, params = tiny.decoder(dropout=0.3)
    hard = dataclasses.replace(GUMBEL, samples=2, rao_samples=2, soft_probability=0.5, soft_steps=3)
    model = Captioner(Precomputed(4, (1, 3)), nnx.merge(graph, params))
    batch, key = {"inputs": ANNOTATIONS.vectors, "tokens": TOKENS}, jax.random.key(4)
    objective = Relaxed(hard, PLAIN)

    @jax.jit
    def both(step, p):
        found = objective.loss(model, batch, key, objective.init(), step)
        given = TeacherForcing(model.decoder, ANNOTATIONS, TOKENS, key)
        choice = draw_relaxed(sampling_key(key), (1, 6, T, L), hard, p)
        return found, objective.loss_along(given, choice)

    for step, p in ((0, 1.0), (3, 0.5)):
        (value, state, report), (wanted, wanted_report) = both(step, p)
        np.testing.assert_allclose(value, wanted, rtol=1e-6)
        assert state == {} and report.keys() == wanted_report.keys()


def test_the_setting_chooses_the_objective(tmp_path):
    changes = {"attention.kind": "hard", "hard.objective": "gumbel", "hard.rao_samples": 4}
    objective = make_objective(tiny.settings(tmp_path, changes))
    assert isinstance(objective, Relaxed) and objective.hard.rao_samples == 4
