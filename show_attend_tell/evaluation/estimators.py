"""The estimators that `gradient_variance` compares, and the exact gradient of what they estimate.

Every gradient is that of a sum over a batch's words, divided by their number, to be maximised:
without dropout, penalty, entropy or label smoothing. They estimate one of two gradients:

    expected    of L_s, the expected log-likelihood under drawn places; REINFORCE is unbiased for it
    marginal    of log p(y|a), with the places summed out

Both can be computed where the logits are a sum of a term of the state and a term of the place, and
the state does not read the drawn place (see `models.product_form`).

Symbols as in `models.decoder`; C estimators.
"""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from show_attend_tell.models import product_form
from show_attend_tell.models.captioner import Captioner, Inputs, all_weights
from show_attend_tell.models.decoder import Decoder
from show_attend_tell.objectives.baselines import MovingAverage
from show_attend_tell.objectives.reading import Reading
from show_attend_tell.objectives.rebar import Rebar, draw_noise
from show_attend_tell.objectives.reinforce import Reinforce
from show_attend_tell.objectives.relaxed import Relaxed, draw_relaxed
from show_attend_tell.objectives.sampling import TeacherForcing
from show_attend_tell.settings import BASELINES, Hard, Loss
from show_attend_tell.tokens import PAD

PATHS = 2  # drawn together for all baselines and credits, so that leave_one_out has another one
_MANY = 4  # paths of the leave-one-out preset
_RAO = 16  # K of Gumbel-Rao
_PLAIN = Loss(doubly_stochastic=0.0, label_smoothing=0.0)


class Estimator(NamedTuple):
    """One row of the table.

    Attributes:
      name: `reinforce`, `gumbel`, `gumbel_rao`, `rebar` or `marginal`.
      baseline, credit: of `reinforce`, else None.
      rollouts: how often one estimate takes the captions' log-probability: along its paths, and in
        any second rollout. `rebar` takes it three times, though it runs the recurrence only once.
      against: the exact gradient that its bias is measured against: `expected` or `marginal`.
    """

    name: str
    baseline: str | None
    credit: str | None
    rollouts: int
    against: str = "expected"


MARGINAL = Estimator("marginal", None, None, 1, "marginal")


def reads_drawn(decoder: Decoder) -> bool:
    """Whether the state reads the drawn place."""
    return decoder.step_config.reads == "drawn"


def credits_of(decoder: Decoder) -> tuple[str, ...]:
    """The unbiased credits."""
    return ("sequence", "to_go") if reads_drawn(decoder) else ("sequence", "to_go", "word")


def is_exact(decoder: Decoder) -> bool:
    """Whether `exact_gradient` can be computed."""
    return decoder.product_form and not reads_drawn(decoder)


def combinations(decoder: Decoder) -> tuple[tuple[str, str], ...]:
    """Every baseline with every unbiased credit."""
    return tuple(itertools.product(BASELINES, credits_of(decoder)))


def score_estimators(decoder: Decoder) -> tuple[Estimator, ...]:
    """REINFORCE with one path and every combination; leave_one_out takes two paths."""
    twice = ("self_critical", "expected", "leave_one_out")
    return tuple(
        Estimator("reinforce", baseline, credit, 2 if baseline in twice else 1)
        for baseline, credit in combinations(decoder)
    )


def other_estimators(decoder: Decoder) -> tuple[Estimator, ...]:
    """Leave-one-out with more paths, the relaxations and, where it is defined, REBAR."""
    found = (
        Estimator("reinforce", "leave_one_out", credits_of(decoder)[-1], _MANY),
        Estimator("gumbel", None, None, 1),
        Estimator("gumbel_rao", None, None, 1),
    )
    return found if reads_drawn(decoder) else (*found, Estimator("rebar", None, None, 3))


def other_gradients(
    graph: nnx.GraphDef,
    trained: PyTree,
    frozen: PyTree,
    inputs: Inputs,
    tokens: Int[Array, "B R T"],
    key: PRNGKeyArray,
) -> list[PyTree]:
    """One gradient of each of `other_estimators`, on paths drawn with the key."""
    decoder = nnx.merge(graph, all_weights(trained, frozen)).decoder
    found = []
    for hard in map(_settings, other_estimators(decoder)):

        def value(trained: PyTree, hard: Hard = hard) -> Float[Array, ""]:
            model = nnx.merge(graph, all_weights(trained, frozen))
            annotations = model.annotations(inputs)
            if hard.objective == "rebar":
                reading = Reading.of(model.decoder, annotations, tokens, None)
                noise = draw_noise(key, hard.samples, reading.out.log_alpha.shape)
                return -Rebar(hard, _PLAIN).loss_at(reading, noise)[0]
            given = TeacherForcing(model.decoder, annotations, tokens)
            choice = draw_relaxed(key, given.paths(hard.samples), hard)
            if hard.objective == "gumbel":
                return -Relaxed(hard, _PLAIN).loss_along(given, choice)[0]
            choice = choice._replace(relaxation=None)
            start = MovingAverage.start()
            return -Reinforce(hard, _PLAIN).loss_along(given, choice, start)[0]

        found.append(jax.grad(value)(trained))
    return found


def pure(baseline: str, credit: str, samples: int = PATHS) -> Hard:
    """REINFORCE without its heuristics, whose expected gradient is that of L_s."""
    return dataclasses.replace(
        Hard(samples=samples, soft_probability=0.0, reinforce=1.0, entropy=0.0),
        credit=credit,
        baseline=baseline,
    )


def _settings(estimator: Estimator) -> Hard:
    if estimator.baseline is not None and estimator.credit is not None:
        return pure(estimator.baseline, estimator.credit, estimator.rollouts)
    hard = pure("none", "sequence", 1)
    if estimator.name == "gumbel_rao":
        return dataclasses.replace(hard, objective="gumbel", rao_samples=_RAO)
    return dataclasses.replace(hard, objective=estimator.name)


def exact_gradient(
    graph: nnx.GraphDef,
    trained: PyTree,
    frozen: PyTree,
    inputs: Inputs,
    tokens: Int[Array, "B R T"],
) -> PyTree:
    """The gradient of L_s, the places of every step summed out, of a model that `is_exact`."""

    def bound(trained: PyTree) -> Float[Array, ""]:
        model: Captioner = nnx.merge(graph, all_weights(trained, frozen))
        out = model.decoder(model.annotations(inputs), tokens)
        assert out.factors is not None
        exps = product_form.exponentials(out.factors)
        given_place = product_form.log_given_place(exps, tokens.reshape(len(tokens), -1))
        expected = (out.alpha * given_place.reshape(out.alpha.shape)).sum(axis=-1)
        real = tokens != PAD
        return jnp.where(real, expected, 0.0).sum() / real.sum()

    return jax.grad(bound)(trained)
