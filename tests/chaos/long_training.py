"""Trains for long and checks that memory, open files and threads stay what they are.

    python tests/chaos/long_training.py --hours 3

The first tenth may grow: programs are compiled, caches fill. After it, the last third may need
hardly more than the first.

TensorStore 0.1.86 keeps some objects for good whenever it words a specification as JSON, and Orbax
asks it to for every array of a checkpoint: some 26 KB each time. A real run does not feel it, but
this one saves thousands. So what the installed TensorStore keeps is measured, and taken off.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import nursery
import world

SAMPLES = 200
MEMORY_GROWTH, LEAST_GROWTH = 0.05, 32 * 2**20  # of the memory, or in bytes, whichever is more
WRITTEN = "10000.orbax-checkpoint-tmp/arrays.orbax-checkpoint-tmp"  # where Orbax writes arrays
LOSSES = """
import gc, sys, tensorstore

def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0]) * 1024

spec = tensorstore.KvStore.Spec({"driver": "file", "path": sys.argv[1]})
spec.to_json()
gc.collect()
before = memory()
for _ in range(100_000):
    spec.to_json()
gc.collect()
print((memory() - before) / 100_000)
"""
SLACK = 2  # descriptors and threads that may come and go


@dataclass(frozen=True)
class Sample:
    """What a process takes at a moment: memory in bytes, descriptors, threads, and its steps."""

    seconds: float
    memory: int
    descriptors: int
    threads: int


def sampled(pid: int, began: float) -> Sample:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return Sample(
        time.monotonic() - began,
        int(status["RssAnon"].split()[0]) * 1024,
        len(os.listdir(f"/proc/{pid}/fd")),
        int(status["Threads"]),
    )


def growth(samples: list[Sample]) -> list[str]:
    """What grew after the first tenth of some samples; empty if nothing did.

    The largest value of the last third is compared with that of the first third, so that what
    comes and goes within a third does not count.
    """
    flat = samples[len(samples) // 10 :]
    third = max(1, len(flat) // 3)
    wrong = []
    for name, slack in (("memory", None), ("descriptors", SLACK), ("threads", SLACK)):
        first, last = (
            max(getattr(s, name) for s in part) for part in (flat[:third], flat[-third:])
        )
        allowed = max(MEMORY_GROWTH * first, LEAST_GROWTH) if slack is None else slack
        if last > first + allowed:
            wrong.append(f"{name} grew from {first:,} to {last:,}")
    return wrong


def kept_by_tensorstore(folder: Path) -> float:
    """Bytes of memory that TensorStore never gives back of a specification's JSON.

    Counted in a process of its own, as memory of the system: whole pages that the lost objects pin.
    """
    done = subprocess.run(
        [sys.executable, "-c", LOSSES, f"{folder}/"], capture_output=True, text=True, check=True
    )
    kept = float(done.stdout)
    return kept if kept > 1 else 0.0


def without(samples: list[Sample], kept: float) -> list[Sample]:
    """Samples less bytes that were lost evenly from the first one to the last."""
    began, ended = samples[0].seconds, samples[-1].seconds
    return [
        replace(s, memory=s.memory - int(kept * (s.seconds - began) / (ended - began)))
        for s in samples
    ]


def arrays_in(run: Path) -> int:
    """How many arrays a checkpoint of a run has."""
    newest = max((run / "checkpoints").glob("*/arrays/_METADATA"), key=os.path.getmtime)
    entries = json.loads(newest.read_text())["tree_metadata"].values()
    return sum(not entry["value_metadata"]["skip_deserialize"] for entry in entries)


def measure(seconds: float, show=lambda line: None) -> tuple[list[Sample], list[str]]:
    """Trains so long; returns what was sampled and what is wrong."""
    base = Path(tempfile.mkdtemp(prefix="long-"))
    try:
        (base / "prints").mkdir()
        nursery.prepare(base / "cache")
        root = base / "root"
        world.make(root)
        changes = ("--config.train.epochs=1e6", "--config.train.patience=0", "--quiet")
        changes += ("--config.train.checkpoint_every=50", "--config.train.log_every=10")
        words = ["train", "--config", f"{root}/tiny.py", "--workdir", f"{root}/run", *changes]
        child, began, samples = nursery.start(words, base / "prints"), time.monotonic(), []
        while time.monotonic() - began < seconds:
            ended = child.ended(seconds / SAMPLES)
            if ended is not None:
                return samples, [f"ended with {ended.status}: {ended.err[-500:]}"]
            samples.append(sampled(child.pid, began))
            if len(samples) % 10 == 0:
                s = samples[-1]
                show(
                    f"{s.seconds:.0f} s: {s.memory / 2**20:.0f} MB, {s.descriptors} descriptors, "
                    f"{s.threads} threads"
                )
        os.kill(child.pid, signal.SIGINT)
        ended = child.end()
        records = [json.loads(line) for line in (root / "run" / "metrics.jsonl").open()]
        saved = sum(record["kind"] == "val" for record in records) * arrays_in(root / "run")
        each = kept_by_tensorstore(root / "run" / "checkpoints" / WRITTEN)
        show(
            f"TensorStore kept {saved * each / 2**20:.0f} MB: {each:.0f} bytes of {saved:,} arrays"
        )
        wrong = growth(without(samples, saved * each))
        if ended.status != 130:
            wrong.append(f"an interruption ended it with {ended.status}: {ended.err[-300:]}")
        show(f"{records[-1]['step']:,} steps, {len(records):,} records")
        return samples, wrong
    finally:
        shutil.rmtree(base, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=3.0, help="(default: 3)")
    arguments = parser.parse_args()
    samples, wrong = measure(3600 * arguments.hours, lambda line: print(line, flush=True))
    print(f"{len(samples)} samples in {arguments.hours:g} hours: {'; '.join(wrong) or 'flat'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
