"""The soft loss by hand-worked values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.objectives.likelihood import (
    doubly_stochastic_penalty,
    soft_loss,
    token_log_probs,
)

# Two captions in one row: "4 <eos>" and "5 <eos>", then padding.
TOKENS = jnp.array([[[4, 2, 5, 2, 0]]])
LOCATIONS = 2
ALPHA = jnp.array([[[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]]])


def test_penalty_by_hand():
    # First caption pays (1.5, 0.5): 0.25 + 0.25. Second pays (0, 2): 1 + 1. Padding: nothing.
    penalty = doubly_stochastic_penalty(ALPHA, TOKENS)
    assert float(penalty) == pytest.approx(2.5)


def loss(logits, alpha=ALPHA, doubly_stochastic=0.0, label_smoothing=0.0):
    return soft_loss(
        logits,
        alpha,
        TOKENS,
        doubly_stochastic=doubly_stochastic,
        label_smoothing=label_smoothing,
    )


def test_loss_is_per_real_token_and_weighs_the_penalty():
    logits = jnp.zeros((1, 1, 5, 6))
    value, aux = loss(logits, doubly_stochastic=0.4)
    # Uniform over six words: log 6 a token; the penalty 2.5 is shared by four real tokens.
    assert float(value) == pytest.approx(np.log(6) + 0.4 * 2.5 / 4, rel=1e-6)
    assert float(aux["nll"]) == pytest.approx(np.log(6), rel=1e-6)
    assert float(aux["penalty"]) == pytest.approx(2.5 / 2)
    assert float(aux["tokens"]) == 4


def test_label_smoothing_is_the_cross_entropy_with_smoothed_targets():
    logits = jnp.array(np.random.default_rng(0).normal(size=(1, 1, 5, 6)), jnp.float32)
    log_p = np.asarray(jax.nn.log_softmax(logits))[0, 0, :4]
    target = np.full((4, 6), 0.3 / 6)
    target[np.arange(4), [4, 2, 5, 2]] += 0.7
    expected = -(target * log_p).sum() / 4
    assert float(loss(logits, label_smoothing=0.3)[0]) == pytest.approx(expected, rel=1e-5)


def test_padding_gets_no_gradient_and_the_penalty_moves_alpha():
    logits = jnp.array(np.random.default_rng(1).normal(size=(1, 1, 5, 6)), jnp.float32)
    of_logits, of_alpha = jax.grad(
        lambda x, a: loss(x, a, doubly_stochastic=1.0, label_smoothing=0.1)[0], argnums=(0, 1)
    )(logits, ALPHA)
    assert jnp.abs(of_logits[0, 0, 4]).max() == 0
    assert jnp.abs(of_logits[0, 0, :4]).min() > 0
    assert jnp.abs(of_alpha[0, 0, 4]).max() == 0
    # d/d alpha_ti of (1 - paid_i)^2 / tokens = -2 (1 - paid_i) / 4, the same for all t.
    np.testing.assert_allclose(of_alpha[0, 0, :2], [[0.25, -0.25]] * 2, atol=1e-6)
    np.testing.assert_allclose(of_alpha[0, 0, 2:4], [[-0.5, 0.5]] * 2, atol=1e-6)


def test_token_log_probs_stay_finite_for_extreme_logits():
    logits = jnp.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    log_probs = token_log_probs(logits, jnp.array([1, 0]))
    assert log_probs.tolist() == [-2e4, 0.0]
