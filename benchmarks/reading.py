"""Only the input pipeline: time of a batch from a feature cache that memory holds."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from timing import print_table, spread
from training import FEATURES, GRID, make_plan

from show_attend_tell.data.batches import train_batches
from show_attend_tell.settings import Settings


def run(settings: Settings, rounds: int) -> tuple[dict[str, Any], str]:
    """Times batches; returns the figures, and the table as Markdown."""
    plan = make_plan(settings)
    shape = (len(plan), GRID[0] * GRID[1], FEATURES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        cache = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        cache[:] = 1
        cache.flush()
        batches = train_batches(np.load(path, mmap_mode="r"), plan)
        next(batches)
        milliseconds = []
        for _ in range(max(rounds, 3)):
            began = time.perf_counter()
            for _ in range(20):
                next(batches)
            milliseconds.append(1e3 * (time.perf_counter() - began) / 20)
    title = f"Batches of {settings.train.batch_size} images, read from a feature cache"
    figures = {"setting": title, "rows": {"batch": {"milliseconds": milliseconds}}}
    rows = [["reading, packing", spread(np.array(milliseconds), 1)]]
    return figures, print_table(title, ["", "ms a batch"], rows)
