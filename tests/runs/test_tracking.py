"""Trackers in the background: each step once, and no failure reaches training."""

import json
import threading
import time

import pytest
from noting import Noting
from PIL import Image

from show_attend_tell.runs import tracking
from show_attend_tell.runs.metrics_log import MetricWriter, read_metrics
from show_attend_tell.runs.tracking import Picture


def log(writer, *steps):
    for step in steps:
        writer.write(step, {"loss": 1.0 / step}, kind="train")


def steps_of(rows, kind="train"):
    return [row[1] for row in rows if row[0] == kind]


def kept(folder):
    """What the folder of a run knows of its entry; empty before there is one."""
    path = folder / "trackers" / "noting.json"
    return json.loads(path.read_text()) if path.exists() else {"entry": "", "logged": {}}


def test_a_resumed_run_continues_its_entry_with_every_step_once(tmp_path):
    entries = {}
    # Killed after step 5, and soon once more. The checkpoint is of step 2.
    log(killed := MetricWriter(tmp_path, trackers=[Noting(entries)]), 1, 2, 3, 4, 5)
    wait_until(lambda: kept(tmp_path)["logged"] == {"train": 5})
    log(again := MetricWriter(tmp_path, 2, [Noting(entries)]), 3)
    again.close("stopped")
    log(writer := MetricWriter(tmp_path, 2, [Noting(entries)]), 3, 4, 5, 6)
    writer.close()
    assert steps_of(entries["entry 0"]) == [1, 2, 3, 4, 5, 6] and len(entries) == 1
    assert entries["entry 0"][-1] == ("finished",)
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert kept(tmp_path) == {"entry": "entry 0", "logged": {"train": 6}}
    assert [path.name for path in (tmp_path / "trackers").iterdir()] == ["noting.json"]
    killed.close()


def test_what_a_tracker_holds_back_counts_once_the_step_has_changed(tmp_path):
    entries = {}
    tracker = Noting(entries)
    tracker.holds_back = True
    writer = MetricWriter(tmp_path, trackers=[tracker])
    log(writer, 1, 2)
    writer.write(2, {"CIDEr": 0.5}, kind="val")
    wait_until(lambda: kept(tmp_path)["logged"] == {"train": 1} and len(entries["entry 0"]) == 3)
    log(writer, 3)
    wait_until(lambda: kept(tmp_path)["logged"] == {"train": 2, "val": 2})
    writer.close()
    assert kept(tmp_path)["logged"] == {"train": 3, "val": 2}


def wait_until(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_kinds_of_the_same_step_are_told_apart(tmp_path):
    entries = {}
    with MetricWriter(tmp_path, trackers=[Noting(entries)]) as writer:
        log(writer, 1, 2)
        writer.close("stopped")
    with MetricWriter(tmp_path, 1, [Noting(entries)]) as writer:
        log(writer, 2)
        writer.captions(2, lambda photographs: [Picture("a", "a dog", Image.new("RGB", (1, 1)))])
        writer.write(2, {"CIDEr": 0.5}, kind="val")
    assert entries["entry 0"] == [
        ("train", 1, {"loss": 1.0}),
        ("train", 2, {"loss": 0.5}),
        ("stopped",),
        ("captions", 2, ["a"]),
        ("val", 2, {"CIDEr": 0.5}),
        ("failed",),  # the writer was not closed inside
    ]


@pytest.mark.parametrize("fails_at", [0, 3])
def test_a_failing_tracker_warns_once_and_gets_the_rest_later(tmp_path, caplog, fails_at):
    entries, other = {}, {}
    failing, fine = Noting(entries, fails_at), Noting(other)
    fine.name = "fine"
    log(writer := MetricWriter(tmp_path, trackers=[failing, fine]), 1, 2, 3, 4)
    writer.close("stopped")
    assert caplog.text.count("noting: no route to host; it gets no more of this run") == 1
    assert len(caplog.records) == 1
    assert steps_of(other["entry 0"]) == [1, 2, 3, 4]
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    log(writer := MetricWriter(tmp_path, 4, [Noting(entries)]), 5)
    writer.close()
    (rows,) = entries.values()
    assert steps_of(rows) == [1, 2, 3, 4, 5]


def test_captions_that_cannot_be_drawn_are_a_failure_like_any_other(tmp_path, caplog):
    entries = {}
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')  # has lost its kind
    writer = MetricWriter(tmp_path, 1, trackers=[Noting(entries)])
    log(writer, 2)
    writer.captions(2, lambda photographs: [][0])
    writer.close()
    assert caplog.text.count("noting: list index out of range; it gets no more") == 1
    assert steps_of(entries["entry 0"]) == [1, 2]


def test_an_entry_that_is_gone_can_be_replaced(tmp_path, caplog):
    log(writer := MetricWriter(tmp_path, trackers=[Noting({})]), 1)
    writer.close()
    MetricWriter(tmp_path, 1, [Noting({}, 0, LookupError("no such run"))]).close()
    assert f"no such run (to begin a new entry, remove {tmp_path}/trackers/noting" in caplog.text


def test_a_tracker_that_hangs_holds_up_neither_steps_nor_the_end(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(tracking, "CLOSE_WITHIN", 0.05)
    free = threading.Event()
    tracker = Noting({})
    tracker.start = lambda run: str(free.wait(10))
    writer = MetricWriter(tmp_path, trackers=[tracker])
    log(writer, 1, 2)
    writer.close()
    assert "noting: not done after" in caplog.text
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    free.set()


def test_a_tracker_learns_the_settings_and_who_may_see_the_pictures(tmp_path):
    entries, asked = {}, []
    tracker = Noting(entries)
    tracker.photographs = False
    with MetricWriter(tmp_path, trackers=[tracker], config={"seed": 3}) as writer:
        writer.captions(1, lambda photographs: asked.append(photographs) or [])
        writer.close()
    assert tracker.config == {"seed": 3} and asked == [False]


def test_only_the_first_process_tracks(tmp_path, monkeypatch):
    monkeypatch.setattr("show_attend_tell.devices.is_first", lambda: False)
    entries = {}
    log(writer := MetricWriter(tmp_path, trackers=[Noting(entries)]), 1)
    writer.close()
    assert not entries and not list(tmp_path.iterdir())
