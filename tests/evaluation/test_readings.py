"""Likelihoods under changed readings, against decoders that are made to read so."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.evaluation import readings
from show_attend_tell.evaluation.given_split import GivenSplit
from show_attend_tell.models.attention import Annotations, Choice
from show_attend_tell.models.captioner import Captioner
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.likelihood import token_log_probs
from show_attend_tell.settings import Picture

PRODUCT = {"product_form": True, "gate": False, "output_tanh": False}
TOKENS = jnp.array([[[4, 5, 2], [5, 2, 0]], [[5, 4, 2], [4, 2, 0]]])
REAL = 10
VECTORS = jax.random.normal(jax.random.key(2), (2, 3, 4))
KINDS = {
    "soft": {},
    "drawn": {"kind": "hard"},
    "marginal": {**PRODUCT, "kind": "hard", "state_reads": "nothing"},
    "null": {**PRODUCT, "kind": "hard", "state_reads": "nothing", "null_place": True},
}


class Given(GivenSplit):
    """Two images whose references are `TOKENS`."""

    references = np.asarray(TOKENS)
    others = np.array([1, 0])


def given(tmp_path, kind):
    names = {"kind", "state_reads", "null_place"}
    changes = {
        f"{'attention' if name in names else 'decoder'}.{name}": value
        for name, value in KINDS[kind].items()
    }
    run = tiny.run_of(tmp_path, 3, changes, **KINDS[kind])
    return Given(run, "val", tiny.Scenes(2), np.asarray(VECTORS))


@pytest.mark.parametrize("kind", ["soft", "marginal", "null"])
def test_every_reading_is_what_it_says(kind):
    decoder, order = nnx.merge(*tiny.decoder(**KINDS[kind])), jnp.array([2, 0, 1])
    model = Captioner(Precomputed(4, (1, 3)), decoder)
    memory = readings.remember(model, VECTORS)
    others = readings.remember(model, VECTORS[::-1])
    mixture = kind != "soft"

    @jax.jit
    def read(reading):
        changed = readings.changed(memory, others, reading, order)
        return readings.log_probs(decoder, changed, TOKENS, mixture)

    found = {name: read(k) for k, name in enumerate(readings.READINGS)}
    run = jax.jit(lambda memory: decoder.over(memory, TOKENS))
    out = run(memory)
    if kind == "soft":
        np.testing.assert_allclose(found["own"], token_log_probs(out.logits, TOKENS), atol=1e-5)
        # With the mean vector everywhere it does not matter how the places are weighed.
        np.testing.assert_allclose(found["uniform"], found["mean"], atol=1e-5)
        other = run(memory._replace(annotations=others.annotations, keys=others.keys))
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


def test_padding_stays_where_it_is_when_places_are_shuffled():
    decoder = nnx.merge(*tiny.decoder(**KINDS["soft"]))
    memory = readings.remember(Captioner(Precomputed(4, (1, 3)), decoder), VECTORS)
    mask = jnp.array([[True, True, False], [True, True, True]])
    memory = memory._replace(mask=mask)
    reading = readings.READINGS.index("shuffled")
    found = readings.changed(memory, memory, reading, jnp.array([2, 1, 0])).annotations
    expected = [memory.annotations[0, jnp.array([1, 0, 2])], memory.annotations[1, ::-1]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["soft", "marginal"])
def test_nats_are_those_of_a_real_token(tmp_path, kind):
    split = given(tmp_path, kind)
    found = readings.nats_of_readings(split)
    decoder = split.run.model.decoder
    mixture = kind == "marginal"
    memory = decoder.memory(Annotations(VECTORS))
    own = jax.jit(lambda memory: readings.log_probs(decoder, memory, TOKENS, mixture))(memory)
    assert found["own"] == pytest.approx(-float(own.sum()) / REAL, rel=1e-5)
    assert [*found] == [*readings.READINGS] and len({*found.values()}) >= 4
    likelihood = readings.likelihood(split, found["own"])
    assert likelihood == {
        "nats": found["own"],
        "perplexity": pytest.approx(np.exp(found["own"])),
        "tokens": REAL,
        "kind": "exact",
        "paths": None,
    }


def test_drawn_places_have_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(readings, "PATHS", 300)
    split = given(tmp_path, "drawn")
    found = readings.likelihood(split, 0.0)
    assert (found["kind"], found["paths"], found["tokens"]) == ("bound", 300, REAL)
    paths = jnp.array(list(itertools.product(range(3), repeat=3)))
    decoder, bound = split.run.model.decoder, 0.0

    @jax.jit
    def along(tokens):
        noise = jnp.broadcast_to(1e9 * jax.nn.one_hot(paths, 3), (2, len(paths), 3, 3))
        choice = Choice(noise, jnp.zeros((2, len(paths)), bool))
        out = decoder(Annotations(VECTORS), tokens, None, choice)
        log_p_s = jnp.take_along_axis(out.log_alpha, out.location[..., None], axis=-1)[..., 0]
        said = token_log_probs(out.logits, tokens).sum(-1)
        return jnp.exp(log_p_s.sum(-1)), said

    for row in range(2):
        weights, said = along(jnp.tile(TOKENS[:, row : row + 1], (1, len(paths), 1)))
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
        bound += float((weights * said).sum())
    assert found["nats"] == pytest.approx(-bound / REAL, abs=0.02)
    assert found["perplexity"] == pytest.approx(np.exp(found["nats"]))


def test_places_of_a_picture_that_are_drawn_have_a_bound_too(tmp_path, monkeypatch):
    split = given(tmp_path, "soft")
    settings = dataclasses.replace(split.run.settings, picture=Picture(kind="hard"))
    split = dataclasses.replace(split, run=dataclasses.replace(split.run, settings=settings))
    monkeypatch.setattr(readings, "_nats_of_paths", lambda _: 2.0)
    found = readings.likelihood(split, 1.0)
    assert (found["kind"], found["nats"]) == ("bound", 2.0)


def test_one_image_has_no_other(tmp_path):
    class Alone(Given):
        references, others = np.asarray(TOKENS[:1]), None

    two = given(tmp_path, "soft")
    alone = Alone(two.run, "val", tiny.Scenes(1), two.inputs[:1])
    found = readings.nats_of_readings(alone)
    assert [*found] == [name for name in readings.READINGS if name != "other_image"]


@pytest.mark.parametrize(
    ("changes", "exact"),
    [
        (KINDS["marginal"], True),
        ({**KINDS["marginal"], "state_reads": "expected"}, True),
        ({**PRODUCT, "kind": "hard", "state_reads": "drawn"}, False),
        ({**PRODUCT, "kind": "soft"}, False),
        (KINDS["drawn"], False),
    ],
)
def test_places_are_summed_out_where_that_is_exact(tmp_path, changes, exact):
    names = {"kind", "state_reads"}
    of = {f"{'attention' if k in names else 'decoder'}.{k}": v for k, v in changes.items()}
    assert readings.exact_marginal(tiny.settings(tmp_path, of)) is exact
