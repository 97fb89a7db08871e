"""Files of runs that another process may be writing: found, read in blocks, never trusted.

Links below a folder are not followed. A pipe or a device in place of a file is never read. Nothing
on disk makes these functions raise.
"""

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from show_attend_tell.files import parse_json

METRICS, CONFIG, WEIGHTS = "metrics.jsonl", "config.json", "weights.safetensors"
DEPTH = 3  # of runs below a folder
FOLDERS = 3000  # visited in one walk: a folder may hold far more than runs
LARGEST = 4 << 20  # bytes of a JSON file
BLOCK = 8 << 20  # bytes of metrics that one look reads; the next look reads on
_TAIL = 64  # last bytes read, by which a file is recognised

KINDS = ("train", "val")
Record = dict[str, float]  # a line's values by name, `step` among them; NaN: not a number


def find_runs(folder: Path) -> Iterator[Path]:
    """The runs in a folder: itself, or those up to `DEPTH` levels below, sorted by path."""
    visited = 0

    def walk(folder: Path, depth: int) -> Iterator[Path]:
        nonlocal visited
        visited += 1
        if is_run(folder):
            yield folder
            return
        if depth == DEPTH or visited > FOLDERS:
            return
        for inner in _folders_in(folder):
            yield from walk(inner, depth + 1)

    yield from walk(folder, 0)


def is_run(folder: Path) -> bool:
    """Whether a folder looks like a run; an exported model has weights but does not train."""
    if _is_file(folder / METRICS):
        return True
    # A run that has only just begun. Other programs have files of this name, too.
    config = None if _is_file(folder / WEIGHTS) else read_json(folder / CONFIG)
    return isinstance(config, dict) and {"train", "data"} <= config.keys()


def written(path: Path) -> float | None:
    """When a file was last written, as POSIX time; None if it cannot be seen."""
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return None


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is absent, damaged or too large."""
    file = _opened(path)
    if file is None:
        return None
    with file:
        try:
            text = file.read(LARGEST + 1)
            return parse_json(text) if len(text) <= LARGEST else None
        except (OSError, ValueError):
            return None


class MetricsReader:
    """Reads metrics.jsonl as it grows.

    Attributes:
      records: by kind, in order of their steps.
      reading: a number that changes whenever earlier records no longer hold.
      damaged: complete lines that are not records.
    """

    def __init__(self, path: Path):
        self._path = path
        self.reading = -1
        self._seen: tuple[int, ...] | None = None  # the file as it was when all of it was read
        self._start_again()

    def _start_again(self) -> None:
        self.records: dict[str, list[Record]] = {kind: [] for kind in KINDS}
        self.reading += 1
        self.damaged = 0
        self._offset, self._file, self._tail = 0, None, b""

    def read(self) -> None:
        """Takes in what was written since the last call.

        An unfinished last line waits for the next call. A resumed run replaces or truncates the
        file; then everything is read again.
        """
        if self._seen is not None and self._seen == _facts(self._path):
            return
        file = _opened(self._path)
        if file is None:  # perhaps for a moment only: what is known stays
            return
        with file:
            try:
                self._seen = _facts(self._path)  # before reading: later lines count as new
                self._read(file)
            except OSError:
                self._seen = None

    def _read(self, file: BinaryIO) -> None:
        facts = os.fstat(file.fileno())
        identity = (facts.st_dev, facts.st_ino)
        if self._file not in (None, identity) or not self._continues(file, facts.st_size):
            self._start_again()
        self._file = identity
        file.seek(self._offset)
        block = file.read(BLOCK)
        if len(block) == BLOCK:
            self._seen = None  # there is more
        complete = block.rfind(b"\n") + 1
        if not complete and len(block) == BLOCK:  # no line of ours: do not wait for its end
            complete = len(block)
        for line in block[:complete].splitlines():
            self._take(line)
        self._offset += complete
        self._tail = (self._tail + block[:complete])[-_TAIL:]

    def _continues(self, file: BinaryIO, size: int) -> bool:
        """Whether the file still begins with what was read, judged by the last bytes read."""
        if size < self._offset:
            return False
        file.seek(self._offset - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            content = parse_json(line)
        except ValueError:
            content = None
        content = content if isinstance(content, dict) else {}
        kind, step = content.get("kind"), content.get("step")
        if kind not in KINDS or not isinstance(step, int) or not 0 <= step < 2**53:
            # A kind that a later version may write is no damage.
            self.damaged += not isinstance(kind, str) or kind in KINDS
            return
        records = self.records[kind]
        if records and step <= records[-1]["step"]:  # written again by a resumed run
            self.records[kind] = [record for record in records if record["step"] < step]
            self.reading += 1
        numbers = {plain_text(n): _number(value) for n, value in content.items() if n != "kind"}
        self.records[kind].append(numbers)


def plain_text(name: str | bytes) -> str:
    """Text that can be sent: names on disk and escapes in JSON may hold invalid characters."""
    name = name.encode(errors="replace") if isinstance(name, str) else name
    return name.decode(errors="replace")


def _facts(path: Path) -> tuple[int, ...] | None:
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            inner = [
                Path(entry.path)
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            ]
    except OSError:
        return []
    return sorted(inner)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _opened(path: Path) -> BinaryIO | None:
    """A regular file, opened for reading; None if there is none, or it may not be read."""
    try:
        # Without waiting: a pipe would block. Without following a link.
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        return None
    return os.fdopen(number, "rb")
