"""Supervised attention: one term, the same under every objective, against NumPy."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.likelihood import Likelihood
from show_attend_tell.objectives.marginal import Marginal
from show_attend_tell.objectives.objective import encoder_key
from show_attend_tell.objectives.rebar import Rebar
from show_attend_tell.objectives.reinforce import Reinforce
from show_attend_tell.objectives.relaxed import Relaxed
from show_attend_tell.objectives.supervision import maps_over, supervised
from show_attend_tell.objectives.top_k import TopK
from show_attend_tell.objectives.variational import InferenceNetwork, Variational
from show_attend_tell.runs.build import make_objective
from show_attend_tell.settings import Attention, Hard, Loss

L, EOS, PAD = 3, 2, 0
PLAIN = Loss(doubly_stochastic=0.0, label_smoothing=0.0)
PRIOR = Attention(supervision=0.5)
POSTERIOR = Attention(supervision=0.5, supervised_map="posterior")
PRODUCT = {"product_form": True, "gate": False, "output_tanh": False}
TOKENS = np.array([[[4, 5, EOS], [4, EOS, EOS]], [[5, EOS, PAD], [PAD, PAD, PAD]]])
BETA = np.zeros((2, 2, 3, L), np.float16)
BETA[0, 0, 1], BETA[0, 1, 0], BETA[1, 0, 0] = (1, 0, 0), (0, 0.25, 0.75), (0.5, 0, 0.5)
HARD = Hard(soft_probability=0.5, reinforce=0.0, entropy=0.0, baseline="none", samples=2)
# Without the score's term the loss of all is nll, and no regularizer but the supervision.
OBJECTIVES = {
    "likelihood": Likelihood(PLAIN, PRIOR),
    "marginal": Marginal(HARD, PLAIN, PRIOR),
    "top_k": TopK(HARD, PLAIN, PRIOR),
    "variational": Variational(HARD, PLAIN, PRIOR),
    "reinforce": Reinforce(HARD, PLAIN, PRIOR),
    "gumbel": Relaxed(HARD, PLAIN, PRIOR),
    "rebar": Rebar(HARD, PLAIN, PRIOR),
    "marginal, posterior": Marginal(HARD, PLAIN, POSTERIOR),
}


@cache
def computed():
    """Loss and report by objective, and the decoder's own pass; one program for all.

    Training keeps two of three places.
    """
    # The state reads nothing, so alpha is the same along all paths.
    changes = {"kind": "hard", "state_reads": "nothing", "null_place": True, "places_kept": 0.67}
    code = {"position_code": True, "grid": (1, L)}
    graph, params = tiny.decoder(**PRODUCT, **changes, **code)
    network = InferenceNetwork(4, 3, 3, 5, rngs=nnx.Rngs(3))
    batch = {"inputs": jax.random.normal(jax.random.key(2), (2, L, 4)), "tokens": TOKENS}
    batch["maps"] = BETA

    @jax.jit
    def run(params, batch):
        found, decoder = {}, nnx.merge(graph, params)
        for name, objective in OBJECTIVES.items():
            auxiliary = network if isinstance(objective, Variational) else None
            model = Captioner(Precomputed(4, (1, L)), decoder, auxiliary)
            key, state = jax.random.key(0), objective.init()
            loss, _, report = objective.loss(model, batch, key, state, 0)
            found[name] = loss, report
        kept = model.annotations(batch["inputs"], encoder_key(key))
        return found, decoder(kept, batch["tokens"]), kept.numbers

    return run(params, batch)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_it(name):
    found, out, kept = computed()
    loss, report = found[name]
    log_map = np.asarray(out.log_alpha)
    if name.endswith("posterior"):
        state, place, log_alpha = map(np.asarray, out.factors)
        logits = (state[:, :, None] + place[:, None]).astype(np.float64)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        words = TOKENS.reshape(2, -1)[:, :, None, None]
        joint = log_alpha + np.take_along_axis(log_p, words, axis=-1)[..., 0]
        log_map = (joint - np.log(np.exp(joint).sum(-1, keepdims=True))).reshape(log_map.shape)
        assert np.abs(log_map - out.log_alpha).max() > 0.1
    assert log_map.shape[-1] == 3 and np.exp(log_map[..., 2]).min() > 0.01
    beta = {s: BETA[s].astype(float)[kept[s[0]]] for s in [(0, 0, 1), (0, 1, 0), (1, 0, 0)]}
    wanted = sum(-(b * log_map[s][:2]).sum() for s, b in beta.items())
    wanted /= sum(b.any() for b in beta.values())
    np.testing.assert_allclose(report["supervision"], wanted, rtol=1e-5)
    np.testing.assert_allclose(loss, report["nll"] + 0.5 * wanted, rtol=1e-5)


def test_its_gradient_moves_alpha_to_the_target():
    scores = np.random.default_rng(0).normal(size=(2, 4, 3, L)).astype(np.float32)  # two paths

    def term(scores):
        return supervised(jnp.zeros(()), {}, PRIOR, jnp.asarray(BETA), jax.nn.log_softmax(scores))[
            0
        ]

    beta, alpha = np.tile(BETA, (1, 2, 1, 1)).astype(float), jax.nn.softmax(scores)
    wanted = np.where(beta.any(-1, keepdims=True), alpha - beta, 0.0) * 0.5 / 6
    np.testing.assert_allclose(jax.grad(term)(scores), wanted, atol=1e-6)


def test_the_share_in_the_boxes_may_lie_anywhere_in_them():
    beta = np.zeros((1, 1, 3, L), np.float16)
    # In the second map the first cell lies in the boxes by a third, and half of the map is kept.
    beta[0, 0, 0], beta[0, 0, 1] = (0.5, 0, 0.5), (0, 0.125, 0.375)
    alpha = np.array([[[[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.3, 0.3, 0.4]]]], np.float32)
    attention = Attention(supervision=0.5, supervision_loss="share")

    def term(scores):
        log_alpha = jax.nn.log_softmax(scores)
        return supervised(jnp.zeros(()), {}, attention, jnp.asarray(beta), log_alpha)[0]

    loss, slope = jax.value_and_grad(term)(jnp.log(alpha))
    np.testing.assert_allclose(loss, -0.5 * (np.log(0.3) + 0.5 * np.log(0.2)) / 2, rtol=1e-5)
    # alpha_i (1 - cover_i / share), by the kept share, halved by the mean over steps and the weight
    wanted = alpha[0, 0, :2] * (1 - np.array([[1, 0, 1], [0, 1 / 3, 1]]) / [[0.3], [0.2]]) / 4
    wanted[1] /= 2
    np.testing.assert_allclose(slope[0, 0], [*wanted, [0, 0, 0]], atol=1e-6)


def test_targets_follow_the_places_that_are_kept():
    places = jnp.array([[0, 2], [1, 2]])
    kept = Annotations(jnp.zeros((2, 2, 4)), numbers=places)
    found = maps_over(kept, {"maps": jnp.asarray(BETA)})
    expected = np.zeros((2, 2, 3, 2))
    expected[0, 0, 1], expected[0, 1, 0], expected[1, 0, 0] = (1, 0), (0, 0.75), (0, 0.5)
    np.testing.assert_allclose(found, expected)
    withheld = maps_over(kept._replace(numbers=places[::-1]), {"maps": jnp.asarray(BETA)})
    assert not np.asarray(withheld)[0, 0].any()
    whole = {"maps": jnp.asarray(BETA)}
    assert maps_over(Annotations(jnp.zeros((2, 3, 4))), whole) is whole["maps"]
    assert maps_over(kept, {}) is None


def test_nothing_is_added_without_a_weight_or_a_target():
    log_alpha, loss, report = jnp.zeros((2, 2, 3, L)), jnp.float32(1.5), {"nll": jnp.float32(1.5)}
    same = supervised(loss, report, Attention(), None, log_alpha)
    assert same[0] is loss and same[1] is report
    value, more = supervised(loss, report, PRIOR, jnp.zeros_like(BETA), log_alpha)
    assert value == 1.5 and more == report | {"supervision": 0.0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention.kind": "hard"},
        {"attention.kind": "hard", "hard.objective": "gumbel"},
        {
            "attention.kind": "hard",
            "attention.state_reads": "nothing",
            "hard.objective": "marginal",
            **{f"decoder.{name}": value for name, value in PRODUCT.items()},
        },
    ],
)
def test_it_is_chosen_by_settings(tmp_path, changes):
    settings = tiny.settings(tmp_path, changes | {"attention.supervision": 0.25})
    assert make_objective(settings).attention == settings.attention
