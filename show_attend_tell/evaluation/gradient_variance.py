"""How noisy the gradient of hard attention is, per baseline and credit, on a model and real data.

All combinations are measured on the same sampled paths of the same batches. A path's score
gradient is linear in the advantage, so one forward pass serves all combinations and each takes one
backward pass. The estimates are those of pure REINFORCE (p = 0, lambda_r = 1, lambda_e = 0),
without dropout, penalty or label smoothing, of the mean log-likelihood of a word.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from show_attend_tell import files
from show_attend_tell.models.decoder import same_caption
from show_attend_tell.objectives.reinforce import (
    BASELINES,
    Estimator,
    LearnedBaseline,
    MovingAverage,
    averaged_by,
    baseline_of,
    credit_of,
    credited,
    draw_choice,
    roll_out,
)
from show_attend_tell.runs.build import Captioner, all_weights, split_weights
from show_attend_tell.tokens import EOS, PAD

CREDITS = ("sequence", "to_go")
COMBINATIONS = tuple(itertools.product(BASELINES, CREDITS))
# Passes over the captions that one estimate takes: its paths, and a second rollout where there is.
ROLLOUTS = {
    name: 2 if name in ("self_critical", "expected", "leave_one_out") else 1 for name in BASELINES
}
_FIT_STEPS = 200  # of the learned baselines
_SAMPLES = 2  # paths drawn together, so that leave_one_out has another one


def _pure(baseline: str, credit: str) -> Estimator:
    return Estimator(
        objective="reinforce",
        samples=_SAMPLES,
        soft_probability=0.0,
        soft_steps=0,
        coin="image",
        reinforce=1.0,
        entropy=0.0,
        credit=credit,
        baseline=baseline,
        released=False,
    )


def gradient_variance(
    model: Captioner,
    params: Any,
    batches: list[tuple[Array, Int[Array, "_ _ _"]]],
    others: list[tuple[Array, Int[Array, "_ _ _"]]],
    *,
    samples: int,
    seed: int = 0,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Variance and signal-to-noise ratio of the gradient for every baseline and credit.

    Args:
      model, params: the model's form and the parameters at which to measure.
      batches: (inputs, tokens) each; they may differ in shape.
      others: batches to fit the baselines to that carry something over from earlier ones; of
        other images, or of copies of theirs.
      samples: gradients drawn for each batch, at least 2.
      seed: of what is drawn.
      progress: whether to show a bar.

    Returns:
      A row for each combination: `baseline`, `credit`, `rollouts`; `variance`, the trace of the
      covariance of one estimate, mean over batches; `variance_per_rollout`, variance * rollouts, to
      compare at equal cost; `snr`, |E g|^2 / variance, with the squared norm of the mean gradient
      corrected for the noise in it; and `relative`, variance_per_rollout over that of `none` with
      `sequence`.
    """
    graph = nnx.graphdef(model)
    parts = split_weights(model, params)  # the trained ones have gradients
    key = jax.random.key(seed)
    averages, learned = _fit_baselines(graph, params, others, jax.random.fold_in(key, 1))
    moments = jax.jit(lambda *args: _gradients(graph, *args))
    totals = np.zeros((len(COMBINATIONS), 2))
    count = len(batches) * samples
    bar = track(range(count), "gradients", console=Console(stderr=True), disable=not progress)
    sums, squares = None, np.zeros(len(COMBINATIONS))
    for i in bar:
        which, draw = divmod(i, samples)
        inputs, tokens = batches[which]
        sample_key = jax.random.fold_in(jax.random.fold_in(key, 2 + which), draw)
        gradients, norms = moments(*parts, inputs, tokens, sample_key, averages, learned)
        sums = gradients if sums is None else jax.tree.map(jnp.add, sums, gradients)
        squares += np.asarray(norms, np.float64)
        if draw + 1 == samples:
            mean = sum(
                jnp.square(leaf / samples).reshape(len(COMBINATIONS), -1).sum(axis=1)
                for leaf in jax.tree.leaves(sums)
            )
            mean = np.asarray(mean, np.float64)
            variance = (squares / samples - mean) * samples / (samples - 1)
            totals += np.stack([variance, mean - variance / samples], axis=1) / len(batches)
            sums, squares = None, np.zeros(len(COMBINATIONS))
    rows = []
    for (baseline, credit), (variance, signal) in zip(COMBINATIONS, totals.tolist(), strict=True):
        per_rollout = variance * ROLLOUTS[baseline]
        rows.append(
            {
                "baseline": baseline,
                "credit": credit,
                "rollouts": ROLLOUTS[baseline],
                "variance": variance,
                "variance_per_rollout": per_rollout,
                "snr": max(signal, 0.0) / variance,
            }
        )
    plain = rows[COMBINATIONS.index(("none", "sequence"))]["variance_per_rollout"]
    return [row | {"relative": row["variance_per_rollout"] / plain} for row in rows]


def _gradients(
    graph: nnx.GraphDef,
    trained: Any,
    frozen: Any,
    inputs: Array,
    tokens: Int[Array, "B R T"],
    key: PRNGKeyArray,
    averages: dict[str, MovingAverage],
    learned: dict[str, Any],
) -> tuple[Any, Float[Array, " C"]]:
    """One gradient of every combination, and their squared norms."""
    images, rows, steps = tokens.shape
    repeated = jnp.tile(tokens, (1, _SAMPLES, 1))
    count = (tokens != PAD).sum()

    def paths(trained):
        model = nnx.merge(graph, all_weights(trained, frozen))
        annotations = model.annotations(inputs)
        shape = (images, _SAMPLES * rows, steps, annotations.vectors.shape[1])
        choice = draw_choice(key, shape)
        rollout = roll_out(model.decoder, annotations, repeated, None, choice)
        return (rollout.log_probs, rollout.log_p_s), (rollout, annotations)

    (log_probs, log_p_s), pull_back, (rollout, annotations) = jax.vjp(paths, trained, has_aux=True)
    decoder = nnx.merge(graph, all_weights(trained, frozen)).decoder
    cotangents = []
    for baseline, credit in COMBINATIONS:
        weights = credited(same_caption(tokens), credit)
        b = baseline_of(
            _pure(baseline, credit),
            decoder,
            annotations,
            tokens,
            None,
            rollout,
            averages[credit],
            nnx.merge(*learned[credit]),
        )
        advantage = jnp.where(repeated != PAD, credit_of(log_probs, weights) - b, 0.0)
        # One path of each row, but for leave_one_out, whose estimate is the mean over its paths.
        used = jnp.ones(_SAMPLES) / _SAMPLES
        if baseline != "leave_one_out":
            used = jnp.eye(_SAMPLES)[0]
        used = jnp.repeat(used, rows)[None, :, None] / count
        cotangents.append((used * jnp.ones_like(log_probs), used * advantage))
    stacked = jax.tree.map(lambda *c: jnp.stack(c), *cotangents)
    (gradients,) = jax.lax.map(pull_back, stacked)
    norms = sum(
        jnp.square(leaf).reshape(len(COMBINATIONS), -1).sum(axis=1)
        for leaf in jax.tree.leaves(gradients)
    )
    return gradients, norms


def _fit_baselines(
    graph: nnx.GraphDef, params: Any, batches: list, key: PRNGKeyArray
) -> tuple[dict[str, MovingAverage], dict[str, Any]]:
    """The baselines that carry something over from earlier batches, which are these."""
    decoder = nnx.merge(graph, params).decoder
    sizes = (decoder.init_h.out_features, decoder.init_h.in_features, decoder.embed.features)
    optimizer = optax.adam(3e-3)
    averages, learned = {}, {}
    for credit in CREDITS:
        form, network = nnx.split(LearnedBaseline(*sizes, rngs=nnx.Rngs(0)), nnx.Param)

        @jax.jit
        def step(network, state, average, inputs, tokens, key, credit=credit, form=form):
            model = nnx.merge(graph, params)
            annotations = model.annotations(inputs)
            estimator = dataclasses.replace(_pure("learned", credit), samples=1)
            shape = (*tokens.shape, annotations.vectors.shape[1])
            choice = draw_choice(key, shape)
            rollout = roll_out(model.decoder, annotations, tokens, None, choice)
            weights = credited(same_caption(tokens), credit)
            wanted = credit_of(rollout.log_probs, weights)
            words = jnp.maximum(weights.sum(axis=-1), 1.0)
            real = tokens != PAD

            def loss(network):
                b = baseline_of(
                    estimator,
                    model.decoder,
                    annotations,
                    tokens,
                    None,
                    rollout,
                    average,
                    nnx.merge(form, network),
                )
                return jnp.square(jnp.where(real, (b - wanted) / words, 0.0)).sum() / real.sum()

            updates, state = optimizer.update(jax.grad(loss)(network), state)
            seen = real & ((tokens == EOS) | (credit == "to_go"))
            average = average.update(wanted / averaged_by(weights, credit), seen)
            return optax.apply_updates(network, updates), state, average

        state, average = optimizer.init(network), MovingAverage.start()
        for i in range(_FIT_STEPS):
            inputs, tokens = batches[i % len(batches)]
            step_key = jax.random.fold_in(key, i)
            network, state, average = step(network, state, average, inputs, tokens, step_key)
        averages[credit], learned[credit] = average, (form, network)
    return averages, learned


def write_variance(folder: Path, record: dict[str, Any]) -> None:
    """Writes gradient_variance.json and a bar chart of it, gradient_variance.png."""
    files.write_text(folder / "gradient_variance.json", json.dumps(record, indent=2) + "\n")
    figure = Figure((11, 4.5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    height = 0.4
    for axes, name, label in zip(
        panels,
        ("relative", "snr"),
        (
            "trace of the gradient's covariance at equal rollouts,\nover that of none + sequence",
            "signal to noise of one estimate",
        ),
        strict=True,
    ):
        for k, credit in enumerate(CREDITS):
            rows = [row for row in record["rows"] if row["credit"] == credit]
            places = np.arange(len(rows)) + (0.5 - k) * height
            bars = axes.barh(places, [row[name] for row in rows], height, label=credit)
            axes.bar_label(bars, [f"{row[name]:.2g}" for row in rows], padding=3, fontsize=8)
        axes.set_xscale("log" if name == "relative" else "linear")
        axes.margins(x=0.15)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(np.arange(len(BASELINES)), BASELINES)
    panels[0].invert_yaxis()
    panels[1].legend(title="credit", frameon=False)
    canvas.draw()
    with files.replacing(folder / "gradient_variance.png") as file:
        figure.savefig(file, format="png")
