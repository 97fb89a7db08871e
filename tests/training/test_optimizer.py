"""The optimizer's schedule, clipping and decay, against values worked out by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from show_attend_tell.errors import UserError
from show_attend_tell.settings import Optimizer
from show_attend_tell.training.optimizer import make_optimizer

PLAIN = Optimizer(learning_rate=0.1, schedule="constant", warmup_steps=0, clip_norm=0.0)


def changes(gradients, params=None, encoder_learning_rate=0.0, **options):
    """What each step adds to the parameters."""
    optimizer = make_optimizer(
        dataclasses.replace(PLAIN, **options),
        total_steps=10,
        encoder_learning_rate=encoder_learning_rate,
    )
    params = jnp.ones(2) if params is None else params
    state, found = optimizer.init(params), []
    for gradient in gradients:
        change, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        found.append(change)
    return found


def test_adam_moves_by_the_rate_and_the_schedules_scale_it():
    gradients = [jnp.array([3.0, -3.0])] * 11
    for change in changes(gradients):
        np.testing.assert_allclose(change, [-0.1, 0.1], rtol=1e-4)
    cosine = changes(gradients, schedule="cosine", warmup_steps=2)
    rates = [0, 0.05, *(0.05 * (1 + np.cos(np.pi * np.arange(9) / 8)))]
    np.testing.assert_allclose([-c[0] for c in cosine], rates, rtol=1e-4, atol=1e-8)
    ends = changes(gradients, schedule="cosine", final=0.5)[-1][0]
    np.testing.assert_allclose(ends, -0.05, rtol=1e-4)
    warm = changes(gradients[:4], warmup_steps=2)
    np.testing.assert_allclose([-c[0] for c in warm], [0, 0.05, 0.1, 0.1], rtol=1e-4, atol=1e-8)


def test_rmsprop_matches_its_formula():
    (change,) = changes([jnp.array([3.0, -4.0])], name="rmsprop")
    expected = -0.1 * np.array([3.0, -4.0]) / np.sqrt(0.05 * np.array([9.0, 16.0]) + 1e-8)
    np.testing.assert_allclose(change, expected, rtol=1e-5)


def test_clipping_scales_the_whole_gradient():
    # RMSProp's first step ignores scale, so look at two steps, one of them clipped.
    def two(large):
        return [{"decoder": jnp.array(g)} for g in (large, [0.3, 0.4])]

    params = {"decoder": jnp.ones(2)}
    clipped = changes(two([3.0, 4.0]), params, name="rmsprop", clip_norm=1.0)
    scaled = changes(two([0.6, 0.8]), params, name="rmsprop")
    np.testing.assert_allclose(clipped[1]["decoder"], scaled[1]["decoder"], rtol=1e-5)


def test_a_learned_baseline_is_clipped_separately():
    params = {"decoder": jnp.ones(2), "baseline": jnp.ones(2)}

    def two(baseline):
        return [
            {"decoder": jnp.array([0.3, 0.4]), "baseline": jnp.array(g)}
            for g in (baseline, [0.3, 0.4])
        ]

    clipped = changes(two([300.0, 400.0]), params, name="rmsprop", clip_norm=1.0)
    scaled = changes(two([0.6, 0.8]), params, name="rmsprop")
    for part in params:
        np.testing.assert_allclose(clipped[1][part], scaled[1][part], rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_the_encoder_has_its_own_rate(name):
    params = {"decoder": jnp.ones(2), "encoder": jnp.ones(2)}
    gradient = {part: jnp.array([3.0, -2.0]) for part in params}
    settings = dict(name=name, schedule="cosine", warmup_steps=1, clip_norm=0.5)
    for change in changes([gradient] * 4, params, encoder_learning_rate=0.001, **settings):
        np.testing.assert_allclose(change["encoder"], 0.01 * change["decoder"], rtol=1e-6)
    for change in changes([gradient] * 4, params, **settings):
        np.testing.assert_array_equal(change["encoder"], change["decoder"])


def test_decay_spares_biases():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    (change,) = changes([zero], params, name="adamw", weight_decay=0.5)
    np.testing.assert_allclose(change["kernel"], -0.05 * np.ones((2, 2)), rtol=1e-5)
    np.testing.assert_array_equal(change["bias"], np.zeros(2))


@pytest.mark.parametrize(
    "options",
    [
        {"name": "sgd"},
        {"schedule": "linear"},
        {"final": 2.0},
        {"final": 0.5},
        {"weight_decay": 0.1},
        {"schedule": "cosine", "warmup_steps": 10},
    ],
)
def test_bad_options_are_rejected(options):
    with pytest.raises(UserError, match="choose|needs|must lie"):
        make_optimizer(dataclasses.replace(PLAIN, **options), total_steps=10)
