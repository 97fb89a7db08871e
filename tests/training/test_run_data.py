"""What a run trains on, and what is refused before it costs time."""

import math
from pathlib import Path
from unittest.mock import Mock

import pytest
import tiny

from show_attend_tell.data.batches import BatchPlan
from show_attend_tell.errors import UserError
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.training import run_data
from show_attend_tell.training.session import train


def test_a_warm_up_that_does_not_fit_is_refused_before_images_are_encoded(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch)
    encoded = []
    monkeypatch.setattr(run_data, "load_inputs", lambda *given, **named: encoded.append(given))
    changes = {"optimizer.schedule": "cosine", "optimizer.warmup_steps": 10_000}
    with pytest.raises(UserError, match="warmup_steps is 10000, but the whole run has only"):
        train(tiny.settings(tmp_path / "data", changes), tmp_path / "run")
    assert not encoded


def test_a_supervised_run_keeps_its_boxes(tmp_path, monkeypatch):
    tiny.use_scenes(monkeypatch).split = "val"
    found = []
    monkeypatch.setattr(RunFolder, "check_data", lambda folder, data: found.append(data))
    monkeypatch.setattr(RunFolder, "keep_places", lambda *_: 1 / 0)
    for weight in (0.0, 0.5):
        settings = tiny.settings(tmp_path / "data", {"attention.supervision": weight})
        with pytest.raises(ZeroDivisionError):
            train(settings, tmp_path / f"run {weight}")
    assert ["boxes" in data["train"] for data in found] == [False, True]


def test_steps_are_counted_without_the_error_of_floats():
    for epochs, steps in ((0.07, 7), (0.071, 8), (3.0, 300)):
        settings = tiny.settings(Path("data"), {"train.epochs": epochs})
        plan = Mock(spec=BatchPlan, batches_per_epoch=100)
        assert math.ceil(epochs * 100) >= steps == run_data.total_steps(settings, plan)
