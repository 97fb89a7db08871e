"""Ensembles: the mean of the models' distributions, and everything that they must share."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from show_attend_tell.cli.parser import main
from show_attend_tell.data.task import ImageTask
from show_attend_tell.data.vocabulary import Vocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.inference import explaining
from show_attend_tell.inference.attention_record import load_attention
from show_attend_tell.inference.decoding import make_decode, mean_of_distributions
from show_attend_tell.inference.ensemble import contexts_of, decode_of, described, ensemble
from show_attend_tell.inference.given_steps import GivenSteps
from show_attend_tell.models.consensus import by_consensus
from show_attend_tell.settings import Decode

DECODING = Decode(beam=2, max_length=4, min_length=3, n_best=2)


def test_probabilities_are_averaged_not_their_logarithms():
    logits = np.random.default_rng(0).normal(size=(3, 2, 1, 5)).astype(np.float32) * 3
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = mean_of_distributions([jnp.asarray(one) for one in logits])
    np.testing.assert_allclose(found, np.log(p.mean(axis=0)), atol=1e-5)


def test_an_ensemble_says_what_its_models_say_on_average(tmp_path):
    run = tiny.run_of(tmp_path, 3, {})
    weights = run.params, jax.tree.map(lambda p: 1.5 * p, run.params)
    vectors = tuple(jax.random.normal(jax.random.key(0), (2, 2, 3, 4)))
    numbers = jnp.arange(2)
    decode = make_decode([run.model] * 2, DECODING, per_token=True)
    found = jax.tree.map(np.asarray, decode(weights, vectors, numbers))
    assert (found.lengths > 2).all() and len(found.trace) == 2
    for k in range(2):  # beams
        given = GivenSteps(found.tokens[:, k], np.full((2, 4), -1, np.int32))
        told = [
            explaining.explain(run.model, w, "expected", v, given)
            for w, v in zip(weights, vectors, strict=True)
        ]
        mean = np.log(np.mean([np.exp(one.log_p) for one in told], axis=0))
        for image, length in enumerate(found.lengths[:, k]):
            each = found.token_log_probs[image, k, :length]
            np.testing.assert_allclose(each, mean[image, :length], atol=1e-5)
            np.testing.assert_allclose(found.log_probs[image, k], each.sum(), atol=1e-5)
            for trace, one in zip(found.trace, told, strict=True):
                alpha = trace["alpha"][image, k, :length]
                np.testing.assert_allclose(alpha, one.alpha[image, :length], atol=1e-5)

    alone = jax.tree.map(
        np.asarray, make_decode(run.model, DECODING)(weights[0], vectors[0], numbers)
    )
    assert (alone.log_probs != found.log_probs).all()
    itself = decode(weights[:1] * 2, vectors[:1] * 2, numbers)
    np.testing.assert_array_equal(itself.tokens, alone.tokens)
    np.testing.assert_allclose(itself.scores, alone.scores, atol=1e-5)
    for trace in itself.trace:
        np.testing.assert_allclose(trace["alpha"], alone.trace["alpha"], atol=1e-5)


def test_consensus_reorders_what_the_search_finds(tmp_path):
    run = tiny.run_of(tmp_path, 3, {})
    vectors = jax.random.normal(jax.random.key(0), (8, 3, 4))
    decoding = Decode(beam=4, max_length=6, min_length=4, n_best=4)
    agreeing = dataclasses.replace(decoding, consensus=True)
    found, reordered = (
        make_decode(run.model, how)(run.params, vectors, jnp.arange(8))
        for how in (decoding, agreeing)
    )
    expected = by_consensus(found)
    np.testing.assert_array_equal(reordered.tokens, expected.tokens)
    np.testing.assert_array_equal(reordered.trace["alpha"], expected.trace["alpha"])
    assert (reordered.tokens[:, 0] != found.tokens[:, 0]).any()


def test_runs_of_an_ensemble_share_their_vocabulary(tmp_path, monkeypatch):
    run = tiny.run_of(tmp_path, 3, {})
    other = dataclasses.replace(run, vocabulary=Vocabulary.from_captions([["cat", "cow"]], 1))
    with pytest.raises(UserError, match=r"its vocabulary \(6 words\) is not that of") as caught:
        ensemble([run, other])
    assert "\n" not in str(caught.value)
    assert ensemble([run]) is run
    whole = ensemble([run, run])
    assert whole.members[1] is run and whole.workdir.name.startswith(f"{tmp_path.name}+")
    # Runs in `runs` have names of their own; others may share them with yet others.
    monkeypatch.chdir(tmp_path)

    def folder(*paths):
        return ensemble([dataclasses.replace(run, workdir=Path(path)) for path in paths]).workdir

    assert folder("runs/a", "runs/b") == Path("runs/ensemble/a+b")
    packaged = folder("runs/pretrained/a", "runs/pretrained/b")
    assert packaged == Path("runs/ensemble/pretrained/a+b")
    soft, hard = (folder(f"runs/{kind}/seed=0", f"runs/{kind}/seed=1") for kind in ("soft", "hard"))
    assert soft != hard and soft.name.startswith("seed=0+seed=1-")


def test_each_run_reads_what_it_was_trained_for_unless_told(tmp_path):
    run = tiny.run_of(tmp_path, 3, {})
    other = tiny.run_of(tmp_path, 3, {"decode.context": "argmax"})
    whole = ensemble([run, other])
    assert contexts_of(whole, whole.decoding) == ("expected", "argmax")
    asked = dataclasses.replace(whole.decoding, context="sample")
    assert contexts_of(whole, asked) == ("sample", "sample")
    for how, read in ((whole.decoding, ("expected", "argmax")), (asked, ("sample", "sample"))):
        assert tuple(of["context"] for of in described(whole, how)["ensemble"]) == read


def test_a_mixture_needs_an_output_that_is_a_sum(tmp_path):
    run = tiny.run_of(tmp_path, 3, {})
    with pytest.raises(UserError, match="context is mixture: .*product_form.*choose another"):
        decode_of(run, dataclasses.replace(run.decoding, context="mixture"))


def test_verbs_take_several_runs(trained, tmp_path, monkeypatch, capsys):
    folder, scenes = trained
    monkeypatch.setattr(ImageTask, "load", lambda task, split, training=False: scenes)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scene.png").write_bytes(scenes[0].image)
    both = ["--workdir", str(folder), "--workdir", str(folder)]
    assert main(["caption", *both, "scene.png", "--json", "--n-best", "2"]) == 0
    [one] = json.loads(capsys.readouterr().out)
    assert one["caption"] == one["n_best"][0]["caption"] == scenes[0].captions[0]
    assert len(one["n_best"]) == 2 and one["n_best"][0]["score"] == one["score"]
    assert [len(found["word_log_probs"]) for found in one["n_best"]] == [
        len(found["words"]) + found["finished"] for found in one["n_best"]
    ]
    maps = [load_attention(tmp_path / f"{path[:-4]}.npz") for path in one["maps_of_each"]]
    assert one["maps"] == one["maps_of_each"][0]
    np.testing.assert_allclose(maps[0].alpha, maps[1].alpha, atol=1e-5)

    assert main(["evaluate", *both, "--split", "val", "--n-best", "2"]) == 0
    assert "CIDEr" in capsys.readouterr().out
    [path] = (tmp_path / "runs" / "ensemble").glob("*/val-*.scores.json")
    record = json.loads(path.read_text())
    assert record["scores"]["exact"] == 1.0 and "likelihood" not in record
    assert [one["run"] for one in record["ensemble"]] == [str(folder)] * 2
    n_best = json.loads(path.with_name(path.name.replace(".scores.", ".n_best.")).read_text())
    assert [len(one["captions"]) for one in n_best] == [2] * 8
    assert n_best[3]["captions"][0]["caption"] == scenes[3].captions[0]

    assert main(["attend", *both, "--split", "val", "--num", "0"]) == 0
    written = path.parent / "attention" / "val"
    assert {p.relative_to(written).as_posix() for p in written.rglob("*.json")} == {
        "1/statistics.json",
        "2/statistics.json",
    }
