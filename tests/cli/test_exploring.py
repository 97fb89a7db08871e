"""The verb `explore`: what it asks, what it watches, and what it refuses."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from show_attend_tell import pretrained
from show_attend_tell.cli import exploring
from show_attend_tell.cli.parser import main
from show_attend_tell.data.task import ImageTask
from show_attend_tell.explorer import server


def failing(capsys, *arguments) -> str:
    assert main(["explore", *arguments]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_a_port_in_use_is_named_before_anything_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr(exploring, "_loaded", None)  # would fail
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = failing(capsys, "--port", str(port))
    assert f"port {port} of 127.0.0.1" in line and "--port" in line
    assert "port 99999" in failing(capsys, "--port", "99999")


def test_what_is_no_run_is_named(capsys, tmp_path):
    free = ("--port", "0")
    assert "neither a folder, nor a model" in failing(capsys, "runs/nothing", *free)
    assert "--num 0: must be 1 or more" in failing(capsys, "--num", "0")


def test_the_same_run_twice_is_refused(capsys, trained):
    line = failing(capsys, str(trained[0]), str(trained[0]), "--port", "0")
    assert "the same run is given twice" in line


def test_runs_of_one_name_stay_apart(monkeypatch, tmp_path):
    def load(path, overrides):
        return SimpleNamespace(
            workdir=tmp_path / "packaged" / "soft" if path == "soft" else Path(path)
        )

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "load", load)
    runs = exploring._loaded(["old/soft", "new/soft", "soft"], ())
    assert [*runs] == ["soft", "new/soft", str(tmp_path / "packaged" / "soft")]


@pytest.mark.parametrize(("host", "called"), [("127.0.0.2", "127.0.0.2"), ("::1", "[::1]")])
def test_other_loopback_addresses_are_served(host, called, monkeypatch):
    allowed = []
    monkeypatch.setattr(server, "make_app", lambda explorer, watch, hosts: allowed.extend(hosts))
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    monkeypatch.setattr(exploring, "_begin", lambda *_: None)
    with exploring._listen(host, 0) as listening:
        exploring._serve(SimpleNamespace(stop=lambda: None), (), listening)
    assert called in allowed


def test_runs_with_weights_are_asked_and_all_are_watched(trained, tmp_path, capsys):
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_text((trained[0] / "config.json").read_text())
    names = [str(trained[0]), str(begun), str(tmp_path), "flickr8k-soft"]
    asked, watched = exploring._sorted(names)
    assert asked == [str(trained[0]), "flickr8k-soft"]
    assert watched == [trained[0], begun, tmp_path]
    assert "begun: no weights yet, so it is only watched" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--export", "nowhere/out.html"], "nowhere/out.html: its folder is not there; make it"),
        (["--export", "."], "a folder; name a file in it"),
        (
            ["--port", "0", "--config.decode.bem=3", "."],
            "--config.decode.bem=3: no run with weights",
        ),
    ],
)
def test_what_cannot_be_explored_is_said_at_once(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("show_attend_tell.explorer.explorer.open_explorer", None)
    assert main(["explore", *words]) != 0
    assert message in capsys.readouterr().err


def test_a_model_without_its_data_exports_as_many_pictures_as_asked(monkeypatch, capsys, tmp_path):
    facts = [SimpleNamespace(id=str(i)) for i in range(6)]
    explorer = SimpleNamespace(pictures=SimpleNamespace(examples=facts), browsing=None)
    exported = []
    monkeypatch.setattr(
        "show_attend_tell.explorer.export.export", lambda *given: exported.append(given[2]) or 1
    )
    exploring._export(explorer, tmp_path / "out.html", 2)
    assert exported == [["0", "1"]] and ": 2 pictures" in capsys.readouterr().out


def test_an_export_is_one_file(trained, tmp_path, monkeypatch, capsys):
    workdir, scenes = trained
    monkeypatch.setattr(ImageTask, "load", lambda task, split, training=False: scenes)
    path = tmp_path / "out.html"
    assert main(["explore", str(workdir), "--num", "2", "--export", str(path)]) == 0
    assert f"{path}: 2 pictures, " in capsys.readouterr().out
    assert scenes[1].captions[0] in path.read_text(encoding="utf-8")


def test_a_folder_of_runs_is_served_and_ctrl_c_ends_it(tmp_path):
    """As a process: nothing but a watched folder, so no model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "show_attend_tell", "explore", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"open http://127.0.0.1:{port} (Ctrl-C ends it)\n"
    session = requests.get(f"http://127.0.0.1:{port}/api/session", timeout=30).json()
    assert session["live"] and session["runs"] == [] and session["split"] is None
    # An open stream of events does not keep it alive.
    events = requests.get(f"http://127.0.0.1:{port}/api/live/events", stream=True, timeout=30)
    assert next(events.iter_lines())
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert time.monotonic() - began < 10
