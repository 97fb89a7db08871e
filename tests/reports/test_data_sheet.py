"""Data sets described and drawn, on generated scenes."""

import dataclasses
import io
import json

import numpy as np
import tiny
from PIL import Image

from show_attend_tell.cli.parser import main
from show_attend_tell.data.phrases import Counted, Description, Phrase
from show_attend_tell.data.task import ImageTask, task_of
from show_attend_tell.reports import data_sheet
from show_attend_tell.runs.preparation import prepare
from show_attend_tell.terminal import Terminal


def look(settings, folder):
    """What `inspect` returns and what it prints."""
    printed = io.StringIO()
    record = data_sheet.inspect(settings, folder, Terminal(file=printed, width=120))
    return record, printed.getvalue()


def test_inspect_describes_the_data(tmp_path, monkeypatch):
    scenes = tiny.use_scenes(monkeypatch)
    settings = tiny.settings(tmp_path, {"data.max_length": 9})
    record, printed = look(settings, tmp_path / "out")
    captions = [caption for of_one in scenes.captions() for caption in of_one]
    vocabulary = task_of(settings.data).target_vocabulary(captions)
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
        "phrases with boxes": sum(len(example.boxes) for example in scenes),
    }
    assert record["vocabulary"] == len(vocabulary)
    assert record["height and width"]["median"] == [96, 96]
    assert json.loads((tmp_path / "out" / "data.json").read_text()) == record
    assert "train" in printed and "tokens known" in printed


def test_words_that_are_not_kept_are_not_known(tmp_path, monkeypatch):
    scenes = tiny.use_scenes(monkeypatch)
    settings = tiny.settings(tmp_path, {"data.min_count": 4})
    words = [w for of_one in scenes.captions() for c in of_one for w in c.rstrip(".").split()]
    known = sum(words.count(w) >= 4 for w in words)
    record, _ = look(settings, tmp_path / "out")
    assert 0 < known < len(words)
    assert record["splits"][1]["tokens known"] == round(known / len(words), 4)


def test_splits_that_the_data_lack_are_not_asked_for(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    load_any = ImageTask.load

    def load(task, split, *, training=False):
        assert split != "test"
        examples = load_any(task, split, training=training)
        examples.splits = ("train", "val")
        return examples

    monkeypatch.setattr(ImageTask, "load", load)
    record, _ = look(tiny.settings(tmp_path), tmp_path / "out")
    assert [split["split"] for split in record["splits"]] == ["train", "val"]
    records = prepare(tiny.settings(tmp_path), Terminal(file=io.StringIO()))
    assert [record["split"] for record in records] == ["train", "val"]


def test_what_was_left_out_is_reported(tmp_path, monkeypatch):
    scenes = tiny.use_scenes(monkeypatch)
    load_any = ImageTask.load

    def load(task, split, *, training=False):
        examples = load_any(task, split, training=training)
        examples.left_out = {"it has no caption": ["a.jpg", "b.jpg"]}
        return examples

    monkeypatch.setattr(ImageTask, "load", load)
    record, printed = look(tiny.settings(tmp_path), tmp_path / "out")
    assert record["left out"] == {"it has no caption": ["a.jpg", "b.jpg"]}
    assert "left out, it has no caption: 2 (a.jpg, b.jpg)" in printed
    assert len(scenes) == 8


def test_what_is_wrong_with_phrases_is_reported_by_split(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    counts = {"phrases without a box": Counted(1234, ("[a] b", "c", "d")), "x": Counted(1, ("e",))}
    load_any = ImageTask.load

    def load(task, split, *, training=False):
        examples = load_any(task, split, training=training)
        if split == "train":
            monkeypatch.setattr(examples, "descriptions", lambda: [()] * 7 + [(words, words)])
            monkeypatch.setattr(examples, "phrase_counts", lambda: counts)
        return examples

    phrase = Phrase(0, 0, "1", ("object",), ((0.0, 0.0, 1.0, 1.0),))
    words = Description("a b", (phrase, dataclasses.replace(phrase, boxes=())), 0)
    monkeypatch.setattr(ImageTask, "load", load)
    record, printed = look(tiny.settings(tmp_path), tmp_path / "out")
    assert [split["phrases with boxes"] for split in record["splits"]] == [2, 20, 20]
    assert record["phrases"]["train"] == {
        "phrases without a box": {"count": 1234, "names": ("[a] b", "c", "d")},
        "x": {"count": 1, "names": ("e",)},
    }
    assert "train, phrases without a box: 1,234 ([a] b; c; d; ...)" in printed
    assert "train, x: 1 (e)\n" in printed


def test_data_without_phrases_have_no_such_column(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    monkeypatch.setattr(tiny.Scenes, "descriptions", lambda scenes: [()] * len(scenes))
    record, printed = look(tiny.settings(tmp_path), tmp_path / "out")
    assert "phrases with boxes" not in record["splits"][0] and "phrases" not in record
    assert "with boxes" not in printed


def test_the_contact_sheet_shows_the_pictures(tmp_path, monkeypatch):
    scenes = tiny.use_scenes(monkeypatch)
    look(tiny.settings(tmp_path), tmp_path / "out")
    sheet = np.asarray(Image.open(tmp_path / "out" / "contact_sheet.png").convert("RGB"))
    one = data_sheet.contact_sheet(list(scenes)[:1])
    # Two rows of up to six pictures; every tile has a picture in it and something written below.
    assert sheet.shape[0] == 2 * one.height and sheet.shape[1] == one.width
    tile = sheet[: one.height, : one.width // 6].astype(int)
    assert tile[: data_sheet.SIDE].std() > 5 and tile[data_sheet.SIDE + 8 :].min() < 100


def test_the_verbs_take_an_experiment(tmp_path, monkeypatch, capsys):
    tiny.use_scenes(monkeypatch)
    config = ["--config", "shapes", f"--config.data.dir={tmp_path}"]
    assert main(["prepare", *config]) == 0
    assert main(["inspect", *config, "--out", str(tmp_path / "look")]) == 0
    assert (tmp_path / "look" / "contact_sheet.png").exists()
    assert "to do: 24 images" in capsys.readouterr().out
    assert main(["inspect", "--config", "nowhere.py"]) == 2
