"""How noisy and how biased the gradient of hard attention is, per estimator, on real data.

All baselines and credits are measured on the same sampled paths of the same batches. A path's score
gradient is linear in the advantage, so one forward pass serves all of them and each takes one
backward pass. The estimates are those of pure REINFORCE (p = 0, lambda_r = 1, lambda_e = 0),
without dropout, penalty or label smoothing, of the mean log-likelihood of a word. The relaxations,
leave-one-out with more paths and REBAR are measured beside them (see `estimators`). Where the exact
gradient can be computed, every row has its bias.

Symbols as in `models.decoder`; C estimators; two paths a row, Q = 2 R.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float64, Int, PRNGKeyArray, PyTree
from rich.progress import track

from show_attend_tell.evaluation.estimators import (
    MARGINAL,
    PATHS,
    Estimator,
    combinations,
    credits_of,
    exact_gradient,
    is_exact,
    other_estimators,
    other_gradients,
    pure,
    score_estimators,
)
from show_attend_tell.models.captioner import Captioner, Inputs, all_weights, split_weights
from show_attend_tell.models.packed import same_caption
from show_attend_tell.objectives.baselines import LearnedBaseline, MovingAverage, baseline_of
from show_attend_tell.objectives.credit import averaged_by, credit_of, credited
from show_attend_tell.objectives.reinforce import Steps, averaged
from show_attend_tell.objectives.sampling import Rollout, TeacherForcing, draw_choice
from show_attend_tell.settings import Hard
from show_attend_tell.terminal import Terminal
from show_attend_tell.tokens import PAD

_FIT_STEPS = 200  # of the learned baselines
_OTHERS = 0x07E  # folded into a draw's key: paths of the estimators besides baselines and credits

Batch = tuple[Array, Int[Array, "_ _ _"]]  # inputs and tokens
Row = dict[str, str | int | float | None]


class Carried(NamedTuple):
    """What baselines of one credit carry over from earlier batches."""

    average: MovingAverage
    network: PyTree  # weights of the learned baseline


class Moments:
    """Sums over gradients of the same batch, for each of C estimators.

    The variance of an estimator is the trace of its gradient's covariance: the sum over all
    entries of all parameters of their unbiased variances.
    """

    def __init__(self):
        self._count, self._sums, self._squares = 0, None, 0.0

    def add(self, gradients: PyTree, squared_norms: Float[Array, " C"]) -> None:
        """Adds one draw: gradients with a leading axis C, and their squared norms |g|^2."""
        self._count += 1
        self._sums = (
            gradients if self._sums is None else jax.tree.map(jnp.add, self._sums, gradients)
        )
        self._squares = self._squares + np.asarray(squared_norms, np.float64)

    def estimates(self) -> tuple[Float64[np.ndarray, " C"], Float64[np.ndarray, " C"]]:
        """The variance, and the squared norm of the expected gradient, both without bias.

        With n draws, mean m and the mean Q of |g|^2: variance = (Q - |m|^2) n / (n - 1). The mean
        itself is noisy, E |m|^2 = |E g|^2 + variance / n, so the signal is |m|^2 - variance / n.
        """
        n = self._count
        mean = jax.tree.map(lambda leaf: leaf / n, self._sums)
        of_mean = np.asarray(squared_norms(mean), np.float64)
        variance = (self._squares / n - of_mean) * n / (n - 1)
        return variance, of_mean - variance / n

    def squared_biases(self, exact: PyTree) -> Float64[np.ndarray, " C"]:
        """|E g - exact|^2 without the mean's noise, as above; it can come out below 0.

        Args:
          exact: one gradient, without the axis C.
        """
        n = self._count
        apart = jax.tree.map(lambda leaf, g: leaf / n - jnp.expand_dims(g, 0), self._sums, exact)
        return np.asarray(squared_norms(apart), np.float64) - self.estimates()[0] / n


def squared_norms(gradients: PyTree) -> Float[Array, " C"]:
    """|g|^2 over all parameters, for each index of the leading axis."""
    leaves = jax.tree.leaves(gradients)
    norms = [jnp.square(leaf).reshape(len(leaf), -1).sum(axis=1) for leaf in leaves]
    return sum(norms[1:], norms[0])


def gradient_variance(
    model: Captioner,
    params: PyTree,
    batches: Sequence[Batch],
    others: Sequence[Batch],
    *,
    samples: int,
    seed: int = 0,
    progress: bool = True,
) -> list[Row]:
    """Variance, signal-to-noise ratio and bias of the gradient for every estimator.

    Args:
      model, params: the model's form and the parameters at which to measure.
      batches: inputs and tokens; they may differ in shape.
      others: batches to fit those baselines to that carry something over from earlier batches; of
        other images, or of copies of theirs.
      samples: gradients drawn for each batch, at least 2.
      seed: of all draws.
      progress: whether to show a bar.

    Returns:
      A row for each estimator, see `table`.
    """
    graph = nnx.graphdef(model)
    parts = split_weights(model, params)  # the trained ones have gradients
    key = jax.random.key(seed)
    form, carried = fit_baselines(graph, params, others, jax.random.fold_in(key, 1))
    gradients_of = jax.jit(partial(gradients, graph, form))
    exact_of = jax.jit(partial(exact_gradient, graph)) if is_exact(model.decoder) else None
    estimators = (*score_estimators(model.decoder), *other_estimators(model.decoder))
    totals, exact_signal = np.zeros((len(estimators), 3)), 0.0
    bar = track(
        range(len(batches) * samples),
        "gradients",
        console=Terminal(stderr=True),
        disable=not progress,
    )
    moments = Moments()
    for i in bar:
        which, draw = divmod(i, samples)
        if draw == 0:
            moments = Moments()
        sample_key = jax.random.fold_in(jax.random.fold_in(key, 2 + which), draw)
        moments.add(*gradients_of(*parts, carried, *batches[which], sample_key))
        if draw + 1 < samples:
            continue
        squared_biases = np.full(len(estimators), np.nan)
        if exact_of is not None:
            exact = exact_of(*parts, *batches[which])
            squared_biases = moments.squared_biases(exact)
            exact_signal += float(optax.global_norm(exact)) ** 2 / len(batches)
        totals += np.stack([*moments.estimates(), squared_biases], axis=1) / len(batches)
    rows = table(estimators, *totals[:, :2].T)
    if exact_of is None:
        return rows
    return with_biases(rows, totals[:, 2], exact_signal, samples) + [_MARGINAL_ROW]


def table(
    estimators: Sequence[Estimator],
    variance: Float64[np.ndarray, " C"],
    signal: Float64[np.ndarray, " C"],
) -> list[Row]:
    """A row for each estimator, of which the first is REINFORCE without a baseline.

    Args:
      estimators: C of them.
      variance: trace of the covariance of one estimate, mean over batches.
      signal: |E g|^2, mean over batches; noise can make it negative, and it then counts as 0.

    Returns:
      Rows of `estimator` (its name), `baseline`, `credit`, `rollouts`, `against`, `variance`;
      `variance_per_rollout`, variance times rollouts, to compare at equal cost; `snr`, signal /
      variance; `relative`, variance_per_rollout over that of the first; and what `with_biases`
      fills in, as None.
    """
    plain = float(variance[0]) * estimators[0].rollouts
    return [
        _row(
            estimator,
            variance=trace,
            snr=max(squared, 0.0) / trace,
            relative=trace * estimator.rollouts / plain,
        )
        for estimator, trace, squared in zip(
            estimators, variance.tolist(), signal.tolist(), strict=True
        )
    ]


def with_biases(
    rows: Sequence[Row],
    squared_biases: Float64[np.ndarray, " C"],
    exact_signal: float,
    samples: int,
) -> list[Row]:
    """The rows with their biases, measured against the exact gradient that `against` names.

    Args:
      rows: of `table`.
      squared_biases: |E g - exact|^2, mean over batches; one below 0 counts as 0.
      exact_signal: |exact|^2, mean over batches.
      samples: gradients drawn for each batch.

    Returns:
      Rows with `bias`, the root; `relative_bias`, bias over the norm of the exact gradient; and
      `bias_noise`, the root mean square error of the mean of the draws. A bias below twice that
      cannot be told apart from 0.
    """
    filled = []
    for row, squared in zip(rows, squared_biases.tolist(), strict=True):
        bias = math.sqrt(max(squared, 0.0))
        noise = math.sqrt(float(row["variance"] or 0.0) / samples)
        relative = bias / math.sqrt(exact_signal)
        filled.append(row | {"bias": bias, "bias_noise": noise, "relative_bias": relative})
    return filled


def _row(estimator: Estimator, *, variance: float, snr: float | None, relative: float) -> Row:
    return {
        "estimator": estimator.name,
        "baseline": estimator.baseline,
        "credit": estimator.credit,
        "rollouts": estimator.rollouts,
        "against": estimator.against,
        "variance": variance,
        "variance_per_rollout": variance * estimator.rollouts,
        "snr": snr,
        "relative": relative,
        "bias": None,
        "bias_noise": None,
        "relative_bias": None,
    }


# Exact: it has no noise, so its signal-to-noise ratio is no number.
_MARGINAL_ROW = _row(MARGINAL, variance=0.0, snr=None, relative=0.0) | {
    "bias": 0.0,
    "bias_noise": 0.0,
    "relative_bias": 0.0,
}


def gradients(
    graph: nnx.GraphDef,
    form: nnx.GraphDef,
    trained: PyTree,
    frozen: PyTree,
    carried: dict[str, Carried],
    inputs: Inputs,
    tokens: Int[Array, "B R T"],
    key: PRNGKeyArray,
) -> tuple[PyTree, Float[Array, " C"]]:
    """One gradient of every estimator (a leading axis C), and their squared norms.

    Args:
      graph, trained, frozen: the model.
      form, carried: see `fit_baselines`.
      inputs, tokens: a batch.
      key: of the paths.
    """

    def paths(trained: PyTree):
        model = nnx.merge(graph, all_weights(trained, frozen))
        given = TeacherForcing(model.decoder, model.annotations(inputs), tokens)
        rollout = given.along(draw_choice(key, given.paths(PATHS)), PATHS)
        return (rollout.log_probs, rollout.log_p_s), (rollout, given.annotations)

    _, pull_back, (rollout, annotations) = jax.vjp(paths, trained, has_aux=True)
    decoder = nnx.merge(graph, all_weights(trained, frozen)).decoder
    given = TeacherForcing(decoder, annotations, tokens)
    cotangents = [
        cotangent(given, rollout, baseline, credit, average, nnx.merge(form, network))
        for baseline, credit in combinations(decoder)
        for average, network in [carried[credit]]
    ]
    stacked = jax.tree.map(lambda *c: jnp.stack(c), *cotangents)
    (found,) = jax.lax.map(pull_back, stacked)
    others = other_gradients(
        graph, trained, frozen, inputs, tokens, jax.random.fold_in(key, _OTHERS)
    )
    found = jax.tree.map(lambda many, *single: jnp.stack([*many, *single]), found, *others)
    return found, squared_norms(found)


def cotangent(
    given: TeacherForcing,
    rollout: Rollout,
    baseline: str,
    credit: str,
    average: MovingAverage,
    learned: LearnedBaseline | None = None,
) -> tuple[Float[Array, "B Q T"], Float[Array, "B Q T"]]:
    """d J / d log p(y_t|s) and d J / d log p(s_t) of one combination, J per real token.

    An estimate takes one path of each row, but `leave_one_out` the mean over both.
    """
    rows = given.tokens.shape[1]
    weights = credited(same_caption(given.tokens), credit)
    b = baseline_of(pure(baseline, credit), given, rollout, average, learned)
    advantage = jnp.where(rollout.tokens != PAD, credit_of(rollout.log_probs, weights) - b, 0.0)
    used = jnp.ones(PATHS) / PATHS
    if baseline != "leave_one_out":
        used = jnp.eye(PATHS)[0]
    used = jnp.repeat(used, rows)[None, :, None] / (given.tokens != PAD).sum()
    return used * jnp.ones_like(rollout.log_probs), used * advantage


def fit_baselines(
    graph: nnx.GraphDef, params: PyTree, batches: Sequence[Batch], key: PRNGKeyArray
) -> tuple[nnx.GraphDef, dict[str, Carried]]:
    """Fits the baselines that carry something over from earlier batches to such `batches`.

    Returns:
      The form of the learned baselines, and for each credit what is carried over.
    """
    decoder = nnx.merge(graph, params).decoder
    sizes = (decoder.output_h.in_features, decoder.features, decoder.embed.features)
    form, start = nnx.split(LearnedBaseline(*sizes, rngs=nnx.Rngs(0)), nnx.Param)
    optimizer = optax.adam(3e-3)
    carried = {}
    for credit in credits_of(decoder):
        # The weights are constants of the program: as arguments they would change last digits.
        step = jax.jit(partial(_fit, graph, form, optimizer, pure("learned", credit), params))
        fitted, state = Carried(MovingAverage.start(), start), optimizer.init(start)
        for i in range(_FIT_STEPS):
            step_key = jax.random.fold_in(key, i)
            fitted, state = step(fitted, state, *batches[i % len(batches)], step_key)
        carried[credit] = fitted
    return form, carried


def _fit(
    graph: nnx.GraphDef,
    form: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    hard: Hard,
    params: PyTree,
    carried: Carried,
    state: PyTree,
    inputs: Inputs,
    tokens: Int[Array, "B R T"],
    key: PRNGKeyArray,
) -> tuple[Carried, PyTree]:
    """What is carried over, and the optimizer's state, after a batch of one path a row."""
    model = nnx.merge(graph, params)
    given = TeacherForcing(model.decoder, model.annotations(inputs), tokens)
    choice = draw_choice(key, given.paths(1))
    rollout = given.along(choice)
    weights = credited(same_caption(tokens), hard.credit)
    wanted = credit_of(rollout.log_probs, weights)
    words = jnp.maximum(weights.sum(axis=-1), 1.0)
    steps = Steps.of(tokens, choice.expected)

    def loss(network: PyTree) -> Float[Array, ""]:
        b = baseline_of(hard, given, rollout, carried.average, nnx.merge(form, network))
        return jnp.square(jnp.where(steps.real, (b - wanted) / words, 0.0)).sum() / steps.real_count

    updates, state = optimizer.update(jax.grad(loss)(carried.network), state)
    credit = wanted / averaged_by(weights, hard.credit)
    average = carried.average.update(credit, averaged(steps, hard))
    return Carried(average, optax.apply_updates(carried.network, updates)), state
