"""The index of a built split: ids and captions of its examples, kept beside the records.

A record holds its image, too, so collecting ids and captions means reading the whole split. That
is done once, and kept in a file `index-SPLIT.jsonl`. Its first line says which record files the
index was made from, and has the hash of the other lines. An index that does not fit is made again.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from show_attend_tell import files
from show_attend_tell.data.examples import Example, Index
from show_attend_tell.data.records import (
    Builder,
    Records,
    damage_reported,
    first_line,
    lock_path,
)
from show_attend_tell.files import parse_json

MANY = 10_000  # examples from which on a pass over the records is announced

# Name, size in bytes and time of change of each file of records.
Shards = list[tuple[str, int, int]]

_log = logging.getLogger(__name__)


def read_index(builder: Builder[Example], split: str) -> Index:
    """Id and captions of each example of a stored split, in order.

    Makes the index where there is none.

    Raises:
      UserError: a file of the records is damaged or missing.
    """
    path = Path(builder.data_path) / f"index-{split}.jsonl"
    lines = keep_lines(builder, path, shards_of(builder, split), lambda: _collect(builder, split))
    entries = map(parse_json, lines.splitlines())
    return [(image_id, tuple(captions)) for image_id, *captions in entries]


def shards_of(builder: Builder[object], split: str) -> Shards:
    """The files that hold a split's records.

    Raises:
      UserError: one of them is missing.
    """
    with damage_reported(Path(builder.data_path)):
        stats = [(Path(p).name, Path(p).stat()) for p in builder.info.splits[split].filepaths]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def keep_lines(
    builder: Builder[object], path: Path, of: object, make: Callable[[], bytes]
) -> bytes:
    """The lines of an index file, without its first; writes the file where it does not fit.

    Args:
      builder: of the data set, which one process at a time writes to.
      path: of the file.
      of: says what the index is made from, in a form that JSON can hold.
      make: makes the lines.
    """
    lines = kept_lines(path, of)
    try:
        if lines is None:
            with files.locked(lock_path(Path(builder.data_dir_root), builder.name)):
                # Another process may have made it meanwhile.
                lines = kept_lines(path, of)
                if lines is None:
                    lines = make()
                    with files.replacing(path) as file:
                        file.write(_head(of, lines) + lines)
    except OSError as error:  # a read-only folder or a full disk: the data can be used all the same
        _log.warning("%s: cannot be kept (%s)", path, first_line(error))
        lines = make() if lines is None else lines
    return lines


def kept_lines(path: Path, of: object) -> bytes | None:
    """An index without its first line; None where it is absent, outdated or damaged."""
    try:
        head, end, lines = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return lines if head + end == _head(of, lines) else None


def _head(of: object, lines: bytes) -> bytes:
    head = {"of": of, "sha256": hashlib.sha256(lines).hexdigest()}
    return json.dumps(head).encode() + b"\n"


def _collect(builder: Builder[Example], split: str) -> bytes:
    """The lines of an index, one per record: id and captions as a JSON list."""
    records, read = Records(builder, split), builder.reader()
    if len(records) >= MANY:
        _log.info(
            "%s %s: reading the captions of %s images", builder.name, split, f"{len(records):,}"
        )
    examples = (read(records[i]) for i in range(len(records)))
    return b"".join(json.dumps([e.image_id, *e.captions]).encode() + b"\n" for e in examples)
