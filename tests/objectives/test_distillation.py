"""Learning what other models would say, beside hand-worked values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.models.captioner import Captioner, trained_weights
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.distillation import Teacher, cross_entropy, mean_distribution
from show_attend_tell.objectives.likelihood import Likelihood, soft_loss
from show_attend_tell.settings import Loss

TOKENS = jnp.array([[[4, 5, 2, 0]], [[5, 2, 0, 0]]])
INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)


def model(seed, **changes):
    return Captioner(Precomputed(4, (1, 3)), tiny.make_decoder(seed=seed, **changes))


def test_the_target_is_shared_between_the_word_and_the_teachers():
    logits = jnp.log(jnp.array([[[[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]]]))
    tokens = jnp.array([[[2, 0]]])
    taught = jnp.array([[[[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]]])
    alpha = jnp.full((1, 1, 2, 1), 0.5)
    loss, report = soft_loss(
        logits,
        alpha,
        tokens,
        doubly_stochastic=2.0,
        label_smoothing=0.1,
        taught=taught,
        distillation=0.25,
    )
    nll, uniform = -np.log(0.7), -np.log([0.1, 0.2, 0.7]).mean()
    words = 0.9 * nll + 0.1 * uniform
    by_teachers = -(np.log(0.1) + np.log(0.2)) / 2  # the second step is padding
    penalty = 2.0 * 0.5**2  # of which nothing goes to the teachers
    assert float(report["taught_nll"]) == pytest.approx(by_teachers, rel=1e-6)
    assert float(report["nll"]) == pytest.approx(nll, rel=1e-6)
    assert float(loss) == pytest.approx(0.75 * words + 0.25 * by_teachers + penalty, rel=1e-6)


def test_cross_entropy_is_least_where_both_agree():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5)), jnp.float32)
    taught = jax.nn.softmax(logits)
    gradient = jax.grad(lambda given: cross_entropy(taught, given).sum())(logits)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    entropy = -(taught * jnp.log(taught)).sum(axis=-1)
    np.testing.assert_allclose(cross_entropy(taught, logits), entropy, rtol=1e-5)


def test_teachers_speak_with_one_voice_and_drop_nothing():
    models = [model(seed, dropout=0.5, annotation_dropout=0.5, places_kept=0.5) for seed in (1, 2)]
    teachers = tuple(Teacher.of(one, nnx.to_pure_dict(nnx.state(one))) for one in models)
    said = [
        jax.nn.softmax(one.decoder(one.annotations(INPUTS), TOKENS).logits, axis=-1)
        for one in models
    ]
    assert np.abs(said[0] - said[1]).max() > 1e-3
    mean = mean_distribution(teachers, INPUTS, TOKENS)
    np.testing.assert_allclose(mean, (said[0] + said[1]) / 2, rtol=1e-5)

    pupil, batch = model(3), {"inputs": INPUTS, "tokens": TOKENS}
    objective = Likelihood(Loss(doubly_stochastic=0.0, distillation=1.0), teachers=teachers)

    @jax.jit  # teachers are an argument: no program holds their weights as constants
    def loss(objective, weights):
        taught = nnx.merge(nnx.graphdef(pupil), weights)
        return objective.loss(taught, batch, jax.random.key(0), {}, 0)[0]

    weights = trained_weights(pupil)
    logits = pupil.decoder(pupil.annotations(INPUTS), TOKENS).logits
    expected = cross_entropy(mean, logits)[TOKENS != 0].mean()
    assert float(loss(objective, weights)) == pytest.approx(float(expected), rel=1e-5)
    of_teachers = jax.grad(lambda taught: loss(taught, weights))(objective)
    assert all(not np.any(each) for each in jax.tree.leaves(of_teachers))
