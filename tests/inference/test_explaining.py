"""Steps of given texts, against the decoder's teacher-forced pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.inference.explaining import explain, gazes
from show_attend_tell.inference.given_steps import FREE, GivenSteps
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed

MARGINAL = {
    "product_form": True,
    "gate": False,
    "output_tanh": False,
    "kind": "hard",
    "state_reads": "nothing",
    "null_place": True,
}
TOKENS = np.array([[4, 5, 6, 2], [5, 4, 4, 2]], np.int32)
VECTORS = np.asarray(jax.random.normal(jax.random.key(4), (2, 4, 4)))
NOWHERE = np.full((2, 4), FREE, np.int32)


def model_of(**changes):
    """A captioner with nine words, and its weights."""
    decoder = nnx.merge(*tiny.decoder(vocabulary=9, **changes))
    model = Captioner(Precomputed(4, (2, 2)), decoder)
    return model, nnx.to_pure_dict(nnx.state(model))


def teacher_forced(model, choice=None):
    @jax.jit
    def run():
        return model.decoder(
            Annotations(jnp.asarray(VECTORS)), jnp.asarray(TOKENS)[:, None], None, choice
        )

    return jax.tree.map(lambda x: np.asarray(x), run())


def log_p_of_words(log_p):
    return np.take_along_axis(log_p, TOKENS[..., None], axis=-1)[..., 0]


def test_soft_attention_is_explained_by_the_teacher_forced_pass():
    model, params = model_of()
    found = explain(model, params, "expected", VECTORS, GivenSteps(TOKENS, NOWHERE))
    out = teacher_forced(model)
    np.testing.assert_allclose(found.alpha, out.alpha[:, 0], atol=1e-5)
    np.testing.assert_allclose(found.beta, out.beta[:, 0], atol=1e-5)
    np.testing.assert_array_equal(found.location, out.location[:, 0])
    log_p = np.asarray(jax.nn.log_softmax(out.logits))[:, 0]
    np.testing.assert_allclose(found.log_p, log_p_of_words(log_p), atol=1e-5)
    best = np.argsort(-log_p, axis=-1)[..., :5]
    np.testing.assert_array_equal(found.likeliest, best)
    expected = np.take_along_axis(log_p, best, axis=-1)
    np.testing.assert_allclose(found.log_p_likeliest, expected, atol=1e-5)
    assert found.posterior is None


def test_the_mixture_is_explained_with_the_place_summed_out():
    model, params = model_of(**MARGINAL)
    given = NOWHERE.copy()
    given[0, 1] = 3
    found = explain(model, params, "mixture", VECTORS, GivenSteps(TOKENS, given))
    out = teacher_forced(model)
    factors = jax.tree.map(np.asarray, out.factors)
    words = np.asarray(jax.nn.softmax(factors.state[:, :, None] + factors.place[:, None]))
    alpha = np.exp(out.log_alpha[:, 0])
    p = np.einsum("btl,btlv->btv", alpha, words)
    p[0, 1] = words[0, 1, 3]  # the step that was made to read one place
    np.testing.assert_allclose(np.exp(found.log_p), log_p_of_words(p), atol=1e-5)
    np.testing.assert_allclose(found.alpha, alpha, atol=1e-5)
    said = np.take_along_axis(words, TOKENS[:, :, None, None], axis=-1)[..., 0]
    posterior = alpha * said
    posterior /= posterior.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found.posterior, posterior, atol=1e-5)
    assert found.location[0, 1] == 3


@pytest.mark.parametrize("context", ["expected", "argmax"])
def test_given_places_enter_the_state(context):
    """The default decoder's state reads what the step read."""
    model, params = model_of(kind="hard")
    given = np.array([[2, FREE, 1, FREE], [FREE, 3, FREE, FREE]])
    found = explain(model, params, context, VECTORS, GivenSteps(TOKENS, given))
    # By hand, one step after another: rows that take the expectation do so at all steps.
    places = np.where(given < 0, 0, given)
    if context == "argmax":
        for t in range(4):  # the places that are free depend on those before
            noise = 1e9 * jax.nn.one_hot(places, 4)[:, None]
            choice = Choice(noise, jnp.zeros((2, 1), bool))
            alpha = teacher_forced(model, choice).alpha[:, 0, t]
            places[:, t] = np.where(given[:, t] < 0, alpha.argmax(-1), given[:, t])
        noise = 1e9 * jax.nn.one_hot(places, 4)[:, None]
        out = teacher_forced(model, Choice(noise, jnp.zeros((2, 1), bool)))
        log_p = np.asarray(jax.nn.log_softmax(out.logits))[:, 0]
        np.testing.assert_allclose(found.log_p, log_p_of_words(log_p), atol=1e-5)
        np.testing.assert_allclose(found.alpha, out.alpha[:, 0], atol=1e-5)
        np.testing.assert_array_equal(found.location, places)
        return
    # A place that is given at the first step changes all later steps; one at the second leaves
    # the first as it was.
    free = explain(model, params, context, VECTORS, GivenSteps(TOKENS, NOWHERE))
    changed = np.abs(np.asarray(found.log_p) - free.log_p) > 1e-6
    assert changed.tolist() == [[True] * 4, [False, True, True, True]]


def test_looking_around_is_giving_each_place_in_turn():
    model, params = model_of(kind="hard")
    before = np.array([[2, FREE, FREE, FREE], [FREE, FREE, FREE, FREE]])
    step, word = np.array([1, 0]), np.array([7, 5])
    around = gazes(model, params, "argmax", VECTORS, GivenSteps(TOKENS, before), step, word)
    said = TOKENS.copy()
    said[np.arange(2), step] = word
    for place in range(4):
        given = before.copy()
        given[np.arange(2), step] = place
        one = explain(model, params, "argmax", VECTORS, GivenSteps(said, given))
        np.testing.assert_allclose(around.log_p[:, place], one.log_p[np.arange(2), step], atol=1e-5)
        np.testing.assert_array_equal(around.likeliest[:, place], one.likeliest[np.arange(2), step])
    assert around.log_p.shape == (2, 4)
