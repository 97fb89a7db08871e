"""The metrics that a run writes while it trains: metrics.jsonl and TensorBoard event files."""

import json
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from show_attend_tell import devices, files
from show_attend_tell.files import parse_json


class MetricWriter:
    """Appends scalars to `workdir/metrics.jsonl` and to TensorBoard event files beside it.

    A resumed run appends to the same file. It first drops records after `first_step`, which an
    interrupted run left behind, so every step appears once. Only the first of several processes
    writes.
    """

    def __init__(self, workdir: Path, first_step: int = 0):
        self._file = None
        if not devices.is_first():
            return
        self._path = workdir / "metrics.jsonl"
        if self._path.exists():
            kept = [r for r in read_metrics(self._path) if r["step"] <= first_step]
            files.write_text(self._path, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = self._path.open("a")
        self._events = SummaryWriter(str(workdir / "events"), purge_step=first_step + 1)

    def write(self, step: int, scalars: Mapping[str, float], *, kind: str) -> None:
        """Writes one record. `kind` names the group, for example "train" or "val"."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, "kind": kind, **scalars}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._file is None:
            return
        self._file.close()
        self._events.close()


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
