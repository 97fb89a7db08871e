"""The variational bound against sums over places, written out from forced readings."""

import dataclasses
import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx

from show_attend_tell.errors import UserError
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.baselines import MovingAverage
from show_attend_tell.objectives.reading import Reading
from show_attend_tell.objectives.variational import InferenceNetwork, Variational, posterior
from show_attend_tell.runs.build import build_captioner, make_objective
from show_attend_tell.settings import Hard, Loss

L, EOS, PAD = 3, 2, 0
PLAIN = Loss(doubly_stochastic=0.0, label_smoothing=0.0)
SMOOTHED = Loss(doubly_stochastic=0.0, label_smoothing=0.2)
EXACT = Hard(objective="variational", entropy=0.0, baseline="none")
SAMPLED = dataclasses.replace(EXACT, inference="sampled")
SEEN = MovingAverage(jnp.float32(-1.3), jnp.float32(0.6))  # of earlier batches
PRODUCT = {"product_form": True, "gate": False, "output_tanh": False}
VARIANTS = {
    "reads nothing": PRODUCT | {"state_reads": "nothing"},
    "reads expected": PRODUCT | {"state_reads": "expected"},
    "null place": PRODUCT
    | {"state_reads": "nothing", "order": "current", "score": "scaled_dot", "null_place": True},
}
# A null place has all that is particular to a state that reads nothing.
EVERYDAY = [
    pytest.param("reads nothing", marks=pytest.mark.slow),
    "reads expected",
    "null place",
]
NO_PRODUCT = {"gate and tanh": {"state_reads": "expected"}}
ANNOTATIONS = Annotations(jax.random.normal(jax.random.key(2), (1, L, 4)))
# One caption of three tokens; two packed into a row; one with padding.
TOKENS = jnp.array([[[4, 5, EOS], [4, EOS, EOS], [5, EOS, PAD]]])
PACKED = TOKENS[:, 1:2]


@cache
def make(variant):
    """The graphs and the parameters of a decoder and an inference network."""
    graph, params = tiny.decoder(kind="hard", **(VARIANTS | NO_PRODUCT)[variant])
    network = InferenceNetwork(4, 3, 3, 5, rngs=nnx.Rngs(3))
    network.query.kernel[...] = jax.random.normal(jax.random.key(4), (7, 5))
    of_network, weights = nnx.split(network, nnx.Param)
    return (graph, of_network), (params, weights)


def read(graphs, params, tokens=TOKENS, annotations=ANNOTATIONS):
    """The captions' reading, and log q."""
    decoder, network = (nnx.merge(g, p) for g, p in zip(graphs, params, strict=True))
    given = Reading.of(decoder, annotations, tokens, None)
    return given, posterior(network, given)


@partial(jax.jit, static_argnames=("graphs", "hard", "regularizers"))
def loss_of(graphs, params, hard=EXACT, regularizers=PLAIN, tokens=TOKENS, seed=0):
    """The loss of a training step, and its report."""
    decoder, network = (nnx.merge(g, p) for g, p in zip(graphs, params, strict=True))
    model = Captioner(Precomputed(4, (1, 3)), decoder, network)
    batch = {"inputs": ANNOTATIONS.vectors, "tokens": tokens}
    value, _, report = Variational(hard, regularizers).loss(
        model, batch, jax.random.key(seed), SEEN, 0
    )
    return value, report


@partial(jax.jit, static_argnames="graphs")
def table(graphs, params, tokens=TOKENS):
    """log alpha of each step and place; log p of the word there; the mean of log p over words."""
    decoder = nnx.merge(graphs[0], params[0])
    places, rows = decoder.places(L), tokens.shape[1]
    noise = 1e9 * jnp.eye(places)[:, None, None]
    noise = jnp.broadcast_to(noise, (places, rows, tokens.shape[2], places))
    choice = Choice(
        noise.reshape(1, places * rows, -1, places), jnp.zeros((1, places * rows), bool)
    )
    out = decoder(ANNOTATIONS, jnp.tile(tokens, (1, places, 1)), None, choice)
    log_p = jax.nn.log_softmax(out.logits[0].reshape(places, rows, tokens.shape[2], -1))
    words = jnp.take_along_axis(log_p, tokens[0][None, ..., None], axis=-1)[..., 0]
    log_alpha = out.log_alpha[0, :rows]
    return log_alpha, jnp.moveaxis(words, 0, -1), jnp.moveaxis(log_p.mean(-1), 0, -1)


@partial(jax.jit, static_argnames="graphs")
def q_by_hand(graphs, params, tokens=TOKENS):
    """q of the module's docstring, from the decoder's own states and embedding."""
    decoder, network = (nnx.merge(g, p) for g, p in zip(graphs, params, strict=True))
    out = decoder(ANNOTATIONS, tokens)
    h = out.previous_h if decoder.step_config.order == "previous" else out.h
    word = decoder.embed.embedding[...][tokens]
    vectors = decoder.projection(ANNOTATIONS.vectors)
    vectors = jnp.pad(vectors, ((0, 0), (0, decoder.places(L) - L), (0, 0)))
    inputs = jax.lax.stop_gradient((h, word, vectors, out.log_alpha))
    h, word, vectors, log_alpha = (x[0] for x in inputs)
    r = (
        jnp.concatenate([h, word], -1) @ network.query.kernel[...]
        + network.query.bias[...][None, None]
    )
    scores = r @ (vectors @ network.key.kernel[...]).T / jnp.sqrt(5.0)
    return jax.nn.softmax(log_alpha + scores)


def bound(graphs, params, tokens=TOKENS, smoothing=0.0):
    """-[E_q log p(y | i) - KL(q || alpha)] per real token, written out."""
    log_alpha, log_p, mean = table(graphs, params, tokens)
    q = q_by_hand(graphs, params, tokens)
    gain = (1 - smoothing) * log_p + smoothing * mean
    of_steps = (q * (gain - jnp.log(q) + log_alpha)).sum(-1)
    real = tokens[0] != PAD
    return -jnp.where(real, of_steps, 0.0).sum() / real.sum()


@partial(jax.jit, static_argnames="graphs")
def marginal(graphs, params):
    log_alpha, log_p, _ = table(graphs, params)
    real = TOKENS[0] != PAD
    log_likelihood = jax.nn.logsumexp(log_alpha + log_p, -1)
    return -jnp.where(real, log_likelihood, 0.0).sum() / real.sum()


def assert_same(found, wanted):
    paths = jax.tree_util.tree_leaves_with_path(wanted)
    for (path, a), b in zip(paths, jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=3e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("variant", EVERYDAY)
def test_with_the_exact_posterior_it_is_the_marginal_likelihood(variant):
    graphs, params = make(variant)

    def at_posterior(params):
        given, _ = read(graphs, params)
        log_alpha, log_p, _ = table(graphs, params)
        log_q = jax.lax.stop_gradient(jax.nn.log_softmax(log_alpha + log_p))[None]
        return Variational(EXACT, PLAIN).loss_at(given, log_q, None, SEEN)[0]

    value, gradient = jax.jit(jax.value_and_grad(at_posterior))(params)
    wanted, exact = jax.jit(jax.value_and_grad(lambda p: marginal(graphs, p)))(params)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert_same(gradient, exact)


@pytest.mark.parametrize("variant", EVERYDAY)
def test_the_exact_form_is_the_sum_over_places(variant):
    graphs, params = make(variant)
    exact = jax.jit(jax.value_and_grad(lambda p: bound(graphs, p, smoothing=0.2)))
    value, gradient = exact(params)
    compute = jax.value_and_grad(lambda p: loss_of(graphs, p, EXACT, SMOOTHED), has_aux=True)
    (got, report), found = jax.jit(compute)(params)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    assert_same(found, gradient)

    log_alpha, log_p, _ = table(graphs, params)
    q, real = np.asarray(q_by_hand(graphs, params)), np.asarray(TOKENS[0] != PAD)
    log_alpha, log_p = np.asarray(log_alpha), np.asarray(log_p)
    kl = (q * (np.log(q) - log_alpha)).sum(-1)[real].mean()
    wanted = {
        "kl": kl,
        "nll": kl - (q * log_p).sum(-1)[real].mean(),
        "entropy": -(np.exp(log_alpha) * log_alpha).sum(-1)[real].mean(),
        "entropy_q": -(q * np.log(q)).sum(-1)[real].mean(),
        "tokens": 8,
        "advantage": 0,
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(report[name], value, rtol=1e-5, err_msg=name)
    assert report["nll"] > marginal(graphs, params) + 0.01 and kl > 0.01


@cache
def exact_expectation(variant):
    graphs, params = make(variant)
    return jax.jit(jax.grad(lambda p: bound(graphs, p, PACKED, 0.2)))(params)


@pytest.mark.parametrize(
    ("variant", "baseline"),
    [
        ("gate and tanh", "expected"),
        *(
            pytest.param("gate and tanh", b, marks=pytest.mark.slow)
            for b in ("none", "moving_average", "self_critical")
        ),
        ("gate and tanh", "leave_one_out"),
        pytest.param("null place", "leave_one_out", marks=pytest.mark.slow),
    ],
)
def test_samples_have_the_bounds_gradient_with_every_baseline(variant, baseline):
    graphs, params = make(variant)
    samples = 2 if baseline == "leave_one_out" else 1
    hard = dataclasses.replace(SAMPLED, baseline=baseline, samples=samples)

    def loss(params, places):
        given, log_q = read(graphs, params, PACKED)
        return Variational(hard, SMOOTHED).loss_at(given, log_q, places[:, None, None], SEEN)[0]

    q = q_by_hand(graphs, params, PACKED)[0]
    paths = np.array(list(itertools.product(range(q.shape[-1]), repeat=3)))
    p = q[np.arange(3), paths].prod(-1)
    index = np.array(list(itertools.product(range(len(paths)), repeat=samples)))
    weight = p[index].prod(axis=1)

    @jax.jit
    def expectation(params):
        gradient = jax.lax.map(partial(jax.grad(loss), params), paths[index], batch_size=729)
        return jax.tree.map(lambda g: jnp.tensordot(weight, g, 1), gradient)

    assert_same(expectation(params), exact_expectation(variant))


@pytest.mark.slow  # it tests the test above
def test_the_score_term_matters_here():
    # Were it negligible on this model, the test above would prove nothing.
    graphs, params = make("gate and tanh")
    hard = dataclasses.replace(SAMPLED, samples=2, reinforce=0.0)
    gradient = jax.jit(jax.grad(lambda p: loss_of(graphs, p, hard, SMOOTHED, PACKED)[0]))
    of_network = gradient(params)[1]
    wanted = exact_expectation("gate and tanh")[1]
    assert any(
        jnp.abs(a - b).max() > 0.02
        for a, b in zip(jax.tree.leaves(of_network), jax.tree.leaves(wanted), strict=True)
    )


def test_places_are_drawn_from_q():
    graphs, params = make("gate and tanh")
    hard = dataclasses.replace(SAMPLED, samples=500)
    nll = [loss_of(graphs, params, hard, seed=seed)[1]["nll"] for seed in range(8)]
    error = np.std(nll, ddof=1) / np.sqrt(len(nll))
    assert error < 0.01 and nll[0] != nll[1]
    assert abs(np.mean(nll) - bound(graphs, params)) < 4 * error


def test_the_moving_average_is_of_words():
    graphs, params = make("gate and tanh")
    hard = dataclasses.replace(SAMPLED, baseline="moving_average")
    places = jnp.array([[[[0, 1, 2], [2, 1, 0], [1, 0, 2]]]])

    @jax.jit
    def loss(params):
        return Variational(hard, PLAIN).loss_at(*read(graphs, params), places, SEEN)

    _, average, report = loss(params)
    real = np.asarray(TOKENS[0] != PAD)
    credit = np.take_along_axis(
        np.asarray(table(graphs, params)[1]), np.asarray(places)[0, 0][..., None], -1
    )
    credit = credit[..., 0][real]
    np.testing.assert_allclose(average.b, 0.9 * -1.3 + 0.1 * credit.mean(), rtol=1e-5)
    advantage = np.sqrt(np.square(credit - -1.3 / 0.6).mean())
    np.testing.assert_allclose(report["advantage"], advantage, rtol=1e-5)


@pytest.mark.parametrize("hard", [EXACT, SAMPLED], ids=lambda hard: hard.inference)
def test_padded_steps_and_places_change_nothing(hard):
    graphs, params = make("reads expected")
    places = jnp.array([[[[0, 1, 2], [2, 1, 0], [1, 0, 2]]]])
    wide = jnp.pad(TOKENS, ((0, 0), (0, 1), (0, 2)))
    more = Annotations(
        jnp.pad(ANNOTATIONS.vectors, ((0, 0), (0, 2), (0, 0)), constant_values=3.0),
        jnp.array([[True] * L + [False] * 2]),
    )

    @jax.jit
    def value(tokens, annotations, places):
        if hard is EXACT:
            places = None
        given, log_q = read(graphs, params, tokens, annotations)
        return Variational(hard, SMOOTHED).loss_at(given, log_q, places, SEEN)[0]

    padded = jnp.pad(places, ((0, 0), (0, 0), (0, 1), (0, 2)))
    wanted = value(TOKENS, ANNOTATIONS, places)
    np.testing.assert_allclose(value(wide, more, padded), wanted, rtol=1e-5)


def test_entropy_is_rewarded_and_unpaid_places_are_penalised():
    graphs, params = make("null place")
    log_alpha, *_ = table(graphs, params)
    alpha, real = np.exp(log_alpha), np.asarray(TOKENS[0] != PAD)
    hard = dataclasses.replace(EXACT, entropy=0.3)
    plain, _ = loss_of(graphs, params)
    value, report = loss_of(graphs, params, hard, Loss(doubly_stochastic=0.5, label_smoothing=0.0))
    # Captions: row 0; row 1's first two tokens; row 1's last; row 2. The null place pays nothing.
    paid = [alpha[0], alpha[1, :2], alpha[1, 2:], alpha[2, :2]]
    penalty = sum(((1 - a[:, :L].sum(0)) ** 2).sum() for a in paid)
    np.testing.assert_allclose(report["penalty"], penalty / 4, rtol=1e-5)
    entropy = -(alpha * log_alpha).sum(-1)[real].mean()
    np.testing.assert_allclose(value, plain - 0.3 * entropy + 0.5 * penalty / 8, rtol=1e-5)


def test_q_sees_the_word_and_alpha_does_not():
    graphs, params = make("reads nothing")

    @jax.jit
    def logarithms(tokens):
        given, log_q = read(graphs, params, tokens)
        return log_q[0, 0], given.out.log_alpha[0, 0]

    one, other = (logarithms(jnp.array([[[4, word, 3, EOS]]])) for word in (5, 3))
    same_q, same_alpha = (
        [np.allclose(a, b) for a, b in zip(*both, strict=True)]
        for both in zip(one, other, strict=True)
    )
    # h_{t-1} has seen the words before y_{t-1}.
    assert same_q == [True, False, True, False]
    assert same_alpha == [True, True, True, False]


@pytest.mark.parametrize("order", ["previous", "current"])
def test_q_sees_the_state_that_attends(order):
    changes = {"score": "dot", "projection": 4, "order": order, "state_reads": "nothing"}

    @partial(jax.jit, static_argnums=0)
    def found_and_wanted(graph, params):
        given = Reading.of(nnx.merge(graph, params), ANNOTATIONS, TOKENS, None)
        scores = jnp.einsum("brth,blh->brtl", given.attending, given.vectors)
        return given.out.log_alpha, jax.nn.log_softmax(scores)

    np.testing.assert_allclose(*found_and_wanted(*tiny.decoder(**changes)), rtol=1e-5)


def test_a_reading_has_the_dropout_of_the_decoders_own_pass():
    changes = {"dropout": 0.5, "annotation_dropout": 0.5, "state_reads": "expected"}

    @partial(jax.jit, static_argnums=0)
    def found_and_wanted(graph, params, key):
        decoder = nnx.merge(graph, params)
        given, wanted = (
            Reading.of(decoder, ANNOTATIONS, TOKENS, key),
            decoder(ANNOTATIONS, TOKENS, key),
        )
        soft = given.log_softmax(given.expectation(given.out.alpha))
        return (given.out.log_alpha, soft), (wanted.log_alpha, jax.nn.log_softmax(wanted.logits))

    (alpha, soft), (wanted_alpha, wanted) = found_and_wanted(
        *tiny.decoder(**changes), jax.random.key(1)
    )
    np.testing.assert_array_equal(alpha, wanted_alpha)
    np.testing.assert_allclose(soft, wanted, rtol=1e-5, atol=1e-6)


def test_training_q_closes_most_of_the_gap():
    graphs, (params, network) = make("reads nothing")
    optimizer = optax.adam(0.05)

    def step(carry, _):
        network, state = carry
        compute = jax.value_and_grad(lambda n: loss_of(graphs, (params, n))[0])
        value, gradient = compute(network)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(network, updates), state), value

    start = network, optimizer.init(network)
    _, values = jax.jit(lambda start: jax.lax.scan(step, start, length=200))(start)
    gaps = values - marginal(graphs, (params, network))
    assert gaps[-1] > 0 and gaps[-1] < 0.1 * gaps[0], gaps


BASE = {
    "attention.kind": "hard",
    "attention.state_reads": "nothing",
    "hard.objective": "variational",
    **{f"decoder.{name}": value for name, value in PRODUCT.items()},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"attention.null_place": True},
        {"decoder.projection": 0, "attention.values": ("b",), "attention.keys": ("a",)},
    ],
)
def test_the_network_is_built_from_settings_and_starts_as_the_prior(tmp_path, changes):
    settings = tiny.settings(tmp_path, BASE | changes)
    encoder = Precomputed(6, (2, 2), (("a", 4), ("b", 2)))
    model = build_captioner(settings, encoder, 9)
    objective = make_objective(settings)
    assert isinstance(objective, Variational)
    batch = {
        "inputs": jax.random.normal(jax.random.key(0), (2, 4, 6)),
        "tokens": jnp.repeat(TOKENS, 2, axis=0),
    }

    @jax.jit
    def loss_of_batch(batch):
        loss, _, report = objective.loss(model, batch, jax.random.key(1), objective.init(), 0)
        return loss, report

    loss, report = loss_of_batch(batch)
    assert jnp.isfinite(loss) and abs(report["kl"]) < 1e-6
    np.testing.assert_allclose(report["entropy_q"], report["entropy"], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder.product_form": False}, "product_form=True, or .*inference='sampled'"),
        ({"attention.state_reads": "drawn"}, "needs config.attention.state_reads"),
        ({"hard.released": True}, "released needs config.hard.objective='reinforce'"),
        (
            {"decoder.deep_output": False, "decoder.product_form": False}
            | {"hard.inference": "sampled"},
            "needs config.decoder.deep_output=True",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, changes, message):
    tiny.settings(tmp_path, BASE)
    tiny.settings(tmp_path, BASE | {"hard.inference": "sampled", "decoder.product_form": False})
    with pytest.raises(UserError, match=message) as caught:
        tiny.settings(tmp_path, BASE | changes)
    assert "\n" not in str(caught.value)
