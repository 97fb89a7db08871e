"""Tasks beside each other: order, cores, memory, failures, interruptions. The verbs are fake."""

import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from show_attend_tell.cli import side_by_side
from show_attend_tell.cli.side_by_side import Task, count_jobs, run_tasks
from show_attend_tell.errors import UserError

CORES = side_by_side.usable_cores()
needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="a single core can be used")
# Notes its start, cores and end. Sleeps until another has started, if it is given that one's name.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
name, folder, what = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
def note(text):
    with open(folder / "notes", "a") as file:
        file.write(f"{name} {text}\\n")
note("on " + ",".join(map(str, sorted(os.sched_getaffinity(0)))))
(folder / name).touch()
print("output of", name, flush=True)
if what == "fail":
    sys.exit(3)
if what == "endless":
    def stop(number, frame):
        # In a session of its own, which the terminal's Ctrl-C does not reach.
        note("stopped" if os.getsid(0) == os.getpid() else "stopped in our session")
        sys.exit(130)
    signal.signal(signal.SIGINT, stop)
    (folder / "ready").touch()
elif what == "stubborn":
    signal.signal(signal.SIGINT, lambda *_: note("ignored"))
    (folder / "ready").touch()
until = time.monotonic() + 10
wanted = {"done": name, "endless": "-", "stubborn": "-"}.get(what, what)
while not (folder / wanted).exists():
    if time.monotonic() > until:
        sys.exit(4)
    time.sleep(0.01)
note("ended")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes tasks of a program that notes what happens to it."""
    (tmp_path / "program.py").write_text(PROGRAM)
    program = (sys.executable, "-S", "-E", str(tmp_path / "program.py"))
    monkeypatch.setattr(side_by_side, "PROGRAM", program)
    monkeypatch.setattr(side_by_side, "POLL", 0.01)

    def task(name, *whats, after=()):
        commands = [[name, str(tmp_path), what] for what in whats or ("done",)]
        return Task(name, commands, tmp_path / f"{name}.log", after)

    return task


def notes(folder):
    return (folder / "notes").read_text().splitlines()


def run(tasks, jobs=1, hours=1.0, shown=None):
    console = Console(file=shown or io.StringIO())
    return run_tasks(tasks, jobs, hours=hours, console=console)


@needs_two_cores
def test_tasks_run_beside_each_other_on_their_own_cores(fake, tmp_path):
    # Each waits for the other, so neither ends unless both run.
    ended = run([fake("a", "b"), fake("b", "a")], jobs=2)
    assert ended == {"a": "done", "b": "done"}
    cores = {line.split()[0]: line.split()[2] for line in notes(tmp_path) if " on " in line}
    own = [set(cores[name].split(",")) for name in "ab"]
    assert not own[0] & own[1] and set.union(*own) == set(map(str, CORES))
    assert (tmp_path / "a.log").read_text().endswith(" b\noutput of a\n")
    assert side_by_side.usable_cores() == CORES  # of this process


def test_one_by_itself_has_all_cores(fake, tmp_path):
    run([fake("a"), fake("b")], jobs=1)
    every = ",".join(map(str, CORES))
    assert notes(tmp_path) == [f"a on {every}", "a ended", f"b on {every}", "b ended"]


@needs_two_cores
def test_a_failure_stops_only_what_comes_after(fake, tmp_path):
    tasks = [fake("c", after=["b"]), fake("b", after=["a"]), fake("a", "done", "fail", "done")]
    ended = run([*tasks, fake("d"), fake("e", after=["d"])], jobs=2)
    assert ended == {"a": "failed", "b": "skipped", "c": "skipped", "d": "done", "e": "done"}
    lines = [line for line in notes(tmp_path) if " on " not in line]
    assert lines.count("a ended") == 1 and lines.index("d ended") < lines.index("e ended")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_lets_the_running_stop_and_starts_nothing(fake, tmp_path, number):
    interrupt_once_ready(tmp_path, number)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run([fake("a", "endless", "done"), fake("b")])
    assert [line for line in notes(tmp_path) if " on " not in line] == ["a stopped"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interruption_kills(fake, tmp_path):
    interrupt_once_ready(tmp_path, signal.SIGINT, times=2)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run([fake("a", "stubborn")])
    assert notes(tmp_path)[1:] == ["a ignored"] and time.monotonic() - began < 10


def interrupt_once_ready(folder, number, times=1):
    def interrupt():
        while not (folder / "ready").exists():
            time.sleep(0.01)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    threading.Thread(target=interrupt, daemon=True).start()


def test_a_task_is_stopped_at_its_time_limit(fake, tmp_path):
    assert run([fake("a", "endless", "done"), fake("b")], hours=0.5 / 3600) == {
        "a": "failed",
        "b": "done",
    }
    assert "a stopped" in notes(tmp_path)


@needs_two_cores
def test_no_more_start_than_memory_holds(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "free_memory", lambda: 3_900_000_000)
    shown = io.StringIO()
    run([fake("a"), fake("b")], jobs=2, shown=shown)
    lines = shown.getvalue().splitlines()
    assert lines.pop(0).startswith("fewer at a time: a run may take 2.0 GB of memory, and 3.9 GB")
    assert [line.split()[1] for line in lines] == ["started", "done", "started", "done"]
    # A measured task replaces the guess, and one by itself always starts.
    monkeypatch.setattr(side_by_side, "free_memory", lambda: 1_000_000_000)
    run([fake("c", "c"), fake("d", "e", after=["c"]), fake("e", "d", after=["c"])], jobs=2)
    assert {"d ended", "e ended"} <= set(notes(tmp_path))


def test_memory_is_read(tmp_path):
    assert side_by_side.own_memory(os.getpid()) > 1e6
    assert side_by_side.own_memory(2**22 + 1) == 0
    assert side_by_side.free_memory() > 1e6


def test_auto_is_a_task_for_each_core_but_one_on_an_accelerator():
    assert count_jobs("auto", 100, lambda: False) == len(CORES)
    assert count_jobs("auto", 1, pytest.fail) == 1 == count_jobs("auto", 0, pytest.fail)
    assert count_jobs("auto", 100, lambda: True) == 1 == count_jobs("1", 9, pytest.fail)
    for wanted in ("0", "two", "-1"):
        with pytest.raises(UserError, match="a whole number from 1, or auto"):
            count_jobs(wanted, 9, pytest.fail)
    with pytest.raises(UserError, match="at most one for each core"):
        count_jobs(str(len(CORES) + 1), 9, pytest.fail)
    if len(CORES) > 1:
        assert count_jobs("2", 9, lambda: False) == 2
        with pytest.raises(UserError, match="not an accelerator"):
            count_jobs("2", 9, lambda: True)


STARTED = """
import os, signal, time
signal.signal(signal.SIGINT, lambda *_: (os.write(1, b"interrupted"), os._exit(0)))
os.write(1, b"ready ")  # in one piece: print may be interrupted before its newline
time.sleep(60)
"""
KILLED = """
import os, signal, sys, time
from pathlib import Path
from show_attend_tell.cli import side_by_side

log = Path(sys.argv[1])
side_by_side.PROGRAM = (sys.executable, "-c", sys.argv[2])
with log.open("w") as file:
    side_by_side.start([], file)
while not log.read_text():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's death")
def test_what_a_killed_process_has_started_is_interrupted(tmp_path):
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", KILLED, str(log), STARTED], timeout=60)
    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 10
    while "interrupted" not in log.read_text() and time.monotonic() < until:
        time.sleep(0.01)
    assert log.read_text().split() == ["ready", "interrupted"]
