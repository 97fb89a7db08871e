"""A run of several languages: trained, validated, scored, and told which one to speak."""

import jax
import numpy as np
import pytest
import tiny

from show_attend_tell import config
from show_attend_tell.cli.describing import _print_scores
from show_attend_tell.data.batches import BatchPlan
from show_attend_tell.data.task import task_of
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.split_evaluation import evaluate_split
from show_attend_tell.explorer.explorer import _speakers
from show_attend_tell.inference.captioning import caption_split
from show_attend_tell.inference.run import load_run
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.rewards import idf_table
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.settings import ImageData
from show_attend_tell.terminal import Terminal
from show_attend_tell.tokens import EOS
from show_attend_tell.training import run_data, session
from show_attend_tell.training.plan import by_language, document_frequencies
from show_attend_tell.training.session import train
from show_attend_tell.training.validation import _means

BILINGUAL = {"data.languages": ("en", "de"), "data.vocabulary": "13a"}


@pytest.mark.slow
def test_eight_scenes_are_memorised_in_both_languages(tmp_path, monkeypatch, capsys):
    scenes = tiny.use_bilingual_scenes(monkeypatch)
    changes = BILINGUAL | {"train.epochs": 150.0, "train.patience": 0, "decode.beam": 1}
    found = train(tiny.settings(tmp_path / "data", changes), tmp_path / "run")
    assert found.best_score == pytest.approx(10, abs=0.01)
    run = load_run(tmp_path / "run")
    assert run.vocabulary.words[:2] == ("<en>", "<de>") and run.language == "en"
    said = {
        name: [c.text for c in caption_split(run.speaking(name), "val", run.decoding)[1]]
        for name in ("en", "de")
    }
    assert said["en"] == [e.captions[0] for e in scenes]
    assert said["de"] == [tiny.in_german(e.captions[0]).lower() for e in scenes]
    for name, stem in (("en", "val"), ("de", "val.de")):
        spoken = evaluate_split(run.speaking(name), "val", run.decoding, ("expected",))
        [record] = spoken.records
        assert record["language"] == name
        assert record["scores"]["CIDEr"] == pytest.approx(10, abs=0.1)
        assert (record["scores"]["METEOR"] is None) == (name == "de")
        assert ("13a" in record["tokenizer"]) == (name == "de")
        assert list((tmp_path / "run").glob(f"{stem}-expected-*.scores.json"))
        _print_scores(spoken.records)
    assert "val: 8 images in de" in capsys.readouterr().out
    assert set(_speakers({"run": run})) == {"run (en)", "run (de)"}
    with pytest.raises(UserError, match="--language fr: this run speaks en, de"):
        run.speaking("fr")


def test_scores_are_means_over_languages():
    found = _means(["en", "de"], [{"CIDEr": 1.0, "METEOR": 0.2}, {"CIDEr": 0.5, "METEOR": None}])
    assert found["CIDEr"] == 0.75 and "METEOR" not in found
    assert (found["CIDEr (en)"], found["CIDEr (de)"]) == (1.0, 0.5)


def test_rewards_rest_on_the_captions_of_each_language(tmp_path, monkeypatch):
    scenes = tiny.use_bilingual_scenes(monkeypatch)
    settings = tiny.settings(tmp_path / "data", BILINGUAL | {"reward.samples": 2})
    task, console = task_of(settings.data), Terminal(quiet=True)
    folder, encoder = RunFolder(tmp_path / "run"), Precomputed(4, (1, 2))
    folder.claim(settings)
    monkeypatch.setattr(run_data, "load_inputs", lambda *given, **named: np.zeros((8, 2, 4)))
    data = run_data.load_data(settings, task, folder, encoder, console, print)
    objective = session._Session(settings, task, folder, data, console, ()).objective
    english = [example.captions[0] for example in scenes]
    german = map(tiny.in_german, english)
    for table, texts in ((objective.table, english), (objective.further[0], german)):
        alone = idf_table([[[*data.vocabulary.encode_text(text), EOS]] for text in texts])
        jax.tree.map(np.testing.assert_array_equal, table, alone)
    assert not np.array_equal(objective.table.hashes, objective.further[0].hashes)


def test_document_frequencies_are_of_one_language():
    encoded = [[[4, 2], [5, 2]], [[6, 2]], [[7, 2], [8, 2]]]
    assert by_language(encoded[:2], [(0, 1), (1,), (0, 1)]) == [[[[4, 2]]], [[[5, 2]], [[6, 2]]]]
    assert by_language(encoded, None) == [encoded]


def test_document_frequencies_are_of_what_batches_hold():
    """Captions are cut there; n-grams of the cut ends must not count as the rarest."""
    images = [[[5, 6, 7, 8, 9, EOS]], [[5, 6, 7, 8, EOS]], [[9, EOS]]]
    plan = BatchPlan(images, batch_size=3, rows=1, buckets=1, max_length=4, seed=0)
    held = [[[i for i in row if i]] for (row,) in plan.batch(0)[1].tolist()]
    [table] = document_frequencies(tiny.Scenes(3), images, 4)
    jax.tree.map(np.testing.assert_array_equal, table, idf_table(held))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"languages": ("de",)}, "vocabulary 'ptb' splits English, but .*languages has de"),
        ({"languages": ()}, "name each language once"),
        ({"languages": ("Deutsch",), "vocabulary": "13a"}, "by its code, as"),
        (
            {"languages": ("fr",), "vocabulary": "13a", "mirrored": True},
            "left and right are not known in fr; set it to False",
        ),
        (
            {"languages": ("de",), "vocabulary": "13a", "random_flip": "swap"},
            "exchanges English words, but .* has de",
        ),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        ImageData(**{"name": "flickr8k", **changes})


def test_digests_are_what_they_were():
    """Of experiments without languages, as commit 0507340 computed them."""
    assert [config.digest(config.load_experiment(name)) for name in DIGESTS] == [*DIGESTS.values()]
    changed = config.replaced(config.load_experiment("shapes:soft"), BILINGUAL)
    assert config.digest(changed) != DIGESTS["shapes:soft"]
    moved = config.replaced(changed, {"data.captions_dir": "elsewhere"})
    assert config.digest(moved) == config.digest(changed)
    assert not config.changes(changed, moved)


def test_the_experiments_speak_their_languages():
    both = config.load_experiment("flickr8k:bilingual").data
    assert isinstance(both, ImageData) and both.spoken == ("en", "de")
    german = config.load_experiment("flickr8k:german").data
    assert isinstance(german, ImageData)
    assert (german.languages, german.spoken, german.vocabulary) == (("de",), (), "13a")


DIGESTS = {
    "shapes:soft": "4c29eccd60",
    "flickr8k:soft": "bf43b33f2b",
    "flickr8k:marginal-reward": "28ea85fc72",
    "multi30k:bahdanau": "1bca2284c1",
}
