"""Metrics in JSONL and TensorBoard files, across an interruption and a resume."""

import errno
import time
from pathlib import Path

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from show_attend_tell.runs.metrics_log import MetricWriter, read_metrics


def test_a_resumed_run_writes_every_step_once(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (10, 20, 30):
        writer.write(step, {"loss": 1.0 / step}, kind="train")
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "ki')  # killed while writing
    writer = MetricWriter(tmp_path, first_step=20)
    writer.write(30, {"loss": 0.5}, kind="train")
    writer.write(30, {"CIDEr": 0.25}, kind="val")
    writer.close()
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["kind"]) for r in records] == [
        (10, "train"),
        (20, "train"),
        (30, "train"),
        (30, "val"),
    ]
    assert records[2]["loss"] == 0.5 and records[3]["CIDEr"] == 0.25


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    open_file = Path.open

    def opened(path, mode="r", **options):
        full = path.name == "metrics.jsonl" and mode == "a"
        return open_file(Path("/dev/full") if full else path, mode, **options)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OSError, match="metrics.jsonl") as raised, MetricWriter(tmp_path) as writer:
        writer.write(10, {"loss": 1.0}, kind="train")
    assert raised.value.filename == str(tmp_path / "metrics.jsonl")


def scalars(path):
    """(tag, step, value) of an event file: records of length, checksum, payload, checksum."""
    data, found = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        data = data[16 + length :]
    return found


def test_event_files_hold_the_scalars(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(7, {"loss": 2.0}, kind="train")
    writer.close()
    (path,) = (tmp_path / "events").iterdir()
    assert scalars(path) == [("train/loss", 7, pytest.approx(2.0))]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_that_tensorboard_meets_ends_the_run(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = MetricWriter(tmp_path)
    monkeypatch.setattr(EventsWriter, "write_event", fail)
    with pytest.raises(OSError, match="an earlier write failed") as raised:
        for step in range(1_000):
            writer.write(step, {"loss": 1.0}, kind="train")
            time.sleep(0.001)
    assert raised.value.filename == str(tmp_path / "events")
    writer.close()


def test_lines_that_are_no_records_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'[1]\n{}\n{"step": 2}\n\xff\n{"step": "a"}\n' + b"[" * 100_000 + b'\n{"st')
    assert read_metrics(path) == [{"step": 2}]
