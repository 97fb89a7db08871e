"""The exact marginal against all attention paths, enumerated."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.errors import UserError
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.likelihood import token_log_probs
from show_attend_tell.objectives.marginal import Marginal
from show_attend_tell.settings import Hard, Loss

L, T, EOS, PAD = 3, 3, 2, 0
PLAIN = Loss(doubly_stochastic=0.0, label_smoothing=0.0)
HARD = Hard(objective="marginal", entropy=0.0)
PRODUCT = {"product_form": True, "gate": False, "output_tanh": False}
VARIANTS = {
    "reads nothing": {"state_reads": "nothing"},
    "reads nothing, current": {"state_reads": "nothing", "order": "current", "score": "scaled_dot"},
    "reads expected": {"state_reads": "expected"},
    "reads posterior": {"state_reads": "posterior", "order": "current"},
    "null place": {"state_reads": "nothing", "null_place": True, "initial_state": "learned"},
    "null place, product": {
        "state_reads": "nothing",
        "null_place": True,
        "score": "general",
        "position_code": True,
        "grid": (1, 3),
        "initial_state": "zero",
        "layer_norm": True,
    },
}
ANNOTATIONS = Annotations(jax.random.normal(jax.random.key(2), (1, L, 4)))
# One caption of three tokens; two packed into a row; one with padding.
TOKENS = jnp.array([[[4, 5, EOS], [4, EOS, EOS], [5, EOS, PAD]]])


def make(variant):
    return tiny.decoder(**PRODUCT, kind="hard", **VARIANTS[variant])


@partial(jax.jit, static_argnames=("graph", "hard", "regularizers"))
def loss_of(graph, params, hard=HARD, regularizers=PLAIN, tokens=TOKENS):
    model = Captioner(Precomputed(4, (1, 3)), nnx.merge(graph, params))
    batch = {"inputs": ANNOTATIONS.vectors, "tokens": tokens}
    objective = Marginal(hard, regularizers)
    value, _, report = objective.loss(model, batch, jax.random.key(0), objective.init(), 0)
    return value, report


@partial(jax.jit, static_argnums=0)
def forced(graph, params):
    return nnx.merge(graph, params)(ANNOTATIONS, TOKENS)


def enumerated(graph, params, places):
    """-log sum over all paths of p(s) p(y | s), per real token."""
    decoder, total = nnx.merge(graph, params), 0.0
    paths = jnp.array(list(itertools.product(range(places), repeat=T)))
    noise = 1e9 * jax.nn.one_hot(paths, places)[None]
    for row in range(TOKENS.shape[1]):
        tokens = jnp.tile(TOKENS[:, row : row + 1], (1, len(paths), 1))
        choice = Choice(noise, jnp.zeros((1, len(paths)), bool))
        out = decoder(ANNOTATIONS, tokens, None, choice)
        log_p_s = jnp.take_along_axis(out.log_alpha, out.location[..., None], axis=-1)[..., 0]
        total += jax.nn.logsumexp((token_log_probs(out.logits, tokens) + log_p_s).sum(-1))
    # The paths of a padded step sum to 1.
    return -total / (TOKENS != PAD).sum()


@pytest.mark.parametrize(
    "variant",
    [
        # A null place has all that is particular to a state that reads nothing.
        pytest.param("reads nothing", marks=pytest.mark.slow),
        pytest.param("reads nothing, current", marks=pytest.mark.slow),
        "reads expected",
        "reads posterior",
        pytest.param("null place", marks=pytest.mark.slow),
        "null place, product",
    ],
)
def test_it_is_the_sum_over_all_paths(variant):
    graph, params = make(variant)
    places = L + ("null_place" in VARIANTS[variant])
    exact = jax.jit(jax.value_and_grad(lambda p: enumerated(graph, p, places)))
    value, gradient = exact(params)
    (got, report), found = jax.jit(jax.value_and_grad(lambda p: loss_of(graph, p), has_aux=True))(
        params
    )
    np.testing.assert_allclose(got, value, rtol=1e-5)
    np.testing.assert_allclose(report["nll"], value, rtol=1e-5)
    assert report["tokens"] == 8
    paths = jax.tree_util.tree_leaves_with_path(gradient)
    for (path, a), b in zip(paths, jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-6, err_msg=jax.tree_util.keystr(path))


def given_place(graph, params):
    """alpha, and log p of every word given every place, of all steps."""
    out = forced(graph, params)
    logits = out.factors.state[:, :, None] + out.factors.place[:, None]
    return np.exp(out.log_alpha).reshape(-1, L), np.asarray(jax.nn.log_softmax(logits))[0]


def test_smoothing_spreads_a_share_over_the_mixtures_words_of_every_fourth_step():
    graph, params = make("reads nothing")
    alpha, log_p = given_place(graph, params)
    mixture = np.log(np.einsum("nl,nlv->nv", alpha, np.exp(log_p)))
    nll, _ = loss_of(graph, params)
    expected = 0.8 * nll - 0.2 * mixture[[0, 4]].mean()  # the ninth step is padding
    smoothed = dataclasses.replace(PLAIN, label_smoothing=0.2)
    value, report = loss_of(graph, params, regularizers=smoothed)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(report["nll"], nll, rtol=1e-6)


def test_a_weight_mixes_in_the_papers_bound():
    graph, params = make("reads nothing")
    alpha, log_p = given_place(graph, params)
    words = np.asarray(TOKENS).reshape(-1)
    bound = (alpha * log_p[np.arange(9), :, words]).sum(-1)[words != PAD].mean()
    nll, _ = loss_of(graph, params)
    value, report = loss_of(graph, params, hard=dataclasses.replace(HARD, bound=0.25))
    np.testing.assert_allclose(value, 0.75 * nll - 0.25 * bound, rtol=1e-5)
    assert value > nll + 1e-5
    np.testing.assert_allclose(report["nll"], nll, rtol=1e-6)


def test_entropy_is_rewarded_and_unpaid_places_are_penalised():
    graph, params = make("null place")
    out = forced(graph, params)
    nll, _ = loss_of(graph, params)
    alpha, real = np.exp(out.log_alpha), np.asarray(TOKENS != PAD)
    entropy = -(alpha * out.log_alpha).sum(-1)[real].mean()
    hard = dataclasses.replace(HARD, entropy=0.3)
    value, report = loss_of(graph, params, hard=hard)
    np.testing.assert_allclose(report["entropy"], entropy, rtol=1e-5)
    np.testing.assert_allclose(value, nll - 0.3 * entropy, rtol=1e-5)
    # Captions: row 0; row 1's first two tokens; row 1's last; row 2. The null place pays nothing.
    paid = [alpha[0, 0], alpha[0, 1, :2], alpha[0, 1, 2:], alpha[0, 2, :2]]
    penalty = sum(((1 - a[:, :L].sum(0)) ** 2).sum() for a in paid)
    regularizers = dataclasses.replace(PLAIN, doubly_stochastic=0.5)
    value, report = loss_of(graph, params, regularizers=regularizers)
    np.testing.assert_allclose(report["penalty"], penalty / 4, rtol=1e-5)
    np.testing.assert_allclose(value, nll + 0.5 * penalty / 8, rtol=1e-5)


def test_padding_changes_nothing():
    graph, params = make("reads expected")
    wide = jnp.pad(TOKENS, ((0, 0), (0, 1), (0, 2)))
    np.testing.assert_allclose(
        loss_of(graph, params, tokens=wide)[0], loss_of(graph, params)[0], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder.product_form": False}, "needs config.decoder.product_form=True"),
        ({"attention.state_reads": "drawn"}, "needs config.attention.state_reads"),
        ({"decoder.gate": True}, "product_form needs .* .gate=False"),
        ({"decoder.output_tanh": True}, "product_form needs config.decoder.output_tanh=False"),
        ({"decoder.deep_output": False}, "deep_output=True"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, changes, message):
    base = {
        "attention.kind": "hard",
        "attention.state_reads": "nothing",
        "hard.objective": "marginal",
        **{f"decoder.{name}": value for name, value in PRODUCT.items()},
    }
    tiny.settings(tmp_path, base)
    with pytest.raises(UserError, match=message):
        tiny.settings(tmp_path, base | changes)
