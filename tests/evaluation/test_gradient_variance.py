"""The variance table: its statistics by hand, and on a small model against separate gradients."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.evaluation import gradient_variance as gv
from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.baselines import MovingAverage
from show_attend_tell.objectives.reinforce import Reinforce
from show_attend_tell.objectives.sampling import Rollout, TeacherForcing, draw_choice
from show_attend_tell.settings import BASELINES, Loss

TOKENS = jnp.array([[[4, 5, 2, 0], [5, 2, 0, 0]], [[4, 2, 5, 2], [0, 0, 0, 0]]])
INPUTS = jax.random.normal(jax.random.key(1), (2, 3, 4))


@pytest.fixture(scope="module")
def model():
    graph, params = tiny.decoder(projection=0, tied=True, dropout=0.5)
    return Captioner(Precomputed(4, (1, 3)), nnx.merge(graph, params))


@pytest.fixture(scope="module")
def rows(model):
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    batches = [(INPUTS, TOKENS)]
    return gv.gradient_variance(model, params, batches, batches, samples=400, progress=False)


def test_the_variance_is_that_of_the_training_loss(model, rows):
    # The same paths through the loss itself: baseline none, credits to go.
    graph, params = nnx.split(model, nnx.Param)
    pure = dataclasses.replace(gv._pure("none", "to_go"), samples=1)

    @jax.jit
    @jax.vmap
    def gradients(key):
        choice = draw_choice(key, (2, 2, 4, 3))

        def loss(params):
            model = nnx.merge(graph, params)
            given = TeacherForcing(model.decoder, model.annotations(INPUTS), TOKENS)
            objective = Reinforce(pure, Loss(doubly_stochastic=0.0, label_smoothing=0.0))
            return objective.loss_along(given, choice, MovingAverage.start())[0]

        leaves = jax.tree.leaves(jax.grad(loss)(params))
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    drawn = gradients(jax.random.split(jax.random.key(9), 2000))
    wanted = float(drawn.var(axis=0, ddof=1).sum())
    (row,) = [r for r in rows if (r["baseline"], r["credit"]) == ("none", "to_go")]
    assert row["variance"] == pytest.approx(wanted, rel=0.2)
    signal = float(jnp.square(drawn.mean(axis=0)).sum()) - wanted / 2000
    assert row["snr"] == pytest.approx(signal / wanted, rel=0.35)


def test_baselines_lower_the_variance(rows):
    table = {(row["baseline"], row["credit"]): row["relative"] for row in rows}
    assert table["none", "sequence"] == pytest.approx(1.0)
    assert table["none", "to_go"] < 1
    assert table["learned", "to_go"] < table["none", "to_go"]
    assert table["expected", "to_go"] < table["none", "to_go"]
    assert min(table.values()) < 0.5
    for row in rows:
        assert row["variance_per_rollout"] == pytest.approx(row["variance"] * row["rollouts"])


def pooled(draws):
    """Every draw of one estimator as a vector of all its parameters."""
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in draws.values()], axis=1)


def test_moments_are_the_unbiased_variance_of_all_parameters():
    rng = np.random.default_rng(0)
    # (draws, estimators, ...): parameters of three shapes and scales, one of them a scalar.
    draws = {
        "a": 2 + rng.normal(size=(5, 2, 2, 3)),
        "b": 10 * rng.normal(size=(5, 2, 4)),
        "c": 1 + rng.normal(size=(5, 2)),
    }
    draws = {name: x.astype(np.float32) for name, x in draws.items()}
    moments = gv.Moments()
    for i in range(5):
        gradients = {name: jnp.asarray(x[i]) for name, x in draws.items()}
        moments.add(gradients, gv.squared_norms(gradients))
    variance, signal = moments.estimates()
    for k in range(2):
        vectors = pooled({name: x[:, k] for name, x in draws.items()}).astype(np.float64)
        wanted = vectors.var(axis=0, ddof=1).sum()
        assert variance[k] == pytest.approx(wanted, rel=1e-5)
        squared = np.square(vectors.mean(axis=0)).sum()
        assert signal[k] == pytest.approx(squared - wanted / 5, rel=1e-4)


def test_two_draws_by_hand():
    moments = gv.Moments()
    for x in (1.0, 4.0):  # of variance 4.5 and mean 2.5; two alike parameters
        gradients = {"a": jnp.array([[x]]), "b": jnp.array([[x]])}
        moments.add(gradients, gv.squared_norms(gradients))
    variance, signal = moments.estimates()
    assert variance == pytest.approx([9.0]) and signal == pytest.approx([12.5 - 4.5])


def test_the_table_compares_at_equal_rollouts():
    count = len(gv.COMBINATIONS)
    variance, signal = np.arange(2.0, 2 + count), np.full(count, 3.0)
    signal[1] = -1.0  # noise
    rows = gv.table(variance, signal)
    assert [(r["baseline"], r["credit"]) for r in rows] == list(
        itertools.product(BASELINES, ("sequence", "to_go"))
    )
    for k, row in enumerate(rows):
        rollouts = 1 if row["baseline"] in ("none", "moving_average", "learned") else 2
        assert row["rollouts"] == rollouts and row["variance"] == variance[k]
        assert row["variance_per_rollout"] == rollouts * variance[k]
        assert row["relative"] == pytest.approx(rollouts * variance[k] / 2)
        assert row["snr"] == pytest.approx(0.0 if k == 1 else 3 / variance[k])


def test_variances_are_within_a_batch_and_averaged_over_batches(monkeypatch, model):
    """Batches differ in their expected gradient, which is no variance of an estimate."""
    count, samples = len(gv.COMBINATIONS), 4

    def draw(batch, key):
        noise = jax.random.normal(key, (count, 3))
        return batch * (100 + noise)

    def gradients(graph, form, trained, frozen, carried, inputs, tokens, key):
        found = {"a": draw(inputs, key)}
        return found, gv.squared_norms(found)

    monkeypatch.setattr(gv, "gradients", gradients)
    monkeypatch.setattr(gv, "fit_baselines", lambda *_: (None, {}))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    batches = [(jnp.float32(1.0), TOKENS), (jnp.float32(2.0), TOKENS)]
    rows = gv.gradient_variance(model, params, batches, [], samples=samples, progress=False)
    key, found = jax.random.key(0), []
    for which, (scale, _) in enumerate(batches):
        keys = [jax.random.fold_in(jax.random.fold_in(key, 2 + which), i) for i in range(samples)]
        drawn = np.stack([draw(scale, k) for k in keys]).astype(np.float64)
        found.append(drawn.var(axis=0, ddof=1).sum(axis=-1))
    # Squares of 100 in half the digits of a float32 leave about 1e-2 of a variance of 3.
    wanted = np.mean(found, axis=0)
    np.testing.assert_allclose([row["variance"] for row in rows], wanted, rtol=0.05)


def test_one_path_makes_an_estimate_but_leave_one_out_takes_both(model):
    """d J / d log p(y) and d J / d log p(s), J per real token of the batch's rows."""
    real = np.tile(np.array(TOKENS != 0), (1, 2, 1))
    log_probs = jnp.asarray(np.where(real, -1.0, 0.0) * np.array([1, 1, 3, 3])[:, None])
    of_steps = jnp.zeros((2, 4, 4, 3))
    rollout = Rollout(
        jnp.tile(TOKENS, (1, 2, 1)),
        log_probs,
        log_probs,
        of_steps,
        of_steps,
        INPUTS[:, 0],
        of_steps,
    )
    given = TeacherForcing(model.decoder, Annotations(INPUTS), TOKENS)
    words = np.stack([[3, 2], [2, 0]])  # of each row's captions; the third row holds two of them
    arguments = given, rollout
    by_word, by_choice = gv.cotangent(*arguments, "none", "sequence", MovingAverage.start())
    first = np.array([1, 1, 0, 0])[:, None] / 9
    np.testing.assert_allclose(by_word, np.broadcast_to(first, (2, 4, 4)), rtol=1e-6)
    credit = -np.tile(words, (1, 2))[..., None] * real
    np.testing.assert_allclose(by_choice, credit * first, rtol=1e-6)
    by_word, by_choice = gv.cotangent(
        *arguments, "leave_one_out", "sequence", MovingAverage.start()
    )
    np.testing.assert_allclose(by_word, np.full((2, 4, 4), 1 / 18), rtol=1e-6)
    # The second path's credit is three times the first's.
    advantage = credit * np.array([-2, -2, 2, 2])[:, None]
    np.testing.assert_allclose(by_choice, advantage / 18, rtol=1e-6)
