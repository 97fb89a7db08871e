"""Memory and speed with many images: builds a folder, caches its features, trains a model.

The verbs run as a user would start them. The memory reported is the process's own (`RssAnon`): the
system can reclaim the pages of the feature cache at any time, so they do not count.
"""

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from timing import print_table

from show_attend_tell.data.builders.shapes import render_scene
from show_attend_tell.errors import UserError

IMAGES = 20_000
PICTURE = (320, 240)  # pixels across and down
STEPS = 600  # of training
PARTS = 4  # of the time of a verb
OVERRIDES = {
    "encoder.image_size": 224,
    "data.mirrored": False,
    "data.crops": 0,
    "data.min_count": 5,
    "attention.units": 512,
    "decoder.projection": 512,
    "decoder.embedding": 256,
    "decoder.hidden": 512,
    "train.batch_size": 64,
    "train.log_every": 20,
    "train.checkpoint_every": 100_000,
}


def run(root: Path, images: int = IMAGES, steps: int = STEPS) -> tuple[dict[str, Any], str]:
    """Runs `prepare` and `train`; returns the figures, and the table as Markdown."""
    if not own_memory(os.getpid()):
        raise UserError("scale reads /proc, which this system does not have: run it on Linux")
    with tempfile.TemporaryDirectory(dir=root) as temporary:
        folder = Path(temporary)
        write_folder(folder / "pictures", images)
        config = ["--config", "folder"]
        places = {"data.dir": folder / "data", "data.manual_dir": folder / "pictures"}
        config += [f"--config.{key}={value}" for key, value in (OVERRIDES | places).items()]
        epochs = steps * OVERRIDES["train.batch_size"] / (0.8 * images)
        train = [*config, f"--config.train.epochs={epochs}", "--workdir", str(folder / "run")]
        figures = {
            "prepare": measured(["prepare", *config]),
            "train": measured(["train", *train]),
        }
        curve = (folder / "run" / "metrics.jsonl").read_text().splitlines()
        records = [r for r in map(json.loads, curve) if r["kind"] == "train"]
        waits = [record["data_wait_share"] for record in records]
        size = sum(path.stat().st_size for path in (folder / "data" / "features").rglob("*.npy"))
    rows = []
    for verb, figure in figures.items():
        parts = [f"{gigabytes:.2f}" for gigabytes in figure["own_memory_gb"]]
        rows.append([verb, f"{figure['seconds']:.0f}", *parts])
    title = (
        f"{images:,} generated pictures of {PICTURE[0]}×{PICTURE[1]} pixels, cache of "
        f"{size / 1e9:.1f} GB: seconds, and the most memory of its own, GB, that the process had "
        f"in each quarter of them; {100 * float(np.median(waits)):.2f} % of the time of {steps} "
        "steps was waiting for data"
    )
    columns = ["", "s", *(f"quarter {part + 1}" for part in range(PARTS))]
    figures["data_wait_share"] = waits
    return {"setting": title, "rows": figures}, print_table(title, columns, rows)


def write_folder(folder: Path, images: int) -> None:
    """Pictures with a caption each, as a user's folder has them."""
    folder.mkdir(parents=True)
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption"])
        for i in track(range(images), "pictures", console=Console(stderr=True)):
            image, caption, _ = render_scene(np.random.default_rng(i))
            picture = Image.fromarray(image).resize(PICTURE)
            picture.save(folder / f"{i:06}.jpg", quality=90)
            table.writerow([f"{i:06}.jpg", caption])


def measured(words: list[str]) -> dict[str, Any]:
    """Runs a verb; its seconds, and the largest `RssAnon` of each part of them, in GB."""
    command = [sys.executable, "-m", "show_attend_tell", *words]
    samples, began = [], time.monotonic()
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            samples.append(own_memory(process.pid))
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {process.returncode}")
    seconds = time.monotonic() - began
    parts = np.array_split(samples, PARTS)
    return {"seconds": seconds, "own_memory_gb": [float(part.max()) / 1e9 for part in parts]}


def own_memory(pid: int) -> int:
    """Bytes of a process that no file stands behind; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
