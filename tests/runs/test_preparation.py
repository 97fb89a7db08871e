"""Data made ready before a run, and looked at, on generated scenes."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from PIL import Image
from rich.console import Console

from show_attend_tell.cli.parser import main
from show_attend_tell.data import row_cache
from show_attend_tell.data.examples import Pair
from show_attend_tell.errors import UserError
from show_attend_tell.inference import captioning as evaluate
from show_attend_tell.runs import encoding, preparation
from show_attend_tell.runs.build import build_encoder
from show_attend_tell.training.session import make_vocabulary


def run(verb, config, *arguments):
    """What a verb returns and what it prints."""
    printed = io.StringIO()
    result = getattr(preparation, verb)(config, *arguments, Console(file=printed, width=120))
    return result, printed.getvalue()


def test_what_is_prepared_is_not_made_again(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch, copies=2)
    config = tiny.config(tmp_path)
    records, printed = run("prepare", config)
    assert [(r["split"], r["images"], r["done"]) for r in records] == [
        ("train", 16, 0),
        ("val", 8, 0),
        ("test", 8, 0),
    ]
    assert records[0]["bytes"] == 16 * 64 * 64 * 3
    assert "to do: 32 images" in printed
    monkeypatch.setattr(encoding, "_decode", None)
    records, printed = run("prepare", config)
    assert [r["done"] for r in records] == [16, 8, 8] and "to do: 0 images" in printed
    examples = evaluate.load_split(config, "val")
    found = evaluate.load_inputs(config, examples, build_encoder(config))
    assert found.shape == (8, 64, 64, 3)


def test_time_is_told_before_the_work_and_measured(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch, copies=30)
    _, printed = run("prepare", tiny.config(tmp_path))
    assert "minutes" in printed and printed.index("minutes") < printed.index("train: ")


def test_augmented_images_are_kept_larger(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    config = tiny.config(tmp_path)
    config.data.random_crop = 0.5
    records, _ = run("prepare", config)
    assert [r["bytes"] // r["images"] for r in records] == [128 * 128 * 3, 64 * 64 * 3, 64 * 64 * 3]


def test_a_full_disk_is_seen_first(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    monkeypatch.setattr(row_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="needs 0 MB and 0 MB are free"):
        run("prepare", tiny.config(tmp_path))


def test_sentences_are_built_alone(tmp_path, monkeypatch):
    class Three(list):
        splits = ("train", "val", "test")

    pairs = Three([Pair("1", "a b", "b a")] * 3)
    monkeypatch.setattr(evaluate, "load_split", lambda config, split, copies=False: pairs)
    config = tiny.config(tmp_path)
    config.data.name = "reversal"
    records, _ = run("prepare", config)
    assert records == [{"split": s, "sentences": 3} for s in ("train", "val", "test")]
    assert not (tmp_path / "features").exists()


def test_inspect_tells_what_there_is(tmp_path, monkeypatch):
    scenes = tiny.use_scenes(monkeypatch)
    config = tiny.config(tmp_path)
    config.data.max_length = 9
    record, printed = run("inspect", config, tmp_path / "out")
    captions = [caption for of_one in scenes.captions() for caption in of_one]
    vocabulary = make_vocabulary(config, captions)
    lengths = [len(vocabulary.encode_text(caption)) for caption in captions]
    train = record["splits"][0]
    assert train == {
        "split": "train",
        "images": 8,
        "captions": len(captions),
        "mean length": round(float(np.mean(lengths)), 2),
        "95 % within": int(np.percentile(lengths, 95)),
        "longest": max(lengths),
        "cut": sum(n > 9 for n in lengths),
        "tokens known": 1.0,
    }
    assert record["vocabulary"] == len(vocabulary)
    assert record["height and width"]["median"] == [96, 96]
    assert json.loads((tmp_path / "out" / "data.json").read_text()) == record
    assert "train" in printed and "tokens known" in printed


def test_words_that_are_not_kept_are_not_known(tmp_path, monkeypatch):
    scenes = tiny.use_scenes(monkeypatch)
    config = tiny.config(tmp_path)
    config.data.min_count = 4
    words = [w for of_one in scenes.captions() for c in of_one for w in c.rstrip(".").split()]
    known = sum(words.count(w) >= 4 for w in words)
    record, _ = run("inspect", config, tmp_path / "out")
    assert 0 < known < len(words)
    assert record["splits"][1]["tokens known"] == round(known / len(words), 4)


def test_splits_that_the_data_lack_are_not_asked_for(tmp_path, monkeypatch):
    scenes = tiny.use_scenes(monkeypatch)
    scenes.splits = ("train", "val")
    load = evaluate.load_split

    def load_split(config, split, copies=False):
        assert split != "test"
        examples = load(config, split, copies=copies)
        examples.splits = ("train", "val")
        return examples

    monkeypatch.setattr(evaluate, "load_split", load_split)
    record, _ = run("inspect", tiny.config(tmp_path), tmp_path / "out")
    assert [split["split"] for split in record["splits"]] == ["train", "val"]
    records, _ = run("prepare", tiny.config(tmp_path))
    assert [record["split"] for record in records] == ["train", "val"]


def test_what_was_left_out_is_told(tmp_path, monkeypatch):
    scenes = tiny.use_scenes(monkeypatch)
    load = evaluate.load_split

    def load_split(config, split, copies=False):
        examples = load(config, split, copies=copies)
        examples.left_out = {"it has no caption": ["a.jpg", "b.jpg"]}
        return examples

    monkeypatch.setattr(evaluate, "load_split", load_split)
    record, printed = run("inspect", tiny.config(tmp_path), tmp_path / "out")
    assert record["left out"] == {"it has no caption": ["a.jpg", "b.jpg"]}
    assert "left out, it has no caption: 2 (a.jpg, b.jpg)" in printed
    assert len(scenes) == 8


def test_the_contact_sheet_shows_the_pictures(tmp_path, monkeypatch):
    scenes = tiny.use_scenes(monkeypatch)
    run("inspect", tiny.config(tmp_path), tmp_path / "out")
    sheet = np.asarray(Image.open(tmp_path / "out" / "contact_sheet.png").convert("RGB"))
    one = preparation.contact_sheet(list(scenes)[:1])
    # Two rows of up to six pictures; every tile has a picture in it and something written below.
    assert sheet.shape[0] == 2 * one.height and sheet.shape[1] == one.width
    tile = sheet[: one.height, : one.width // 6].astype(int)
    assert tile[: preparation.SIDE].std() > 5 and tile[preparation.SIDE + 8 :].min() < 100


def test_the_verbs_take_an_experiment(tmp_path, monkeypatch, capsys):
    tiny.use_scenes(monkeypatch)
    config = ["--config", str(tiny.EXPERIMENT), f"--config.data.dir={tmp_path}"]
    assert main(["prepare", *config]) == 0
    assert main(["inspect", *config, "--out", str(tmp_path / "look")]) == 0
    assert (tmp_path / "look" / "contact_sheet.png").exists()
    assert "to do: 24 images" in capsys.readouterr().out
    assert main(["inspect", "--config", "nowhere.py"]) == 2
