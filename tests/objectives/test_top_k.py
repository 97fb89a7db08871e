"""The merged likelihood against forced readings, and against the exact marginal with all places."""

import dataclasses
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
from show_attend_tell.objectives.likelihood import doubly_stochastic_penalty
from show_attend_tell.objectives.top_k import TopK
from show_attend_tell.runs.build import make_objective
from show_attend_tell.settings import Hard, Loss

L, EOS, PAD = 4, 2, 0
PLAIN = Loss(doubly_stochastic=0.0, label_smoothing=0.0)
ANNOTATIONS = Annotations(jax.random.normal(jax.random.key(2), (1, L, 4)))
TOKENS = jnp.array([[[4, 5, EOS], [4, EOS, EOS], [5, EOS, PAD]]])
VARIANTS = {
    "gate and tanh": {"state_reads": "expected"},
    "null place": {"state_reads": "nothing", "null_place": True, "order": "current"},
}


def make(variant):
    return tiny.decoder(kind="hard", **VARIANTS[variant])


@partial(jax.jit, static_argnames=("graph", "k", "entropy", "regularizers"))
def loss_of(graph, params, k, entropy=0.0, regularizers=PLAIN, tokens=TOKENS):
    model = Captioner(Precomputed(4, (2, 2)), nnx.merge(graph, params))
    batch = {"inputs": ANNOTATIONS.vectors, "tokens": tokens}
    objective = TopK(Hard(objective="top_k", samples=k, entropy=entropy), regularizers)
    value, _, report = objective.loss(model, batch, jax.random.key(0), objective.init(), 0)
    return value, report


@partial(jax.jit, static_argnums=0)
def table(graph, params):
    """log alpha of each step and place, and log p of every word there."""
    decoder = nnx.merge(graph, params)
    places, (_, rows, steps) = decoder.places(L), TOKENS.shape
    noise = jnp.broadcast_to(1e9 * jnp.eye(places)[:, None, None], (places, rows, steps, places))
    noise = noise.reshape(1, places * rows, steps, places)
    choice = Choice(noise, jnp.zeros(noise.shape[:2], bool))
    out = decoder(ANNOTATIONS, jnp.tile(TOKENS, (1, places, 1)), None, choice)
    log_p = jax.nn.log_softmax(out.logits[0].reshape(places, rows, steps, -1))
    return out.log_alpha[0, :rows], jnp.moveaxis(log_p, 0, -2)


def mean_of(log_mixture, smoothing=0.0):
    given = jnp.take_along_axis(log_mixture, TOKENS[0][..., None], axis=-1)[..., 0]
    smoothed = (1 - smoothing) * given + smoothing * log_mixture.mean(-1)
    return -jnp.where(TOKENS[0] != PAD, smoothed, 0.0).sum() / 8


def marginal(graph, params, smoothing):
    log_alpha, log_p = table(graph, params)
    return mean_of(jax.nn.logsumexp(log_alpha[..., None] + log_p, -2), smoothing)


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_all_places_it_is_the_exact_marginal(variant):
    graph, params = make(variant)
    smoothed = dataclasses.replace(PLAIN, label_smoothing=0.2)
    exact = jax.jit(jax.value_and_grad(lambda p: marginal(graph, p, 0.2)))
    value, gradient = exact(params)
    found = jax.jit(jax.value_and_grad(lambda p: loss_of(graph, p, 9, regularizers=smoothed)[0]))
    got, got_gradient = found(params)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    paths = jax.tree_util.tree_leaves_with_path(gradient)
    for (path, a), b in zip(paths, jax.tree.leaves(got_gradient), strict=True):
        np.testing.assert_allclose(b, a, atol=3e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("k", [1, 3])
def test_the_other_places_are_read_as_their_mean(k):
    graph, params = make("null place")
    log_alpha, log_p = (np.asarray(x) for x in table(graph, params))
    decoder, alpha = nnx.merge(graph, params), np.exp(log_alpha)
    assert decoder.projection is not None
    vectors = np.pad(decoder.projection(ANNOTATIONS.vectors)[0], ((0, 1), (0, 0)))
    total, merged = np.zeros((3, 3, 6)), np.zeros((3, 3))
    out = jax.tree.map(np.asarray, jax.jit(lambda: decoder(ANNOTATIONS, TOKENS))())
    output = jax.jit(lambda *given: jax.nn.softmax(decoder.output(*given)[0]))
    for row, step in np.ndindex(3, 3):
        a = alpha[row, step]
        top, rest = np.split(np.argsort(-a), [k])
        mean = (a[rest, None] * vectors[rest]).sum(0) / a[rest].sum()
        embedded, h, beta = (x[:, row, step] for x in (out.embedded, out.h, out.beta))
        words = output(embedded, h, beta[:, None] * mean[None])
        total[row, step] = a[top] @ np.exp(log_p[row, step, top])
        total[row, step] += a[rest].sum() * words
        merged[row, step] = a[rest].sum()
    value, report = loss_of(graph, params, k)
    np.testing.assert_allclose(value, mean_of(jnp.log(total)), rtol=1e-5)
    np.testing.assert_allclose(report["nll"], value, rtol=1e-6)
    real = np.asarray(TOKENS[0] != PAD)
    np.testing.assert_allclose(report["merged"], merged[real].mean(), rtol=1e-5)
    assert abs(value - marginal(graph, params, 0.0)) > 1e-3  # biased


def test_entropy_is_rewarded_and_unpaid_places_are_penalised():
    graph, params = make("null place")
    plain, report = loss_of(graph, params, 2)
    log_alpha, _ = table(graph, params)
    entropy = -(np.exp(log_alpha) * log_alpha).sum(-1)[np.asarray(TOKENS[0] != PAD)].mean()
    np.testing.assert_allclose(report["entropy"], entropy, rtol=1e-5)
    out = jax.jit(lambda params: nnx.merge(graph, params)(ANNOTATIONS, TOKENS))(params)
    penalty = doubly_stochastic_penalty(out.alpha[..., :L], TOKENS)  # without the null place
    np.testing.assert_allclose(report["penalty"], penalty / 4, rtol=1e-5)  # of four captions
    regularizers = dataclasses.replace(PLAIN, doubly_stochastic=0.5)
    value, _ = loss_of(graph, params, 2, entropy=0.3, regularizers=regularizers)
    wanted = plain - 0.3 * entropy + 0.5 * penalty / 8
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_padding_changes_nothing():
    graph, params = make("gate and tanh")
    wide = jnp.pad(TOKENS, ((0, 0), (0, 1), (0, 2)))
    np.testing.assert_allclose(
        loss_of(graph, params, 2, tokens=wide)[0], loss_of(graph, params, 2)[0], rtol=1e-6
    )


def test_it_is_chosen_by_settings_and_refuses_what_does_not_fit(tmp_path):
    base = {
        "attention.kind": "hard",
        "attention.state_reads": "nothing",
        "hard.objective": "top_k",
        "hard.samples": 5,
    }
    settings = tiny.settings(tmp_path, base)
    assert make_objective(settings) == TopK(settings.hard, settings.loss, settings.attention)
    with pytest.raises(UserError, match="'top_k' needs config.attention.state_reads"):
        tiny.settings(tmp_path, base | {"attention.state_reads": "drawn"})
    with pytest.raises(UserError, match="'top_k' needs config.decoder.deep_output=True"):
        tiny.settings(tmp_path, base | {"decoder.deep_output": False})
