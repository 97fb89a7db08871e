"""Getting data ready before a run."""

import shutil
import time
from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any

from rich.console import Console
from rich.table import Table

from show_attend_tell.data.base_task import Task, data_folder
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.load import SPLITS
from show_attend_tell.data.row_cache import RowCache, check_room
from show_attend_tell.data.task import task_of
from show_attend_tell.runs import number_format
from show_attend_tell.runs.build import build_image_encoder
from show_attend_tell.runs.inputs import row_cache
from show_attend_tell.settings import Settings

PROBED = 48  # images timed to estimate the time of all

Record = dict[str, Any]  # of a split


def prepare(settings: Settings, console: Console) -> list[Record]:
    """Builds the data set of an experiment, then the caches of its inputs, for every split.

    What exists is reused, and an interrupted cache is continued. Size and time are announced once
    the data set is built, before the caches are computed.

    Returns:
      A record for each split: its number of examples and, if there is a cache, its bytes and the
      number of rows that it already had.

    Raises:
      UserError: the data cannot be built or read, or there is no room for them.
    """
    settings, task = number_format.pinned(settings), task_of(settings.data)
    splits = usable_splits(task, task.load("train", training=True))
    encoder = cache(partial(build_image_encoder, settings))  # built only if a cache needs it
    caches = {}
    for split, examples in splits.items():
        found = task.row_cache(
            examples, lambda rows, split=split: row_cache(settings, encoder(), rows, split)
        )
        if found is not None:
            caches[split] = found
    if not caches:
        records = [{"split": split, task.noun: len(found)} for split, found in splits.items()]
        console.print(table_of("built", records))
        return records
    records = [
        {"split": split, task.noun: cache.shape[0], "bytes": cache.size, "done": cache.finished()}
        for split, cache in caches.items()
    ]
    console.print(table_of("cached inputs", records))
    _announce(settings, task, caches, records, console)
    for split, found in caches.items():
        found.load()
        console.print(f"{split}: {found.folder}")
    return records


def usable_splits(task: Task, train: ExampleSource) -> dict[str, ExampleSource]:
    """The training split and the others that the data set has."""
    others = [split for split in SPLITS if split in train.splits and split != "train"]
    return {"train": train} | {split: task.load(split) for split in others}


def table_of(title: str, records: Iterable[Mapping[str, Any]]) -> Table:
    """A table for the console, with a row per record."""
    records = list(records)
    table = Table(title=title)
    for name in records[0]:
        table.add_column(name, justify="left" if name == "split" else "right")
    for record in records:
        values = (f"{v:,}" if isinstance(v, int) else str(v) for v in record.values())
        table.add_row(*values)
    return table


def _announce(
    settings: Settings,
    task: Task,
    caches: Mapping[str, RowCache],
    records: list[Record],
    console: Console,
) -> None:
    """Prints how much work is left, and checks that the disk has room for it."""
    missing = sum(record[task.noun] - record["done"] for record in records)
    need = sum(r["bytes"] // r[task.noun] * (r[task.noun] - r["done"]) for r in records)
    folder = data_folder(settings.data) / "features"
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    console.print(
        f"to do: {missing:,} {task.noun}, {need / 1e9:.2f} GB of {free / 1e9:.1f} GB free"
    )
    check_room(folder, need)
    if missing > 4 * PROBED:
        seconds = _seconds_a_row(max(caches.values(), key=lambda cache: cache.shape[0]))
        console.print(
            f"about {missing * seconds / 60:.1f} minutes: {1 / seconds:.0f} {task.noun}/s"
        )


def _seconds_a_row(rows: RowCache) -> float:
    blocks = rows.produce(0, min(2 * PROBED, rows.shape[0]))
    next(blocks)  # compiles, and fills the pipeline
    started = time.perf_counter()
    count = sum(len(block) for block in blocks)
    return (time.perf_counter() - started) / max(count, 1)
