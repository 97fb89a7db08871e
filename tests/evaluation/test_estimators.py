"""The exact gradient against all attention paths, enumerated; which estimators a model has."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.evaluation.estimators import (
    exact_gradient,
    is_exact,
    other_estimators,
    other_gradients,
    pure,
    score_estimators,
)
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.baselines import MovingAverage
from show_attend_tell.objectives.likelihood import token_log_probs
from show_attend_tell.objectives.reading import Reading
from show_attend_tell.objectives.rebar import Rebar, draw_noise
from show_attend_tell.objectives.reinforce import Reinforce
from show_attend_tell.objectives.relaxed import Relaxed, draw_relaxed
from show_attend_tell.objectives.sampling import TeacherForcing
from show_attend_tell.settings import BASELINES, Hard, Loss

L, T, EOS, PAD = 3, 3, 2, 0
PRODUCT = {"product_form": True, "gate": False, "output_tanh": False}
INPUTS = jax.random.normal(jax.random.key(2), (1, L, 4))
TOKENS = jnp.array([[[4, 5, EOS], [4, EOS, EOS], [5, EOS, PAD]]])
PLAIN = Loss(doubly_stochastic=0.0, label_smoothing=0.0)


def make(**changes):
    graph, params = tiny.decoder(kind="hard", **changes)
    model = Captioner(Precomputed(4, (1, 3)), nnx.merge(graph, params))
    return nnx.graphdef(model), nnx.to_pure_dict(nnx.state(model, nnx.Param)), model.decoder


def compared(found, wanted):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(found), strict=True
    ):
        np.testing.assert_allclose(b, a, atol=5e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("reads", ["nothing", pytest.param("expected", marks=pytest.mark.slow)])
def test_the_exact_gradient_is_the_sum_over_all_paths(reads):
    graph, params, decoder = make(**PRODUCT, state_reads=reads)
    assert is_exact(decoder)
    paths = jnp.array(list(itertools.product(range(L), repeat=T)))
    choice = Choice(1e9 * jax.nn.one_hot(paths, L)[None], jnp.zeros((1, len(paths)), bool))

    def bound(params):
        decoder, total = nnx.merge(graph, params).decoder, 0.0
        for row in range(3):
            tokens = jnp.tile(TOKENS[:, row : row + 1], (1, len(paths), 1))
            out = decoder(Annotations(INPUTS), tokens, None, choice)
            log_p_s = jnp.take_along_axis(out.log_alpha, out.location[..., None], axis=-1)
            p = jnp.exp(log_p_s[..., 0].sum(-1))
            total += (p * token_log_probs(out.logits, tokens).sum(-1)).sum()
        return total / 8

    wanted = jax.jit(jax.grad(bound))(params)
    compared(jax.jit(exact_gradient, static_argnums=0)(graph, params, {}, INPUTS, TOKENS), wanted)


def test_the_other_gradients_are_those_of_minus_the_losses():
    graph, params, _ = make(**PRODUCT, state_reads="nothing")
    key = jax.random.key(3)
    compute = jax.jit(other_gradients, static_argnums=0)
    found = compute(graph, params, {}, INPUTS, TOKENS, key)
    rao = Hard(soft_probability=0.0, entropy=0.0, objective="gumbel", rao_samples=16)
    plain = Hard(soft_probability=0.0, entropy=0.0, objective="gumbel")
    four = pure("leave_one_out", "word", 4)
    rebar = Hard(entropy=0.0, objective="rebar")

    def loss(params, hard):
        if hard.objective == "rebar":
            reading = Reading.of(
                nnx.merge(graph, params).decoder, Annotations(INPUTS), TOKENS, None
            )
            return Rebar(hard, PLAIN).loss_at(reading, draw_noise(key, 1, (*TOKENS.shape, L)))[0]
        given = TeacherForcing(nnx.merge(graph, params).decoder, Annotations(INPUTS), TOKENS)
        choice = draw_relaxed(key, (1, 3 * hard.samples, T, L), hard)
        if hard.objective == "gumbel":
            return Relaxed(hard, PLAIN).loss_along(given, choice)[0]
        plain = choice._replace(relaxation=None)
        return Reinforce(hard, PLAIN).loss_along(given, plain, MovingAverage.start())[0]

    kinds = (four, plain, rao, rebar)
    losses = jax.jit(lambda params: [jax.grad(loss)(params, hard) for hard in kinds])(params)
    for gradient, wanted in zip(found, losses, strict=True):
        compared(gradient, jax.tree.map(jnp.negative, wanted))


def test_which_estimators_a_model_has():
    """Credit `word`, REBAR and exact gradients need a state that does not read the drawn place."""
    _, _, drawn = make()
    _, _, blind = make(state_reads="nothing")
    _, _, drawn_product = make(**PRODUCT)
    for decoder, credits in (
        (drawn, ("sequence", "to_go")),
        (blind, ("sequence", "to_go", "word")),
    ):
        found = [(e.baseline, e.credit) for e in score_estimators(decoder)]
        assert found == list(itertools.product(BASELINES, credits))
        many, *others = other_estimators(decoder)
        assert (many.baseline, many.credit, many.rollouts) == ("leave_one_out", credits[-1], 4)
        names = ["gumbel", "gumbel_rao", "rebar"][: len(credits)]
        assert [e.name for e in others] == names
        assert {e.against for e in others} == {"expected"}
    assert not any(map(is_exact, (drawn, blind, drawn_product)))
