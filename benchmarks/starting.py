"""How long a person waits for the first caption, for help, and for a run to resume.

Every figure is the time of a command, from its start to its end, in a process of its own. Cold
means empty caches, as after installation: XLA compiles everything. The run that is resumed has
finished, so that only its start is timed.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timing import print_table, spread

PHOTOGRAPH = (1600, 1200)  # pixels
TRAIN = (
    *("train", "--config", "shapes:soft", "--config.data.limit=64"),
    *(
        "--config.train.epochs=1",
        "--config.train.batch_size=16",
        "--config.optimizer.warmup_steps=1",
    ),
)
SHOWN = {
    "cold": "caption of a photograph, empty caches, s",
    "warm": "caption of a photograph, s",
    "cpu_cold": "processor time of the first, s",
    "cpu_warm": "processor time of the second, s",
    "help": "--help, s",
    "resume": "resume of a finished run, s",
}


def run(rounds: int) -> tuple[dict[str, Any], str]:
    """Measures everything; returns figures and a table."""
    figures: dict[str, list[float]] = {name: [] for name in SHOWN}
    with tempfile.TemporaryDirectory() as folder:
        photograph, run_folder = Path(folder) / "photo.jpg", Path(folder) / "run"
        _photograph(photograph)
        resume = (*TRAIN, "--workdir", str(run_folder))
        for k in range(rounds):
            caches = Path(folder) / f"caches{k}"
            for name in ("cold", "warm"):
                wall, cpu = _command(caches, "caption", str(photograph), "--out", folder)
                figures[name].append(wall)
                figures[f"cpu_{name}"].append(cpu)
            figures["help"].append(_command(caches, "--help")[0])
            if not k:
                _command(Path(folder) / "caches0", *resume)
            figures["resume"].append(_command(Path(folder) / "caches0", *resume)[0])
    rows = [[text, spread(np.array(figures[name]), 3)] for name, text in SHOWN.items()]
    return figures, print_table("start", ["what", "median (least to most)"], rows)


def _photograph(path: Path) -> None:
    """A picture of the size that a telephone takes, with as much detail."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    coarse.resize(PHOTOGRAPH, Image.Resampling.BICUBIC).save(path, quality=90)


def _command(caches: Path, *words: str) -> tuple[float, float]:
    """Wall and processor time of a verb, in seconds; its files go to `caches`."""
    home = {"HOME": str(caches), "XDG_CACHE_HOME": str(caches), "MPLCONFIGDIR": str(caches)}
    kept = {k: v for k, v in os.environ.items() if k not in _OWN}
    caches.mkdir(exist_ok=True)
    before, began = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "show_attend_tell", *words]
    subprocess.run(command, env=kept | home, check=True, capture_output=True, cwd=caches)
    seconds, after = time.perf_counter() - began, os.times()
    used = after.children_user + after.children_system
    return seconds, used - before.children_user - before.children_system


# What a benchmark's own process has set, and a person has not.
_OWN = ("JAX_COMPILATION_CACHE_DIR", "GLIBC_TUNABLES", "SHOW_ATTEND_TELL_STARTED_AGAIN")
