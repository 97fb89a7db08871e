"""Time of a training step against images, steps, locations, words, devices and processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from timing import interleaved, print_table, spread
from training import FEATURES, GRID, VOCABULARY, make_step

from show_attend_tell import config, devices, files
from show_attend_tell.models.captioner import trained_weights
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.runs.build import build_captioner
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
# Processes, and host devices of each.
LAYOUTS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2))
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
        times = seconds_of(settings, rounds, 1, count)["step"]
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


def layouts(settings: Settings, rounds: int) -> tuple[dict[str, Any], str]:
    """Times the base's step in every layout, and the sum over devices that it cannot do without."""
    figures, rows = [], []
    for processes, count in LAYOUTS:
        times = seconds_of(settings, rounds, processes, count)
        figures.append({"processes": processes, "devices": count})
        figures[-1] |= {name: seconds.tolist() for name, seconds in times.items()}
        base = np.median(figures[0]["step"])
        cells = [spread(1e3 * times["step"], 0), f"{np.median(times['step']) / base:.2f}"]
        cells += [spread(1e3 * times["sum"], 0), spread(times["sum"] / times["step"])]
        rows.append([f"{processes}", f"{count}", *cells])
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(_weights(settings)))
    title = (
        "A soft training step at "
        + ", ".join(f"{SYMBOLS[name]} = {value:,}" for name, value in BASE.items())
        + " on host devices of this machine's "
        + f"{os.cpu_count()} cores, always with the same images in all; beside it the sum over all "
        f"devices of {size / 1e6:.0f} MB each, as large as the gradient; {rounds} rounds, median "
        "(least to most)"
    )
    columns = ["processes", "devices of each", "ms", "times one device"]
    columns += ["sum alone, ms", "sum, share of a step"]
    return {"setting": title, "rows": figures}, print_table(title, columns, rows)


def seconds_of(
    settings: Settings, rounds: int, processes: int, count: int
) -> dict[str, np.ndarray]:
    """Seconds of the base's step, and of the sum, in so many processes with so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        job = [f"localhost:{free.getsockname()[1]}", str(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(rounds), *job, str(process)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if process else None,
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            text=True,
        )
        for process in range(processes)
    ]
    given = json.dumps(config.to_dict(settings))
    for process in started:  # all need their input before any of them ends
        assert process.stdin is not None
        process.stdin.write(given)
        process.stdin.close()
        process.stdin = None
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{processes} processes with {count} devices: one of them failed")
    found = json.loads(outputs[0].splitlines()[-1])
    return {name: np.array(seconds) for name, seconds in found.items()}


def in_layout(settings: Settings, rounds: int) -> dict[str, list[float]]:
    """What a process of a layout does: its share of the base's step, and of the sum."""
    batch = {name: np.array(x) for name, x in make_batch(**BASE).items()}
    share = devices.local_slice(BASE["images"])
    step = make_step(settings, devices.shard_batch({name: x[share] for name, x in batch.items()}))
    seconds = interleaved({"step": step, "sum": make_sum(settings)}, rounds)
    return {name: times.tolist() for name, times in seconds.items()}


def make_sum(settings: Settings) -> Callable[[], None]:
    """A function that sums arrays like the weights over all devices, and waits for it."""
    own = jax.tree.map(
        lambda leaf: np.ones((jax.local_device_count(), *leaf.shape), leaf.dtype),
        _weights(settings),
    )
    own = devices.shard_batch(own)

    @partial(jax.jit, out_shardings=devices.everywhere())
    def sums(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.sum(axis=0), tree)

    return lambda: jax.block_until_ready(sums(own))


def _weights(settings: Settings) -> Any:
    return trained_weights(build_captioner(settings, Precomputed(FEATURES, GRID), VOCABULARY))


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
    _, repeats, address, number, index = sys.argv
    given = config.from_dict(json.load(sys.stdin))
    if int(number) > 1:
        devices.start(address, int(number), int(index))
    print(json.dumps(in_layout(given, int(repeats))))
