"""The terms of REINFORCE's loss by hand-worked values, on rollouts that are given instead of run.

Two images of one row and two paths each. The second image's paths are soft: they read the
expectation, and are to be trained as in soft attention.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Encoder
from show_attend_tell.objectives.baselines import LearnedBaseline, MovingAverage
from show_attend_tell.objectives.objective import encoder_key
from show_attend_tell.objectives.reinforce import Reinforce, Steps, averaged, fit_error
from show_attend_tell.objectives.sampling import (
    Rollout,
    TeacherForcing,
    draw_choice,
    sampling_key,
)
from show_attend_tell.settings import Loss

EOS, L, N = 2, 3, 2
TOKENS = jnp.array([[[4, EOS, 0]], [[4, 5, EOS]]])
REAL = np.array(TOKENS != 0)  # (B, 1, T); the paths of an image share it
HARD = np.array([True, False])[:, None, None] & REAL
COUNT = N * 5  # real steps of all paths
MASK = jnp.array([[True, True, True], [True, True, False]])
SEEN = MovingAverage(jnp.float32(-0.6), jnp.float32(0.5))
PLAIN = Loss(doubly_stochastic=0.0, label_smoothing=0.0)
CHOICE = Choice(jnp.zeros((2, N, 3, L)), jnp.array([[False] * N, [True] * N]))

_rng = np.random.default_rng(0)
LOG_PROBS = jnp.asarray(np.where(REAL, _rng.uniform(-3, -1, (2, N, 3)), 0.0), jnp.float32)
LOG_P_S = jnp.asarray(_rng.uniform(-2, -0.5, (2, N, 3)), jnp.float32)
LOG_ALPHA = jax.nn.log_softmax(jnp.asarray(_rng.normal(size=(2, N, 3, L)), jnp.float32))
ALPHA = np.array(jnp.exp(LOG_ALPHA), np.float64)
ENTROPY = -(ALPHA * np.log(ALPHA)).sum(-1)
# d H / d log alpha_i, all of them taken as free.
D_ENTROPY = -ALPHA * (np.log(ALPHA) + 1)


@pytest.fixture(scope="module")
def decoder():
    graph, params = tiny.decoder()
    return nnx.merge(graph, params)


def loss_of(decoder, learned=None, loss=PLAIN, **changes):
    """The loss, the next average, the report; and gradients by rollout and learned baseline."""
    hard = dataclasses.replace(tiny.PURE, **({"samples": N} | changes))
    given = TeacherForcing(decoder, Annotations(jnp.zeros((2, L, 4)), MASK), TOKENS)
    previous_h = jax.random.normal(jax.random.key(0), (2, N, 3, 4))
    form, network = nnx.split(learned, nnx.Param) if learned else (None, {})

    def of(parts, network):
        log_probs, log_p_s, log_alpha = parts
        rollout = Rollout(
            jnp.tile(TOKENS, (1, N, 1)), log_probs, log_p_s, log_alpha, previous_h,
            jnp.zeros((2, 3)), jnp.zeros((2, N, 3, 6)),
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TeacherForcing, "along", lambda *_: rollout)
            merged = nnx.merge(form, network) if learned else None
            value, average, report = Reinforce(hard, loss).loss_along(given, CHOICE, SEEN, merged)
        return value, (average, report)

    parts = LOG_PROBS, LOG_P_S, LOG_ALPHA
    (value, (average, report)), (gradients, of_network) = jax.value_and_grad(
        of, argnums=(0, 1), has_aux=True
    )(parts, network)
    return float(value), average, report, gradients, of_network


def close(found, wanted):
    np.testing.assert_allclose(np.array(found), wanted, rtol=1e-5, atol=1e-6)


CREDIT = np.array(LOG_PROBS).sum(-1, keepdims=True) * REAL  # `sequence`
TO_GO = np.array(LOG_PROBS)[..., ::-1].cumsum(-1)[..., ::-1] * REAL


@pytest.mark.parametrize(
    ("lambda_r", "lambda_e", "credit"), [(1.0, 0.0, "sequence"), (0.3, 0.07, "to_go")]
)
def test_every_term_has_its_sign_its_weight_and_its_steps(decoder, lambda_r, lambda_e, credit):
    """The loss is -J: it falls with log p(y), A log p(s) and H, where they count."""
    value, _, report, (by_word, by_choice, by_alpha), _ = loss_of(
        decoder, reinforce=lambda_r, entropy=lambda_e, credit=credit
    )
    advantage = (CREDIT if credit == "sequence" else TO_GO) * HARD
    score = (advantage * np.array(LOG_P_S)).sum()
    entropy = (ENTROPY * HARD).sum()
    likelihood = float(LOG_PROBS.sum())
    wanted = -(likelihood + lambda_r * score + lambda_e * entropy) / COUNT
    assert value == pytest.approx(wanted, rel=1e-5)
    close(by_word, np.full((2, N, 3), -1 / COUNT))  # the credits have none
    close(by_choice, -lambda_r * advantage / COUNT)
    close(by_alpha, -lambda_e * D_ENTROPY * HARD[..., None] / COUNT)
    assert float(report["entropy"]) == pytest.approx((ENTROPY * REAL).sum() / COUNT, rel=1e-5)
    rms = np.sqrt(np.square(advantage).sum() / (HARD.sum() * N))
    assert float(report["advantage"]) == pytest.approx(rms, rel=1e-5)
    assert float(report["nll"]) == pytest.approx(-likelihood / COUNT, rel=1e-5)
    assert float(report["tokens"]) == 5


def test_the_penalty_is_added_and_leaves_padded_places_out(decoder):
    paid = (ALPHA * REAL[..., None]).sum(2)  # (B, N, L)
    places = np.array(MASK)[:, None]
    wanted = (np.square(1 - paid) * places).sum()
    weighted = dataclasses.replace(PLAIN, doubly_stochastic=0.5)
    with_penalty, _, report, (_, _, by_alpha), _ = loss_of(decoder, loss=weighted)
    without = loss_of(decoder)[0]
    assert with_penalty - without == pytest.approx(0.5 * wanted / COUNT, rel=1e-4)
    assert float(report["penalty"]) == pytest.approx(wanted / (2 * N), rel=1e-5)
    gradient = -2 * ((1 - paid) * places)[:, :, None] * REAL[..., None] * ALPHA
    close(by_alpha, 0.5 * gradient / COUNT)


@pytest.mark.parametrize("credit", ["sequence", "to_go"])
def test_only_hard_rows_enter_the_moving_average(decoder, credit):
    average = loss_of(decoder, credit=credit, baseline="moving_average")[1]
    if credit == "sequence":
        mean = np.array(LOG_PROBS)[0].sum(-1).mean()  # a caption counts once
    else:
        words = np.array([2, 1])  # of the captions' two steps
        mean = (TO_GO[0, :, :2] / words).mean()
    assert float(average.b) == pytest.approx(0.9 * -0.6 + 0.1 * mean, rel=1e-5)
    assert float(average.weight) == pytest.approx(0.9 * 0.5 + 0.1, rel=1e-5)


def test_the_released_code_averages_soft_rows_too(decoder):
    average = loss_of(decoder, credit="mean", baseline="moving_average", released=True)[1]
    mean = (np.array(LOG_PROBS).sum(-1) / REAL.sum(-1)).mean()
    assert float(average.b) == pytest.approx(0.9 * -0.6 + 0.1 * mean, rel=1e-5)


def test_the_learned_baseline_is_fitted_to_hard_steps_only(decoder):
    """Its loss and its gradient are those of the first image's real steps."""
    learned = LearnedBaseline(4, 3, 3, rngs=nnx.Rngs(0))
    learned.output.bias[...] = jnp.array([0.25])
    value, _, report, (by_word, _, _), of_network = loss_of(
        decoder, learned, credit="to_go", baseline="learned"
    )
    words = np.array([2, 1])
    per_word = (TO_GO[0, :, :2] - words * (-1.2 + 0.25)) / words  # the average's value is -1.2
    assert float(report["baseline_error"]) == pytest.approx(np.square(per_word).mean(), rel=1e-5)
    assert value - float(report["loss"]) == pytest.approx(float(report["baseline_error"]), rel=1e-4)
    bias = of_network["output"]["bias"].get_value()
    assert float(bias[0]) == pytest.approx(-2 * per_word.mean(), rel=1e-4)
    close(by_word, np.full((2, N, 3), -1 / COUNT))  # the model does not fit it


def test_the_fit_leaves_padding_and_soft_rows_out():
    steps = Steps.of(jnp.array([[[4, EOS, 0]], [[4, 5, EOS]]]), jnp.array([[False], [True]]))
    assert (int(steps.real_count), int(steps.hard_count), int(steps.captions)) == (5, 2, 2)
    weights = jnp.triu(jnp.ones((2, 1, 3, 3)))  # three, two and one words to go
    advantage = jnp.array([[[3.0, -4.0, 7.0]], [[5.0, 6.0, 8.0]]])
    # (3 / 3)^2 and (4 / 2)^2, averaged over two steps.
    assert float(fit_error(advantage, weights, steps)) == pytest.approx(2.5)


def test_which_steps_are_averaged():
    steps = Steps.of(jnp.array([[[4, EOS, 0]], [[4, 5, EOS]]]), jnp.array([[False], [True]]))
    credits = ("sequence", "to_go", "word", "mean")
    for credit, released in itertools.product(credits, (False, True)):
        hard = dataclasses.replace(tiny.PURE, credit=credit, released=released)
        every = credit in ("to_go", "word")
        first = [every, True, False]
        second = [every] * 2 + [True] if released else [False] * 3
        np.testing.assert_array_equal(averaged(steps, hard)[:, 0], [first, second])


def test_the_multi_sample_bound_has_no_signal_in_soft_rows(decoder):
    _, _, _, (by_word, by_choice, _), _ = loss_of(
        decoder, objective="multi_sample", baseline="leave_one_out"
    )
    of_caption = np.array(LOG_PROBS).sum(-1)  # (B, N)
    # Two samples: the other one stands for the own one.
    signal = np.logaddexp(*of_caption.T) - np.log(2) - of_caption[:, ::-1].T
    wanted = -N * signal.T[..., None] * HARD / COUNT
    close(by_choice, wanted)
    share = np.exp(of_caption) / np.exp(of_caption).sum(-1, keepdims=True)
    close(by_word, -N * (share[..., None] * REAL) / COUNT)


@pytest.mark.parametrize("coin", ["image", "batch"])
def test_a_step_draws_its_paths_by_the_settings(decoder, monkeypatch, coin):
    """N paths a row from the step's sampling key; the coin has p, which is 1 in the first steps."""
    took = []

    def loss_along(self, given, choice, average, learned=None):
        took.append((given, choice, learned))
        return jnp.float32(0.0), average, {}

    def annotations(self, inputs, key=None):
        assert (jax.random.key_data(key) == jax.random.key_data(encoder_key(step_key))).all()
        return Annotations(inputs)

    monkeypatch.setattr(Reinforce, "loss_along", loss_along)
    monkeypatch.setattr(Captioner, "annotations", annotations)
    learned, step_key = LearnedBaseline(4, 3, 3, rngs=nnx.Rngs(0)), jax.random.key(5)
    model = Captioner(Encoder(), decoder, learned)
    batch = {"inputs": jnp.zeros((2, L, 4)), "tokens": TOKENS}
    for p, soft_steps, step, soft in ((0.0, 0, 0, False), (1.0, 0, 9, True), (0.0, 4, 3, True)):
        hard = dataclasses.replace(tiny.PURE, samples=N, soft_probability=p, coin=coin)
        hard = dataclasses.replace(hard, soft_steps=soft_steps)
        _, state, _ = Reinforce(hard, PLAIN).loss(model, batch, step_key, SEEN, step)
        given, choice, baseline = took[-1]
        assert (choice.expected == soft).all() and choice.noise.shape == (2, N, 3, L)
        noise = draw_choice(sampling_key(step_key), (2, N, 3, L)).noise
        np.testing.assert_array_equal(choice.noise, noise)
        assert given.key is step_key and baseline is learned and state is SEEN
