"""Gradient estimators against the bound's exact gradient: 27 attention paths, all enumerated."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives import baselines, reinforce
from show_attend_tell.objectives.baselines import LearnedBaseline, MovingAverage
from show_attend_tell.objectives.likelihood import soft_loss, token_log_probs
from show_attend_tell.objectives.reinforce import Reinforce
from show_attend_tell.objectives.sampling import TeacherForcing
from show_attend_tell.settings import BASELINES, Loss

L, T, EOS = 3, 3, 2
# One caption of three tokens, and two captions packed into one row: 27 paths each.
ROWS = {"one": jnp.array([[[4, 5, EOS]]]), "packed": jnp.array([[[4, EOS, EOS]]])}
PATHS = jnp.array(list(itertools.product(range(L), repeat=T)))
PURE = tiny.PURE
PLAIN = Loss(doubly_stochastic=0.0, label_smoothing=0.0)
SEEN = MovingAverage(jnp.float32(-1.3), jnp.float32(0.6))  # of earlier batches
COMBINATIONS = [(b, c) for b in BASELINES for c in ("sequence", "to_go")]
# `credited` and a baseline know nothing of each other: each baseline once is enough, and each
# credit with several of them. Two others have the packed row.
EVERYDAY = {("none", "sequence"), ("none", "to_go"), ("expected", "sequence")}
EVERYDAY |= {(b, "to_go") for b in ("self_critical", "leave_one_out")}


GRAPH, PARAMS = tiny.decoder()
# States that do not read the drawn place, so that it changes no word but its own.
BLIND = {reads: tiny.decoder(state_reads=reads) for reads in ("nothing", "expected")}
ANNOTATIONS = Annotations(jax.random.normal(jax.random.key(2), (1, L, 4)))
LEARNED = LearnedBaseline(4, 3, 3, rngs=nnx.Rngs(3))
LEARNED.output.kernel[...] = jax.random.normal(jax.random.key(4), (128, 1))


def forced(paths):
    """The choice that makes N rows of one image take these paths (N, T)."""
    noise = 1e9 * jax.nn.one_hot(paths, L)
    return Choice(noise[None], jnp.zeros((1, len(paths)), bool))


def drawn_loss(params, tokens, key, estimator, loss=PLAIN, *, learned=None, step=0, graph=GRAPH):
    """The loss of a training step, which draws its paths; and its report."""
    model = Captioner(Precomputed(4, (1, 3)), nnx.merge(graph, params), learned)
    batch = {"inputs": ANNOTATIONS.vectors, "tokens": tokens}
    value, _, report = Reinforce(estimator, loss).loss(model, batch, key, SEEN, step)
    return value, report


def loss_along(params, tokens, choice, estimator, loss=PLAIN, graph=GRAPH):
    """The loss along given paths, without dropout; the next moving average; the report."""
    given = TeacherForcing(nnx.merge(graph, params), ANNOTATIONS, tokens)
    return Reinforce(estimator, loss).loss_along(given, choice, SEEN, LEARNED)


@partial(jax.jit, static_argnames="graph")
def likelihoods(params, tokens, graph=GRAPH):
    """log p(s) and log p(y|s) of all 27 paths, each a scalar per path and caption-step."""
    out = nnx.merge(graph, params)(ANNOTATIONS, jnp.tile(tokens, (1, 27, 1)), None, forced(PATHS))
    log_p_s = jnp.take_along_axis(out.log_alpha[0], PATHS[..., None], axis=-1)[..., 0]
    log_p_y = token_log_probs(out.logits, jnp.tile(tokens, (1, 27, 1)))[0]
    return log_p_s.sum(-1), log_p_y


@partial(jax.jit, static_argnames="graph")
def exact(tokens, graph=GRAPH, params=PARAMS):
    """The gradient of L_s = sum_s p(s) log p(y|s), per real token, and of minus it: the loss."""

    def loss(params):
        log_p_s, log_p_y = likelihoods(params, tokens, graph)
        return -(jnp.exp(log_p_s) * log_p_y.sum(-1)).sum() / T

    return jax.grad(loss)(params)


def gradient_of(estimator, tokens, graph=GRAPH):
    """The estimate's gradient for given paths (N, T)."""

    def loss(params, paths):
        return loss_along(params, tokens, forced(paths), estimator, graph=graph)[0]

    return jax.grad(loss)


def expectation(estimator, tokens, graph=GRAPH, params=PARAMS):
    """The estimate's expected gradient: all paths, or all pairs of paths, by probability."""
    index = jnp.array(list(itertools.product(range(27), repeat=estimator.samples)))
    along = jax.vmap(gradient_of(estimator, tokens, graph), (None, 0))

    @jax.jit
    def mean(params):
        weight = jnp.exp(likelihoods(params, tokens, graph)[0])[index].prod(axis=1)
        gradients = along(params, PATHS[index])
        return jax.tree.map(lambda g: jnp.tensordot(weight, g, 1), gradients)

    return mean(params)


def error(a, b):
    """The largest difference relative to the largest entry of b."""
    flat = [jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (a, b)]
    return float(jnp.abs(flat[0] - flat[1]).max() / jnp.abs(flat[1]).max())


def pure(**changes):
    if changes.get("baseline") == "leave_one_out":
        changes.setdefault("samples", 2)
    return dataclasses.replace(PURE, **changes)


@pytest.mark.parametrize(
    ("baseline", "credit", "row"),
    [
        pytest.param(*both, "one", marks=() if both in EVERYDAY else pytest.mark.slow)
        for both in COMBINATIONS
    ]
    + [("moving_average", "sequence", "packed"), ("learned", "to_go", "packed")],
)
def test_every_baseline_and_credit_is_unbiased(baseline, credit, row):
    estimator = pure(baseline=baseline, credit=credit)
    assert error(expectation(estimator, ROWS[row]), exact(ROWS[row])) < 1e-5


@pytest.mark.parametrize(
    ("baseline", "reads", "row"),
    [
        ("none", "nothing", "packed"),
        ("none", "expected", "one"),
        ("leave_one_out", "nothing", "packed"),
        pytest.param("leave_one_out", "expected", "one", marks=pytest.mark.slow),
    ]
    + [
        pytest.param(baseline, "nothing", "packed", marks=pytest.mark.slow)
        for baseline in BASELINES
        if baseline not in ("none", "leave_one_out")
    ],
)
def test_a_words_own_credit_is_unbiased_where_no_state_reads_the_drawn_place(baseline, reads, row):
    estimator, tokens = pure(baseline=baseline, credit="word"), ROWS[row]
    wanted = exact(tokens, *BLIND[reads])
    assert error(expectation(estimator, tokens, *BLIND[reads]), wanted) < 1e-5


@pytest.mark.slow  # it tests the test above
def test_a_words_own_credit_is_biased_where_the_state_reads_the_drawn_place():
    estimator = pure(credit="word")
    assert error(expectation(estimator, ROWS["one"]), exact(ROWS["one"])) > 0.05


@pytest.mark.slow  # it tests the tests
def test_the_score_term_matters_here():
    # Were the REINFORCE term negligible on this model, the tests above would prove nothing.
    assert error(expectation(pure(reinforce=0.0), ROWS["one"]), exact(ROWS["one"])) > 0.1


@pytest.mark.slow  # it tests the tests
@pytest.mark.parametrize("mistake", ["own sample", "no stop", "drops the word"])
def test_biased_estimators_are_caught(mistake, monkeypatch):
    estimator = pure(baseline="leave_one_out" if mistake == "own sample" else "none")
    if mistake == "own sample":
        with_own = lambda x: jnp.broadcast_to(x.mean(axis=1, keepdims=True), x.shape)  # noqa: E731
        monkeypatch.setattr(baselines, "leave_one_out", with_own)
    elif mistake == "no stop":
        monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: x)
    else:
        estimator = pure(credit="to_go")
        monkeypatch.setattr(reinforce, "credited", lambda same, kind: jnp.triu(same, 1))
    assert error(expectation(estimator, ROWS["one"]), exact(ROWS["one"])) > 1e-2


@pytest.mark.parametrize("row", [pytest.param("one", marks=pytest.mark.slow), "packed"])
def test_the_multi_sample_bound_is_unbiased(row):
    tokens = ROWS[row]
    ends = jnp.cumsum(tokens[0, 0] == EOS) - (tokens[0, 0] == EOS)  # caption number of each step

    captions = int(ends.max()) + 1

    def loss(params):
        log_p_s, log_p_y = likelihoods(params, tokens)
        total = 0.0
        for caption in range(captions):
            log_p = jnp.where(ends == caption, log_p_y, 0).sum(-1)
            pairs = jnp.logaddexp(log_p[:, None], log_p[None]) - jnp.log(2)
            total += (jnp.exp(log_p_s[:, None] + log_p_s[None]) * pairs).sum()
        return -total / T

    estimator = pure(objective="multi_sample", samples=2, baseline="leave_one_out")
    assert error(expectation(estimator, tokens), jax.jit(jax.grad(loss))(PARAMS)) < 1e-5


def sampled_mean(estimator, draws=2000):
    """Mean and standard error of the gradient along a few directions, over drawn samples."""

    def projections(key):
        def loss(params):
            return drawn_loss(params, ROWS["packed"], key, estimator, learned=LEARNED)[0]

        gradient = jax.grad(loss)(PARAMS)
        return jnp.stack([dot(gradient, d) for d in DIRECTIONS])

    keys = jax.random.split(jax.random.key(5), draws)
    values = jax.jit(jax.vmap(projections))(keys)
    return values.mean(0), values.std(0) / np.sqrt(draws)


def dot(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


DIRECTIONS = [
    jax.tree.map(lambda p, k=k: jax.random.normal(jax.random.key(k), p.shape), PARAMS)
    for k in range(4)
]


@pytest.mark.parametrize(
    "estimator",
    [
        # One sample: the semi-sampling below.
        pytest.param(pure(baseline="moving_average"), marks=pytest.mark.slow),
        pure(baseline="leave_one_out", credit="to_go", samples=3),
        pytest.param(pure(baseline="self_critical", credit="to_go"), marks=pytest.mark.slow),
    ],
    ids=lambda e: f"{e.baseline}-{e.credit}-{e.samples}",
)
def test_drawn_samples_have_the_exact_mean(estimator):
    mean, standard_error = sampled_mean(estimator)
    wanted = jnp.stack([dot(exact(ROWS["packed"]), d) for d in DIRECTIONS])
    assert jnp.all(standard_error < 0.2 * jnp.abs(wanted).max())
    assert jnp.all(jnp.abs(mean - wanted) < 4 * standard_error)


def test_semi_sampling_mixes_the_soft_and_the_hard_gradient():
    mean, standard_error = sampled_mean(pure(soft_probability=0.3))

    def soft(params):
        out = nnx.merge(GRAPH, params)(ANNOTATIONS, ROWS["packed"])
        return soft_loss(
            out.logits, out.alpha, ROWS["packed"], doubly_stochastic=0.0, label_smoothing=0.0
        )[0]

    mixed = [jax.jit(jax.grad(soft))(PARAMS), exact(ROWS["packed"])]
    wanted = jnp.stack([0.3 * dot(mixed[0], d) + 0.7 * dot(mixed[1], d) for d in DIRECTIONS])
    assert jnp.all(jnp.abs(mean - wanted) < 4 * standard_error)


def test_the_first_steps_are_soft():
    estimator = pure(soft_probability=0.0, soft_steps=5)

    @jax.jit
    def advantage(step):
        key = jax.random.key(0)
        return drawn_loss(PARAMS, ROWS["one"], key, estimator, step=step)[1]["advantage"]

    assert advantage(0) == advantage(4) == 0.0
    assert advantage(5) != 0.0


def test_all_expectation_is_soft_attention():
    graph, params = tiny.decoder(dropout=0.3, annotation_dropout=0.3)
    tokens = jnp.concatenate([ROWS["one"], ROWS["packed"]], axis=1)
    key = jax.random.key(7)
    weights = {"doubly_stochastic": 0.7, "label_smoothing": 0.1}

    def soft(params):
        out = nnx.merge(graph, params)(ANNOTATIONS, tokens, key)
        return soft_loss(out.logits, out.alpha, tokens, **weights)[0]

    def hard(params):
        estimator = pure(soft_probability=1.0, baseline="moving_average")
        return drawn_loss(params, tokens, key, estimator, Loss(**weights), graph=graph)[0]

    (soft_value, soft_gradient), (hard_value, hard_gradient) = (
        jax.jit(jax.value_and_grad(f))(params) for f in (soft, hard)
    )
    assert float(soft_value) == pytest.approx(float(hard_value), rel=1e-6)
    assert error(hard_gradient, soft_gradient) < 1e-6


def test_the_learned_baseline_learns_the_credit_and_leaves_the_model_alone():
    estimator = pure(baseline="learned", credit="to_go")
    graph, network = nnx.split(LEARNED, nnx.Param)

    def loss(params, network, key):
        learned = nnx.merge(graph, network)
        return drawn_loss(params, ROWS["one"], key, estimator, learned=learned)

    step = jax.jit(jax.value_and_grad(loss, argnums=1, has_aux=True))
    errors = []
    for i in range(300):
        (_, report), gradient = step(PARAMS, network, jax.random.key(i))
        network = jax.tree.map(lambda p, g: p - 0.05 * g, network, gradient)
        errors.append(float(report["baseline_error"]))
    assert np.mean(errors[-50:]) < 0.3 * np.mean(errors[:5])


def test_entropy_and_penalty_pull_alpha_apart_and_over_the_image():
    tokens = ROWS["one"]

    def of(**changes):
        estimator = pure(soft_probability=0.0, **changes)
        weights = dataclasses.replace(PLAIN, doubly_stochastic=0.5)

        def loss(params):
            return drawn_loss(params, tokens, jax.random.key(0), estimator, weights)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(PARAMS)

    (base, report), plain = of()
    (with_entropy, _), gradient = of(entropy=0.2)
    assert float(base - with_entropy) == pytest.approx(0.2 * float(report["entropy"]), rel=1e-5)
    assert error(gradient, plain) > 1e-3


def test_the_released_variant_is_its_formula():
    """Against NumPy: two captions, one of them padded, half the minibatches soft."""
    tokens = jnp.array([[[4, 5, EOS], [4, EOS, 0]]])
    estimator = pure(
        credit="mean", baseline="moving_average", reinforce=0.1, entropy=0.002, released=True
    )
    decoder = nnx.merge(GRAPH, PARAMS)

    def loss(params, choice, doubly_stochastic):
        weights = dataclasses.replace(PLAIN, doubly_stochastic=doubly_stochastic)
        return loss_along(params, tokens, choice, estimator, weights)[:2]

    of = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)
    run = jax.jit(lambda choice: decoder(ANNOTATIONS, tokens, None, choice))
    for soft in (False, True):
        noise = 1e9 * jax.nn.one_hot(jnp.array([[0, 2, 1], [1, 1, 0]]), L)
        choice = Choice(noise[None], jnp.full((1, 2), soft))
        (value, average), gradient = of(PARAMS, choice, 0.5)
        out = run(choice)
        real = np.array(tokens[0] != 0)
        log_p = np.array(token_log_probs(out.logits, tokens)[0])
        alpha = np.array(out.alpha[0])
        drawn = np.log(np.take_along_axis(alpha, np.array(out.location[0])[..., None], -1))[..., 0]
        credit = log_p.sum(-1) / real.sum(-1)
        b = float(SEEN.b)  # as it is, b_0 = 0 included
        likelihood = log_p.sum() / 2  # a mean over captions; the others are sums over the batch
        reinforce = 0.0 if soft else ((credit - b)[:, None] * drawn * real).sum()
        entropy = -(alpha * np.log(alpha)).sum()  # of every position
        paid = np.stack([alpha[0].sum(0), alpha[1, :2].sum(0)])
        penalty = np.square(1 - paid).sum() / 2
        expected = -likelihood - 0.1 * reinforce - 0.002 * entropy + 0.5 * penalty
        # Ours is divided by words, five, where theirs is by captions, two.
        assert float(value) * 5 / 2 == pytest.approx(expected, rel=1e-4)
        assert float(average.b) == pytest.approx(0.9 * b + 0.1 * credit.mean(), rel=1e-5)
        # The penalty is reported, but has no gradient.
        assert error(gradient, of(PARAMS, choice, 0.0)[1]) < 1e-6


def test_certain_attention_stays_finite():
    def loss(scale):
        params = jax.tree.map(lambda p: p * scale, PARAMS)
        estimator = pure(baseline="moving_average", entropy=0.01)
        return drawn_loss(params, ROWS["one"], jax.random.key(0), estimator)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.float32(300.0))
    assert jnp.isfinite(value) and jnp.isfinite(gradient)
