"""Interleaved timing for a noisy machine, and tables of the results.

Every round runs all contestants once, in a new random order, so whatever slows the machine slows
all of them alike. The reported ratios compare times of the same round.
"""

import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

FORMATS = ("float32", "bfloat16")
PRODUCT = 2048  # rows and columns of the square matrices whose product is timed
PRODUCT_NAME = "matrix product"
PAUSE = 0.5  # seconds, until the previous contestant's busily waiting threads fall asleep


def make_product(number_format: str = "float32") -> Callable[[], None]:
    """A function that multiplies two square matrices and waits for it."""
    matrix = jax.random.normal(jax.random.key(0), (PRODUCT, PRODUCT)).astype(number_format)
    product = jax.jit(partial(jnp.matmul, preferred_element_type=jnp.float32))
    return lambda: jax.block_until_ready(product(matrix, matrix))


def product_name(number_format: str) -> str:
    """The contestant's name."""
    return f"{PRODUCT_NAME}, {number_format}"


def format_of(contestant: str) -> str:
    """The number format that a contestant's name ends with; float32 where it names none."""
    last = contestant.rpartition(", ")[2]
    return last if last in FORMATS else "float32"


def seconds_of(function: Callable[[], None], rounds: int) -> np.ndarray:
    """Seconds of each call, without a first one that compiles."""
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return np.array(seconds[1:])


def product_speed(seconds: np.ndarray) -> np.ndarray:
    """FLOP/s of the product in each round."""
    return 2 * PRODUCT**3 / seconds


def interleaved(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each contestant in each round, without a first one that compiles."""
    rng = np.random.default_rng(0)
    seconds = {name: [] for name in contestants}
    for _ in track(range(rounds + 1), "rounds", console=Console(stderr=True)):
        for name in rng.permutation(list(contestants)):
            time.sleep(PAUSE)
            began = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(times[1:]) for name, times in seconds.items()}


def spread(values: np.ndarray, digits: int = 2) -> str:
    """Median, then minimum and maximum in brackets."""
    least, middle, most = np.min(values), np.median(values), np.max(values)
    return f"{middle:,.{digits}f} ({least:,.{digits}f} to {most:,.{digits}f})"


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """Prints a table, and returns it as Markdown."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right" if column != columns[0] else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join(["", f"{title}:", "", *("| " + " | ".join(x) + " |" for x in lines), ""])
