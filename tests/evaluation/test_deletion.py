"""Deleted and inserted places, one set at a time."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from show_attend_tell.evaluation import deletion
from show_attend_tell.evaluation.given_split import Words
from show_attend_tell.evaluation.readings import log_probs
from show_attend_tell.models.attention import Annotations

PRODUCT = {"product_form": True, "gate": False, "output_tanh": False}
OF_DECODER = {
    "soft": {},
    "marginal": {**PRODUCT, "kind": "hard", "state_reads": "nothing", "null_place": True},
}
CHANGES = {
    "soft": {},
    "marginal": {
        **{f"decoder.{name}": value for name, value in PRODUCT.items()},
        "attention.kind": "hard",
        "attention.state_reads": "nothing",
    },
}
TOKENS = np.array([[[4, 5, 2], [5, 2, 0]], [[5, 4, 2], [4, 2, 0]]])
STEPS = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 2]])
MEAN = np.full(4, 0.3, np.float32)


@pytest.mark.parametrize("kind", OF_DECODER)
def test_curves_follow_the_order_of_alpha(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(deletion, "RANDOM_ORDERS", 1)
    run = tiny.run_of(tmp_path, 5, CHANGES[kind], **OF_DECODER[kind])
    vectors = np.asarray(jax.random.normal(jax.random.key(3), (2, 5, 4)))
    found = deletion.curves(run, Words(vectors, TOKENS, STEPS), MEAN)
    decoder = run.model.decoder

    @jax.jit
    def said(vectors, text):
        memory = decoder.memory(Annotations(vectors))
        texts = jnp.broadcast_to(text, (len(vectors), 1, len(text)))
        return log_probs(decoder, memory, texts, kind == "marginal")[:, 0]

    def without(image, places):
        kept = vectors[image].copy()
        kept[list(places)] = MEAN
        return kept

    run_over = jax.jit(lambda vectors, tokens: decoder(Annotations(vectors), tokens).alpha)
    alpha = np.asarray(run_over(vectors, TOKENS))
    counts = [0, 0, 1, 2, 3]  # of five places, at the shares
    falls, rises, whole, of_one = [], [], [], []
    for image, row, step in STEPS.tolist():
        order = np.argsort(-alpha[image, row, step, :5]).tolist()
        sets = [(), range(5), *([p] for p in range(5))]
        sets += [order[:count] for count in counts] + [order[count:] for count in counts]
        rows = jnp.asarray(np.stack([without(image, places) for places in sets]))
        p = np.asarray(said(rows, jnp.asarray(TOKENS[image, row])))[:, step]
        whole.append(p[0] - p[1])
        falls.append(p[0] - p[7:12])
        rises.append(p[12:] - p[1])
        of_one.append(p[0] - p[2:7])
    for name, expected in (("deletion", falls), ("insertion", rises)):
        curve, of = np.mean(expected, axis=0), found[name]
        np.testing.assert_allclose(of["ordered_curve"], curve, atol=1e-5)
        assert of["all"] == pytest.approx(np.mean(whole), abs=1e-5)
        assert (of["words"], of["share"], of["shares"]) == (3, 0.2, [0.05, 0.1, 0.2, 0.4, 0.6])
        assert of["ordered"] == of["ordered_curve"][2] and of["random"] == of["random_curve"][2]
        heights = [0, *curve, np.mean(whole)]
        widths = np.diff([0, 0.05, 0.1, 0.2, 0.4, 0.6, 1])
        area = sum(w * (a + b) / 2 for w, a, b in zip(widths, heights, heights[1:], strict=False))
        assert of["ordered_area"] == pytest.approx(area, abs=1e-5)
    # A fifth of five places is one: some place of each word.
    random = found["deletion"]["random"]
    possible = [np.mean(each) for each in itertools.product(*of_one)]
    assert np.abs(np.array(possible) - random).min() < 1e-5
    assert random != pytest.approx(found["deletion"]["ordered"], abs=1e-6)
    assert found["deletion"]["random_curve"][:2] == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize(
    "variant",
    [
        {"null_place": True, "layer_norm": True, "scene": ("late",), "values": ("early",)},
        {"keys": ("late",), "values": ("early",), "position_code": True, "grid": (1, 3)}
        | {"initial_from": ("late",)},
        {"initial_state": "learned", "projection": 0, "scene": ("early", "late")},
    ],
)
def test_a_memory_with_replaced_places_is_that_of_the_replaced_vectors(variant):
    graph, params = tiny.decoder(sections=(("early", 2), ("late", 2)), **variant)
    decoder = nnx.merge(graph, params)
    # As the cache has them; the last feature is large, as some of transformers are.
    scale = np.array([1, 1, 1, 300])
    drawn = np.asarray(jax.random.normal(jax.random.key(3), (2, 3, 4)))
    vectors = jnp.asarray(drawn * scale, jnp.float16)
    blank = jnp.broadcast_to(MEAN, (1, 3, 4)).astype(jnp.float16)
    which = jnp.array([[True, False, True], [False, False, True]])

    @jax.jit
    def both():
        own, other = ((v, decoder.memory(Annotations(v))) for v in (vectors, blank))
        whole = Annotations(jnp.where(which[..., None], blank, vectors))
        return deletion.replaced(decoder, own, other, which), decoder.memory(whole)

    found, expected = both()
    for name, a, b in zip(found._fields, found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5, err_msg=name)


def test_equal_places_go_at_random(tmp_path):
    """Those that attention passes over are most of a sparse map."""
    parts = {"sections": (("early", 2), ("late", 2)), "keys": ("late",), "values": ("early",)}
    run = tiny.run_of(tmp_path, 5, {}, **parts)
    vectors = np.tile(MEAN, (1, 5, 1))
    vectors[0, 0, :2] = 3.0  # only the first place tells anything; all have the same keys
    words = Words(vectors, TOKENS[:1], np.zeros((40, 3), np.int64))
    found = deletion.curves(run, words, MEAN)["deletion"]
    assert 0 < found["ordered"] / found["all"] < 0.5  # a fifth of the places, a fifth of the words
