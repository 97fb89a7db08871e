"""The explorer as a person waits for it: start, answers, pictures, scrolling.

Every figure is of a server in a process of its own and of requests over the network interface. The
first server starts with empty caches, as after installation; a second one with those of the first.
Scrolling needs Playwright and Chromium.
"""

import importlib.util
import io
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image
from timing import print_table, spread

PORT, PICTURES = 8765, 1000
MODELS = ("flickr8k-soft", "flickr8k-hard")
ADDRESS = f"http://127.0.0.1:{PORT}"
AT_ONCE = 20
# Frames of a page that is scrolled for three seconds, in milliseconds.
SCROLL = """() => new Promise((done) => {
  const frames = [], began = performance.now();
  let last = began;
  const step = (now) => {
    frames.push(now - last); last = now; scrollBy(0, 40);
    now - began < 3000 ? requestAnimationFrame(step) : done(frames.slice(1));
  };
  requestAnimationFrame(step);
})"""


def run(rounds: int) -> tuple[dict[str, Any], str]:
    """Measures everything; returns figures and a table."""
    with tempfile.TemporaryDirectory() as caches:
        figures = {"cold": _start(Path(caches)), "warm": _start(Path(caches))}
        with _server(Path(caches)):
            _first_caption()
            figures |= _answers(rounds)
        figures["frame"] = _scrolling(Path(caches))
    shown = {
        "cold": "start to the first caption, empty caches, s",
        "warm": "start to the first caption, s",
        "gaze": "a step forced to read a place, s",
        "map": "p(word | look here) of all places, s",
        "picture": "a new picture, both models, s",
        "at_once": f"{AT_ONCE} questions at once, all answered, s",
        "frame": f"a frame while {PICTURES:,} pictures scroll, ms",
    }
    rows = [
        [text, "not measured" if figures[k] is None else spread(np.array(figures[k]), 3)]
        for k, text in shown.items()
    ]
    return figures, print_table("explorer", ["what", "median (least to most)"], rows)


@contextmanager
def _server(caches: Path, *more: str) -> Iterator[subprocess.Popen]:
    environment = os.environ | {"XDG_CACHE_HOME": str(caches)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-m", "show_attend_tell", "explore", "--port", str(PORT), *more]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                requests.get(f"{ADDRESS}/api/session", timeout=60)
                break
            except requests.ConnectionError:
                time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait()


def _ask(path: str, **question: Any) -> Any:
    answer = requests.post(f"{ADDRESS}/api/{path}", json=question, timeout=600)
    answer.raise_for_status()
    return answer.json()


def _first_caption() -> str:
    """Asks what the page asks first: both models about the first picture."""
    picture = requests.get(f"{ADDRESS}/api/session", timeout=60).json()["examples"][0]["id"]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: _ask("caption", run=run, picture=picture), MODELS))
    return picture


def _start(caches: Path) -> list[float]:
    began = time.perf_counter()
    with _server(caches):
        _first_caption()
        return [time.perf_counter() - began]


def _answers(rounds: int) -> dict[str, list[float]]:
    picture, rng = _first_caption(), np.random.default_rng(0)
    words = [s["word"] for s in _ask("caption", run=MODELS[1], picture=picture)["steps"]]
    before = [{"word": word} for word in words[:2]]
    places = itertools.cycle(rng.permutation(81).tolist())

    def force() -> None:
        steps = [*before, {"gaze": next(places)}]
        _ask("caption", run=MODELS[1], picture=picture, steps=steps)

    def look_around() -> None:
        _ask("gaze", run=MODELS[1], picture=picture, steps=before)

    def bring() -> None:
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "JPEG")
        sent = requests.post(f"{ADDRESS}/api/pictures", data=file.getvalue(), timeout=60).json()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda run: _ask("caption", run=run, picture=sent["id"]), MODELS))

    def many() -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda _: force(), range(AT_ONCE)))

    asked = {"gaze": force, "map": look_around, "picture": bring, "at_once": many}
    return {name: _timed(ask, rounds) for name, ask in asked.items()}


def _timed(ask: Callable[[], None], rounds: int) -> list[float]:
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]  # the first one may compile


def _scrolling(caches: Path) -> list[float] | None:
    """Times of frames; None without a browser."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None or importlib.util.find_spec("playwright") is None:
        return None
    from playwright.sync_api import sync_playwright

    # Any pictures do: generated ones need no download.
    shapes = ("--config.data.name=shapes", "--split", "train", "--num", str(PICTURES))
    with _server(caches, MODELS[0], *shapes), sync_playwright() as playwright:
        while requests.get(f"{ADDRESS}/api/table", timeout=60).json()["ready"] < PICTURES:
            time.sleep(1)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{ADDRESS}/#/browse")
        page.locator('[data-test="browse-card"]').first.wait_for()
        frames = page.evaluate(SCROLL)
        browser.close()
    return frames
