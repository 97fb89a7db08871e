"""The metrics that a run writes while it trains: metrics.jsonl, TensorBoard, other trackers."""

import errno
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tensorboardX import SummaryWriter

from show_attend_tell import devices, files
from show_attend_tell.files import parse_json
from show_attend_tell.runs.tracking import Background, Draw, Outcome, TrackedRun, Tracker


class JsonLines(Tracker):
    """Appends records to `metrics.jsonl` in the run's folder.

    A resumed run appends to the same file. It first drops records after the first step, which an
    interrupted run left behind.
    """

    name = "metrics.jsonl"

    def start(self, run: TrackedRun) -> str:
        path = run.folder / self.name
        if path.exists():
            kept = [r for r in read_metrics(path) if r["step"] <= run.first_step]
            files.write_text(path, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = path.open("a")
        return self.name

    def scalars(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, "kind": kind, **scalars}) + "\n")
        self._file.flush()

    def close(self, outcome: Outcome) -> None:
        self._file.close()


class TensorBoard(Tracker):
    """Writes TensorBoard event files to `events` in the run's folder."""

    name = "events"

    def start(self, run: TrackedRun) -> str:
        # A queue of ten, the default, blocks for ever once the thread that empties it has failed.
        self._events = SummaryWriter(
            str(run.folder / self.name), purge_step=run.first_step + 1, max_queue=10_000
        )
        return self.name

    def scalars(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        writer: Any = self._events.file_writer
        if writer is not None and not writer.event_writer._worker.is_alive():
            raise OSError(errno.EIO, "an earlier write failed")
        for name, value in scalars.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self, outcome: Outcome) -> None:
        self._events.close()


class MetricWriter:
    """Hands what a run reports to its own files, and to other trackers in the background.

    Every step appears once in each. Only the first of several processes writes. Use it as a context
    manager: a run that ends before `close` has failed.
    """

    def __init__(
        self,
        workdir: Path,
        first_step: int = 0,
        trackers: Sequence[Tracker] = (),
        config: Mapping[str, Any] = MappingProxyType({}),
    ):
        """Opens the files and starts the trackers.

        Args:
          workdir: folder of the run.
          first_step: the step that the run starts or resumes at.
          trackers: besides the run's own files.
          config: what the trackers show of the run's settings.
        """
        self._workdir = workdir
        self._files: list[Tracker] = []
        self._others: list[Background] = []
        if not devices.is_first():
            return
        run = TrackedRun(workdir, first_step, config)
        self._files = [JsonLines(), TensorBoard()]
        for file in self._files:
            file.start(run)
        past = read_metrics(workdir / JsonLines.name) if trackers else []
        self._others = [Background(tracker, run, past) for tracker in trackers]

    def write(self, step: int, scalars: Mapping[str, float], *, kind: str) -> None:
        """Writes one record. `kind` names the group, for example "train" or "val"."""
        for file in self._files:
            with files.naming(self._workdir / file.name):
                file.scalars(step, kind, scalars)
        for tracker in self._others:
            tracker.scalars(step, kind, scalars)

    def captions(self, step: int, draw: Draw) -> None:
        """Hands captions of a validation to the trackers."""
        for tracker in self._others:
            tracker.captions(step, draw)

    def close(self, outcome: Outcome = "finished") -> None:
        """Closes the files and the trackers; does nothing a second time."""
        closing, self._files = self._files, []
        others, self._others = self._others, []
        for tracker in others:
            tracker.close(outcome)
        for file in closing:
            with files.naming(self._workdir / file.name):
                file.close(outcome)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close("failed")


def read_metrics(path: Path) -> list[dict]:
    """The records of a metrics.jsonl, without lines that are none, such as one that a kill cut."""
    records = []
    for line in path.read_bytes().split(b"\n"):
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int | float):
            records.append(record)
    return records
