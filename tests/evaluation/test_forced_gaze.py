"""Words under forced gaze, against other ways to read one place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.evaluation.boxes import Places
from show_attend_tell.evaluation.forced_gaze import forced_gaze
from show_attend_tell.evaluation.given_split import Words
from show_attend_tell.evaluation.mentions import Mention
from show_attend_tell.inference.explaining import log_p_of_gaze
from show_attend_tell.inference.given_steps import FREE, GivenSteps
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed

PRODUCT = {"product_form": True, "gate": False, "output_tanh": False}
MARGINAL = {**PRODUCT, "kind": "hard", "state_reads": "nothing", "null_place": True}
TOKENS = np.array([[4, 5, 2], [5, 4, 2], [4, 4, 2]])
STEP = np.array([2, 0, 1])
VECTORS = np.asarray(jax.random.normal(jax.random.key(2), (3, 4, 4)))
PLACES = Places(np.array([0.25, 0.75]), np.array([0.25, 0.75]))
LEFT, RIGHT = (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)


def model_of(**changes):
    return Captioner(Precomputed(4, (2, 2)), nnx.merge(*tiny.decoder(**changes)))


def given_place(model):
    """p(word | place) at every step, where the logits are a sum of two terms."""

    @jax.jit
    def run():
        out = model.decoder(Annotations(jnp.asarray(VECTORS)), jnp.asarray(TOKENS)[:, None])
        return jax.nn.softmax(out.factors.state[:, :, None] + out.factors.place[:, None])

    return run()


def test_the_step_reads_each_place_in_turn():
    model = model_of(**MARGINAL)
    vectors, tokens = jnp.array(VECTORS), jnp.array(TOKENS)
    given = GivenSteps(tokens, jnp.full(tokens.shape, FREE))
    found = jax.jit(lambda: log_p_of_gaze(model, vectors, given, jnp.array(STEP)))()
    expected = np.asarray(given_place(model))[np.arange(3), STEP, :4]
    np.testing.assert_allclose(np.exp(found), expected, atol=1e-5)


def test_steps_before_read_as_trained():
    """Soft attention, whose state reads: the first step by a choice, later ones where all agree."""
    model = model_of()

    @jax.jit
    def gaze(vectors, step):
        given = GivenSteps(jnp.array(TOKENS), jnp.full(TOKENS.shape, FREE))
        return log_p_of_gaze(model, vectors, given, step)

    @jax.jit
    def read(vectors, expected):
        noise = jnp.broadcast_to(1e9 * jnp.eye(4)[None, :, None], (3, 4, 3, 4))
        texts = jnp.broadcast_to(TOKENS[:, None], (3, 4, 3))
        rows = jnp.full((3, 4), expected)
        out = model.decoder(Annotations(vectors), texts, None, Choice(noise, rows))
        return jax.nn.log_softmax(out.logits)

    first = read(jnp.array(VECTORS), False)[:, :, 0]
    np.testing.assert_allclose(gaze(jnp.array(VECTORS), jnp.zeros(3, int)), first, atol=1e-5)
    alike = jnp.broadcast_to(VECTORS[:, :1], VECTORS.shape)
    expected = read(alike, True)[np.arange(3), :, STEP]
    np.testing.assert_allclose(gaze(alike, jnp.array(STEP)), expected, atol=1e-5)


def test_places_inside_of_the_boxes_are_compared_with_the_others(tmp_path):
    changes = {f"decoder.{name}": value for name, value in PRODUCT.items()}
    changes |= {"attention.kind": "hard", "attention.state_reads": "nothing"}
    run = tiny.run_of(tmp_path, 4, changes, **MARGINAL)
    boxes = [(LEFT,), (RIGHT,), (LEFT, RIGHT)]  # the last leaves no place outside
    mentions = [Mention("a", (), "dog", of) for of in boxes]
    steps = np.array([(image, 0, step) for image, step in enumerate(STEP)])
    words = Words(VECTORS, TOKENS[:, None], steps)
    found = forced_gaze(run, words, mentions, PLACES)
    p = np.asarray(given_place(run.model), np.float64)[np.arange(3), STEP, :4]
    gains, divergences = [], []
    for word, inside in ((0, [0, 2]), (1, [1, 3])):
        outside = [place for place in range(4) if place not in inside]
        noun = np.log(p[word, :, TOKENS[word, STEP[word]]])
        gains.append(noun[inside].mean() - noun[outside].mean())
        a, b = p[word, inside].mean(0), p[word, outside].mean(0)
        m = (a + b) / 2
        divergences.append((a * np.log(a / m) + b * np.log(b / m)).sum() / 2)
    assert found == {
        "words": 2,
        "inside_minus_outside": pytest.approx(np.mean(gains), abs=1e-5),
        "divergence": pytest.approx(np.mean(divergences), abs=1e-5),
    }
    assert forced_gaze(run, words, [mentions[2]] * 3, PLACES) is None
    none = Words(VECTORS, TOKENS[:, None], steps[:0])
    assert forced_gaze(run, none, [], PLACES) is None
