"""REBAR against the exact gradient of the expected log-probability, and its draws' distribution."""

import dataclasses
from functools import cache, partial

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
from show_attend_tell.objectives.baselines import MovingAverage
from show_attend_tell.objectives.likelihood import token_log_probs
from show_attend_tell.objectives.reading import Reading
from show_attend_tell.objectives.rebar import Noise, Rebar, draw_noise, perturbed
from show_attend_tell.objectives.reinforce import Reinforce
from show_attend_tell.objectives.sampling import TeacherForcing, draw_choice, sampling_key
from show_attend_tell.runs.build import make_objective
from show_attend_tell.settings import Loss

L, EOS, PAD = 3, 2, 0
PLAIN = Loss(doubly_stochastic=0.0, label_smoothing=0.0)
SMOOTHED = Loss(doubly_stochastic=0.0, label_smoothing=0.2)
REBAR = dataclasses.replace(tiny.PURE, objective="rebar", relaxation_temperature=0.7)
PLAINLY = dataclasses.replace(REBAR, control=0.0)
WORD = dataclasses.replace(tiny.PURE, credit="word")  # REINFORCE without a baseline
VARIANTS = {
    "gate and tanh": {"state_reads": "nothing"},
    "reads expected": {"state_reads": "expected", "null_place": True},
    "product": {"state_reads": "nothing", "product_form": True, "gate": False}
    | {"output_tanh": False},
}
ANNOTATIONS = Annotations(jax.random.normal(jax.random.key(2), (1, L, 4)))
# One caption of three tokens; two packed into a row; one with padding.
TOKENS = jnp.array([[[4, 5, EOS], [4, EOS, EOS], [5, EOS, PAD]]])
COUNT = 8
OUTPUT = ("output_h", "output_z", "output_word")


@cache
def make(variant):
    return tiny.decoder(kind="hard", **VARIANTS[variant])


def read(graph, params, tokens=TOKENS, annotations=ANNOTATIONS):
    return Reading.of(nnx.merge(graph, params), annotations, tokens, None)


def loss_of(graph, params, noise, hard=REBAR, regularizers=PLAIN):
    return Rebar(hard, regularizers).loss_at(read(graph, params), noise)[0]


def noise_of(key, samples=1, places=L):
    return draw_noise(key, samples, (*TOKENS.shape, places))


def flat(tree):
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])


def expected_loss(graph, params, smoothing):
    """-sum_t sum_i alpha_ti f_t(i) per real token, every place read in turn."""
    decoder, (_, rows, steps) = nnx.merge(graph, params), TOKENS.shape
    places = decoder.places(L)
    noise = jnp.repeat(1e9 * jnp.eye(places), rows * steps, axis=0)
    noise = noise.reshape(1, places * rows, steps, places)
    tokens = jnp.tile(TOKENS, (1, places, 1))
    out = decoder(ANNOTATIONS, tokens, None, Choice(noise, jnp.zeros(noise.shape[:2], bool)))
    uniform = jax.nn.log_softmax(out.logits).mean(axis=-1)
    log_p = (1 - smoothing) * token_log_probs(out.logits, tokens) + smoothing * uniform
    read = jnp.take_along_axis(out.alpha, out.location[..., None], axis=-1)[..., 0]
    return -jnp.where(tokens != PAD, read * log_p, 0.0).sum() / COUNT


@pytest.fixture(scope="module")
def drawn_gradients(draws=2500):
    """The exact gradient, and those of REBAR and of eta = 0 for many draws; one program."""
    graph, params = make("reads expected")
    places = nnx.merge(graph, params).places(L)

    @jax.jit
    def run(params):
        def one(key):
            noise = noise_of(key, places=places)
            of = partial(loss_of, graph, noise=noise, regularizers=SMOOTHED)
            return [jax.grad(partial(of, hard=hard))(params) for hard in (REBAR, PLAINLY)]

        exact = jax.grad(partial(expected_loss, graph, smoothing=0.2))(params)
        return exact, *jax.vmap(one)(jax.random.split(jax.random.key(0), draws))

    return jax.tree.map(np.asarray, run(params))


def test_the_mean_over_draws_is_the_exact_gradient(drawn_gradients):
    exact, rebar, _ = drawn_gradients
    significant = set()
    for (path, wanted), found in zip(
        jax.tree_util.tree_leaves_with_path(exact), jax.tree.leaves(rebar), strict=True
    ):
        error = found.std(axis=0) / np.sqrt(len(found))
        off = np.abs(found.mean(axis=0) - wanted)
        assert (off < 4 * error + 1e-6).all(), jax.tree_util.keystr(path)
        if (np.abs(wanted) > 10 * error + 1e-4).any():
            significant.add(path[0].key)
    # Were they within the noise, the test would prove nothing.
    assert significant >= {"attention", *OUTPUT}


def test_the_control_variate_lowers_the_variance_and_leaves_the_output_alone(drawn_gradients):
    _, rebar, plain = drawn_gradients

    def variance(gradients):
        return sum(x.var(axis=0).sum() for x in jax.tree.leaves(gradients))

    assert variance(rebar) < 0.6 * variance(plain)
    assert variance(rebar["attention"]) < 0.4 * variance(plain["attention"])
    for name in OUTPUT:
        same = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        jax.tree.map(same, rebar[name], plain[name])


@pytest.mark.slow  # the formula below has every term
def test_without_control_it_is_reinforce_with_a_words_own_credit():
    graph, params = make("gate and tanh")
    hard = dataclasses.replace(PLAINLY, samples=2, reinforce=0.7)
    pure = dataclasses.replace(WORD, samples=2, reinforce=0.7)
    key = jax.random.key(5)

    def wanted(params):
        given = TeacherForcing(nnx.merge(graph, params), ANNOTATIONS, TOKENS)
        choice = draw_choice(key, given.paths(2))
        return Reinforce(pure, PLAIN).loss_along(given, choice, MovingAverage.start())[0]

    found = jax.grad(partial(loss_of, graph, noise=noise_of(key, 2), hard=hard))
    both = jax.jit(lambda p: (found(p), jax.grad(wanted)(p)))(params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6), *both)


def reference(graph, params, uniform, eta, tau, weight):
    """A loss with REBAR's gradient where logits are b + sum_i w_i g_i, by uniform noise."""
    out = nnx.merge(graph, params)(ANNOTATIONS, TOKENS)
    state, place, _ = out.factors
    theta, hold = out.log_alpha, jax.lax.stop_gradient
    u, v = uniform

    def f(w, state, place):
        logits = state + jnp.einsum("bnl,blv->bnv", w.reshape(1, -1, L), place)
        logits = logits.reshape(*TOKENS.shape, -1)
        uniform = jax.nn.log_softmax(logits).mean(axis=-1)
        return 0.8 * token_log_probs(logits, TOKENS) + 0.2 * uniform

    z = theta - jnp.log(-jnp.log(u))
    s = jax.nn.one_hot(jnp.argmax(z, axis=-1), L)
    v_s = (s * v).sum(-1, keepdims=True)
    below = -jnp.log(-jnp.log(v) / jnp.exp(theta) - jnp.log(v_s))
    tied = jnp.where(s > 0, -jnp.log(-jnp.log(v)), below)
    f_z, f_tied = (f(jax.nn.softmax(x / tau), hold(state), hold(place)) for x in (z, tied))
    f_s = f(s, state, place)
    score = hold(f_s - eta * f_tied) * (s * theta).sum(-1)
    terms = f_s + weight * (score + eta * f_z - eta * f_tied)
    return -jnp.where(TOKENS != PAD, terms, 0.0).sum() / COUNT


def test_the_gradient_at_given_noise_is_the_formula():
    graph, params = make("product")
    hard = dataclasses.replace(REBAR, control=0.6, reinforce=0.5)
    for key in range(3):
        uniform = jax.random.uniform(jax.random.key(key), (2, *TOKENS.shape, L), minval=1e-3)
        noise = Noise(*-jnp.log(-jnp.log(uniform))[:, None])
        found, wanted = gradients_by_formula(graph, hard)(params, noise, uniform)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=5e-6), found, wanted)


@cache
def gradients_by_formula(graph, hard):
    def both(params, noise, uniform):
        tau = hard.relaxation_temperature
        found = partial(loss_of, graph, noise=noise, hard=hard, regularizers=SMOOTHED)
        by_hand = lambda p: reference(graph, p, uniform, hard.control, tau, hard.reinforce)  # noqa: E731
        return jax.grad(found)(params), jax.grad(by_hand)(params)

    return jax.jit(both)


def test_conditional_draws_are_distributed_as_free_ones():
    log_alpha = jax.nn.log_softmax(jnp.array([0.3, -1.5, 1.2]))[None, None, None]
    many = 40000
    noise = draw_noise(jax.random.key(7), many, (1, 1, 1, 3))
    free, places, tied = (np.asarray(x)[:, 0, 0, 0] for x in perturbed(log_alpha, noise))
    np.testing.assert_array_equal(tied.argmax(axis=-1), places)
    np.testing.assert_array_equal(free.argmax(axis=-1), places)
    # A Gumbel variable has the mean gamma, the variance pi^2 / 6 and a fourth moment of
    # 27/5 variances squared; 5 standard errors.
    log_alpha, variance = np.ravel(log_alpha), np.pi**2 / 6
    for z in (free, tied):
        mean = log_alpha + np.euler_gamma
        np.testing.assert_allclose(z.mean(axis=0), mean, atol=5 * np.sqrt(variance / many))
        error = 5 * variance * np.sqrt(4.4 / many)
        np.testing.assert_allclose(np.cov(z.T), variance * np.eye(3), atol=error)
        shares = np.bincount(places, minlength=3) / many
        np.testing.assert_allclose(shares, np.exp(log_alpha), atol=0.0125)
    # Given the place, the two are independent.
    for place in range(3):
        of = np.corrcoef(free[places == place].T, tied[places == place].T)[:3, 3:]
        assert np.abs(of).max() < 5 / np.sqrt((places == place).sum())


def test_padded_steps_and_places_change_nothing():
    graph, params = make("gate and tanh")
    wide = jnp.pad(TOKENS, ((0, 0), (0, 1), (0, 2)))
    more = Annotations(
        jnp.pad(ANNOTATIONS.vectors, ((0, 0), (0, 2), (0, 0)), constant_values=3.0),
        jnp.array([[True] * L + [False] * 2]),
    )

    @jax.jit
    def value_and_gradient(tokens, annotations, noise):
        def loss(params):
            return Rebar(REBAR, SMOOTHED).loss_at(read(graph, params, tokens, annotations), noise)

        return jax.value_and_grad(loss, has_aux=True)(params)

    noise = noise_of(jax.random.key(3), 2)
    widths = ((0, 0), (0, 0), (0, 1), (0, 2), (0, 2))
    padded = Noise(*(jnp.pad(x, widths, constant_values=9.0) for x in noise))
    wanted = value_and_gradient(TOKENS, ANNOTATIONS, noise)
    found = value_and_gradient(wide, more, padded)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6), found, wanted)


def test_a_step_draws_its_noise_from_its_key_and_its_value_is_reinforces():
    graph, params = tiny.decoder(kind="hard", state_reads="nothing", dropout=0.3)
    hard = dataclasses.replace(REBAR, samples=2, entropy=0.3)
    objective = Rebar(hard, Loss(doubly_stochastic=0.5, label_smoothing=0.0))
    key = jax.random.key(4)

    @jax.jit
    def run(params):
        model = Captioner(Precomputed(4, (1, 3)), nnx.merge(graph, params))
        batch = {"inputs": ANNOTATIONS.vectors, "tokens": TOKENS}
        given = Reading.of(model.decoder, ANNOTATIONS, TOKENS, key)
        places = perturbed(given.out.log_alpha, noise_of(sampling_key(key), 2)).places
        log_p = given.log_softmax_at(places)
        return objective.loss(model, batch, key, objective.init(), 0), log_p, given.out.log_alpha

    (value, state, report), log_p, log_alpha = jax.tree.map(np.asarray, run(params))
    words = np.take_along_axis(log_p, np.asarray(TOKENS)[None, ..., None], axis=-1)[..., 0]
    real = np.asarray(TOKENS != PAD)
    nll, entropy = (
        -words[:, real].mean(),
        -(np.exp(log_alpha) * log_alpha).sum(axis=-1)[real].mean(),
    )
    np.testing.assert_allclose(report["nll"], nll, rtol=1e-5)
    penalty = 4 * report["penalty"] / COUNT  # of four captions
    np.testing.assert_allclose(value, nll - 0.3 * entropy + 0.5 * penalty, rtol=1e-5)
    # The control variate takes away a part of the credit.
    assert 0 < report["advantage"] < np.sqrt(np.square(words[:, real]).mean())
    assert state == {} and report["tokens"] == COUNT


def test_every_draw_has_noise_of_its_own_and_the_places_of_reinforce():
    key, shape = jax.random.key(8), (2, 3, 4, 5)
    noise = draw_noise(key, 2, shape)
    paths = draw_choice(key, (2, 6, 4, 5)).noise
    for n, b, r in ((0, 0, 0), (1, 0, 2), (1, 1, 1)):
        np.testing.assert_array_equal(noise.drawing[n, b, r], paths[b, 3 * n + r])
    both = np.concatenate([np.ravel(x) for x in noise])
    assert len(np.unique(both)) == both.size


def test_it_is_chosen_by_settings_and_refuses_what_does_not_fit(tmp_path):
    base = {
        "attention.kind": "hard",
        "attention.state_reads": "expected",
        "hard.objective": "rebar",
        "hard.control": 0.5,
    }
    settings = tiny.settings(tmp_path, base)
    assert make_objective(settings) == Rebar(settings.hard, settings.loss, settings.attention)
    for changes, message in (
        ({"attention.state_reads": "drawn"}, "'rebar' needs config.attention.state_reads"),
        ({"decoder.deep_output": False}, "'rebar' needs config.decoder.deep_output=True"),
        ({"hard.control": -0.1}, "control is -0.1: it must be at least 0"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            tiny.settings(tmp_path, base | changes)
        assert "\n" not in str(caught.value)
