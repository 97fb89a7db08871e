"""Several devices and several processes train like one device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from show_attend_tell import devices
from show_attend_tell.cli.parser import main
from show_attend_tell.errors import UserError
from show_attend_tell.runs.metrics_log import read_metrics
from show_attend_tell.settings import Settings
from show_attend_tell.training.session import train

# Trains in its own process. Arguments: data folder, workdir, the step to stop at (0: none), and
# those of devices.start.
TRAIN = """
import os, signal, sys
from pathlib import Path
import jax, pytest, test_devices, tiny
from show_attend_tell import devices
from show_attend_tell.runs.metrics_log import MetricWriter
from show_attend_tell.training.session import train

jax.config.update("jax_numpy_rank_promotion", "raise")
data, workdir, last, *job = sys.argv[1:]
if job:
    devices.start(job[0], int(job[1]), int(job[2]))
patch = pytest.MonkeyPatch()
tiny.use_scenes(patch, copies=2)
if last != "0" and devices.is_first():
    write = MetricWriter.write
    def writing(self, at, scalars, *, kind):
        write(self, at, scalars, kind=kind)
        if (kind, at) == ("train", int(last)):
            os.kill(os.getpid(), signal.SIGTERM)
    patch.setattr(MetricWriter, "write", writing)
try:
    train(test_devices.settings(Path(data)), Path(workdir))
except KeyboardInterrupt:
    print("stopped")
"""


def settings(data: Path) -> Settings:
    changes = {
        "train.batch_size": 8,
        "train.epochs": 2.0,  # of two steps each
        "attention.kind": "hard",
        "hard.baseline": "learned",
        "hard.credit": "to_go",
    }
    return tiny.settings(data, changes)


def start(folder: Path, name: str, last: int, *job: str, devices: int = 1) -> subprocess.Popen:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, folder / "data", folder / name, str(last), *job],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes: subprocess.Popen) -> list[str]:
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def two(folder: Path, name: str, last: int, devices: int = 1) -> list[str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    jobs = ((address, "2", str(i)) for i in range(2))
    return finish(*(start(folder, name, last, *job, devices=devices) for job in jobs))


def losses(workdir: Path) -> dict[int, float]:
    metrics = read_metrics(workdir / "metrics.jsonl")
    return {m["step"]: m["loss"] for m in metrics if m["kind"] == "train"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run on one device; other runs are put beside it."""
    folder = tmp_path_factory.mktemp("devices")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_scenes(patch, copies=2)
        train(settings(folder / "data"), folder / "one")
    return folder


def check_same(folder: Path, name: str) -> None:
    one, other = losses(folder / "one"), losses(folder / name)
    assert list(other) == [1, 2, 3, 4]
    np.testing.assert_allclose(list(other.values()), list(one.values()), rtol=1e-5)


def check_resumed_by_one(folder: Path, name: str, found: str, monkeypatch) -> None:
    cut = json.loads((folder / name / "run.json").read_text())
    assert cut["device"].startswith(found) and not cut["finished"]
    tiny.use_scenes(monkeypatch, copies=2)
    assert train(settings(folder / "data"), folder / name).finished
    check_same(folder, name)


def test_two_processes_of_two_devices_train_as_one_and_stop_together(whole, monkeypatch):
    assert all("stopped" in output for output in two(whole, "two", 1, devices=2))
    assert len(losses(whole / "two")) < 4
    check_resumed_by_one(whole, "two", "4 x", monkeypatch)


@pytest.mark.slow  # two processes have several devices, too
def test_eight_devices_train_as_one_and_one_resumes_from_their_checkpoint(whole, monkeypatch):
    [output] = finish(start(whole, "eight", 2, devices=8))
    assert "stopped" in output
    check_resumed_by_one(whole, "eight", "8 x", monkeypatch)


@pytest.mark.slow
def test_two_processes_resume_together(whole):
    assert all("stopped" in output for output in two(whole, "both", 2))
    first, other = two(whole, "both", 0)
    assert "resuming" in first and "resuming" not in other  # only one of them reports
    check_same(whole, "both")


def test_a_batch_that_devices_cannot_split_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(UserError, match="train.batch_size is 4: it must be a multiple of the 8"):
        train(tiny.settings(tmp_path / "data"), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_single_process_needs_no_others(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    devices.start()
    assert devices.is_first() and devices.local_slice(6) == slice(0, 6)
    assert devices.any_process(True) and not devices.any_process(False)


@pytest.mark.parametrize(
    ("variable", "value"), [("SLURM_STEP_NUM_TASKS", "4"), ("TPU_WORKER_HOSTNAMES", "a,b")]
)
def test_a_job_of_several_processes_is_found_in_the_environment(monkeypatch, variable, value):
    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *job: called.append(job))
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    devices.start()
    assert called == [(None, None, None)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", "2"], "together, or none of them"),
        (["--coordinator", "localhost:1", "--processes", "2", "--process", "2"], "from 0 to 1"),
    ],
)
def test_incomplete_job_options_are_rejected(tmp_path, capsys, options, message):
    command = ["train", "--config", "shapes", "--workdir", str(tmp_path / "run")]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err
