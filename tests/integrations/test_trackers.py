"""Weights & Biases, trackio and MLflow: their own libraries, offline, in a temporary folder."""

import contextlib
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
from show_attend_tell.runs import tracking
from show_attend_tell.runs.metrics_log import MetricWriter
from show_attend_tell.runs.tracking import Picture, TrackedRun

INSTALLED = [n for n in TRACKERS if (spec := importlib.util.find_spec(n)) and spec.origin]
CONFIG = {"seed": 3, "data": {"name": "shapes", "crop": (0.8, 1.0)}}

# A run in a process of its own: five steps, and it is killed. Arguments: its folder, the trackers.
KILLED = f"""
import os, signal, sys, time
from pathlib import Path
from test_trackers import losses
from show_attend_tell.integrations.trackers import make_trackers
from show_attend_tell.runs import tracking
from show_attend_tell.runs.metrics_log import MetricWriter
folder, names = Path(sys.argv[1]), sys.argv[2:]
writer = MetricWriter(folder, 0, make_trackers(names), {CONFIG})
for step in range(1, 6):
    writer.write(step, {{"loss": 1.0 / step}}, kind="train")
# Weights & Biases holds back the last one.
while not all(len(losses(folder.parent, name)) >= 5 - (name == "wandb") for name in names):
    time.sleep(0.1)
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
        patch.setattr(tracking, "CLOSE_WITHIN", 120)
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        command = [sys.executable, "-c", KILLED, str(folder / "run"), *INSTALLED]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
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


def losses(folder, name):
    """The (step, loss) that a tracker has of the run `folder / "run"`, in its order."""
    if name == "wandb":
        parts = sorted((folder / "run" / "wandb").glob("offline-run-*/*.wandb"))
        return [(row["_step"], row["train/loss"]) for part in parts for row in history(part)]
    if name == "trackio":
        return [(step, m["train/loss"]) for step, m in stored(folder) if "train/loss" in m]
    client, run = mlflow_run(folder)
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")]


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
        if kind in (1, 4) and at <= len(data):  # whole, or its last part
            record, piece = wandb_internal_pb2.Record.FromString(piece), b""
            if record.HasField("history"):
                items = record.history.item
                names = [item.key or "/".join(item.nested_key) for item in items]
                values = [json.loads(item.value_json) for item in items]
                rows.append(dict(zip(names, values, strict=True)))
    return rows


def stored(folder):
    """The (step, metrics) of trackio's database, in the order of logging."""
    try:
        path = folder / "trackio" / "show-attend-tell.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute("select step, metrics from metrics order by id").fetchall()
    except sqlite3.OperationalError:  # not made yet
        return []
    return [(step, json.loads(metrics)) for step, metrics in rows]


def mlflow_run(folder):
    """MLflow's client, and the only run."""
    import mlflow

    client = mlflow.MlflowClient(str(folder / "mlruns"))
    experiment = client.get_experiment_by_name("show-attend-tell")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def entry(folder, name):
    """What the run's folder knows of its entry."""
    return json.loads((folder / "run" / "trackers" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", TRACKERS)
def test_a_killed_and_resumed_run_is_one_entry_with_every_step_once(resumed, name):
    library(name)
    assert losses(resumed, name) == [(step, 1.0 / step) for step in (1, 2, 3, 4, 5, 6)]
    assert entry(resumed, name)["logged"] == {"train": 6, "captions": 6, "val": 6}


def test_weights_and_biases_goes_on_without_pictures():
    tracker = object.__new__(WeightsAndBiases)  # `_run`, which would take them, is missing
    assert tracker.pictures(1, []) is None


def test_weights_and_biases_has_parts_of_one_id(resumed):
    library("wandb")
    parts = sorted((resumed / "run" / "wandb").glob("offline-run-*"))
    assert [part.name.split("-")[-1] for part in parts] == [entry(resumed, "wandb")["entry"]] * 2
    *_, last = history(next(parts[1].glob("*.wandb")))
    assert last["val/BLEU-4 (no BP)"] == 0.25 and last["captions/captions"] == ["a.jpg: red True"]
    (shown,) = parts[1].glob("files/media/images/*.png")
    assert Image.open(shown).size == (40, 20)


def test_trackio_has_settings_scores_and_captions(resumed):
    library("trackio")
    with contextlib.closing(sqlite3.connect(resumed / "trackio/show-attend-tell.db")) as database:
        names = database.execute("select distinct run_name from metrics").fetchall()
        (config,) = database.execute("select config from configs").fetchall()
    assert names == [(entry(resumed, "trackio")["entry"],)] and names[0][0].startswith("run-")
    assert json.loads(config[0])["data"] == {"name": "shapes", "crop": [0.8, 1.0]}
    logged = stored(resumed)
    assert (6, {"val/BLEU-4 (no BP)": 0.25}) in logged
    (shown,) = [m["captions/1"] for _, m in logged if "captions/1" in m]
    assert shown["caption"] == "a.jpg: red True"
    assert Image.open(resumed / "trackio" / "media" / shown["file_path"]).size == (40, 20)


def test_mlflow_has_settings_scores_and_captions(resumed):
    library("mlflow")
    _, run = mlflow_run(resumed)
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"seed": "3", "data.name": "shapes", "data.crop": "(0.8, 1.0)"}
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


def test_pictures_of_one_step_have_one_size_for_wandb(tmp_path):
    """It shows others wrongly, and warns of them on every validation."""
    wandb, logged = fake_wandb(True), []
    wandb.Image = lambda image, caption: image
    tracker = WeightsAndBiases(wandb, "local")
    tracker.start(TrackedRun(tmp_path, entry="id"))
    tracker._run.log = lambda row, step: logged.extend(row["captions"])
    sizes = [(30, 20), (10, 40)]
    tracker.pictures(1, [Picture("a", "b", Image.new("RGB", size, "red")) for size in sizes])
    assert [image.size for image in logged] == [(30, 40)] * 2
    for image, (width, height) in zip(logged, sizes, strict=True):
        assert image.getpixel((width - 1, height - 1)) == (255, 0, 0)
        assert image.getpixel((29, 39)) == (255, 255, 255)


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
            f"'show-attend-tell[{name}]' (or start ./launch.sh once with "
            f"SHOW_ATTEND_TELL_EXTRA={name})\n"
        )
    assert not os.listdir(tmp_path)


def test_trackers_are_chosen_by_name(monkeypatch):
    monkeypatch.setattr(trackers, "_library", lambda name: None)
    assert [t.name for t in make_trackers(["mlflow", "wandb", "mlflow"])] == ["mlflow", "wandb"]
    with pytest.raises(UserError, match="--tracker neptune: choose one of wandb, trackio, mlflow"):
        make_trackers(["wandb", "neptune"])
    with pytest.raises(UserError, match="--tracker-pictures some: choose one of local, all, none"):
        make_trackers([], "some")
