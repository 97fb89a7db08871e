"""Runs verbs while the disk is full, then makes room and runs them again.

    python tests/chaos/full_disk.py --rounds 20 [--verbs train,prepare]

Half of the rounds run on a small file system in memory, which is full after some bytes, whoever
writes them. The others fail from a change of a file on, as Python sees it. The small file system
needs `unshare` and the right to mount inside of it, which Linux gives to most users; without it
only the others run.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import nursery
import world
from kills import in_child, of_verbs

ALONE = "CHAOS_OWN_MOUNTS"
PLENTY = 2**30  # bytes
PAGE = 4096
# How errors call a full disk: the system, the caches of inputs, TFDS, and a sweep about its runs.
FULL = ("No space left on device", "are free", "Not enough disk space", "failed (")


@dataclass
class Tally:
    """What full disks did: failures, and what was wrong with them."""

    full: int = 0
    room: int = 0  # rounds in which the room was enough after all
    unclear: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return [*self.unclear, *self.lost]

    def __str__(self) -> str:
        return (
            f"{self.full} failures for lack of room, {self.room} rounds that had enough; "
            f"{len(self.unclear)} without a clear line, {len(self.lost)} that did not resume"
        )


def in_own_mounts(words: list[str]) -> None:
    """Starts this program again where it may mount; returns if that has happened or cannot be."""
    if ALONE in os.environ or shutil.which("unshare") is None:
        return
    flags = "-m" if os.geteuid() == 0 else "-Urm"
    if subprocess.run(["unshare", flags, "true"], capture_output=True).returncode == 0:
        os.environ[ALONE] = "1"
        os.execvp("unshare", ["unshare", flags, sys.executable, *words])


def mounted(folder: Path, size: int, *, again: bool = False) -> bool:
    """Gives a folder a file system of its own, or that another size; whether it could."""
    options = f"{'remount,' if again else ''}size={size}"
    command = ["mount", "-t", "tmpfs", "-o", options, "chaos", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


class Disk:
    """One verb on a disk of its own."""

    def __init__(self, verb: world.Verb, base: Path, small: bool):
        self.verb, self.base, self.small = verb, base, small
        self.root, self.template = base / "disk" / "root", base / f"before-{verb.name}"
        self.prints, self.words = base / "prints", world.words_of(verb, base / "disk" / "root")
        shutil.rmtree(self.root, ignore_errors=True)
        world.make(self.root)
        for name in verb.after:
            self._must(world.words_of(world.verbs()[name], self.root))
        world.restore(self.root, self.template)
        self._must(self.words)
        world.restore(self.template, self.root)
        self.before = self._used()
        log = base / "changes"
        log.unlink(missing_ok=True)
        self._must(self.words, nursery.counted(self.root, log))
        self.changes = len(log.read_text().splitlines())
        self.need = max(self._used() - self.before, PAGE)
        self.expected = self._found()

    def _must(self, words, before=lambda: None) -> None:
        ended = nursery.run(words, self.prints, before)
        assert not ended.status, f"{words}: {ended.err[-2000:]}"

    def _used(self) -> int:
        stat = os.statvfs(self.root)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize

    def _found(self) -> dict[str, str]:
        found = world.contents(self.root, self.verb.writes)
        for run in self.verb.checkpoints:
            weights = in_child(world.weights_of, self.root / run, self.prints)
            found |= {f"weights of {run}/{name}": value for name, value in weights.items()}
        return found

    def round(self, share: float, by_bytes: bool, tally: Tally) -> None:
        """Fills the disk after a share of what the verb writes."""
        world.restore(self.template, self.root)
        if by_bytes:
            room = int(share * self.need) // PAGE * PAGE
            how = f"{self.verb.name} with room for {room:,} of {self.need:,} bytes"
            mounted(self.base / "disk", self._used() + room, again=True)
            ended = nursery.run(self.words, self.prints)
            mounted(self.base / "disk", PLENTY, again=True)
        else:
            number = 1 + int(share * self.changes)
            how = f"{self.verb.name} full from change {number} of {self.changes} on"
            ended = nursery.run(self.words, self.prints, nursery.full_at(number, self.root))
        if ended.status == 0:
            tally.room += 1
        else:
            tally.full += 1
            wrong = complaints(ended, self.root)
            if wrong:
                tally.unclear.append(f"{how}: {', '.join(wrong)}\n    {ended.err.strip()[-600:]}")
        again = nursery.run(self.words, self.prints)
        if again.status:
            tally.lost.append(f"{how}: then failed: {again.err.strip()[-300:]}")
            return
        found = self._found()
        names = sorted(n for n in {*found, *self.expected} if found.get(n) != self.expected.get(n))
        left = world.unfinished(self.root)
        if names or left:
            tally.lost.append(f"{how}: differing {names[:5]}, left {left[:5]}")


def complaints(ended: nursery.Ended, root: Path) -> list[str]:
    """What is wrong with how a verb said that the disk is full."""
    lines = ended.err.strip().splitlines() or [""]
    errors = [line for line in lines if line.startswith("error:")]
    wrong = []
    if ended.status != 2:
        wrong.append(f"status {ended.status}")
    if ended.traceback:
        wrong.append("a traceback")
    if len(errors) != 1 or errors[0] != lines[-1]:
        wrong.append(f"{len(errors)} lines of errors")
    if not any(text in lines[-1] for text in FULL):
        wrong.append("does not say that the disk is full")
    if str(root) not in lines[-1]:
        wrong.append("names no file")
    if not any(word in lines[-1] for word in ("room", "free some space", "continues")):
        wrong.append("no remedy")
    return wrong


def cached(rounds: int, base: Path, generator: random.Random, show) -> Tally:
    """Fills the disk of the caches of programs, which nothing depends on."""
    tally, verb = Tally(), world.verbs()["caption"]
    disk = Disk(verb, base, False)
    cache = base / "cache"
    for _ in range(rounds):
        world.restore(disk.template, disk.root)
        shutil.rmtree(cache, ignore_errors=True)
        number = generator.choice((1, 2, 3, 5, 8, 13, 21, 34))
        ended = nursery.run(disk.words, disk.prints, nursery.full_at(number, cache))
        tally.full += 1
        if ended.status or ended.traceback or disk._found() != disk.expected:
            tally.unclear.append(f"a full cache from change {number} on: {ended.err[-600:]}")
    return tally


def measure(rounds: int, seed: int, names: list[str], show=lambda line: None) -> Tally:
    """Fills the disk of each verb so many times, evenly over what it writes."""
    tally, generator = Tally(), random.Random(seed)
    base = Path(tempfile.mkdtemp(prefix="full-"))
    (base / "disk").mkdir()
    small = ALONE in os.environ and mounted(base / "disk", PLENTY)
    show("a small file system" if small else "no right to mount: only changes that Python sees")
    try:
        (base / "prints").mkdir()
        nursery.prepare(base / "cache")
        for name in names:
            disk = Disk(world.verbs()[name], base, small)
            for number in range(rounds):
                known = len(tally.faults)
                by_bytes = small and number % 2 == 0
                disk.round((number + generator.random()) / rounds, by_bytes, tally)
                for fault in tally.faults[known:]:
                    show(fault)
            show(f"{name} ({disk.changes} changes, {disk.need:,} bytes): {tally}")
        if "caption" in names:
            found = cached(max(1, rounds // 8), base, generator, show)
            show(f"caches of programs: {found}")
            tally.unclear += found.unclear
    finally:
        if small:
            subprocess.run(["umount", str(base / "disk")], capture_output=True)
        shutil.rmtree(base, ignore_errors=True)
    return tally


if __name__ == "__main__":
    in_own_mounts(sys.argv)
    sys.exit(of_verbs(__doc__, (name for name in world.verbs() if name != "sweep"), measure))
