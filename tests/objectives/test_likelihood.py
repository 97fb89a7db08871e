"""The soft loss by hand-worked values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.models.encoders import Encoder
from show_attend_tell.models.teacher_forced import TeacherForced
from show_attend_tell.objectives.likelihood import (
    Likelihood,
    doubly_stochastic_penalty,
    soft_loss,
    token_log_probs,
)
from show_attend_tell.objectives.objective import encoder_key
from show_attend_tell.settings import Loss

# Two captions in one row: "4 <eos>" and "5 <eos>", then padding.
TOKENS = jnp.array([[[4, 2, 5, 2, 0]]])
LOCATIONS = 2
ALPHA = jnp.array([[[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]]])


def test_penalty_by_hand():
    # First caption pays (1.5, 0.5): 0.25 + 0.25. Second pays (0, 2): 1 + 1. Padding: nothing.
    penalty = doubly_stochastic_penalty(ALPHA, TOKENS)
    assert float(penalty) == pytest.approx(2.5)


def test_the_penalty_leaves_padded_places_out():
    # Of the first place the captions leave 0.25 and 1 unpaid.
    assert float(doubly_stochastic_penalty(ALPHA, TOKENS, jnp.array([[True, False]]))) == 1.25


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
    gradient = jax.grad(
        lambda x, a: loss(x, a, doubly_stochastic=1.0, label_smoothing=0.1)[0], argnums=(0, 1)
    )
    of_logits, of_alpha = jax.jit(gradient)(logits, ALPHA)
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


def test_the_objective_hands_keys_mask_and_weights_on(monkeypatch):
    mask, key, used = jnp.array([[True, False]]), jax.random.key(3), []

    def annotations(self, inputs, key=None):
        used.append(key)
        return Annotations(inputs, mask)

    def run(self, annotations, tokens, key=None, choice=None):
        used.append(key)
        zeros = jnp.zeros((1, 1, 5))
        logits = jnp.zeros((1, 1, 5, 6))
        return TeacherForced(
            *(logits, jnp.log(ALPHA), zeros.astype(int), zeros, logits, logits[:, 0, 0]),
            *(None, logits, logits),
        )

    monkeypatch.setattr(Captioner, "annotations", annotations)
    monkeypatch.setattr(Decoder, "__call__", run)
    model = Captioner(Encoder(), nnx.merge(*tiny.decoder()))
    objective = Likelihood(Loss(doubly_stochastic=0.4, label_smoothing=0.3))
    batch = {"inputs": jnp.zeros((1, LOCATIONS, 4)), "tokens": TOKENS}
    value, state, report = objective.loss(model, batch, key, objective.init(), 0)
    assert float(value) == pytest.approx(np.log(6) + 0.4 * 1.25 / 4, rel=1e-6)
    assert state == {} and float(report["penalty"]) == 0.625
    of_encoder, of_decoder = (jax.random.key_data(k) for k in used)
    np.testing.assert_array_equal(of_encoder, jax.random.key_data(encoder_key(key)))
    np.testing.assert_array_equal(of_decoder, jax.random.key_data(key))
