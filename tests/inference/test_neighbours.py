"""What the captions of similar training pictures do, against NumPy and a trained run."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell import config
from show_attend_tell.data.task import ImageTask
from show_attend_tell.errors import UserError
from show_attend_tell.inference.captioning import caption_images, caption_split
from show_attend_tell.inference.ensemble import read_for
from show_attend_tell.inference.neighbours import Neighbours, neighbours_of
from show_attend_tell.inference.run import load_run
from show_attend_tell.objectives.rewards import caption_scores, idf_table

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


def test_agreement_is_the_weighted_score_against_each_ones_captions(near):
    said = np.array(
        [[[5, 5, 6, 7, EOS], [8, 9, EOS, 0, 0]], [[4, 5, 9, 7, EOS], [9, EOS, 0, 0, 0]]]
    )
    seen = jnp.asarray(SEEN[[1, 0]])
    numbers, weights = near.nearest(seen, 3)
    expected, score = np.zeros((2, 2)), jax.jit(caption_scores)
    for i in range(2):
        for number, weight in zip(numbers[i], weights[i], strict=True):
            scores = score(*map(jnp.asarray, (said[i][None], ROWS[number][None])), near.table)
            expected[i] += weight * scores.cider[0] / 2
    found = jax.jit(near.agreement, static_argnums=2)(jnp.asarray(said), seen, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[0, 0] > found[0, 1]  # the very words of the picture itself


@pytest.fixture
def run(trained, monkeypatch):
    """A run whose training pictures are those of validation, but described otherwise."""
    workdir, scenes = trained
    train, scenes = copy.copy(scenes), copy.copy(scenes)
    scenes.split = "val"
    monkeypatch.setattr(
        ImageTask, "load", lambda task, split, training=False: train if split == "train" else scenes
    )
    return load_run(workdir), train


def test_captions_that_similar_pictures_have_come_first(run):
    run, train = run
    decoding = dataclasses.replace(run.decoding, beam=4, n_best=4, consensus=True)
    alone = caption_split(run, "val", decoding)[1]
    # Each training picture is given the last of its own finished hypotheses as its caption.
    closed = [[one for one in c.n_best if one.tokens[-1] == "<eos>"] for c in alone]
    others = [finished[-1].text for finished in closed]
    train.captions = lambda: [(other,) for other in others]
    asking = dataclasses.replace(decoding, neighbours=1)
    examples, told = caption_split(run, "val", asking)
    assert [caption.text for caption in told] == others != [caption.text for caption in alone]
    for a, b in zip(alone, told, strict=True):
        assert {one.text for one in a.n_best} == {one.text for one in b.n_best}
    images = [read_for(run, examples[i].image) for i in range(2)]
    assert [one.text for one in caption_images(run, images, asking)] == others[:2]


def test_every_training_picture_is_there_once(run):
    run, train = run
    near = neighbours_of(run)
    assert len(near.keys) == len(near.captions) == len(train)
    np.testing.assert_allclose(np.linalg.norm(near.keys.astype(np.float32), axis=1), 1, rtol=1e-3)


def test_training_pictures_are_not_told_their_own_captions(run):
    run, _ = run
    asking = dataclasses.replace(run.decoding, consensus=True, neighbours=3)
    with pytest.raises(UserError, match=r"decode\.neighbours.*choose another split"):
        caption_split(run, "train", asking)


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
