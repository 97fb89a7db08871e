"""The program's memory settings: when it restarts itself, and that nobody notices."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from show_attend_tell import memory

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, signal, sys, time
from show_attend_tell import memory
memory.with_tunables()
try:
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:], sep="|", flush=True)
    if "wait" in sys.argv:
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
print(sys.stdin.read(), end="")
sys.exit(7)
"""
glibc = pytest.mark.skipif(not memory._has_glibc(), reason="the C library is another one")


@pytest.fixture
def program(tmp_path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def start(program: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if "GLIBC" not in k and "STARTED_AGAIN" not in k}
    # What a shell starts in the background ignores interrupts, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-X", "utf8", str(program), *arguments],
            env=clean | {"PYTHONPATH": str(ROOT)} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


@glibc
def test_process_arguments_input_and_status_are_preserved(program):
    process = start(program, "train", "--workdir", "a b", "")
    out, err = process.communicate("what was piped in")
    expected = f"{process.pid}|{memory.TUNABLES}|train|--workdir|a b|\nwhat was piped in"
    assert (out, err, process.returncode) == (expected, "", 7)


@glibc
def test_an_interrupt_reaches_the_program(program):
    process = start(program, "train", "wait")
    assert process.stdout is not None and memory.TUNABLES in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130


@pytest.mark.parametrize("value", ["", "glibc.malloc.arena_max=4"])
def test_the_users_own_setting_is_kept(program, value):
    process = start(program, "train", GLIBC_TUNABLES=value)
    out, _ = process.communicate("")
    assert out == f"{process.pid}|{value}|train\n"


@pytest.fixture
def started(monkeypatch) -> list[tuple]:
    """The calls of execve, which does nothing here, in a process that was started to train."""
    calls: list[tuple] = []
    monkeypatch.setattr(memory.os, "execve", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(sys, "argv", ["show-attend-tell", "train", "--workdir", "w"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "show_attend_tell", *sys.argv[1:]])
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setattr(memory, "_has_glibc", lambda: True)
    for name in ("GLIBC_TUNABLES", memory._STARTED_AGAIN):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_the_interpreter_gets_its_own_command_line(started):
    memory.with_tunables()
    ((path, arguments, environment),) = started
    assert path == sys.executable
    assert arguments == [sys.executable, "-m", "show_attend_tell", "train", "--workdir", "w"]
    assert environment["GLIBC_TUNABLES"] == memory.TUNABLES
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("words", [[], ["--help"], ["compare", "a"], ["train", "--help"]])
def test_verbs_that_compute_nothing_start_once(started, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["show-attend-tell", *words])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "show_attend_tell", *words])
    memory.with_tunables()
    assert started == []


def test_a_process_started_in_another_way_is_not_replaced(started, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pytest", "tests"])
    memory.with_tunables()
    assert started == []


def test_no_second_restart_if_the_setting_was_lost(started, monkeypatch):
    monkeypatch.setenv(memory._STARTED_AGAIN, "1")
    memory.with_tunables()
    assert started == []


def test_another_c_library_or_a_debugger_keeps_the_process(started, monkeypatch):
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    memory.with_tunables()
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setattr(memory, "_has_glibc", lambda: False)
    memory.with_tunables()
    assert started == []


def test_a_failed_restart_continues_without(started, monkeypatch):
    def fail(*arguments):
        raise OSError("Exec format error")

    monkeypatch.setattr(memory.os, "execve", fail)
    memory.with_tunables()


@glibc
def test_both_ways_to_start_the_program_set_up_its_memory(tmp_path):
    # Each start of Python prints the settings that it started with.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys; print(os.environ.get('GLIBC_TUNABLES'), file=sys.stderr)"
    )
    script = "import sys; from show_attend_tell.__main__ import main; sys.exit(main())"
    (tmp_path / "show-attend-tell").write_text(script)
    for program in (["-m", "show_attend_tell"], [str(tmp_path / "show-attend-tell")]):
        done = subprocess.run(
            [sys.executable, *program, "train", "--no-such-option"],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{ROOT}"},
            capture_output=True,
            text=True,
        )
        first, second, *message = done.stderr.splitlines()
        assert (first, second, done.returncode) == ("None", memory.TUNABLES, 2)
        assert "required" in message[-1]
