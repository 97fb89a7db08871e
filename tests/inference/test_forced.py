"""Maps over given texts, against those of the decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from flax import nnx

from show_attend_tell.data.task import ImageTask
from show_attend_tell.inference.forced import encoded_texts, maps_at
from show_attend_tell.inference.run import load_run
from show_attend_tell.models.attention import Annotations
from show_attend_tell.runs.inputs import load_inputs


def test_the_texts_become_rows():
    rows = encoded_texts([[[4, 5], [6]], [[7]]], 2)
    assert rows.tolist() == [[[4, 5, 2], [6, 2, 0]], [[7, 2, 0], [0, 0, 0]]]


def test_maps_are_those_of_the_decoder(trained, monkeypatch):
    workdir, scenes = trained
    monkeypatch.setattr(ImageTask, "load", lambda task, split, training=False: scenes)
    run = load_run(workdir)
    monkeypatch.setattr("show_attend_tell.inference.forced.IMAGES_AT_ONCE", 3)
    examples = run.task.load("val")
    inputs = load_inputs(run.settings, run.task, examples, run.encoder)
    texts = [[run.vocabulary.encode_text(e.captions[0])] for e in examples]
    tokens = encoded_texts(texts, 1)
    steps = np.array([[0, 0, 2], [0, 0, 4], [3, 0, 0], [7, 0, 3]])

    @jax.jit
    def alpha(params, inputs):
        model = nnx.merge(nnx.graphdef(run.model), params)
        return model.decoder(model.annotations(inputs), jnp.asarray(tokens)).alpha

    for pictures in (None, np.array([3, 4, 5, 6, 7, 0, 1, 2])):
        order = np.arange(8) if pictures is None else pictures
        found = maps_at(run, inputs, tokens, steps, pictures)
        expected = np.asarray(alpha(run.params, inputs[order]))[steps[:, 0], 0, steps[:, 2]]
        np.testing.assert_allclose(found.prior, expected, atol=1e-5)
        assert found.posterior is None


def test_the_posterior_is_the_prior_reweighed_by_the_words_probabilities(tmp_path):
    product = {"product_form": True, "gate": False, "output_tanh": False}
    reads = {"kind": "hard", "state_reads": "nothing", "null_place": True}
    run = tiny.run_of(tmp_path, 4, {}, **product, **reads)
    vectors = np.asarray(jax.random.normal(jax.random.key(3), (2, 4, 4)))
    tokens = np.array([[[4, 5, 2], [5, 2, 0]], [[5, 4, 2], [4, 2, 0]]], np.int32)
    steps = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 2]])
    found = maps_at(run, vectors, tokens, steps)

    @jax.jit
    def by_hand():
        out = run.model.decoder(Annotations(jnp.asarray(vectors)), jnp.asarray(tokens))
        logits = out.factors.state[:, :, None] + out.factors.place[:, None]
        return out.alpha, jax.nn.softmax(logits).reshape(2, 2, 3, 5, -1)

    alpha, words = map(np.asarray, by_hand())
    for k, (image, row, step) in enumerate(steps):
        prior = alpha[image, row, step]
        joint = prior * words[image, row, step, :, tokens[image, row, step]]
        # The null place, the last, is left out; what it took is missing from the sums.
        np.testing.assert_allclose(found.prior[k], prior[:4], atol=1e-5)
        np.testing.assert_allclose(found.posterior[k], (joint / joint.sum())[:4], atol=1e-5)
