"""How noisy the gradient of hard attention is, per baseline and credit, on a model and real data.

All combinations are measured on the same sampled paths of the same batches. A path's score
gradient is linear in the advantage, so one forward pass serves all combinations and each takes one
backward pass. The estimates are those of pure REINFORCE (p = 0, lambda_r = 1, lambda_e = 0),
without dropout, penalty or label smoothing, of the mean log-likelihood of a word.

Symbols as in `models.decoder`; C combinations; two paths a row, Q = 2 R.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float64, Int, PRNGKeyArray, PyTree
from rich.console import Console
from rich.progress import track

from show_attend_tell.models.captioner import Captioner, Inputs, all_weights, split_weights
from show_attend_tell.models.packed import same_caption
from show_attend_tell.objectives.baselines import LearnedBaseline, MovingAverage, baseline_of
from show_attend_tell.objectives.credit import averaged_by, credit_of, credited
from show_attend_tell.objectives.reinforce import Steps, averaged
from show_attend_tell.objectives.sampling import Rollout, TeacherForcing, draw_choice
from show_attend_tell.settings import BASELINES, Hard
from show_attend_tell.tokens import PAD

CREDITS = ("sequence", "to_go")
COMBINATIONS = tuple(itertools.product(BASELINES, CREDITS))
# Passes over the captions that one estimate takes: its paths, and any second rollout.
ROLLOUTS = {
    name: 2 if name in ("self_critical", "expected", "leave_one_out") else 1 for name in BASELINES
}
_FIT_STEPS = 200  # of the learned baselines
_SAMPLES = 2  # paths drawn together, so that leave_one_out has another one

Batch = tuple[Array, Int[Array, "_ _ _"]]  # inputs and tokens
Row = dict[str, str | int | float]


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
    """Variance and signal-to-noise ratio of the gradient for every baseline and credit.

    Args:
      model, params: the model's form and the parameters at which to measure.
      batches: inputs and tokens; they may differ in shape.
      others: batches to fit those baselines to that carry something over from earlier batches; of
        other images, or of copies of theirs.
      samples: gradients drawn for each batch, at least 2.
      seed: of all draws.
      progress: whether to show a bar.

    Returns:
      A row for each combination, see `table`.
    """
    graph = nnx.graphdef(model)
    parts = split_weights(model, params)  # the trained ones have gradients
    key = jax.random.key(seed)
    form, carried = fit_baselines(graph, params, others, jax.random.fold_in(key, 1))
    gradients_of = jax.jit(partial(gradients, graph, form))
    totals = np.zeros((len(COMBINATIONS), 2))
    bar = track(
        range(len(batches) * samples),
        "gradients",
        console=Console(stderr=True),
        disable=not progress,
    )
    moments = Moments()
    for i in bar:
        which, draw = divmod(i, samples)
        if draw == 0:
            moments = Moments()
        sample_key = jax.random.fold_in(jax.random.fold_in(key, 2 + which), draw)
        moments.add(*gradients_of(*parts, carried, *batches[which], sample_key))
        if draw + 1 == samples:
            totals += np.stack(moments.estimates(), axis=1) / len(batches)
    return table(*totals.T)


def table(variance: Float64[np.ndarray, " C"], signal: Float64[np.ndarray, " C"]) -> list[Row]:
    """A row for each combination.

    Args:
      variance: trace of the covariance of one estimate, mean over batches.
      signal: |E g|^2, mean over batches; noise can make it negative, and it then counts as 0.

    Returns:
      Rows of `baseline`, `credit`, `rollouts`, `variance`; `variance_per_rollout`, variance times
      rollouts, to compare at equal cost; `snr`, signal / variance; and `relative`,
      variance_per_rollout over that of `none` with `sequence`.
    """
    plain = float(variance[COMBINATIONS.index(("none", "sequence"))]) * ROLLOUTS["none"]
    rows = []
    for (baseline, credit), trace, squared in zip(
        COMBINATIONS, variance.tolist(), signal.tolist(), strict=True
    ):
        per_rollout = trace * ROLLOUTS[baseline]
        rows.append(
            {
                "baseline": baseline,
                "credit": credit,
                "rollouts": ROLLOUTS[baseline],
                "variance": trace,
                "variance_per_rollout": per_rollout,
                "snr": max(squared, 0.0) / trace,
                "relative": per_rollout / plain,
            }
        )
    return rows


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
    """One gradient of every combination (a leading axis C), and their squared norms.

    Args:
      graph, trained, frozen: the model.
      form, carried: see `fit_baselines`.
      inputs, tokens: a batch.
      key: of the paths.
    """

    def paths(trained: PyTree):
        model = nnx.merge(graph, all_weights(trained, frozen))
        given = TeacherForcing(model.decoder, model.annotations(inputs), tokens)
        rollout = given.along(draw_choice(key, given.paths(_SAMPLES)), _SAMPLES)
        return (rollout.log_probs, rollout.log_p_s), (rollout, given.annotations)

    _, pull_back, (rollout, annotations) = jax.vjp(paths, trained, has_aux=True)
    decoder = nnx.merge(graph, all_weights(trained, frozen)).decoder
    given = TeacherForcing(decoder, annotations, tokens)
    cotangents = [
        cotangent(given, rollout, baseline, credit, average, nnx.merge(form, network))
        for baseline, credit in COMBINATIONS
        for average, network in [carried[credit]]
    ]
    stacked = jax.tree.map(lambda *c: jnp.stack(c), *cotangents)
    (found,) = jax.lax.map(pull_back, stacked)
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
    b = baseline_of(_pure(baseline, credit), given, rollout, average, learned)
    advantage = jnp.where(rollout.tokens != PAD, credit_of(rollout.log_probs, weights) - b, 0.0)
    used = jnp.ones(_SAMPLES) / _SAMPLES
    if baseline != "leave_one_out":
        used = jnp.eye(_SAMPLES)[0]
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
    sizes = (decoder.init_h.out_features, decoder.init_h.in_features, decoder.embed.features)
    form, start = nnx.split(LearnedBaseline(*sizes, rngs=nnx.Rngs(0)), nnx.Param)
    optimizer = optax.adam(3e-3)
    carried = {}
    for credit in CREDITS:
        # The weights are constants of the program: as arguments they would change last digits.
        step = jax.jit(partial(_fit, graph, form, optimizer, _pure("learned", credit), params))
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


def _pure(baseline: str, credit: str) -> Hard:
    return dataclasses.replace(
        Hard(samples=_SAMPLES, soft_probability=0.0, reinforce=1.0, entropy=0.0),
        credit=credit,
        baseline=baseline,
    )
