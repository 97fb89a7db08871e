"""Time of a training step against images, steps, locations, words and devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from timing import interleaved, print_table, spread
from training import FEATURES, VOCABULARY, make_step

from show_attend_tell import config, devices, files
from show_attend_tell.settings import Settings
from show_attend_tell.tokens import EOS

# B images of 3 rows, T steps, L locations, V words; each is varied while the others stay.
BASE = {"images": 32, "steps": 24, "locations": 49, "words": VOCABULARY}
VARIED = {
    "images": (8, 16, 32, 64),
    "steps": (6, 12, 24, 48),
    "locations": (49, 100, 196),
    "words": (VOCABULARY, 5_000, 10_000, 20_000),
}
DEVICES = (1, 2)
SYMBOLS = {"images": "B", "steps": "T", "locations": "L", "words": "V", "devices": "devices"}


def run(settings: Settings, rounds: int, out: Path) -> tuple[dict[str, Any], str]:
    """Times the steps and draws them into `out`; returns the figures, and the table as Markdown."""
    sizes = {(): BASE}  # by what differs from the base
    sizes |= {
        (name, value): BASE | {name: value}
        for name, values in VARIED.items()
        for value in values
        if value != BASE[name]
    }
    steps = {
        str(key): make_step(settings, make_batch(**size), size["words"])
        for key, size in sizes.items()
    }
    seconds = interleaved(steps, rounds)
    base = seconds[str(())]
    figures, rows = [], []
    for name, values in VARIED.items():
        for value in values:
            times = base if value == BASE[name] else seconds[str((name, value))]
            figures.append({"varied": name, "value": value, "seconds": times.tolist()})
            milliseconds = spread(1e3 * times, 0)
            rows.append([SYMBOLS[name], f"{value:,}", milliseconds, spread(times / base)])
    for count in DEVICES:
        times = in_process(settings, rounds, count)
        figures.append({"varied": "devices", "value": count, "seconds": times.tolist()})
        ratio = spread(times / np.median(base))
        rows.append(["devices", f"{count}", spread(1e3 * times, 0), ratio])
    draw(figures, out / "scaling.png")
    title = (
        "A soft training step at "
        + ", ".join(f"{SYMBOLS[name]} = {value:,}" for name, value in BASE.items())
        + f" with one of them varied; all positions hold words; {rounds} rounds, median (least to"
        " most); devices: the same batch on so many host devices of this machine's cores, each"
        " count in a process of its own"
    )
    figures = {"setting": title, "rows": figures}
    return figures, print_table(title, ["varied", "to", "ms", "times the base"], rows)


def make_batch(*, images: int, steps: int, locations: int, words: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, words, (images, 3, steps)).astype(np.int32)
    tokens[0, 0, 0] = words - 1
    tokens[:, :, -1] = EOS
    shape = (images, locations, FEATURES)
    annotations = np.maximum(rng.normal(size=shape), 0).astype(np.float16)
    return {"inputs": jnp.asarray(annotations), "tokens": jnp.asarray(tokens)}


def in_process(settings: Settings, rounds: int, count: int) -> np.ndarray:
    """Seconds of the base's step on `count` host devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    done = subprocess.run(
        [sys.executable, __file__, str(rounds)],
        input=json.dumps(config.to_dict(settings)),
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def draw(figures: list[dict[str, Any]], path: Path) -> None:
    names = list(dict.fromkeys(figure["varied"] for figure in figures))
    chart, axes = plt.subplots(1, len(names), figsize=(3 * len(names), 3), layout="constrained")
    for name, axis in zip(names, axes, strict=True):
        points = [f for f in figures if f["varied"] == name]
        values = [point["value"] for point in points]
        middle = 1e3 * np.array([np.median(point["seconds"]) for point in points])
        axis.plot(values, middle, "o-")
        axis.set(xlabel=SYMBOLS[name], ylabel="ms a step", ylim=(0, None), xlim=(0, None))
    with files.replacing(path) as file:
        chart.savefig(file, format="png", dpi=120)
    plt.close(chart)


if __name__ == "__main__":
    given = config.from_dict(json.load(sys.stdin))
    batch = devices.shard_batch({k: np.array(v) for k, v in make_batch(**BASE).items()})
    print(json.dumps(interleaved({"": make_step(given, batch)}, int(sys.argv[1]))[""].tolist()))
