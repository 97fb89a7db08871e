"""Runs commands beside each other on this machine, each pinned to its own cores.

XLA takes its number of threads from the cores that a process may use. Small models keep a single
core busy but not two, so several runs on a core each finish sooner than one after another. Every
task writes to a log of its own.
"""

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from show_attend_tell.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

PROGRAM = (sys.executable, "-m", "show_attend_tell")
POLL = 0.2  # seconds between two looks at the running tasks
FIRST_GUESS = 2_000_000_000  # bytes that a task is expected to need before one has been measured
GRACE = 300  # seconds that a task gets to stop after its time limit
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
DONE, FAILED, SKIPPED = "done", "failed", "skipped"


@dataclass(frozen=True)
class Task:
    """Commands that run one after another.

    Attributes:
      name: unlike those of all other tasks.
      commands: each a verb with its arguments.
      log: file to which their output is appended.
      after: names of the tasks that must succeed first.
    """

    name: str
    commands: Sequence[Sequence[str]]
    log: Path
    after: Collection[str] = ()


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def count_jobs(wanted: str, tasks: int, accelerated: Callable[[], bool]) -> int:
    """The number of tasks that may run at a time.

    Args:
      wanted: a number, or `auto`: a task for every core, and one at a time on an accelerator.
      tasks: number of them.
      accelerated: whether tasks compute on an accelerator; called only if the answer matters.

    Raises:
      UserError: no such number, more than there are cores, or several on an accelerator.
    """
    cores = len(usable_cores())
    if wanted == "auto":
        limit = min(cores, tasks)
        return 1 if limit > 1 and accelerated() else max(limit, 1)
    if not re.fullmatch("[1-9][0-9]*", wanted):
        raise UserError(f"--jobs {wanted}: a whole number from 1, or auto")
    if int(wanted) > cores:
        raise UserError(
            f"--jobs {wanted}: give at most one for each core; {cores} can be used here"
        )
    if int(wanted) > 1 and accelerated():
        raise UserError(
            f"--jobs {wanted}: runs beside each other share cores, not an accelerator; use "
            "--jobs 1, or set JAX_PLATFORMS=cpu"
        )
    return int(wanted)


def has_accelerator() -> bool:
    """Whether JAX computes on something else than CPUs, asked in a process of its own.

    In this process the question would take memory of the accelerator, which the runs need.
    """
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split()[-1:] != ["cpu"]


def run_tasks(
    tasks: Sequence[Task], jobs: int, *, hours: float, console: "Console"
) -> dict[str, str]:
    """Runs all tasks, at most `jobs` at a time; returns DONE, FAILED or SKIPPED by name.

    A task starts as soon as what it comes after has succeeded, and is skipped if that failed. Tasks
    that start together share the free cores evenly. On SIGINT, SIGTERM or SIGHUP every running
    command gets one SIGINT, which lets training finish its step; the next signal kills them.

    Args:
      tasks: the earlier ones start first.
      jobs: at most the number of cores.
      hours: limit of a task's time; a task that exceeds it is interrupted, and has failed.
      console: shows a line for each start and end.

    Raises:
      KeyboardInterrupt: after all running commands have ended.
    """
    queue = _Queue(tasks, jobs, hours, console)
    with _signals() as received:
        try:
            while not received and queue.step():
                time.sleep(POLL)
        finally:  # also where the console cannot be written
            queue.stop(received)
    if received:
        raise KeyboardInterrupt
    return queue.ended


class _Queue:
    """Waiting, running and ended tasks."""

    def __init__(self, tasks: Sequence[Task], jobs: int, hours: float, console: "Console"):
        self._waiting, self._jobs, self._limit = list(tasks), jobs, 3600 * hours
        self._console, self._running = console, list[_Running]()
        self._cores, self._need, self._told = usable_cores(), 0, False
        self.ended = dict[str, str]()

    def step(self) -> bool:
        """Ends and starts what it can; returns whether anything is left."""
        for running in list(self._running):
            status = running.advance(self._limit)
            self._need = max(self._need, running.peak)
            if status is not None:
                self._end(running, status)
        for task in list(self._waiting):
            failed = [name for name in task.after if self.ended.get(name) in (FAILED, SKIPPED)]
            if failed:
                self._waiting.remove(task)
                self.ended[task.name] = SKIPPED
                self._tell(f"{task.name}: skipped, it needs {', '.join(failed)}")
        self._start()
        return bool(self._running or self._waiting)

    def stop(self, received: Sequence[int]) -> None:
        """Interrupts what is running and waits for it; kills it at the second signal."""
        if not self._running:
            return
        for running in self._running:
            running.send(signal.SIGINT)
        if received:
            self._tell(f"stopping {len(self._running)}; another interruption kills them")
        while any(running.process.poll() is None for running in self._running):
            if len(received) > 1:
                for running in self._running:
                    running.send(signal.SIGKILL)
            time.sleep(POLL)
        for running in self._running:
            running.close()

    def _start(self) -> None:
        """Starts the tasks whose turn it is, if cores and memory are free."""
        ready = [t for t in self._waiting if all(self.ended.get(n) == DONE for n in t.after)]
        taken = {core for running in self._running for core in running.cores}
        free = [core for core in self._cores if core not in taken]
        count = min(len(ready), self._jobs - len(self._running), len(free))
        if count > (not self._running):  # one by itself always starts
            count = min(count, max(self._room(count), not self._running))
        for k, task in enumerate(ready[: max(count, 0)]):
            share = free[k * len(free) // count : (k + 1) * len(free) // count]
            self._waiting.remove(task)
            self._running.append(_Running(task, share))
            where = f"core{'s' * (len(share) > 1)} {', '.join(map(str, share))}"
            self._tell(f"{task.name}: started on {where} (log: {task.log})")

    def _room(self, wanted: int) -> int:
        """How many more tasks fit in memory, beside what the running ones may still take."""
        free = free_memory()
        if free is None:
            return wanted
        need = self._need or FIRST_GUESS
        free -= sum(max(0, need - running.now) for running in self._running)
        room = max(0, free // need)
        if room < wanted and not self._told:
            self._told = True
            self._tell(
                f"fewer at a time: a run may take {need / 1e9:.1f} GB of memory, and "
                f"{max(0, free) / 1e9:.1f} GB are left"
            )
        return room

    def _end(self, running: "_Running", status: str) -> None:
        running.close()
        self._running.remove(running)
        name, minutes = running.task.name, (time.monotonic() - running.began) / 60
        self.ended[name] = status
        log = f" (log: {running.task.log})" if status == FAILED else ""
        self._tell(f"{name}: {running.why or status} after {minutes:.1f} minutes{log}")

    def _tell(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)


class _Running:
    """A task that runs, its cores, and the most memory that a command of it has taken."""

    def __init__(self, task: Task, cores: Sequence[int]):
        self.task, self.cores, self.why = task, cores, ""
        self.began, self.now, self.peak = time.monotonic(), 0, 0
        self._left = list(task.commands)
        task.log.parent.mkdir(parents=True, exist_ok=True)
        self._log = task.log.open("a")
        self._next()

    def advance(self, limit: float) -> str | None:
        """Starts the next command if one has ended; returns DONE or FAILED at the task's end."""
        code = self.process.poll()
        if code is None:
            self.now = own_memory(self.process.pid)
            self.peak = max(self.peak, self.now)
            late = time.monotonic() - self.began - limit
            if late > 0 and not self.why:
                self.why = "stopped at its time limit"
                self.send(signal.SIGINT)
            elif late > GRACE:
                self.send(signal.SIGKILL)
            return None
        if code or self.why:
            return FAILED
        if not self._left:
            return DONE
        self._next()
        return None

    def send(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def close(self) -> None:
        self.process.wait()
        self._log.close()

    def _next(self) -> None:
        command = self._left.pop(0)
        self._log.write(f"$ show-attend-tell {shlex.join(command)}\n")
        self._log.flush()
        with _pinned(self.cores):
            self.process = start(command, self._log)


def start(command: Sequence[str], log: Any) -> subprocess.Popen:
    """Starts a verb in a process that the terminal's Ctrl-C does not reach.

    Training takes a second SIGINT for an order to die at once, so it may get only ours. Where this
    process is killed, which nothing can prepare for, Linux sends it.
    """
    return subprocess.Popen(
        [*PROGRAM, *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_interrupted_with(os.getpid()) if sys.platform == "linux" else None,
    )


def _interrupted_with(parent: int) -> Callable[[], None]:
    """For a new process: lets it get SIGINT when the one that started it dies."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # found here: a new process may not import

    def ask() -> None:
        prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGINT), 0, 0, 0)
        if os.getppid() != parent:  # it has died meanwhile
            os.kill(os.getpid(), signal.SIGINT)

    return ask


@contextmanager
def _pinned(cores: Sequence[int]) -> Iterator[None]:
    """Processes started inside may only use these cores.

    They inherit the calling thread's cores, so they never run elsewhere, not even at first.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yields a list of the signals to stop that have come; they do nothing else meanwhile."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, lambda number, _: received.append(number)) for n in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def own_memory(pid: int) -> int:
    """Bytes of a process without pages of files, which the system can reclaim; 0 if unknown."""
    found = re.search(r"RssAnon:\s+(\d+) kB", _read(f"/proc/{pid}/status"))
    return int(found[1]) * 1024 if found else 0


def free_memory() -> int | None:
    """Bytes of memory that are free for programs, also within a container; None if unknown."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    if found is None:
        return None
    free = int(found[1]) * 1024
    folder = "/sys/fs/cgroup/"
    limit = _read(f"{folder}memory.max").strip()
    taken = re.search(r"^anon (\d+)$", _read(f"{folder}memory.stat"), re.MULTILINE)
    if limit.isdigit() and taken:
        free = min(free, int(limit) - int(taken[1]))
    return free


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
