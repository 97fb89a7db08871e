"""Weights & Biases, trackio and MLflow: their own libraries, offline, in a temporary folder."""

import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from show_attend_tell.cli.parser import main
from show_attend_tell.errors import UserError
from show_attend_tell.integrations import trackers
from show_attend_tell.integrations.mlflow_tracker import MLflow
from show_attend_tell.integrations.trackers import TRACKERS, make_trackers
from show_attend_tell.integrations.trackio_tracker import Trackio
from show_attend_tell.integrations.wandb_tracker import WeightsAndBiases
from show_attend_tell.runs.metrics_log import MetricWriter
from show_attend_tell.runs.tracking import Picture, TrackedRun

INSTALLED = [n for n in TRACKERS if (spec := importlib.util.find_spec(n)) and spec.origin]
CONFIG = {"seed": 3, "data": {"name": "shapes", "crop": (0.8, 1.0)}}

# A run in a process of its own: five steps, and it is killed. Arguments: its folder, the trackers.
KILLED = f"""
import os, signal, sys, time
from pathlib import Path
from show_attend_tell.integrations.trackers import make_trackers
from show_attend_tell.runs.metrics_log import MetricWriter
folder, names = Path(sys.argv[1]), sys.argv[2:]
writer = MetricWriter(folder, 0, make_trackers(names), {CONFIG})
for step in range(1, 6):
    writer.write(step, {{"loss": 1.0 / step}}, kind="train")
kept = [folder / "trackers" / f"{{name}}.json" for name in names]
while not all(path.exists() and '"train": 5' in path.read_text() for path in kept):
    time.sleep(0.01)
time.sleep(1)  # trackio writes twice a second
os.kill(os.getpid(), signal.SIGKILL)
"""


def environment(folder: Path) -> dict[str, str]:
    """What keeps the libraries on this machine and in this folder, without anybody's account."""
    return {
        "HOME": str(folder),
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(folder / "trackio"),
        "MLFLOW_TRACKING_URI": str(folder / "mlruns"),
        "MLFLOW_ALLOW_FILE_STORE": "true",  # to make a database takes seconds
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The folder around a run that was killed after step 5 and resumed from step 2."""
    folder = tmp_path_factory.mktemp("trackers")
    (folder / "run").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder).items():
            patch.setenv(name, value)
        command = [sys.executable, "-c", KILLED, str(folder / "run"), *INSTALLED]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr
        with MetricWriter(folder / "run", 2, make_trackers(INSTALLED), CONFIG) as writer:
            for step in (3, 4, 5, 6):
                writer.write(step, {"loss": 1.0 / step}, kind="train")
            image = Image.new("RGB", (40, 20), "red")
            writer.captions(6, lambda photographs: [Picture("a.jpg", f"red {photographs}", image)])
            writer.write(6, {"BLEU-4 (no BP)": 0.25}, kind="val")
            writer.close()
        yield folder


def library(name):
    if name not in INSTALLED:
        pytest.skip(f"the library {name} is absent")


STEPS = [1, 2, 3, 4, 5, 6]
LOSSES = [(step, 1.0 / step) for step in STEPS]


def test_weights_and_biases_has_one_run_with_every_step_once(resumed):
    library("wandb")
    entry = json.loads((resumed / "run" / "trackers" / "wandb.json").read_text())["entry"]
    # Two parts with one id, whose steps do not overlap: `wandb sync` joins them.
    parts = sorted((resumed / "run" / "wandb").glob(f"offline-run-*-{entry}/*.wandb"))
    assert len(parts) == len(list((resumed / "run" / "wandb").glob("offline-run-*"))) == 2
    rows = [row for part in parts for row in history(part)]
    assert [(row["_step"], row["train/loss"]) for row in rows] == LOSSES
    last = rows[-1]
    assert last["val/BLEU-4 (no BP)"] == 0.25 and last["captions/captions"] == ["a.jpg: red True"]
    (shown,) = parts[-1].parent.glob("files/media/images/*.png")
    assert Image.open(shown).size == (40, 20)


def history(path):
    """The rows of a .wandb file: blocks of 32 KiB; before each piece checksum, length, type."""
    from wandb.proto import wandb_internal_pb2

    data, at, piece, rows = path.read_bytes(), 7, b"", []
    while at < len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        piece += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            record, piece = wandb_internal_pb2.Record.FromString(piece), b""
            if record.HasField("history"):
                items = record.history.item
                rows.append(
                    {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                )
    return rows


def test_trackio_has_one_run_with_every_step_once(resumed):
    library("trackio")
    entry = json.loads((resumed / "run" / "trackers" / "trackio.json").read_text())["entry"]
    assert entry.startswith("run-")
    database = sqlite3.connect(resumed / "trackio" / "show-attend-tell.db")
    rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {name for name, *_ in rows} == {entry}
    logged = [(step, json.loads(metrics)) for _, step, metrics in rows]
    assert [(step, m["train/loss"]) for step, m in logged if "train/loss" in m] == LOSSES
    (shown,) = [m["captions/1"] for _, m in logged if "captions/1" in m]
    assert shown["caption"] == "a.jpg: red True"
    assert Image.open(resumed / "trackio" / "media" / shown["file_path"]).size == (40, 20)
    assert (6, {"val/BLEU-4 (no BP)": 0.25}) in logged
    (config,) = database.execute("select distinct config from configs").fetchall()
    assert json.loads(config[0])["data"] == {"name": "shapes", "crop": [0.8, 1.0]}


def test_mlflow_has_one_run_with_every_step_once(resumed, monkeypatch):
    library("mlflow")
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(str(resumed / "mlruns"))
    experiment = client.get_experiment_by_name("show-attend-tell")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"seed": "3", "data.name": "shapes", "data.crop": "(0.8, 1.0)"}
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in losses] == LOSSES
    assert run.data.metrics["val/BLEU-4 no BP"] == 0.25
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "captions" / "step-00000006.txt").read_text() == "a.jpg: red True\n"
    (shown,) = artifacts.glob("images/captions~1+step+6+*.png")
    assert Image.open(shown).size == (40, 20)


def test_a_server_out_of_reach_stops_nothing(tmp_path, monkeypatch, caplog):
    library("mlflow")
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with MetricWriter(tmp_path, 0, make_trackers(["mlflow"])) as writer:
        writer.write(1, {"loss": 1.0}, kind="train")
        writer.close()
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("show_attend_tell")]
    assert len(ours) == 1 and ours[0].startswith("mlflow: API request to http://127.0.0.1:9")


def test_nobody_is_asked_to_log_in(tmp_path, monkeypatch, caplog):
    library("wandb")
    import wandb

    wandb.teardown()  # it has read the environment
    for name, value in (environment(tmp_path) | {"WANDB_MODE": "online"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with MetricWriter(tmp_path, 0, make_trackers(["wandb"])) as writer:
        writer.write(1, {"loss": 1.0}, kind="train")
        writer.close()
    wandb.teardown()
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("show_attend_tell")]
    assert len(ours) == 1
    assert ours[0].startswith("wandb: not logged in: run `wandb login`, or set WANDB_MODE=offline;")


def fake_wandb(offline):
    """Stands in for the library, logged in."""
    run = SimpleNamespace(id="id", offline=offline, disabled=False)
    settings = SimpleNamespace(mode="offline" if offline else "online")
    return SimpleNamespace(
        setup=lambda: SimpleNamespace(settings=settings),
        login=lambda **_: True,
        init=lambda **_: run,
        Settings=SimpleNamespace,
    )


def fake_mlflow(tracking, artifacts):
    """Stands in for the library, with its records and its files in these places."""
    info = SimpleNamespace(run_id="id", artifact_uri=artifacts)
    client = SimpleNamespace(
        get_run=lambda _: SimpleNamespace(info=info), update_run=lambda *_, **__: None
    )
    return SimpleNamespace(MlflowClient=lambda: client, get_tracking_uri=lambda: tracking)


@pytest.mark.parametrize(
    ("make", "local"),
    [
        (lambda pictures: WeightsAndBiases(fake_wandb(True), pictures), True),
        (lambda pictures: WeightsAndBiases(fake_wandb(False), pictures), False),
        (lambda pictures: MLflow(fake_mlflow("sqlite:////x/m.db", "/x/1"), pictures), True),
        (lambda pictures: MLflow(fake_mlflow("sqlite:////x/m.db", "s3://x/1"), pictures), False),
        (lambda pictures: MLflow(fake_mlflow("http://x", "mlflow-artifacts:/1"), pictures), False),
    ],
)
def test_pictures_stay_on_this_machine_unless_the_user_says_so(tmp_path, make, local):
    expected = {"local": local, "all": True, "none": False}
    for pictures, allowed in expected.items():
        tracker = make(pictures)
        tracker.start(TrackedRun(tmp_path, entry="id"))
        assert tracker.photographs == allowed, pictures


@pytest.mark.parametrize("variable", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])
def test_trackio_elsewhere_is_not_local(monkeypatch, variable):
    monkeypatch.delenv(variable, raising=False)
    assert Trackio(None, "local").photographs and not Trackio(None, "none").photographs
    monkeypatch.setenv(variable, "https://somewhere")
    assert not Trackio(None, "local").photographs and Trackio(None, "all").photographs


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_library_is_one_line_before_training(tmp_path, monkeypatch, capsys, name):
    folder = types.ModuleType(name)  # as Python imports a mere folder ./wandb
    for found in (None, folder):
        monkeypatch.setitem(sys.modules, name, found)
        words = ["--config", "shapes:soft", "--workdir", str(tmp_path / "run"), "--tracker", name]
        assert main(["train", *words]) == 2
        error = capsys.readouterr().err
        assert error == (
            f"error: --tracker {name}: needs the library {name}; pip install "
            f"'show-attend-tell[{name}]'\n"
        )
    assert not os.listdir(tmp_path)


def test_trackers_are_chosen_by_name(monkeypatch):
    monkeypatch.setattr(trackers, "_library", lambda name: None)
    assert [t.name for t in make_trackers(["mlflow", "wandb", "mlflow"])] == ["mlflow", "wandb"]
    with pytest.raises(UserError, match="--tracker neptune: choose one of wandb, trackio, mlflow"):
        make_trackers(["wandb", "neptune"])
    with pytest.raises(UserError, match="--tracker-pictures some: choose one of local, all, none"):
        make_trackers([], "some")
