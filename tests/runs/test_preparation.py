"""Preparing data before a run, on generated scenes."""

import io
from types import SimpleNamespace

import pytest
import tiny
from rich.console import Console

from show_attend_tell import config
from show_attend_tell.data import row_cache
from show_attend_tell.data.examples import Pair
from show_attend_tell.data.sentence_task import SentenceTask
from show_attend_tell.data.task import task_of
from show_attend_tell.errors import UserError
from show_attend_tell.runs import encoding, preparation
from show_attend_tell.runs.build import build_encoder
from show_attend_tell.runs.inputs import load_inputs


def prepare(settings):
    """What it returns and what it prints."""
    printed = io.StringIO()
    return preparation.prepare(settings, Console(file=printed, width=120)), printed.getvalue()


def test_what_is_prepared_is_not_made_again(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch, copies=2)
    settings = tiny.settings(tmp_path)
    records, printed = prepare(settings)
    assert [(r["split"], r["images"], r["done"]) for r in records] == [
        ("train", 16, 0),
        ("val", 8, 0),
        ("test", 8, 0),
    ]
    assert records[0]["bytes"] == 16 * 64 * 64 * 3
    assert "to do: 32 images" in printed
    monkeypatch.setattr(encoding, "_decode", None)
    records, printed = prepare(settings)
    assert [r["done"] for r in records] == [16, 8, 8] and "to do: 0 images" in printed
    task = task_of(settings.data)
    found = load_inputs(settings, task, task.load("val"), build_encoder(settings))
    assert found.shape == (8, 64, 64, 3)


def test_the_time_is_measured_and_announced_before_the_work(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch, copies=30)
    _, printed = prepare(tiny.settings(tmp_path))
    assert "minutes" in printed and printed.index("minutes") < printed.index("train: ")


def test_augmented_images_are_kept_larger(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    records, _ = prepare(tiny.settings(tmp_path, {"data.random_crop": 0.5}))
    assert [r["bytes"] // r["images"] for r in records] == [128 * 128 * 3, 64 * 64 * 3, 64 * 64 * 3]


def test_a_full_disk_is_noticed_first(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    monkeypatch.setattr(row_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="needs 0 MB and 0 MB are free"):
        prepare(tiny.settings(tmp_path))


def test_sentences_are_only_built(tmp_path, monkeypatch):
    class Three(list):
        name, split, splits, stored = "three", "train", ("train", "val", "test"), 3
        ids, left_out, drawn, fingerprint = ["1", "2", "3"], {}, "", {}

        def captions(self):
            return [("b a",)] * 3

        def descriptions(self):
            return [()] * 3

        def phrase_counts(self):
            return {}

    pairs = Three([Pair("1", "a b", "b a")] * 3)
    monkeypatch.setattr(SentenceTask, "load", lambda task, split, training=False: pairs)
    settings = config.load_experiment("reversal", [f"--config.data.dir={tmp_path}"])
    records, _ = prepare(settings)
    assert records == [{"split": s, "sentences": 3} for s in ("train", "val", "test")]
    assert not (tmp_path / "features").exists()
