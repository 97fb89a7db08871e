"""Maps over given texts, against those of the decoder."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from show_attend_tell.data.task import ImageTask
from show_attend_tell.inference.forced import encoded_texts, maps_at
from show_attend_tell.inference.run import load_run
from show_attend_tell.runs.inputs import load_inputs


def test_the_texts_become_rows():
    rows = encoded_texts([[[4, 5], [6]], [[7]]], 2)
    assert rows.tolist() == [[[4, 5, 2], [6, 2, 0]], [[7, 2, 0], [0, 0, 0]]]


def test_maps_are_those_of_the_decoder(trained, monkeypatch):
    workdir, scenes = trained
    monkeypatch.setattr(ImageTask, "load", lambda task, split, copies=False: scenes)
    run = load_run(workdir)
    monkeypatch.setattr("show_attend_tell.inference.forced.IMAGES_AT_ONCE", 3)
    examples = run.task.load("val")
    inputs = load_inputs(run.settings, run.task, examples, run.encoder)
    texts = [[run.vocabulary.encode_text(e.captions[0])] for e in examples]
    tokens = encoded_texts(texts, 1)
    steps = np.array([[0, 0, 2], [0, 0, 4], [4, 0, 0], [7, 0, 3]])
    params = jax.tree.map(jnp.asarray, run.params)
    model = nnx.merge(nnx.graphdef(run.model), params)
    for pictures in (None, np.array([3, 4, 5, 6, 7, 0, 1, 2])):
        order = np.arange(8) if pictures is None else pictures
        out = model.decoder(model.annotations(jnp.asarray(inputs[order])), jnp.asarray(tokens))
        found = maps_at(run, inputs, tokens, steps, pictures)
        expected = np.asarray(out.alpha)[steps[:, 0], 0, steps[:, 2]]
        np.testing.assert_allclose(found.prior, expected, atol=1e-5)
        assert found.posterior is None
