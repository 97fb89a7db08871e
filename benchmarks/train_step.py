"""Training steps of soft and hard attention, timed side by side with the machine's product speed.

    python benchmarks/train_step.py [--rounds 10] [--config.train.batch_size=32 ...]

Each round takes one step of every variant and one matrix product, in an order drawn anew, so that a
noisy machine slows all alike; what is printed are medians over rounds, of ratios of the same round
where something is "times soft". Annotation vectors are random, words too; caption lengths are
drawn to have the mean and spread of Flickr8k's. Utilisation is the model's FLOPs for real tokens,
per second, over the product's.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track
from rich.table import Table

from show_attend_tell import config as configs
from show_attend_tell.captioner import build_captioner, build_encoder
from show_attend_tell.encoders import Encoder
from show_attend_tell.input_pipeline import BatchPlan
from show_attend_tell.optimizer import make_optimizer
from show_attend_tell.train import initial_state, make_train_step
from show_attend_tell.vocabulary import Vocabulary

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "flickr8k.py"
# What is timed: changes to the experiment's soft variant.
HARD = {"attention.kind": "hard", "hard.credit": "to_go"}
VARIANTS = {
    "soft": {},
    **{
        f"hard, {baseline}": HARD | {"hard.baseline": baseline}
        for baseline in ("none", "moving_average", "learned", "self_critical", "expected")
    },
    "hard, leave_one_out, N = 2": HARD | {"hard.baseline": "leave_one_out", "hard.samples": 2},
}
VOCABULARY = 2539  # words of Flickr8k's captions that come five times or more
WORDS = 11.8  # of a caption, <eos> included: mean, and standard deviation below
SPREAD = 3.8
PRODUCT = 2048  # rows and columns of the square matrices whose product is timed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=10, help="timed, after one that is not")
    parser.add_argument(
        "--only", nargs="*", choices=VARIANTS, default=list(VARIANTS), help="variants to time"
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    arguments, overrides = parser.parse_known_args()
    config = configs.from_file(f"{EXPERIMENT}:soft", overrides)
    encoder = build_encoder(config)
    batch = make_batch(config, encoder)
    tokens = int((batch["tokens"] != Vocabulary.pad).sum())
    flops = training_flops(config, encoder, batch["tokens"])
    steps = {"matrix product": make_product()}
    for name in arguments.only:
        changed = ConfigDict(config.to_dict())
        changed.update_from_flattened_dict(VARIANTS[name])
        steps[name] = make_step(changed, encoder, batch)
    seconds = interleaved(steps, arguments.rounds)
    product = 2 * PRODUCT**3 / np.median(seconds.pop("matrix product"))
    rows = {
        name: {
            "milliseconds": 1e3 * float(np.median(times)),
            "tokens_per_second": tokens / float(np.median(times)),
            "utilisation": flops / float(np.median(times)) / product,
            "times_soft": float(np.median(times / seconds["soft"])) if "soft" in seconds else None,
        }
        for name, times in seconds.items()
    }
    images, packed, length = batch["tokens"].shape
    locations, features = batch["inputs"].shape[1:]
    setting = (
        f"{images} images x {packed} rows x {length} steps, {tokens} real tokens "
        f"({tokens / batch['tokens'].size:.0%} of positions), "
        f"annotations {locations} x {features}, "
        f"{flops / tokens / 1e6:.1f} MFLOP a token, product {product / 1e9:.0f} GFLOP/s, "
        f"median of {arguments.rounds} rounds"
    )
    print_table(setting, rows)
    if arguments.json:
        record = {"setting": setting, "rows": rows, "processor": platform.processor()}
        arguments.json.write_text(json.dumps(record | configs.provenance(config), indent=2) + "\n")
    return 0


def make_batch(config: ConfigDict, encoder: Encoder) -> dict[str, jax.Array]:
    """A batch of the middle row length of a plan over 50 batches of random captions."""
    rng = np.random.default_rng(config.seed)
    captions = []
    for _ in range(50 * config.train.batch_size):
        lengths = rng.normal(WORDS, SPREAD, 5).round().clip(3, config.data.max_length).astype(int)
        captions.append(
            [[*rng.integers(4, VOCABULARY, n - 1).tolist(), Vocabulary.eos] for n in lengths]
        )
    settings = config.train
    plan = BatchPlan(
        captions,
        batch_size=settings.batch_size,
        rows=settings.rows,
        buckets=settings.buckets,
        max_length=config.data.max_length,
        seed=config.seed,
    )
    wanted = plan.lengths[len(plan.lengths) // 2]
    numbers = range(plan.batches_per_epoch)
    tokens = next(t for _, t in map(plan.batch, numbers) if t.shape[2] == wanted)
    shape = (settings.batch_size, encoder.grid[0] * encoder.grid[1], encoder.features)
    annotations = np.maximum(rng.normal(size=shape), 0).astype(np.float16)
    return {"inputs": jnp.asarray(annotations), "tokens": jnp.asarray(tokens)}


def training_flops(config: ConfigDict, encoder: Encoder, tokens: jax.Array) -> float:
    """Multiplications and additions of products, forward and backward, for a batch's real tokens.

    Backward is twice forward, but for the projection of the given annotation vectors, of which no
    gradient is taken. Element-wise work does not count.
    """
    sizes = config.decoder
    locations, features = encoder.grid[0] * encoder.grid[1], encoder.features
    d = sizes.projection or features
    e, h, a = sizes.embedding, sizes.hidden, config.attention.units
    of_token = 4 * h * (e + h + d) + h * a + locations * (a + d) + e * (h + d + VOCABULARY)
    of_image = locations * d * a
    projection = locations * features * d if sizes.projection else 0
    real = int((tokens != Vocabulary.pad).sum())
    return 2 * (3 * real * of_token + tokens.shape[0] * (3 * of_image + 2 * projection))


def make_step(config: ConfigDict, encoder: Encoder, batch: Any) -> Callable[[], None]:
    """A function that takes a training step and waits for it."""
    model = build_captioner(config, encoder, VOCABULARY)
    settings = {k: v for k, v in config.optimizer.to_dict().items() if k != "average"}
    optimizer = make_optimizer(total_steps=10_000, **settings)
    step = make_train_step(
        model,
        optimizer,
        key=jax.random.key(config.seed),
        average=config.optimizer.average,
        **config.loss.to_dict(),
    )
    state = initial_state(model, optimizer)

    def take() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return take


def make_product() -> Callable[[], None]:
    """A function that multiplies two square matrices in float32 and waits for it."""
    matrix = jax.random.normal(jax.random.key(0), (PRODUCT, PRODUCT))
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(matrix, matrix))


def interleaved(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each step in each round; a first round, which compiles, is left out."""
    rng = np.random.default_rng(0)
    seconds = {name: [] for name in steps}
    for _ in track(range(rounds + 1), "rounds", console=Console(stderr=True)):
        for name in rng.permutation(list(steps)):
            began = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(times[1:]) for name, times in seconds.items()}


def print_table(setting: str, rows: dict[str, dict[str, float]]) -> None:
    table = Table(title=setting)
    for name in ("", "ms", "tokens/s", "utilisation", "times soft"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in rows.items():
        ratio = "" if row["times_soft"] is None else f"{row['times_soft']:.3f}"
        table.add_row(
            name,
            f"{row['milliseconds']:.0f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['utilisation']:.0%}",
            ratio,
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
