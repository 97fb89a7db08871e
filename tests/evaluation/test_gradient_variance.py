"""The variance table: its statistics by hand, and on a small model against separate gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.evaluation import estimators
from show_attend_tell.evaluation import gradient_variance as gv
from show_attend_tell.evaluation.estimators import other_estimators, score_estimators
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


@pytest.mark.slow
def test_the_variance_is_that_of_the_training_loss(model, rows):
    # The same paths through the loss itself: baseline none, credits to go.
    graph, params = nnx.split(model, nnx.Param)
    pure = estimators.pure("none", "to_go", samples=1)

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
    assert row["estimator"] == "reinforce" and row["against"] == "expected"
    assert row["variance"] == pytest.approx(wanted, rel=0.2)
    signal = float(jnp.square(drawn.mean(axis=0)).sum()) - wanted / 2000
    assert row["snr"] == pytest.approx(signal / wanted, rel=0.35)


@pytest.mark.slow
def test_baselines_lower_the_variance(rows):
    table = {
        (row["baseline"], row["credit"]): row["relative"]
        for row in rows
        if row["baseline"] and row["rollouts"] <= 2
    }
    assert table["none", "sequence"] == pytest.approx(1.0)
    assert table["none", "to_go"] < 1
    assert table["learned", "to_go"] < table["none", "to_go"]
    assert table["expected", "to_go"] < table["none", "to_go"]
    assert min(table.values()) < 0.5
    (two, four) = [r for r in rows if (r["baseline"], r["credit"]) == ("leave_one_out", "to_go")]
    assert (two["rollouts"], four["rollouts"]) == (2, 4)
    assert four["variance"] < 0.7 * two["variance"]
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


def test_biases_by_hand():
    """Means of 2.5 and 0 in both of two parameters, against a gradient of (1, 1)."""
    moments = gv.Moments()
    for x, y in ((1.0, -1.0), (4.0, 1.0)):
        gradients = {"a": jnp.array([[x], [y]]), "b": jnp.array([[x], [y]])}
        moments.add(gradients, gv.squared_norms(gradients))
    exact = {"a": jnp.array([1.0]), "b": jnp.array([1.0])}
    found = moments.squared_biases(exact)
    # Variances of 9 and 4, half of which is the means' noise.
    np.testing.assert_allclose(found, [2 * 1.5**2 - 4.5, 2 - 2], atol=1e-6)
    rows = [{"estimator": "a", "variance": 9.0}, {"estimator": "b", "variance": 4.0}]
    first, second = gv.with_biases(rows, np.array([36.0, -1.0]), 9.0, samples=4)
    assert first == {"estimator": "a", "variance": 9.0} | {
        "bias": 6.0,
        "bias_noise": 1.5,
        "relative_bias": 2.0,
    }
    assert second["bias"] == second["relative_bias"] == 0.0 and second["bias_noise"] == 1.0


@pytest.fixture(scope="module")
def exact_rows():
    """Of a model whose exact gradient is known: in product form, of a state that reads nothing."""
    product = {"product_form": True, "gate": False, "output_tanh": False}
    graph, params = tiny.decoder(
        projection=0, state_reads="nothing", initial_state="learned", **product
    )
    model = Captioner(Precomputed(4, (1, 3)), nnx.merge(graph, params))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    batches = [(INPUTS, TOKENS)]
    rows = gv.gradient_variance(model, params, batches, batches, samples=1000, progress=False)
    return {
        (row["estimator"], row["baseline"], row["credit"], row["rollouts"]): row for row in rows
    }


@pytest.mark.slow  # objectives/ has the mean of each, against exact gradients
def test_reinforce_and_rebar_have_no_bias_and_the_relaxations_have_one(exact_rows):
    for (estimator, *_), row in exact_rows.items():
        if estimator in ("reinforce", "rebar"):
            assert row["bias"] < 2 * row["bias_noise"], row
        elif estimator != "marginal":
            assert row["bias"] > 3 * row["bias_noise"] and row["relative_bias"] > 0.05, row
    plain, rao = (exact_rows[name, None, None, 1] for name in ("gumbel", "gumbel_rao"))
    assert rao["variance"] < plain["variance"]
    assert rao["bias"] == pytest.approx(plain["bias"], rel=0.2)


@pytest.mark.slow
def test_a_words_own_credit_has_the_least_variance_of_credits_and_rebar_less(exact_rows):
    by_credit = [
        exact_rows["reinforce", "none", credit, 1]["variance"]
        for credit in ("sequence", "to_go", "word")
    ]
    assert by_credit == sorted(by_credit, reverse=True) and by_credit[2] < 0.5 * by_credit[0]
    rebar = exact_rows["rebar", None, None, 3]["variance"]
    assert rebar < 0.7 * by_credit[2]
    four = exact_rows["reinforce", "leave_one_out", "word", 4]
    assert four["variance"] < exact_rows["reinforce", "leave_one_out", "word", 2]["variance"]


@pytest.mark.slow
def test_the_marginal_has_no_noise_and_is_measured_against_itself(exact_rows):
    marginal = exact_rows["marginal", None, None, 1]
    assert marginal["against"] == "marginal"
    assert marginal["variance"] == marginal["bias"] == marginal["relative"] == 0.0
    assert marginal["snr"] is None
    assert {row["against"] for row in exact_rows.values() if row != marginal} == {"expected"}
    assert len(exact_rows) == 18 + 1 + 2 + 1 + 1


def test_the_table_compares_at_equal_rollouts(model):
    given = (*score_estimators(model.decoder), *other_estimators(model.decoder))
    count = len(given)
    variance, signal = np.arange(2.0, 2 + count), np.full(count, 3.0)
    signal[1] = -1.0  # noise
    rows = gv.table(given, variance, signal)
    assert [(r["baseline"], r["credit"]) for r in rows] == [
        *itertools.product(BASELINES, ("sequence", "to_go")),
        ("leave_one_out", "to_go"),
        (None, None),
        (None, None),
    ]
    assert [r["estimator"] for r in rows] == ["reinforce"] * 13 + ["gumbel", "gumbel_rao"]
    once = ("none", "moving_average", "learned", None)
    for k, row in enumerate(rows):
        rollouts = 4 if k == 12 else 1 if row["baseline"] in once else 2
        assert row["rollouts"] == rollouts and row["variance"] == variance[k]
        assert row["bias"] is row["relative_bias"] is None
        assert row["variance_per_rollout"] == rollouts * variance[k]
        assert row["relative"] == pytest.approx(rollouts * variance[k] / 2)
        assert row["snr"] == pytest.approx(0.0 if k == 1 else 3 / variance[k])


def test_variances_are_within_a_batch_and_averaged_over_batches(monkeypatch, model):
    """Batches differ in their expected gradient, which is no variance of an estimate."""
    count, samples = 15, 4

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
    found = np.array([row["variance"] for row in rows], np.float64)
    np.testing.assert_allclose(found, wanted, rtol=0.05)


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
