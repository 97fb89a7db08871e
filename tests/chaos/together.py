"""Runs two verbs at once on one folder or one cache: each succeeds, or refuses in one line.

python tests/chaos/together.py --rounds 10
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import nursery
import world
from kills import in_child

REFUSAL = "another process is training in this folder"
# Verbs that start within a moment of each other.
PAIRS = (
    *(("prepare", "prepare"), ("train", "train"), ("prepare", "train"), ("sweep", "sweep")),
    *(
        ("evaluate", "evaluate"),
        ("attend", "attend"),
        ("evaluate", "attend"),
        ("train", "evaluate"),
    ),
    *(("export", "export"), ("compare", "compare"), ("publish", "publish"), ("explore", "explore")),
    *(("inspect", "prepare"), ("caption", "caption")),
)


@dataclass
class Tally:
    """What pairs did."""

    pairs: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.pairs} pairs, {self.refused} clear refusals, {len(self.faults)} faults"


class Pair:
    """Two verbs, the world before them and what is to come of them."""

    def __init__(self, names: tuple[str, str], base: Path):
        self.names, self.base, self.root = names, base, base / "root"
        self.verbs = [world.verbs()[name] for name in names]
        self.words = [world.words_of(verb, self.root) for verb in self.verbs]
        self.template = base / f"before-{'-'.join(names)}"
        shutil.rmtree(self.root, ignore_errors=True)
        world.make(self.root)
        for name in dict.fromkeys(name for verb in self.verbs for name in verb.after):
            self._must(world.words_of(world.verbs()[name], self.root))
        shutil.copytree(self.root, self.template)
        for words in dict.fromkeys(map(tuple, self.words)):
            self._must(list(words))
        self.expected = self._found()

    def _must(self, words: list[str]) -> None:
        ended = nursery.run(words, self.base / "prints")
        assert not ended.status, f"{words}: {ended.err[-2000:]}"

    def _found(self) -> dict[str, str]:
        writes = tuple(dict.fromkeys(name for verb in self.verbs for name in verb.writes))
        found = world.contents(self.root, writes)
        for run in dict.fromkeys(run for verb in self.verbs for run in verb.checkpoints):
            weights = in_child(world.weights_of, self.root / run, self.base / "prints")
            found |= {f"weights of {run}/{name}": value for name, value in weights.items()}
        return found

    def round(self, lag: float, tally: Tally) -> None:
        """Starts both, the second after some seconds, and compares what is there at the end."""
        world.restore(self.template, self.root)
        how = f"{' and '.join(self.names)}, {lag:.2f} s apart"
        first = nursery.start(self.words[0], self.base / "prints")
        time.sleep(lag)
        second = nursery.start(self.words[1], self.base / "prints")
        ended = [first.end(), second.end()]
        tally.pairs += 1
        failed = [one for one in ended if one.status]
        for one in failed:
            last = (one.err.strip().splitlines() or [""])[-1]
            clear = one.status == 2 and last.startswith("error: ") and not one.traceback
            if clear and (REFUSAL in last or "the same command continues" in last):
                tally.refused += 1
            elif not (clear and "train" in self.names and "evaluate" in self.names):
                tally.faults.append(f"{how}: status {one.status}: {one.err.strip()[-400:]}")
        for words in dict.fromkeys(map(tuple, self.words if failed else ())):
            again = nursery.run(list(words), self.base / "prints")
            if again.status:
                tally.faults.append(f"{how}: fails afterwards: {again.err.strip()[-300:]}")
                return
        found, left = self._found(), world.unfinished(self.root)
        names = sorted(n for n in {*found, *self.expected} if found.get(n) != self.expected.get(n))
        names.sort(key=lambda name: not name.startswith("weights"))
        if names or left:
            tally.faults.append(f"{how}: differing {names[:8]}, left {left[:5]}")


def measure(rounds: int, seed: int, pairs: list[tuple[str, str]], show=lambda line: None) -> Tally:
    """Starts each pair so many times."""
    tally, generator = Tally(), random.Random(seed)
    base = Path(tempfile.mkdtemp(prefix="together-"))
    try:
        (base / "prints").mkdir()
        nursery.prepare(base / "cache")
        for names in pairs:
            pair = Pair(names, base)
            for _ in range(rounds):
                known = len(tally.faults)
                pair.round(generator.choice((0.0, generator.uniform(0.0, 2.0))), tally)
                for fault in tally.faults[known:]:
                    show(fault)
            show(f"{' and '.join(names)}: {tally}")
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each pair (default: 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="pairs with this verb")
    arguments = parser.parse_args()
    pairs = [pair for pair in PAIRS if not arguments.only or arguments.only in pair]
    tally = measure(arguments.rounds, arguments.seed, pairs, lambda line: print(line, flush=True))
    print(tally)
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
