"""What the captions of similar training pictures do, against NumPy and a trained run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell import config
from show_attend_tell.cli.parser import main
from show_attend_tell.data.task import ImageTask
from show_attend_tell.errors import UserError
from show_attend_tell.inference import neighbours
from show_attend_tell.inference.captioning import caption_images, caption_split
from show_attend_tell.inference.ensemble import read_for
from show_attend_tell.inference.neighbours import Neighbours
from show_attend_tell.inference.run import load_run
from show_attend_tell.objectives.rewards import caption_scores, idf_table
from show_attend_tell.runs.inputs import load_inputs

EOS = 2
SEEN = np.random.default_rng(0).normal(3, [0.1, 1, 10, 1, 1], (7, 5)).astype(np.float32)
CAPTIONS = [[[4 + i, 5, 6, 7, EOS], [8, 4 + i, EOS]] for i in range(7)]
ROWS = np.array([[a, [*b, 0, 0]] for a, b in CAPTIONS], np.int32)


@pytest.fixture(scope="module")
def near():
    return Neighbours.of(SEEN, ROWS, idf_table(CAPTIONS))


def by_hand(seen):
    """Similarities to all training pictures, and the weights if all are asked."""
    mean, deviation = SEEN.mean(0), SEEN.std(0) + 1e-3
    unit = [(x - mean) / deviation for x in (seen, SEEN)]
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in unit)
    z = a @ b.T
    z = (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True)
    return z, np.exp(2 * z) / np.exp(2 * z).sum(1, keepdims=True)


def test_the_nearest_are_those_of_the_largest_standardised_cosine(near):
    sought = SEEN[:3] + 0.3 * np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    z, w = by_hand(sought)
    numbers, weights = near.nearest(jnp.asarray(sought), 4)
    order = np.argsort(-z, axis=1)[:, :4]
    np.testing.assert_array_equal(numbers, order)
    of_four = np.take_along_axis(w, order, axis=1)
    np.testing.assert_allclose(weights, of_four / of_four.sum(1, keepdims=True), rtol=0.01)
    assert near.nearest(jnp.asarray(sought), 100)[0].shape == (3, 7)


def test_a_picture_is_not_its_own_neighbour(near):
    numbers, weights = near.nearest(jnp.asarray(SEEN), 7)
    np.testing.assert_array_equal(numbers[:, -1], range(7))
    assert not weights[:, -1].any()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("copies", [1, 7])
def test_a_split_of_one_picture_or_of_copies_of_it_can_be_asked(copies):
    near = Neighbours.of(SEEN[[0] * copies], ROWS[:copies], idf_table(CAPTIONS[:copies]))
    weights = near.nearest(jnp.asarray(SEEN), 7)[1]
    assert np.isfinite(weights).all()
    assert np.isfinite(near.agreement(jnp.asarray(ROWS[:2]), jnp.asarray(SEEN[:2]), 7)).all()


def test_agreement_is_the_weighted_score_against_each_ones_captions(near):
    said = np.array(
        [[[5, 5, 6, 7, EOS], [8, 9, EOS, 0, 0]], [[4, 5, 9, 7, EOS], [9, EOS, 0, 0, 0]]]
    )
    noise = np.random.default_rng(2).normal(size=(2, 5)).astype(np.float32)
    seen = jnp.asarray(SEEN[[1, 0]] + 0.15 * SEEN.std(axis=0) * noise)
    numbers, weights = near.nearest(seen, 3)
    expected, score = np.zeros((2, 2)), jax.jit(caption_scores)
    for i in range(2):
        for number, weight in zip(numbers[i], weights[i], strict=True):
            scores = score(*map(jnp.asarray, (said[i][None], ROWS[number][None])), near.table)
            expected[i] += weight * scores.cider[0] / 2
    found = jax.jit(near.agreement, static_argnums=2)(jnp.asarray(said), seen, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[0, 0] > found[0, 1]  # the words of the picture most like it


@pytest.fixture
def run(trained, monkeypatch):
    """A run whose training pictures, each there twice, are those of validation."""
    train, scenes = tiny.Scenes(8, copies=2), trained[1]
    monkeypatch.setattr(
        ImageTask, "load", lambda task, split, training=False: train if split == "train" else scenes
    )
    monkeypatch.setattr(neighbours, "SAME", 2.0)  # or the picture itself would be left out
    return load_run(trained[0]), train


def test_captions_that_similar_pictures_have_come_first(run):
    run, train = run
    decoding = dataclasses.replace(run.decoding, beam=4, n_best=4, consensus=True)
    alone = caption_split(run, "val", decoding)[1]
    # Each training picture is given the last of its own finished hypotheses as its caption.
    closed = [[one for one in c.n_best if one.tokens[-1] == "<eos>"] for c in alone]
    others = [finished[-1].text for finished in closed]
    train.captions = lambda: [(other,) for other in others] * 2
    asking = dataclasses.replace(decoding, neighbours=1)
    examples, told = caption_split(run, "val", asking)
    assert [caption.text for caption in told] == others != [caption.text for caption in alone]
    for a, b in zip(alone, told, strict=True):
        assert {one.text for one in a.n_best} == {one.text for one in b.n_best}
    images = [read_for(run, examples[i].image) for i in range(2)]
    assert [one.text for one in caption_images(run, images, asking, 4)] == others[:2]


def test_every_training_picture_is_there_once_in_order(run):
    run, train = run
    near = neighbours.neighbours_of(run)
    assert len(near.keys) == len(near.captions) == 8 == len(train) // 2
    inputs = jnp.asarray(load_inputs(run.settings, run.task, train, run.encoder)[:8])
    model = nnx.merge(nnx.graphdef(run.model), run.params)
    seen = neighbours.seen_in(model, model.annotations(inputs))
    np.testing.assert_array_equal(near.nearest(seen, 1)[0][:, 0], range(8))


def test_what_cannot_ask_says_so(trained, capsys):
    where = ["evaluate", "--workdir", str(trained[0]), "--split", "val"]
    assert main([*where, "--neighbours", "5"]) == 2
    assert "needs config.decode.consensus=True" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "consensus", "wrong"),
    [("shapes", False, "needs config.decode.consensus"), ("multi30k", True, "is for images")],
)
def test_neighbours_need_a_consensus_and_pictures(data, consensus, wrong):
    languages = {"source": "en", "target": "de"} if data == "multi30k" else {}
    stated = {
        "data": {"name": data} | languages,
        "decode": {"neighbours": 5, "consensus": consensus},
    }
    with pytest.raises(UserError, match=wrong):
        config.from_dict(stated)
