"""Likelihoods under changed readings, against decoders that are made to read so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell import config
from show_attend_tell.data.task import ImageTask
from show_attend_tell.evaluation.faithfulness import (
    changed,
    deletion,
    log_probs,
    split_faithfulness,
)
from show_attend_tell.evaluation.split_grounding import Measured
from show_attend_tell.inference.run import load_run
from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.captioner import Captioner, trained_weights
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.likelihood import token_log_probs
from show_attend_tell.reports.grounding_tables import faithfulness_tables

PRODUCT = {"product_form": True, "gate": False, "output_tanh": False}
TOKENS = jnp.array([[[4, 5, 2], [5, 2, 0]], [[5, 4, 2], [4, 2, 0]]])
VECTORS = jax.random.normal(jax.random.key(2), (2, 3, 4))


def make(kind):
    if kind == "soft":
        return nnx.merge(*tiny.decoder())
    return nnx.merge(
        *tiny.decoder(**PRODUCT, kind="hard", state_reads="nothing", null_place=kind == "null")
    )


@pytest.mark.parametrize("kind", ["soft", "marginal", "null"])
def test_every_reading_is_what_it_says(kind):
    decoder, order = make(kind), jnp.array([2, 0, 1])
    given = Annotations(VECTORS)
    memory = decoder.memory(given)
    others = decoder.memory(Annotations(VECTORS[::-1]))
    mixture = kind != "soft"

    @jax.jit
    def read():
        return {
            reading: log_probs(decoder, changed(memory, reading, order, others, 3), TOKENS, mixture)
            for reading in ("own", "uniform", "shuffled", "mean", "other_image", "none")
        }

    found = read()
    out = decoder(given, TOKENS)
    if kind == "soft":
        np.testing.assert_allclose(found["own"], token_log_probs(out.logits, TOKENS), atol=1e-5)
        # With the mean vector everywhere it does not matter how the places are weighed.
        np.testing.assert_allclose(found["uniform"], found["mean"], atol=1e-5)
        other = decoder.over(
            memory._replace(annotations=others.annotations, keys=others.keys), TOKENS
        )
        expected = token_log_probs(other.logits, TOKENS)
        np.testing.assert_allclose(found["other_image"], expected, atol=1e-5)
        return
    words = out.factors
    given_place = jax.nn.softmax(words.state[:, :, None] + words.place[:, None])
    alpha = np.exp(words.log_alpha)

    def expected(alpha, given_place):
        mixed = np.einsum("bnl,bnlv->bnv", alpha, given_place)
        said = np.take_along_axis(mixed, np.array(TOKENS).reshape(2, -1, 1), -1)[..., 0]
        return np.where(TOKENS == 0, 0, np.log(said).reshape(TOKENS.shape))

    def close(reading, *arguments):
        np.testing.assert_allclose(found[reading], expected(*arguments), atol=1e-5)

    close("own", alpha, given_place)
    uniform = np.zeros_like(alpha)
    uniform[..., :3] = 1 / 3  # a null place is no place to look at
    close("uniform", uniform, given_place)
    moved = [2, 0, 1, 3][: alpha.shape[-1]]
    close("shuffled", alpha, given_place[:, :, np.array(moved)])
    assert np.abs(found["mean"] - found["own"]).max() > 1e-3
    assert np.abs(found["none"] - found["mean"]).max() > 1e-3


def test_places_are_deleted_in_the_order_of_alpha(trained):
    graph, params = tiny.decoder(**PRODUCT, kind="hard", state_reads="nothing")
    model = Captioner(Precomputed(4, (1, 5)), nnx.merge(graph, params))
    run = dataclasses.replace(load_run(trained[0]), model=model, params=trained_weights(model))
    settings = config.replaced(
        run.settings,
        {f"decoder.{k}": v for k, v in PRODUCT.items()} | {"decode.context": "mixture"},
    )
    run = dataclasses.replace(run, settings=settings)
    vectors = np.asarray(jax.random.normal(jax.random.key(3), (2, 5, 4)))
    tokens, mean = np.asarray(TOKENS), np.full(4, 0.3, np.float32)
    steps = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 2]])
    found = deletion(run, vectors, tokens, Measured([], steps, 0), mean)
    assert (found["words"], found["share"]) == (3, 0.2)

    def of_word(vectors, image, row, step):
        memory = model.decoder.memory(Annotations(jnp.asarray(vectors[image][None])))
        return float(
            log_probs(model.decoder, memory, TOKENS[image, row][None, None], True)[0, 0, step]
        )

    falls, least, most = [], [], []
    for image, row, step in steps.tolist():
        out = model.decoder(Annotations(jnp.asarray(vectors)), TOKENS)
        each = []
        for place in range(5):  # a fifth of five places is one
            without = vectors.copy()
            without[image, place] = mean
            each.append(of_word(vectors, image, row, step) - of_word(without, image, row, step))
        falls.append(each[int(out.alpha[image, row, step].argmax())])
        least.append(min(each))
        most.append(max(each))
    assert found["ordered"] == pytest.approx(np.mean(falls), abs=1e-5)
    assert np.mean(least) <= found["random"] <= np.mean(most)


def test_a_run_that_has_learnt_scenes_by_heart_needs_its_places(trained, monkeypatch):
    workdir, scenes = trained
    monkeypatch.setattr(ImageTask, "load", lambda task, split, copies=False: scenes)
    run = load_run(workdir)
    found = split_faithfulness(run, "val")
    assert found is not None and found["deletion"] is None  # its encoder is trained
    nll = found["nll"]
    assert nll["own"] < 0.1
    assert all(nll[name] > nll["own"] for name in ("uniform", "shuffled", "other_image", "none"))
    [table] = faithfulness_tables(found)
    assert len(table.rows) == 6
    deletion = {"words": 1234, "share": 0.2, "ordered": 0.5, "random": 0.1}
    assert len(faithfulness_tables({**found, "deletion": deletion})) == 2
    monkeypatch.setattr(ImageTask, "load", lambda task, split, copies=False: tiny.Scenes(1))
    assert split_faithfulness(dataclasses.replace(run), "val") is None
