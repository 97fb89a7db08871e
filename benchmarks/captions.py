"""Time and memory of a split's captions, from the index to the first batch, without any images.

Every process of a job holds the captions of the whole training split. The generated ones are as
many and as long as those of COCO (Karpathy's training split, with restval) and of Conceptual
Captions, with words drawn by Zipf's law. The feature cache has one number for each image, so that
only the cost of its files and ids shows.
"""

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scale import own_memory
from timing import print_table

from show_attend_tell import config
from show_attend_tell.data.batches import BatchPlan, train_batches
from show_attend_tell.data.index import keep_lines, read_index
from show_attend_tell.data.row_cache import RowCache
from show_attend_tell.data.vocabulary import build_vocabulary
from show_attend_tell.objectives.rewards import idf_table
from show_attend_tell.settings import Settings
from show_attend_tell.tokens import EOS

# Images, captions of each, and their words: mean and standard deviation.
SETS = {
    "COCO": (113_287, 5, 10.5, 2.4),
    "Conceptual Captions": (3_000_000, 1, 10.3, 4.5),
}
WORDS = 50_000  # that captions draw from
KEPT = 10_000  # of them in the vocabulary
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))
SHIFT = 2.7  # of Zipf's law: the most frequent word is then 6 % of all


def run(sets: dict[str, tuple[int, int, float, float]] = SETS) -> tuple[dict[str, Any], str]:
    """Takes every step for every set; returns the figures, and the table as Markdown."""
    figures, rows = {}, []
    for name, sizes in sets.items():
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = steps(Path(folder), *sizes)
        for step, figure in figures[name].items():
            held, most = figure["held"] / 1e9, figure["most"] / 1e9
            rows.append([name, step, f"{figure['seconds']:.1f}", f"{held:.2f}", f"{most:.2f}"])
    title = (
        "Captions of "
        + ", ".join(f"{name}: {n:,} images with {each}" for name, (n, each, *_) in sets.items())
        + "; seconds of a step on one core, memory of its own that the process then holds, and the "
        "most that it held meanwhile"
    )
    columns = ["set", "step", "s", "held, GB", "most, GB"]
    return {"setting": title, "rows": figures}, print_table(title, columns, rows)


def steps(folder: Path, images: int, each: int, mean: float, deviation: float) -> dict[str, Any]:
    """Seconds and memory of each step, in order."""
    given = config.load_experiment("coco:soft")
    builder = _Generated(folder)
    path = folder / "index-train.jsonl"
    keep_lines(builder, path, [], lambda: b"".join(lines(images, each, mean, deviation)))
    figures: dict[str, Any] = {}

    def step(name: str, do: Callable[[], Any]) -> Any:
        with _Watch() as watch:
            result = do()
        figures[name] = watch.figures
        return result

    index = step("index", lambda: read_index(builder, "train"))
    captions = [captions for _, captions in index]
    texts = [caption for of_one in captions for caption in of_one]
    vocabulary = step(
        "vocabulary",
        lambda: build_vocabulary(texts, kind="ptb", min_count=1, size=KEPT, subwords=0),
    )

    def encode() -> list[list[list[int]]]:
        return [[[*vocabulary.encode_text(c), EOS] for c in of_one] for of_one in captions]

    encoded = step("numbers of words", encode)
    plan = step("plan of batches", lambda: make_plan(given, encoded))
    step("n-grams, for rewards", lambda: idf_table(encoded))
    ids = [image_id for image_id, _ in index]
    step("new cache", lambda: cache(folder, ids).load(progress=False))
    inputs = step("cache", lambda: cache(folder, ids).load(progress=False))
    step("first batch", lambda: next(train_batches(inputs, plan)))
    return figures


def lines(images: int, each: int, mean: float, deviation: float) -> Iterator[bytes]:
    """The lines of an index: id and captions."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(LETTERS, rng.integers(2, 9))) for _ in range(WORDS)])
    share = 1 / (np.arange(WORDS) + SHIFT)
    bounds = np.cumsum(share / share.sum())
    for first in range(0, images, 10_000):
        count = min(10_000, images - first)
        lengths = rng.normal(mean, deviation, (count, each)).round().clip(3, 40).astype(int)
        drawn = words[np.searchsorted(bounds[:-1], rng.random(lengths.sum()))]
        said = iter(np.split(drawn, np.cumsum(lengths.ravel())[:-1]))
        for i in range(first, first + count):
            captions = [" ".join(next(said)) for _ in range(each)]
            yield json.dumps([f"image-{i:07}.jpg", *captions]).encode() + b"\n"


def cache(folder: Path, ids: list[str]) -> RowCache:
    return RowCache.keyed(
        folder,
        "numbers",
        {"data": "generated"},
        ids=ids,
        row_shape=(1,),
        dtype=np.float16,
        produce=lambda start, stop: iter([np.zeros((stop - start, 1), np.float16)]),
    )


def make_plan(given: Settings, encoded: list[list[list[int]]]) -> BatchPlan:
    return BatchPlan(
        encoded,
        batch_size=given.train.batch_size,
        rows=given.train.rows,
        buckets=given.train.buckets,
        max_length=given.data.max_length,
        seed=given.seed,
    )


class _Generated:
    """What reading an index needs of a builder, whose records have no files here."""

    name, LANGUAGE = "generated", "en"
    info = SimpleNamespace(splits={"train": SimpleNamespace(filepaths=[])})

    def __init__(self, folder: Path):
        self.data_path = self.data_dir_root = self.source = folder

    def reader(self) -> Any: ...
    def as_data_source(self, split: str, *, decoders: Any) -> Any: ...
    def download_and_prepare(self) -> None: ...
    def stated_splits(self) -> None: ...
    def captions_in(self, language: str, index: Any) -> None: ...
    def languages(self) -> tuple[str, ...]:
        return ("en",)


class _Watch:
    """Notes the time and the memory of what runs inside."""

    figures: dict[str, float]

    def __enter__(self) -> "_Watch":
        self._most, self._began, self._over = 0, time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        seconds = time.monotonic() - self._began
        self._over.set()
        self._thread.join()
        held = own_memory(os.getpid())
        self.figures = {"seconds": seconds, "held": held, "most": max(held, self._most)}

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self._most = max(self._most, own_memory(os.getpid()))
