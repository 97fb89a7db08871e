"""Drawing attention paths: what is shared between rows, and what is not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.objectives.sampling import (
    TeacherForcing,
    draw_choice,
    entropies,
    most_probable,
    probability_of_soft,
    roll_out,
    sampling_key,
)

L, T, EOS = 3, 3, 2
GRAPH, PARAMS = tiny.decoder()
ANNOTATIONS = Annotations(jax.random.normal(jax.random.key(2), (1, L, 4)))


def test_every_row_and_step_has_noise_of_its_own():
    # Rows are the paths of an image: noise that images or paths share would correlate samples.
    noise = np.array(draw_choice(jax.random.key(0), (3, 4, 5, 2)).noise)
    assert len(np.unique(noise)) == noise.size
    # Gumbel noise: mean 0.577, variance pi^2 / 6.
    noise = np.array(draw_choice(jax.random.key(1), (20, 10, 10, 5)).noise)
    assert noise.mean() == pytest.approx(0.5772, abs=0.05)
    assert noise.var() == pytest.approx(np.pi**2 / 6, rel=0.05)


def test_a_rows_noise_does_not_depend_on_the_batch():
    few, many = (draw_choice(jax.random.key(0), (n, 2, 3, L)).noise for n in (2, 5))
    np.testing.assert_array_equal(few, many[:2])


def test_the_coin_falls_for_an_image_or_for_the_batch():
    def drawn(coin):
        keys = jax.random.split(jax.random.key(0), 200)
        return np.array(jax.vmap(lambda k: draw_choice(k, (4, 2, 1, L), 0.5, coin).expected)(keys))

    for coin in ("image", "batch"):
        expected = drawn(coin)
        assert (expected[:, :, 0] == expected[:, :, 1]).all()  # the rows of an image
        assert 0.35 < expected.mean() < 0.65
        alike = (expected == expected[:, :1]).all(axis=(1, 2))
        assert alike.all() if coin == "batch" else alike.mean() < 0.4


@pytest.mark.parametrize("coin", ["image", "batch"])
def test_the_coin_has_its_probability(coin):
    keys = jax.random.split(jax.random.key(3), 500)
    for p in (0.0, 0.2, 1.0):
        draw = jax.vmap(lambda k, p=p: draw_choice(k, (2, 1, 1, L), p, coin).expected)
        share = float(draw(keys).mean())
        assert share == p if p in (0.0, 1.0) else abs(share - p) < 0.06


def test_the_first_steps_are_soft_for_certain():
    hard = dataclasses.replace(tiny.PURE, soft_probability=0.25, soft_steps=3)
    assert [float(probability_of_soft(hard, step)) for step in (0, 2, 3, 9)] == [1, 1, 0.25, 0.25]


def test_paths_are_drawn_apart_from_dropout():
    key = jax.random.key(5)
    used = [jax.random.key_data(k) for k in (key, *jax.random.split(key, 3))]
    own = jax.random.key_data(sampling_key(key))
    assert not any((own == other).all() for other in used)


def test_the_most_probable_path_reads_places_and_not_their_mean():
    decoder = tiny.make_decoder(kind="hard")
    given = TeacherForcing(decoder, Annotations(jnp.zeros((2, L, 4))), jnp.ones((2, 3, 4), int))
    choice = most_probable(given)
    assert not choice.noise.any() and not choice.expected.any() and choice.of_picture is None
    assert choice.noise.shape == (2, 3, 4, L) and choice.expected.shape == (2, 3)


def test_the_paths_of_a_caption_lose_the_same_features():
    decoder = tiny.make_decoder(dropout=0.5, annotation_dropout=0.5)
    vectors = jax.random.normal(jax.random.key(2), (2, L, 4))
    tokens = jnp.array([[[4, 5, EOS], [5, 4, EOS]], [[5, 5, EOS], [4, 4, EOS]]])
    given = TeacherForcing(decoder, Annotations(vectors), tokens, jax.random.key(0))
    [one, three] = (given.along(None, samples).log_probs for samples in (1, 3))
    np.testing.assert_allclose(three, jnp.tile(one, (1, 3, 1)), rtol=1e-5)
    assert not np.allclose(
        one, TeacherForcing(decoder, given.annotations, tokens).along(None).log_probs
    )


def test_a_rollout_goes_along_the_drawn_path_and_no_gradient_passes_through_it():
    """Along a given path attention's weights change nothing but log p(s)."""
    tokens = jnp.array([[[4, 5, EOS]]])
    path = jnp.array([[[2, 0, 1]]])
    choice = Choice(1e9 * jax.nn.one_hot(path, L), jnp.zeros((1, 1), bool))

    @jax.jit
    @jax.value_and_grad
    def log_likelihood(params, choice):
        decoder = nnx.merge(GRAPH, params)
        return TeacherForcing(decoder, ANNOTATIONS, tokens).along(choice).log_probs.sum()

    value, gradient = log_likelihood(PARAMS, choice)
    for leaf in jax.tree.leaves(gradient["attention"]):
        assert jnp.abs(leaf).max() == 0
    assert jnp.abs(gradient["output_z"]["kernel"].get_value()).max() > 0
    rollout = jax.jit(
        lambda params: roll_out(nnx.merge(GRAPH, params), ANNOTATIONS, tokens, None, choice)
    )(PARAMS)
    assert float(rollout.log_probs.sum()) == pytest.approx(float(value), rel=1e-5)
    own = jnp.take_along_axis(rollout.log_alpha, path[..., None], axis=-1)[..., 0]
    np.testing.assert_array_equal(rollout.log_p_s, own)


def test_entropies_by_hand():
    alpha = jnp.array([[[[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]]]])
    wanted = [1.5 * np.log(2), np.log(3)]
    np.testing.assert_allclose(entropies(alpha, jnp.log(alpha))[0, 0], wanted, rtol=1e-6)
