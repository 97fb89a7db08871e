"""Trackers: what shows a run's curves, settings and captions outside of the run's folder.

A tracker keeps an entry for each run. `Background` feeds one from a thread of its own, so that a
slow or failing tracker neither stops nor slows training. It remembers in the run's folder, in
`trackers/NAME.json`, which entry is the run's and how far it has come. Every step is thus logged
once, whatever interrupts the run.
"""

import dataclasses
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from PIL import Image

from show_attend_tell import files

FOLDER = "trackers"  # of a run
CLOSE_WITHIN = 60.0  # seconds that the end of a run waits for a tracker

Outcome = Literal["finished", "stopped", "failed"]  # stopped: by a signal, to be resumed

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker learns about a run.

    Attributes:
      folder: of the run.
      first_step: the step that it starts or resumes at.
      config: all settings, as nested dictionaries of plain values.
      entry: the tracker's own name of the run's entry; empty for a new one.
    """

    folder: Path
    first_step: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    entry: str = ""

    @property
    def name(self) -> str:
        """How people call the run: its folder."""
        return self.folder.resolve().name

    @property
    def group(self) -> str:
        """The folder around it, which the runs of a sweep share."""
        return self.folder.resolve().parent.name


@dataclass(frozen=True)
class Picture:
    """A caption with its attention maps.

    Attributes:
      name: of what is captioned.
      caption: its words.
      image: the maps, drawn.
    """

    name: str
    caption: str
    image: Image.Image


# Draws the captions of a validation, with or without what the data set itself contains.
Draw = Callable[[bool], Sequence[Picture]]


@runtime_checkable
class Tracker(Protocol):
    """Takes in what a run reports.

    `start` comes first and `close` last, all from one thread. Steps ascend within each kind. What
    the library of a tracker raises may pass.

    Attributes:
      name: on the command line and in messages.
      photographs: whether pictures and sentences of the data set may go there; final once started.
      holds_back: whether it holds back what has the newest step until a later step comes. If the
        process is killed, that is lost, and logged again.
    """

    name: str
    photographs: bool = False
    holds_back: bool = False

    def start(self, run: TrackedRun) -> str:
        """Opens the run's entry, or a new one with the config; returns the entry's name."""
        ...

    def scalars(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Logs values by name. `kind` names the group, for example "train" or "val"."""
        ...

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        """Logs captions of a validation; by default, none."""

    def close(self, outcome: Outcome) -> None:
        """Writes what is pending, and says how this part of the run ended."""
        ...


@dataclass(frozen=True)
class _Job:
    """Something to log: `send` takes what `prepare` returns. Only `send` calls the library."""

    step: int
    kind: str
    send: Callable[[Any], object]
    prepare: Callable[[], object]


def _log(job: _Job) -> None:
    job.send(job.prepare())


class Background:
    """Feeds a tracker from a thread. After its first failure, says so and leaves it alone."""

    def __init__(self, tracker: Tracker, run: TrackedRun, past: Sequence[Mapping[str, Any]] = ()):
        """Starts at once.

        Args:
          tracker: not started yet.
          run: its folder says which entry it has.
          past: records of earlier parts of the run. The tracker gets those that it has not seen,
            because it had failed or was not asked for.
        """
        self._tracker, self._run = tracker, run
        self._path = run.folder / FOLDER / f"{tracker.name}.json"
        self._failed = False
        self._outcome: Outcome = "failed"
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        for record in past:
            numbers = {k: v for k, v in record.items() if isinstance(v, int | float)}
            step = int(numbers.pop("step"))
            self.scalars(step, str(record.get("kind", "train")), numbers)
        self._thread = threading.Thread(target=self._work, name=tracker.name, daemon=True)
        self._thread.start()

    def scalars(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Hands on values; see `Tracker.scalars`."""
        send = partial(self._tracker.scalars, step, kind)
        self._queue.put(_Job(step, kind, send, partial(dict, scalars)))

    def captions(self, step: int, draw: Draw) -> None:
        """Hands on captions; the thread draws them."""

        def prepare() -> Sequence[Picture]:
            return draw(self._tracker.photographs)

        self._queue.put(_Job(step, "captions", partial(self._tracker.pictures, step), prepare))

    def close(self, outcome: Outcome) -> None:
        """Lets the tracker finish, but for at most `CLOSE_WITHIN` seconds."""
        self._outcome = outcome
        self._queue.put(None)
        self._thread.join(CLOSE_WITHIN)
        if self._thread.is_alive():
            _LOG.warning(
                "%s: not done after %.0f s; it may lack the end of this run (metrics.jsonl has it)",
                self._tracker.name,
                CLOSE_WITHIN,
            )

    def _work(self) -> None:
        entry, logged = self._kept()
        run = dataclasses.replace(self._run, entry=entry)
        remedy = f" (to begin a new entry, remove {self._path})" if entry else ""
        entry = self._attempt(partial(self._tracker.start, run), remedy)
        if not self._failed:
            self._keep(entry, logged)
        newest, earlier = 0, dict(logged)  # the newest step, and what was logged before it
        for job in iter(self._queue.get, None):
            if self._failed or job.step <= logged.get(job.kind, 0):
                continue
            self._attempt(partial(_log, job))
            if not self._failed:
                if job.step > newest:
                    newest, earlier = job.step, dict(logged)
                logged[job.kind] = job.step
                self._keep(entry, earlier if self._tracker.holds_back else logged)
        if not self._failed:
            self._attempt(partial(self._tracker.close, self._outcome))
        if not self._failed:
            self._keep(entry, logged)

    def _attempt(self, call: Callable[[], Any], remedy: str = "") -> Any:
        """Calls the tracker's library; returns its result, or None after a failure."""
        try:
            return call()
        except Exception as error:
            self._fail(f"{' '.join(str(error).split())[:300] or type(error).__name__}{remedy}")

    def _fail(self, why: str) -> None:
        self._failed = True
        _LOG.warning(
            "%s: %s; it gets no more of this run, and training continues (metrics.jsonl has "
            "everything; resuming sends what is missing)",
            self._tracker.name,
            why,
        )

    def _kept(self) -> tuple[str, dict[str, int]]:
        """The entry of this run, and the last step of each kind in it; empty for a new entry."""
        try:
            content = files.parse_json(self._path.read_text(encoding="utf-8"))
            return str(content["entry"]), dict(content["logged"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", {}

    def _keep(self, entry: str, logged: Mapping[str, int]) -> None:
        try:
            self._path.parent.mkdir(exist_ok=True)
            content = {"entry": entry, "logged": dict(logged)}
            files.write_text(self._path, json.dumps(content) + "\n")
        except OSError as error:
            self._fail(f"{self._path} cannot be written ({error.strerror})")
