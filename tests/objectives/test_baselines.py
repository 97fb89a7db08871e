"""Baselines by hand-worked values, on rollouts that are given instead of run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.packed import same_caption
from show_attend_tell.objectives.baselines import (
    LearnedBaseline,
    MovingAverage,
    baseline_of,
    leave_one_out,
)
from show_attend_tell.objectives.credit import credited
from show_attend_tell.objectives.sampling import Rollout, TeacherForcing

EOS, L = 2, 3
# Two captions in a row: "4 <eos>" and "5 5 <eos>".
TOKENS = jnp.array([[[4, EOS, 5, 5, EOS, 0]]])
SEEN = MovingAverage(jnp.float32(-1.2), jnp.float32(0.6))  # of value -2
LOG_PROBS = [-1.0, -2.0, -3.0, -4.0, -5.0, 0.0]


def rollout(*log_probs):
    """A rollout of one row, of which only the words' log-probabilities matter."""
    log_probs = jnp.array([log_probs])
    of_steps = jnp.zeros((*log_probs.shape, L))
    tokens = jnp.tile(TOKENS, (1, log_probs.shape[1], 1))
    previous_h = jax.random.normal(jax.random.key(1), (*log_probs.shape, 4))
    mean = jnp.array([[0.3, -0.2, 0.1]])
    return Rollout(tokens, log_probs, log_probs, of_steps, previous_h, mean, of_steps)


@pytest.fixture
def given(monkeypatch):
    """A batch whose second rollouts are known: -10 a word on the best path, -100 softly."""

    def along(self, choice, samples=1):
        real = TOKENS[0, 0] != 0
        if choice is None:
            return rollout(jnp.where(real, -100.0, 0.0))
        assert not choice.noise.any() and not choice.expected.any() and samples == 1
        return rollout(jnp.where(real, -10.0, 0.0))

    monkeypatch.setattr(TeacherForcing, "along", along)
    graph, params = tiny.decoder()
    annotations = Annotations(jnp.zeros((1, L, 4)))
    return TeacherForcing(nnx.merge(graph, params), annotations, TOKENS)


def of(given, name, credit, *log_probs, average=SEEN, learned=None, **changes):
    hard = dataclasses.replace(tiny.PURE, credit=credit, samples=max(len(log_probs), 2), **changes)
    hard = dataclasses.replace(hard, baseline=name)
    return np.array(baseline_of(hard, given, rollout(*log_probs), average, learned)[0])


def test_the_second_rollouts_are_of_different_paths(given):
    expected = of(given, "expected", "sequence", LOG_PROBS)
    np.testing.assert_allclose(expected, [[-200, -200, -300, -300, -300, 0]])
    words = of(given, "expected", "word", LOG_PROBS)
    np.testing.assert_allclose(words, [[-100] * 5 + [0]])
    best = of(given, "self_critical", "to_go", LOG_PROBS, LOG_PROBS)
    np.testing.assert_allclose(best, [[-20, -10, -30, -20, -10, 0]] * 2)


def test_the_moving_average_is_per_word_with_rewards_to_go_only(given):
    for credit in ("sequence", "mean", "word"):
        found = of(given, "moving_average", credit, LOG_PROBS)
        np.testing.assert_allclose(found, [[-2.0] * 6])
    found = of(given, "moving_average", "to_go", LOG_PROBS)
    np.testing.assert_allclose(found[0, :5], [-4, -2, -6, -4, -2])
    # The released code's is b itself.
    found = of(given, "moving_average", "sequence", LOG_PROBS, released=True)
    np.testing.assert_allclose(found, [[-1.2] * 6])


def test_leave_one_out_averages_the_other_samples(given):
    paths = [LOG_PROBS, [2 * x for x in LOG_PROBS], [6 * x for x in LOG_PROBS]]
    found = of(given, "leave_one_out", "sequence", *paths)
    credit = np.array([-3.0, -3.0, -12.0, -12.0, -12.0, 0.0])
    np.testing.assert_allclose(found, np.outer([4.0, 3.5, 1.5], credit))
    signal = jnp.array([[1.0, 2.0, 6.0]])
    np.testing.assert_allclose(leave_one_out(signal), [[4.0, 3.5, 1.5]])


def test_the_learned_baseline_starts_as_the_moving_average_and_adds_per_word(given):
    learned = LearnedBaseline(4, 3, 3, rngs=nnx.Rngs(0))
    found = of(given, "learned", "to_go", LOG_PROBS, learned=learned)
    np.testing.assert_allclose(found[0, :5], [-4, -2, -6, -4, -2])
    learned.output.bias[...] = jnp.array([0.5])
    found = of(given, "learned", "to_go", LOG_PROBS, learned=learned)
    np.testing.assert_allclose(found[0, :5], [-3, -1.5, -4.5, -3, -1.5])
    with pytest.raises(ValueError, match="needs its network"):
        of(given, "learned", "to_go", LOG_PROBS)


def test_none_is_zero(given):
    assert not of(given, "none", "to_go", LOG_PROBS).any()


def test_no_gradient_reaches_the_model_through_the_learned_baseline():
    learned = LearnedBaseline(4, 3, 3, rngs=nnx.Rngs(0))
    learned.output.kernel[...] = jnp.ones((128, 1))
    words = credited(same_caption(TOKENS), "to_go").sum(axis=-1)
    inputs = jnp.ones((1, 1, 6, 4)), jnp.ones((1, 3)), jnp.ones((1, 1, 6, 3))
    gradients = jax.grad(lambda x: learned(*x, words).sum())(inputs)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradients))


def test_a_moving_average_by_hand():
    average = MovingAverage.start()
    assert float(average.value()) == 0.0
    credit = jnp.array([-4.0, -2.0, 100.0])
    average = average.update(credit, jnp.array([True, True, False]))
    assert float(average.b) == pytest.approx(-0.3)
    assert float(average.value()) == pytest.approx(-3.0)
    average = average.update(jnp.array([-5.0]), jnp.array([True]))
    # b = 0.9 * -0.3 - 0.5, of weight 1 - 0.81.
    assert float(average.value()) == pytest.approx(-0.77 / 0.19)
    same = average.update(credit, jnp.zeros(3, bool))
    assert float(same.value()) == pytest.approx(float(average.value()))
