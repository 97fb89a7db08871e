"""Verbs in processes that may be killed or starved, without the seconds that imports take.

This process imports the program once and then forks: a child runs one verb, as a user would start
it. Nothing is computed in this process, since a fork does not take JAX's threads along.
"""

import contextlib
import errno
import importlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SECONDS = 3600.0  # for a verb; one that takes longer hangs
# Events of Python that change a file or a folder. "open" counts where it is for writing.
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
SLOW = (
    "show_attend_tell.cli.parser",
    "show_attend_tell.evaluation.split_evaluation",
    "show_attend_tell.explorer.explorer",
    "show_attend_tell.explorer.export",
    "show_attend_tell.inference.run",
    "show_attend_tell.pretrained",
    "show_attend_tell.reports.attention_pictures",
    "show_attend_tell.reports.compare",
    "show_attend_tell.runs.preparation",
    "show_attend_tell.training.session",
    "show_attend_tell.data.builders.folder",
    "orbax.checkpoint",
    "grain",
    "rich.progress",
)


@dataclass
class Ended:
    """How a verb ended: its exit status (negative: a signal), what it printed, its seconds."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.err


class Child:
    """A verb in a process group of its own."""

    def __init__(self, pid: int, *printed: IO[bytes]):
        self.pid, self._printed, self._began = pid, printed, time.monotonic()

    def kill(self) -> None:
        """Sends SIGKILL to the process, not to those that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Sends SIGKILL to the process and to its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def ended(self, within: float = SECONDS) -> Ended | None:
        """How it ended; None if it still runs after so many seconds."""
        until = time.monotonic() + within
        while True:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                seconds = time.monotonic() - self._began
                texts = []
                for file in self._printed:
                    with file:
                        file.seek(0)
                        texts.append(file.read().decode(errors="replace"))
                return Ended(os.waitstatus_to_exitcode(status), *texts, seconds)
            if time.monotonic() > until:
                return None
            time.sleep(0.005)

    def end(self) -> Ended:
        """Waits for the end.

        Raises:
          TimeoutError: it did not come within `SECONDS`.
        """
        ended = self.ended()
        if ended is None:
            self.kill_all()
            raise TimeoutError(f"process {self.pid} did not end")
        return ended


def prepare(cache: Path) -> None:
    """Imports what verbs import, with the tests' settings; caches are to lie in a folder."""
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # for what a sweep starts
    os.environ["XDG_CACHE_HOME"] = str(cache)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache / "jax")
    importlib.import_module("conftest")  # JAX reads the environment now
    for name in SLOW:
        importlib.import_module(name)


def start(words: Sequence[str], folder: Path, before: Callable[[], object] = lambda: None) -> Child:
    """Starts a verb.

    Args:
      words: the verb and its arguments.
      folder: for what it prints.
      before: called in the new process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    printed = [tempfile.TemporaryFile(dir=folder) for _ in range(2)]  # noqa: SIM115 (`Child` closes them)
    pid = os.fork()
    if pid:
        return Child(pid, *printed)
    status = 70
    try:
        os.setsid()
        for number, file in enumerate(printed, 1):
            os.dup2(file.fileno(), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = ["show-attend-tell", *words]
        before()
        from show_attend_tell.cli.parser import main

        status = main(list(words))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def run(words: Sequence[str], folder: Path, before: Callable[[], object] = lambda: None) -> Ended:
    """Runs a verb to its end; see `start`."""
    return start(words, folder, before).end()


def on_change(act: Callable[[int, str], object], below: Path) -> None:
    """Calls a function before each change of a file in a folder, with its number from 1.

    The function may raise, or end the process. It sees the changes that Python makes, not those of
    libraries in C++. Cannot be undone.
    """
    count, busy, root = 0, False, str(below)

    def hook(event: str, given: tuple) -> None:
        nonlocal count, busy
        if busy or event not in ("open", *CHANGES):
            return
        if event == "open" and not (isinstance(given[2], int) and given[2] & WRITES):
            return
        if not isinstance(given[0], str) or not given[0].startswith(root):
            return
        count += 1
        busy = True
        try:
            act(count, f"{event} {given[0]}")
        finally:
            busy = False

    sys.addaudithook(hook)


def kill_at(number: int, below: Path) -> Callable[[], None]:
    """For `start`: the process dies of SIGKILL before its change of that number."""

    def act(count: int, what: str) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: on_change(act, below)


def full_at(number: int, below: Path) -> Callable[[], None]:
    """For `start`: the disk is full from the change of that number on; removing is possible."""

    def act(count: int, what: str) -> None:
        if count >= number and what.split()[0] in ("open", "os.mkdir", "os.link"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what.partition(" ")[2])

    return lambda: on_change(act, below)


def counted(below: Path, into: Path) -> Callable[[], None]:
    """For `start`: appends a line for each change to a file outside of the folder."""
    number = os.open(into, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    return lambda: on_change(lambda _, what: os.write(number, f"{what}\n".encode()), below)


def limited(kind: int, most: int) -> Callable[[], None]:
    """For `start`: a limit of a resource, such as `resource.RLIMIT_FSIZE`."""
    return lambda: resource.setrlimit(kind, (most, most))
