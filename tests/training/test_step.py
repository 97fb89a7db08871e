"""The training step: skipping non-finite steps, the running mean, states of version 0.1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.data.batches import BatchPlan, train_batches
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.baselines import MovingAverage
from show_attend_tell.objectives.likelihood import Likelihood
from show_attend_tell.objectives.reinforce import Reinforce
from show_attend_tell.objectives.rewarded import Rewarded
from show_attend_tell.objectives.rewards import idf_table
from show_attend_tell.runs.checkpoint import Checkpoints
from show_attend_tell.settings import Hard, Loss, Optimizer, Reward
from show_attend_tell.training.optimizer import make_optimizer
from show_attend_tell.training.step import (
    eval_params,
    from_legacy,
    initial_state,
    legacy_like,
    make_train_step,
)

LOSS = Loss(doubly_stochastic=0.1, label_smoothing=0.0)
SOFT = Likelihood(LOSS)
HARD = Reinforce(Hard(soft_probability=0.0), LOSS)
BATCH = {
    "inputs": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float16),
    "tokens": np.array([[[4, 5, 2]], [[5, 2, 0]]], np.int32),
}


@pytest.fixture(scope="module")
def decoder():
    return nnx.merge(*tiny.decoder(projection=0))


def make(decoder, objective=SOFT, *, average=0.5, keep_start=False):
    """A step over annotation vectors, and its first state."""
    model = Captioner(Precomputed(4, (1, 3)), nnx.clone(decoder))
    optimizer = make_optimizer(
        Optimizer(learning_rate=0.1, schedule="constant", warmup_steps=0, clip_norm=1.0),
        total_steps=10,
    )
    step = make_train_step(model, objective, optimizer, key=jax.random.key(0), average=average)
    return step, initial_state(model, objective, optimizer, keep_start=keep_start)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("objective", [SOFT, HARD], ids=["soft", "hard"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(decoder, objective):
    step, state = make(decoder, objective)
    state, _ = step(state, BATCH)
    if objective is HARD:
        assert float(state.objective.weight) == pytest.approx(0.1)
    before = jax.tree.map(np.array, state)
    poisoned = BATCH | {"inputs": BATCH["inputs"] * np.float16(np.nan)}
    state, metrics = step(state, poisoned)
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (1, 1)
    for part in ("params", "optimizer", "average", "objective"):
        same(getattr(state, part), getattr(before, part))
    state, metrics = step(state, BATCH)
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (1, 0)
    assert np.isfinite(float(metrics["loss"]))
    assert int(state.step) == 3
    if objective is HARD:
        assert float(state.objective.weight) == pytest.approx(1 - 0.81)


def test_the_average_is_the_running_mean_of_the_parameters(decoder):
    step, state = make(decoder, average=0.5, keep_start=True)
    # Decay is min(average, (1 + t) / (10 + t)), so 1/10 and then 2/11.
    start = jax.tree.map(np.array, state.params)
    expected = start
    for decay in (1 / 10, 2 / 11):
        state, _ = step(state, BATCH)
        mean = jax.tree.map(
            lambda m, p, d=decay: d * m + (1 - d) * np.array(p), expected, state.params
        )
        expected = mean

    def close(a, b):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)

    close(state.average, expected)
    same(state.start, start)
    same(eval_params(state, 0.0), state.average)
    close(eval_params(state, 0.25), jax.tree.map(lambda a, b: a / 4 + b * 0.75, start, expected))


def test_training_compiles_one_program_per_bucket(decoder):
    captions = [[[5] * n + [2]] for n in (2, 3, 7, 8, 2, 3, 7, 8)]
    plan = BatchPlan(captions, batch_size=2, rows=1, buckets=2, max_length=20, seed=0)
    inputs = np.ones((8, 3, 4), np.float16)
    step, state = make(decoder)
    batches = train_batches(inputs, plan, prefetch=0)
    for _ in range(3 * plan.batches_per_epoch):
        state, _ = step(state, next(batches))
    assert len(plan.lengths) == 2
    assert step.func._cache_size() == 2


def test_an_objectives_arrays_are_arguments_of_the_program(decoder):
    table = idf_table([[[4, 5, 4, 2], [4, 2]], [[5, 5, 2]]])
    objective = Rewarded(Reward(samples=2, max_length=3), None, LOSS, table)
    assert jax.tree.leaves((SOFT, HARD)) == [] and len(jax.tree.leaves(objective)) == 3
    step, state = make(decoder, objective)
    program = step.func.lower(*step.args, state, BATCH).as_text()
    entry = next(line for line in program.splitlines() if "func.func public @main" in line)
    assert f"tensor<{len(table.hashes)}xui32>" in entry
    assert str(int(table.hashes[0])) not in program


@pytest.mark.parametrize("objective", [SOFT, HARD], ids=["soft", "hard"])
def test_a_state_of_version_0_1_is_read(tmp_path, decoder, objective):
    """Version 0.1 saved a moving average for every objective, in place of the objective's state."""
    _, state = make(decoder, objective)
    tree = legacy_like(state)
    assert set(tree) == {
        *("step", "params", "optimizer", "average", "start"),
        *("skipped", "skipped_in_a_row", "moving_average"),
    }
    old = tree | {
        "step": jnp.int32(7),
        "moving_average": MovingAverage(jnp.float32(-1.5), jnp.float32(0.3)),
    }
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(7, jax.tree.map(np.array, old), {})
    checkpoints.wait()
    _, restored, _ = checkpoints.restore(tree)
    checkpoints.close()
    new = from_legacy(restored, objective)
    assert int(new.step) == 7 and type(new) is type(state)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    same(new.params, state.params)
    if objective is HARD:
        assert [float(x) for x in new.objective] == pytest.approx([-1.5, 0.3])
    else:
        assert new.objective == {}
