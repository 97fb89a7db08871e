"""What a run leaves in its folder and in its trackers, and what trackers see of the data."""

import json
import shutil

import jax
import numpy as np
import records
import tiny
from noting import Noting

from show_attend_tell.data.task import ImageTask
from show_attend_tell.inference.captioning import Caption
from show_attend_tell.inference.run import load_run
from show_attend_tell.models.captioner import trained_weights
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.runs.metrics_log import MetricWriter, read_metrics
from show_attend_tell.settings import ImageData
from show_attend_tell.training import tracked_captions
from show_attend_tell.training.session import train
from show_attend_tell.training.tracked_captions import TrackedCaptions


def test_what_a_run_leaves(tmp_path, monkeypatch):
    scenes, entries = tiny.use_scenes(monkeypatch), {}
    monkeypatch.setattr(tracked_captions, "DRAWN", 2)
    tracker = Noting(entries)
    settings = tiny.settings(tmp_path / "data", {"train.epochs": 1.0})
    assert str(tmp_path) in str(settings)
    train(settings, tmp_path / "run", trackers=[tracker])
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["seed"] == 0 and run["packages"]["jax"] == jax.__version__
    assert {"commit", "command", "config_digest"} <= run.keys()
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    (val,) = [m for m in metrics if m["kind"] == "val"]
    assert {"BLEU-4", "BLEU-4 (no BP)", "CIDEr", "ROUGE-L"} <= val.keys()

    # A tracker gets the same records, and the captions of the validation.
    (rows,) = entries.values()
    assert tracker.config["train"]["epochs"] == 1.0 and str(tmp_path) not in str(tracker.config)
    assert rows[-1] == ("finished",)
    assert [r[:2] for r in rows[:-1]] == [("train", 1), ("train", 2), ("captions", 2), ("val", 2)]
    logged = [{"step": s, "kind": k} | m for k, s, m in (rows[0], rows[1], rows[3])]
    assert logged == metrics
    assert rows[2][2] == scenes.ids[:2]

    # Without its checkpoints it is trained anew, and nothing of the first run counts as the new
    # one's: neither its weights, here damaged, nor its entry.
    folder = RunFolder(tmp_path / "run")
    shutil.rmtree(folder.path / "checkpoints")
    for path in (p for which in ("best", "last") for p in (folder.path / which).rglob("d/*")):
        path.write_bytes(b"")
    train(settings, folder.path, trackers=[Noting(entries)])
    assert [[row[:2] for row in rows] for rows in entries.values()] == [[r[:2] for r in rows]] * 2
    like = trained_weights(load_run(folder.path).model)
    last, best = (folder.weights(which).restore(like) for which in ("last", "best"))
    jax.tree.map(np.testing.assert_array_equal, last[:2], best[:2])


class Looking(Precomputed):
    image_size, shift, centres = 64, None, (0.25, 0.75)


class Writer(MetricWriter):
    """Stands in for a `MetricWriter`; draws at once."""

    def __init__(self, photographs):
        self.photographs, self.pictures = photographs, []

    def captions(self, step, draw):
        self.pictures += draw(self.photographs)


def pictures(tmp_path, photographs, *alphas):
    writer, encoder = Writer(photographs), Looking(4, (2, 2))
    task = ImageTask(ImageData(name="shapes"))
    seen = (task, encoder, None, tiny.Scenes(5), tiny.settings(tmp_path))
    captions = [
        Caption(("a", "disc"), -1.0, -1.0, weights, weights[:, 0], np.zeros(2, np.int32))
        for weights in (np.full((2, 4), alpha, np.float32) for alpha in alphas)
    ]
    TrackedCaptions(writer, *seen).write(7, captions)
    return writer.pictures


def colours(image):
    """The largest difference between the channels of a pixel: 0 for shades of grey."""
    return np.ptp(np.asarray(image.convert("RGB")).astype(int), axis=2).max()


def test_without_leave_a_tracker_sees_maps_but_no_picture(tmp_path):
    (seen,), (hidden,) = (pictures(tmp_path, leave, 0.25) for leave in (True, False))
    assert (seen.name, seen.caption) == (hidden.name, hidden.caption) == ("scene 0", "a disc")
    assert seen.image.size == hidden.image.size
    assert colours(seen.image) > 50 and colours(hidden.image) == 0


def test_without_leave_a_tracker_sees_no_source_word():
    record = records.sentence([[0.5, 0.5]], ("geheim", "wort"), ("secret",))
    assert tracked_captions._without_data(record).source == ("1", "2")


def test_what_cannot_be_drawn_is_left_out(tmp_path):
    drawn = pictures(tmp_path, True, np.nan, 0.25, 0.25, 0.25, 0.25, 0.25)
    assert [picture.name for picture in drawn] == ["scene 1", "scene 2", "scene 3"]  # of four
