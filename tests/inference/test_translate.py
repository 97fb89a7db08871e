"""Runs on sentences, from training to pictures, with the loop, decoder and page for images."""

import io
import json
import sys
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
import pytest
from flax import nnx

from show_attend_tell import config, pretrained, sharing
from show_attend_tell.cli import describing
from show_attend_tell.cli.parser import main
from show_attend_tell.data import vocabulary as vocabularies
from show_attend_tell.data.builders import reversal
from show_attend_tell.data.load import load_pairs
from show_attend_tell.data.sentence_task import SentenceTask
from show_attend_tell.data.task import task_of
from show_attend_tell.errors import UserError
from show_attend_tell.inference.attention_record import load_attention
from show_attend_tell.inference.captioning import attention_records, caption_split, translate
from show_attend_tell.inference.run import load_run
from show_attend_tell.models.captioner import trained_weights
from show_attend_tell.runs.build import build_captioner, build_encoder
from show_attend_tell.settings import Settings
from show_attend_tell.training.loop import Loop, _Stop
from show_attend_tell.training.session import train

# One of the variants that differ only in the score; tests/models/test_attention.py has them all.
VARIANTS = (
    "seq2seq",
    pytest.param("luong_local", marks=pytest.mark.slow),
    pytest.param("lstmn", marks=pytest.mark.slow),  # tests/models has its step and its gradients
    pytest.param("hard", marks=pytest.mark.slow),
)


SMALL = {
    "data.name": "reversal",
    "data.limit": 12,
    "data.vocabulary": "words",
    "data.min_count": 1,
    "encoder.embedding": 16,
    "encoder.hidden": 16,
    "encoder.dropout": 0.0,
    "decoder.embedding": 16,
    "decoder.hidden": 32,
    "decoder.dropout": 0.0,
    "decoder.annotation_dropout": 0.0,
    "attention.units": 16,
    "attention.reach": 3,
    "loss.label_smoothing": 0.0,
    "optimizer.warmup_steps": 0,
    "optimizer.learning_rate": 0.01,
    "optimizer.average": 0.0,
    "train.batch_size": 6,
    "train.buckets": 1,
    "train.log_every": 50,
    "train.epochs": 1.0,
    "decode.beam": 2,
    "decode.max_length": 12,
    "decode.batch_size": 6,
}


def tiny_settings(folder: Path, variant: str, changes=MappingProxyType({})) -> Settings:
    """The experiment, small enough to train in seconds on twelve generated pairs."""
    experiment = config.load_experiment(f"multi30k:{variant}")
    return config.replaced(experiment, SMALL | {"data.dir": str(folder)} | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the generated data set, with twelve pairs per split."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reversal, "SPLITS", dict.fromkeys(reversal.SPLITS, 12))
        load_pairs("reversal", "train", data_dir=folder / "datasets")
    return folder


def repeat_training_pairs(patch: pytest.MonkeyPatch, times: int) -> None:
    """An epoch has the pairs many times over: steps without as many validations and checkpoints."""
    load = SentenceTask.load

    def load_repeated(task, split, *, training=False):
        pairs = load(task, split)
        if training:
            pairs._pairs, pairs.ids = pairs._pairs * times, pairs.ids * times
            pairs.stored = len(pairs.ids)
        return pairs

    patch.setattr(SentenceTask, "load", load_repeated)


@pytest.fixture(scope="module")
def train_on_many(tmp_path_factory):
    """Trains on 480 pairs: a dozen can be memorised without any alignment.

    The first twelve of them validate the run, and are its training split once it is trained.
    """
    folder = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reversal, "SPLITS", dict.fromkeys(reversal.SPLITS, 480))
        pairs = load_pairs("reversal", "train", data_dir=folder)
    pairs._pairs, pairs.ids = pairs._pairs * 4, pairs.ids * 4
    pairs.stored = len(pairs.ids)

    def train_on_many(settings: Settings, workdir: Path) -> Path:
        load = SentenceTask.load
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                SentenceTask,
                "load",
                lambda task, _, training=False: pairs if training else load(task, "train"),
            )
            train(settings, workdir)
        return workdir

    return train_on_many


@pytest.fixture(scope="module")
def trained(data, train_on_many, tmp_path_factory):
    """A run that has learnt most of its twelve validation pairs."""
    # Rounding decides how steep an alignment is learnt: with this seed it is, with and without C++.
    changes = {"train.epochs": 8.0, "train.batch_size": 12, "seed": 1}
    settings = tiny_settings(data, "bahdanau", changes)
    return train_on_many(settings, tmp_path_factory.mktemp("trained") / "run")


def test_pairs_are_learnt_and_the_alignment_runs_backwards(trained):
    run = load_run(trained)
    examples, captions = caption_split(run, "train", run.decoding)
    texts = [caption.text for caption in captions]
    right = [text == pair.target for text, pair in zip(texts, examples, strict=True)]
    assert sum(right) >= 6
    subjects = map(run.task.subject, examples)
    falls = []
    for record in attention_records(run, run.decoding, subjects, captions):
        assert record.source[-1] == "<eos>" and record.grid == (1, len(record.source))
        np.testing.assert_allclose(record.alpha.sum(axis=1), 1, atol=1e-3)
        # Mean places, without <eos> and the given word, which comes first in both sentences.
        looked = record.alpha[1:-1] @ np.arange(len(record.source))
        falls.append(np.polyfit(np.arange(len(looked)), looked, 1)[0] if len(looked) > 1 else 0)
    assert np.mean(falls) < 0


@pytest.mark.parametrize("variant", ["luong_dot", "luong_general", "luong_concat", "luong_local"])
def test_every_score_function_works_in_a_model(variant, data):
    settings = tiny_settings(data, variant)
    model = build_captioner(settings, build_encoder(settings, 9), 9)
    words = jax.numpy.array([[4, 5, 6, 7, 2], [8, 4, 2, 0, 0]])
    out = jax.jit(lambda x: model.decoder(model.annotations(x), x[:, None]))(words)
    assert out.logits.shape == (2, 1, 5, 9) and np.isfinite(out.logits).all()
    if settings.attention.normalised:
        np.testing.assert_allclose(out.alpha.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(out.alpha[1, :, :, 3:], 0)


def test_both_languages_can_share_a_vocabulary_and_its_vectors(data):
    changes = {"data.joint": True, "encoder.tied": True}
    settings = tiny_settings(data, "bahdanau", changes)
    task = task_of(settings.data)
    train = task.load("train")
    texts = [text for pair in train for text in (pair.source, pair.target)]
    source = task.source_vocabulary(train)
    assert source is not None and set(source.words) == {w for text in texts for w in text.split()}
    assert task.target_vocabulary([pair.target for pair in train], source) is source
    model = build_captioner(settings, build_encoder(settings, 9), 9)
    weights = trained_weights(model)
    assert "embed" in weights["decoder"] and "embed" not in weights["encoder"]
    words = jax.numpy.array([[4, 5, 6]])
    before = model.annotations(words).vectors
    vectors = weights["decoder"]["embed"]["embedding"]
    weights["decoder"]["embed"]["embedding"] = vectors.at[5].add(1.0)
    # Another model of the same encoder leaves this one its own vectors.
    again = build_captioner(settings, model.encoder, 9)
    assert len(jax.tree.leaves(trained_weights(again))) == len(jax.tree.leaves(weights))
    moved = nnx.merge(nnx.graphdef(model), weights)
    assert np.abs(moved.annotations(words).vectors - before).max() > 0.01
    for wrong in ({"data.joint": False}, {"encoder.embedding": 8}):
        with pytest.raises(UserError, match="config.encoder.tied shares word vectors"):
            tiny_settings(data, "bahdanau", changes | wrong)


@pytest.fixture(scope="module")
def run_of(data, tmp_path_factory):
    """The folder of a run of a variant, which is trained once."""
    folder = tmp_path_factory.mktemp("variants")

    def run_of(variant: str) -> Path:
        if not (folder / variant).exists():
            with pytest.MonkeyPatch.context() as patch:
                repeat_training_pairs(patch, 20)
                settings = tiny_settings(data, variant, {"train.log_every": 1})
                train(settings, folder / variant)
        return folder / variant

    return run_of


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_translates(variant, run_of):
    run = load_run(run_of(variant))
    losses = [json.loads(line) for line in (run.workdir / "metrics.jsonl").open()]
    losses = [row["nll"] for row in losses if row["kind"] == "train"]
    assert losses[-1] < 0.9 * losses[0]
    subject = run.task.subject(run.task.load("train")[0])
    captions, cut = translate(run, [subject.text], run.decoding)
    [record] = attention_records(run, run.decoding, [subject], captions)
    assert cut == []
    whole = variant == "seq2seq"
    assert record.source == (("(sentence)",) if whole else (*subject.text.split(), "<eos>"))
    assert (record.self_alpha is not None) == (variant == "lstmn")
    latest = json.loads((run.workdir / "latest_captions.json").read_text())["captions"]
    for pair, entry in zip(run.task.load("val"), latest, strict=False):
        length = 1 if whole else len(pair.source.split()) + 1  # with <eos>
        assert (entry["id"], len(entry["source"])) == (pair.pair_id, length)
        assert entry["source"][-1] == ("(sentence)" if whole else "<eos>")
        assert np.shape(entry["alpha"]) == (len(entry["words"]), length)
        if run.settings.attention.normalised:  # only padding is left out: the weights add up
            np.testing.assert_allclose(np.sum(entry["alpha"], axis=1), 1, atol=1e-3)
    assert len(latest) == 8


@pytest.mark.slow  # `training/test_session.py` has it on images
def test_a_resumed_run_is_the_same_to_the_last_bit(data, tmp_path):
    dropped = ("encoder.dropout", "decoder.dropout", "decoder.annotation_dropout")
    settings = tiny_settings(data, "lstmn", dict.fromkeys(dropped, 0.3) | {"train.epochs": 4.0})
    train(settings, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Stop, "agreed", lambda self, step: step == 3)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "cut")
    train(settings, tmp_path / "cut")
    whole, cut = (load_run(tmp_path / n, weights="last", half=False) for n in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, whole.params, cut.params)


def test_the_verbs_score_draw_and_translate(trained, tmp_path, monkeypatch, capsys):
    assert main(["evaluate", "--workdir", str(trained), "--split", "train"]) == 0
    shown = capsys.readouterr().out
    assert "12 sentences" in shown and "source words: " in shown
    [path] = trained.glob("train-*.scores.json")
    record = json.loads(path.read_text())
    assert record["scores"]["exact"] >= 0.5 and record["scores"]["BLEU"] > 40
    assert "tok:13a" in record["tokenizer"] and "chrF" in record["signatures"]
    assert sum(bucket["sentences"] for bucket in record["by_length"]) == 12

    assert main(["attend", "--workdir", str(trained), "--split", "train", "--num", "2"]) == 0
    folder = trained / "attention" / "train"
    assert len([*folder.glob("*.npz")]) == len([*folder.glob("*.png")]) == 2
    for dump in folder.glob("*.npz"):
        assert load_attention(dump).source
    statistics = json.loads((folder / "statistics.json").read_text())
    assert statistics["grid"] is None and 0 < statistics["uniform_entropy"] < np.log(12)

    capsys.readouterr()
    pairs = load_run(trained).task.load("train")
    exact = dict(zip(pairs.ids, record["per_image"]["exact"], strict=True))
    pair = next(pair for pair in pairs if exact[pair.pair_id])
    command = ["translate", "--workdir", str(trained)]
    assert main([*command, pair.source, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{pair.target}\n"
    assert [p.suffix for p in sorted((tmp_path / "out").iterdir())] == [".npz", ".png"]
    give(monkeypatch, f"{pair.source}\n{pair.source}\n".encode())
    monkeypatch.setattr(describing, "AT_ONCE", 1)
    assert main([*command, "--out", str(tmp_path / "two")]) == 0
    assert capsys.readouterr().out == f"{pair.target}\n" * 2
    names = sorted(path.stem for path in (tmp_path / "two").glob("*.png"))
    assert len(names) == 2 and names[1] == "sentence%202"


def give(monkeypatch, content):
    """Provides content on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_byte_order_mark_is_no_word():
    assert describing._lines("ba be\nbi\n".encode("utf-8-sig")) == ["ba be", "bi"]


@pytest.mark.parametrize(
    "verb, message",
    [
        (["translate", "ba be", "  "], "sentence 2 is empty"),
        (["translate", "ba \udce4"], "sentence 1 is not UTF-8"),
        (["attend", "picture.jpg"], "a run on sentences; use `translate`"),
        (["caption", "picture.jpg"], "a run on sentences; use `translate`"),
    ],
)
def test_what_cannot_be_translated_is_one_clear_line(trained, verb, message, capsys):
    assert main([verb[0], "--workdir", str(trained), *verb[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_empty_input_is_one_clear_line(trained, monkeypatch, capsys):
    give(monkeypatch, b"")
    assert main(["translate", "--workdir", str(trained)]) == 2
    assert "no sentence was given" in capsys.readouterr().err
    give(monkeypatch, b"ba be\n\xff\n")
    assert main(["translate", "--workdir", str(trained)]) == 2
    assert "line 2 of the input is not UTF-8" in capsys.readouterr().err


def test_sentences_over_the_limit_are_counted(trained, capsys):
    long = " ".join(["ba"] * 70)
    assert main(["translate", "--workdir", str(trained), long, "ba"]) == 0
    assert "1 of 2 sentences were cut (config.data.max_source_length)" in capsys.readouterr().err


def test_an_exported_run_translates_the_same(trained, tmp_path):
    run = load_run(trained)
    sharing.export(run, tmp_path / "model")
    other = pretrained.load(tmp_path / "model")
    sentence = ["ba be bi bo"]
    one, two = (translate(r, sentence, r.decoding)[0][0] for r in (run, other))
    assert (one.text, one.log_prob) == (two.text, two.log_prob)


def test_a_model_translates_in_python(trained, caplog):
    model = pretrained.load(trained)
    [said] = model.translate(["ba  be bi"])
    [[known], _] = translate(model, ["ba be bi"], model.decoding)
    assert said.text == known.text and said.source[:3] == ("ba", "be", "bi")
    assert pretrained.draw(said).size[0] > 100
    assert model.translate([]) == []
    with pytest.raises(UserError, match="sentence 2 is empty"):
        model.translate(["ba", " "])
    with pytest.raises(UserError, match="'ba be' is one sentence; give a list"):
        model.translate("ba be")
    with pytest.raises(UserError, match="a run on sentences; use `translate`"):
        model.caption(["picture.jpg"])
    assert not caplog.text
    model.translate(["ba", " ".join(["ba"] * 70)])
    assert "1 of 2 sentences were cut" in caplog.text


@pytest.mark.slow  # `reports/test_compare.py` has it for runs made by hand
def test_runs_are_compared_on_one_page_with_their_length_curve(run_of, tmp_path):
    runs = [str(run_of(variant)) for variant in ("bahdanau", "seq2seq")]
    for run in runs:
        for verb in ("evaluate", "attend"):
            assert main([verb, "--workdir", run, "--split", "val"]) == 0
    out = tmp_path / "page"
    assert main(["compare", *runs, "--split", "val", "--out", str(out)]) == 0
    content = json.loads((out / "comparison.json").read_text())
    assert content["what"] == "sentences" and content["progress"]["score"] == "BLEU"
    assert [row["group"] for row in content["by_length"]] == ["A", "B"]
    assert sum(bucket["sentences"] for bucket in content["by_length"][0]["buckets"]) == 12
    page = (out / "index.html").read_text()
    assert "BLEU by length of the source" in page and "The same sentences" in page
    assert "may not be redistributed" not in page
    assert "## Scores by length" in (out / "table.md").read_text()


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("train.metric", "CIDEr", "choose one of BLEU, chrF, exact"),
        ("data.vocabulary", "bpe", "choose one of 'subwords', 'words', 'ptb'"),
        ("data.max_source_length", 0, "max_source_length is 0: it must lie in"),
        ("data.name", "shapes", "config.data.source: no such key"),
        ("encoder.annotations", "first", "choose one of 'all', 'last'"),
    ],
)
def test_bad_settings_are_rejected(data, tmp_path, setting, value, message):
    with pytest.raises(UserError, match=message):
        train(tiny_settings(data, "bahdanau", {setting: value}), tmp_path / "run")


@pytest.mark.slow  # `cli/test_parser.py` has it on images
def test_gradient_variance_of_a_run_on_sentences(data, tmp_path, capsys):
    train(tiny_settings(data, "hard", {"train.epochs": 2.0}), tmp_path / "run")
    command = ["gradient-variance", "--workdir", str(tmp_path / "run"), "--batches", "1"]
    assert main([*command, "--samples", "2", "--images", "4"]) == 0
    assert (tmp_path / "run" / "gradient_variance.png").exists()


def test_a_run_on_other_sentences_keeps_the_vectors_of_common_words(
    trained, data, tmp_path, monkeypatch
):
    class Begun(Exception):
        pass

    def begin(loop, state, first_step, writer):
        raise Begun(state.params)

    monkeypatch.setattr(Loop, "run", begin)
    # A limit of 10 leaves out some words.
    changes = {"train.init_from": str(trained), "data.limit": 10}
    with pytest.raises(Begun) as begun:
        train(tiny_settings(data, "bahdanau", changes), tmp_path / "run")
    other, [params] = load_run(trained, half=False), begun.value.args
    origin = json.loads((tmp_path / "run" / "run.json").read_text())["init_from"]
    for part, name, key, theirs in (
        ("decoder", "vocabulary", "words", other.vocabulary),
        ("encoder", "source_vocabulary", "source_words", other.source_vocabulary),
    ):
        ours = vocabularies.load(tmp_path / "run" / f"{name}.json")
        counts = origin[key]
        assert counts["kept"] + counts["new"] == len(ours.words)
        assert counts["kept"] + counts["dropped"] == len(theirs.words) and counts["dropped"]
        found = np.asarray(params[part]["embed"]["embedding"])
        given = np.asarray(other.params[part]["embed"]["embedding"])
        common = sorted(set(ours.words) & set(theirs.words))
        assert len(common) == counts["kept"]
        ids = [[4 + v.words.index(word) for word in common] for v in (ours, theirs)]
        np.testing.assert_array_equal(found[ids[0]], given[ids[1]])
        np.testing.assert_array_equal(found[:4], given[:4])
