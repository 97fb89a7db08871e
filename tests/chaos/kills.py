"""Kills verbs at random moments, runs them again and compares with undisturbed runs.

    python tests/chaos/kills.py --rounds 100 [--seed 0] [--verbs train,prepare]

Half of the kills come at a moment in time, half before a change of a file. A sweep's own process
dies; what it has started finds out by itself.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nursery
import world

WARNINGS = ("persistent compilation cache", "Traceback", "does not match")


@dataclass
class Tally:
    """What the kills did.

    Attributes:
      kills: that hit a running verb, by verb.
      lost: verbs that failed when they ran again, with their last line.
      differing: files and weights that are not those of an undisturbed run.
      left: temporary files that the second call left.
      noisy: second calls that warned of damage.
    """

    kills: Counter = field(default_factory=Counter)
    early: int = 0
    lost: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    noisy: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return [*self.lost, *self.differing, *self.left, *self.noisy]

    def __str__(self) -> str:
        by_verb = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        return (
            f"{sum(self.kills.values())} kills ({by_verb}), {self.early} came too late to hit; "
            f"{len(self.lost)} lost, {len(self.differing)} differing, {len(self.left)} left "
            f"temporary files, {len(self.noisy)} with warnings"
        )


class Killer:
    """One verb: its world before and after, and how long it takes."""

    def __init__(self, verb: world.Verb, base: Path):
        self.verb, self.base = verb, base
        self.root, self.template = base / "root", base / f"before-{verb.name}"
        self.prints = base / "prints"
        self.words = world.words_of(verb, self.root)
        shutil.rmtree(self.root, ignore_errors=True)
        world.make(self.root)
        for name in verb.after:
            self._must(world.words_of(world.verbs()[name], self.root))
        shutil.copytree(self.root, self.template)
        self._must(self.words)
        world.restore(self.template, self.root)  # now programs are compiled
        log = base / "changes"
        log.unlink(missing_ok=True)
        before = nursery.counted(self.root, log) if verb.name != "sweep" else (lambda: None)
        self.seconds = self._must(self.words, before).seconds
        self.changes = len(log.read_text().splitlines()) if log.exists() else 0
        self.expected = self._found()

    def _must(self, words, before=lambda: None) -> nursery.Ended:
        ended = nursery.run(words, self.prints, before)
        assert not ended.status, f"{words}: {ended.err[-2000:]}"
        return ended

    def _found(self) -> dict[str, str]:
        found = world.contents(self.root, self.verb.writes)
        for run in self.verb.checkpoints:
            weights = in_child(world.weights_of, self.root / run, self.prints)
            found |= {f"weights of {run}/{name}": value for name, value in weights.items()}
        return found

    def round(self, generator: random.Random, tally: Tally) -> None:
        """Kills the verb once, and looks at what comes of it."""
        world.restore(self.template, self.root)
        if self.changes and generator.random() < 0.5:
            number = generator.randint(1, self.changes)
            how = f"{self.verb.name} killed at change {number}"
            ended = nursery.run(self.words, self.prints, nursery.kill_at(number, self.root))
        else:
            moment = generator.uniform(0.0, self.seconds)
            how = f"{self.verb.name} killed after {moment:.2f} s"
            child = nursery.start(self.words, self.prints)
            ended = child.ended(moment)
            if ended is None:
                child.kill()
                ended = child.end()
        if ended.status != -9:
            tally.early += 1
            return
        tally.kills[self.verb.name] += 1
        again = nursery.run(self.words, self.prints)
        if again.status:
            tally.lost.append(f"{how}: {(again.err.strip() or 'no message').splitlines()[-1]}")
            return
        tally.noisy += [
            f"{how}: {line}"
            for line in again.err.splitlines()
            if any(word in line for word in WARNINGS)
        ]
        found = self._found()
        names = sorted(n for n in {*found, *self.expected} if found.get(n) != self.expected.get(n))
        if names:
            tally.differing.append(f"{how}: {', '.join(names[:6])}")
        left = world.unfinished(self.root)
        if left:
            tally.left.append(f"{how}: {', '.join(left[:6])}")


def in_child(function, argument: Path, prints: Path) -> dict[str, str]:
    """Calls a function that computes, in a process of its own; what it returns must be JSON."""
    import json

    def act() -> None:
        print(json.dumps(function(argument)), flush=True)
        raise SystemExit(0)

    ended = nursery.run((), prints, act)
    assert not ended.status, ended.err
    return json.loads(ended.out.splitlines()[-1])


def measure(rounds: int, seed: int, names: list[str], show=lambda line: None) -> Tally:
    """Kills each verb so many times; a sweep, which takes longest, a quarter as often."""
    tally, generator = Tally(), random.Random(seed)
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        (base / "prints").mkdir()
        nursery.prepare(base / "cache")
        for name in names:
            killer = Killer(world.verbs()[name], base)
            count = max(1, rounds // 4) if name == "sweep" else rounds
            for _ in range(count):
                known = len(tally.faults)
                killer.round(generator, tally)
                for fault in tally.faults[known:]:
                    show(fault)
            show(f"{name} ({killer.seconds:.1f} s, {killer.changes} changes): {tally}")
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return tally


def of_verbs(doc: str, names: Iterable[str], measure: Callable[..., Any]) -> int:
    """The command line of rounds with verbs; returns the exit status.

    Args:
      doc: the script's, whose first line describes it.
      names: verbs that rounds are done with, if nothing else is asked for.
      measure: called with the rounds of each verb, a seed, the verbs and a function that is called
        with lines to show; returns a tally with `faults`.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="for each verb (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", default=",".join(names), help="comma-separated")
    given = parser.parse_args()
    show = partial(print, flush=True)
    tally = measure(given.rounds, given.seed, given.verbs.split(","), show)
    print(tally)
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(of_verbs(__doc__, world.verbs(), measure))
