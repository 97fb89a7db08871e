"""The grounding of a run that has learnt eight scenes, against maps taken one by one."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show_attend_tell.cli.parser import main
from show_attend_tell.data.phrases import Description, Phrase
from show_attend_tell.data.task import ImageTask
from show_attend_tell.evaluation.boxes import box_cover
from show_attend_tell.evaluation.split_grounding import (
    captions_grounding,
    measured,
    split_grounding,
)
from show_attend_tell.inference.captioning import caption_split
from show_attend_tell.inference.forced import encoded_texts, maps_at
from show_attend_tell.inference.run import load_run
from show_attend_tell.runs.inputs import load_inputs

BOX = (0.0, 0.0, 0.5, 0.5)


@pytest.fixture
def run(trained, monkeypatch):
    workdir, scenes = trained
    monkeypatch.setattr(ImageTask, "load", lambda task, split, copies=False: scenes)
    return load_run(workdir)


def test_phrases_are_measured_at_their_last_word():
    phrases = (
        Phrase(0, 1, "1", ("people",), (BOX,)),
        Phrase(3, 5, "2", ("other",), (BOX,)),
        Phrase(2, 2, "3", ("other",), ()),
    )
    texts = [(Description("A Man holds a red kite", phrases, -1),), ()]
    found = measured(["a", "b"], texts, str.split, 6)
    assert [(m.image_id, m.kinds, m.noun) for m in found.mentions] == [
        ("a", ("people",), "man"),
        ("a", ("other",), "kite"),
    ]
    assert found.steps.tolist() == [[0, 0, 1], [0, 0, 5]] and found.untold == 0
    cut = measured(["a", "b"], texts, str.split, 5)
    assert cut.steps.tolist() == [[0, 0, 1]] and cut.untold == 1


def test_the_texts_become_rows():
    rows = encoded_texts([[[4, 5], [6]], [[7]]], 2)
    assert rows.tolist() == [[[4, 5, 2], [6, 2, 0]], [[7, 2, 0], [0, 0, 0]]]


def test_maps_are_those_of_the_decoder(run, monkeypatch):
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


def test_a_run_is_measured_at_the_nouns_of_its_scenes(run):
    summary = split_grounding(run, "val")
    assert summary is not None
    examples, captions = caption_split(run, "val", run.decoding)
    # It has learnt the captions by heart, so what it says is what it is forced to say.
    assert [c.text for c in captions] == [e.captions[0] for e in examples]
    centres = np.array(run.encoder.centres)
    shares = [
        caption.alpha[box.word_index] @ box_cover([box.sides], centres, centres)
        for example, caption in zip(examples, captions, strict=True)
        for box in example.boxes
    ]
    assert summary["mentions"] == len(shares) and summary["images"] == 8
    np.testing.assert_allclose(summary["prior"]["in_box"], np.mean(shares), atol=1e-3)
    assert summary["posterior"] is None and summary["untold"] == 0
    assert summary["other_image"]["in_box"] < summary["prior"]["in_box"]
    own = captions_grounding(run, examples, captions)
    assert own is not None and own["mentions"] >= len(shares)


def test_evaluate_prints_and_stores_it(trained, run, capsys):
    for other in trained[0].glob("val-*.scores.json"):  # from an earlier test
        other.unlink()
    assert main(["evaluate", "--workdir", str(trained[0]), "--split", "val"]) == 0
    printed = capsys.readouterr().out
    assert "Grounding" in printed and "uniform" in printed
    [path] = trained[0].glob("val-*.scores.json")
    grounding = json.loads(path.read_text())["grounding"]
    assert 0 <= grounding["prior"]["pointing"] <= 1 and grounding["captions"]["mentions"]
