"""Training steps of soft and hard attention, beside PyTorch and the peers; memory; scaling.

Annotation vectors are random, words too; caption lengths have the mean and spread of Flickr8k's.
All contestants take a step on the same captions: ours in packed rows, the others one a row.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import (
    PRODUCT_NAME,
    format_of,
    interleaved,
    make_product,
    print_table,
    product_name,
    product_speed,
    spread,
)

from show_attend_tell import config
from show_attend_tell.data.batches import BatchPlan
from show_attend_tell.models.attention import Annotations
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.objectives.likelihood import soft_loss
from show_attend_tell.runs.build import build_captioner, make_objective
from show_attend_tell.settings import Settings
from show_attend_tell.tokens import EOS, PAD
from show_attend_tell.training.optimizer import make_optimizer
from show_attend_tell.training.step import initial_state, make_train_step

GRID, FEATURES = (7, 7), 1280  # EfficientNet-Lite0 at 224 pixels
VOCABULARY = 2539  # words of Flickr8k's captions that come five times or more
WORDS, SPREAD = 11.8, 3.8  # tokens of a caption, <eos> included: mean and standard deviation
HARD = {"attention.kind": "hard", "hard.credit": "to_go"}
PEER_SIZES = {"decoder.projection": 0, "decoder.embedding": 512}
MOVING_AVERAGE = HARD | {"hard.baseline": "moving_average"}
# And these by `--what estimators`.
ESTIMATORS = {
    "soft": {},
    **{
        f"hard, {baseline}": HARD | {"hard.baseline": baseline}
        for baseline in ("none", "moving_average", "learned", "self_critical", "expected")
    },
    "hard, leave_one_out, N = 2": HARD | {"hard.baseline": "leave_one_out", "hard.samples": 2},
}

# By `--what objectives`: variants of flickr8k in one decoder, over places of `features` channels.
# The scene, which costs next to nothing, is left out.
OBJECTIVES = ("local", "local-sparse", "local-reinforce", "local-variational", "marginal")
LOCAL = {"grid": (9, 9), "features": 1584}
WITHOUT_SCENE = {"attention.values": (), "decoder.scene": (), "encoder.endpoints": ("head",)}


def variants(formats: Sequence[str]) -> dict[str, Any]:
    """What `train` times: changes to the experiment's soft variant.

    Hard attention is timed in the first format only: it takes about as long as soft attention.
    """
    changes = {f"soft, {name}": {"decoder.dtype": name} for name in formats}
    changes[f"hard, moving_average, {formats[0]}"] = MOVING_AVERAGE | {"decoder.dtype": formats[0]}
    peers = {
        f"soft, sizes of the peers, {name}": PEER_SIZES | {"decoder.dtype": name}
        for name in formats
    }
    return changes | peers


def run(
    settings: Settings,
    rounds: int,
    peers: dict[str, Any],
    torch: bool,
    variants: dict[str, Any],
    formats: Sequence[str] = ("float32",),
) -> tuple[dict[str, Any], str]:
    """Times the steps; returns the figures, and the table as Markdown.

    PyTorch and the peers take part once in each of the formats. Times are compared with those of
    the first variant.
    """
    plan = make_plan(settings)
    batch = make_batch(plan, GRID[0] * GRID[1], FEATURES)
    tokens = int((batch["tokens"] != PAD).sum())
    contestants = {product_name(name): make_product(name) for name in formats}
    flops, compiling = {}, {}
    for name, changes in variants.items():
        changed = config.replaced(settings, changes)
        began = time.perf_counter()
        contestants[name] = make_step(changed, batch)
        contestants[name]()
        compiling[name] = time.perf_counter() - began
        flops[name] = training_flops(changed, batch["tokens"])
    first = next(iter(variants))
    captions = unpacked(batch["tokens"])
    for number_format in formats:
        if torch:
            name = f"PyTorch, the same mathematics, {number_format}"
            contestants[name] = torch_step(settings, batch, number_format)
            flops[name] = flops[first]
        for name, peer in peers.items():
            step = peer_step(peer, batch["inputs"], captions, number_format)
            contestants[f"{name}, {number_format}"] = step

    seconds = interleaved(contestants, rounds)
    products = {name: product_speed(seconds.pop(product_name(name))) for name in formats}
    figures, rows = {}, []
    for name, times in seconds.items():
        figures[name] = {"seconds": times.tolist(), "tokens_per_second": (tokens / times).tolist()}
        utilised = compiled = ""
        if name in flops:
            used = flops[name] / times / products.get(format_of(name), products[formats[0]])
            figures[name] |= {"utilisation": used.tolist(), "flops_per_token": flops[name] / tokens}
            utilised = spread(used)
        if name in compiling:
            figures[name]["compile_seconds"] = compiling[name]
            compiled = f"{compiling[name]:.1f}"
        ratio = spread(times / seconds[first])
        speed = spread(tokens / times, 0)
        rows.append([name, f"{1e3 * np.median(times):.0f}", speed, utilised, ratio, compiled])
    images, packed, length = batch["tokens"].shape
    padding = 1 - plan.tokens_per_epoch / plan.positions_per_epoch
    speeds = ", ".join(f"{name} {np.median(x) / 1e9:.0f}" for name, x in products.items())
    title = (
        f"Training steps of {images} images, {tokens} real tokens in {packed} rows of {length}"
        f" ({tokens / batch['tokens'].size:.0%} of positions; padding over an epoch {padding:.0%}),"
        f" annotations {batch['inputs'].shape[1]}×{FEATURES},"
        f" {flops[first] / tokens / 1e6:.1f} MFLOP a token, products in GFLOP/s: {speeds};"
        f" {rounds} rounds, median (least to most)"
    )
    columns = ["", "ms", "real tokens/s", "utilisation", "times the first", "first step, s"]
    return {"setting": title, "rows": figures}, print_table(title, columns, rows)


def objectives(overrides: list[str], rounds: int) -> tuple[dict[str, Any], str]:
    """Times steps of every way to train attention, with all places and with half of them."""
    contestants = {PRODUCT_NAME: make_product()}
    batch = None
    for kept in (1.0, 0.5):
        for variant in OBJECTIVES:
            settings = config.replaced(
                config.load_experiment(f"flickr8k:{variant}", overrides),
                WITHOUT_SCENE | {"decoder.places_kept": kept, "hard.soft_steps": 0},
            )
            if batch is None:
                locations = math.prod(LOCAL["grid"])
                batch = make_batch(make_plan(settings), locations, LOCAL["features"])
            step = make_step(settings, batch, grid=LOCAL["grid"])
            step()
            contestants[f"{variant}, {kept:.0%} of the places"] = step
    seconds = interleaved(contestants, rounds)
    product = product_speed(seconds.pop(PRODUCT_NAME))
    rows = []
    for name, times in seconds.items():
        soft = seconds[f"{OBJECTIVES[0]}, {name.split(', ')[1]}"]
        rows.append([name, f"{1e3 * np.median(times):.0f}", spread(times / soft)])
    tokens = int((batch["tokens"] != PAD).sum())
    title = (
        f"Training steps of {len(batch['tokens'])} images, {tokens} real tokens, annotations"
        f" {batch['inputs'].shape[1]}×{LOCAL['features']}, product"
        f" {np.median(product) / 1e9:.0f} GFLOP/s, {rounds} rounds, median (least to most)"
    )
    figures = {name: {"seconds": times.tolist()} for name, times in seconds.items()}
    table = print_table(title, ["flickr8k:", "ms", "times local"], rows)
    return {"setting": title, "rows": figures}, table


def make_plan(settings: Settings) -> BatchPlan:
    """A plan over 150 batches of random captions, with the config's packing."""
    rng = np.random.default_rng(settings.seed)
    captions = []
    for _ in range(150 * settings.train.batch_size):
        # The captions of an image are about equally long.
        mean = rng.normal(WORDS, SPREAD / 2)
        lengths = rng.normal(mean, SPREAD * math.sqrt(3) / 2, 5)
        lengths = lengths.round().clip(3, settings.data.max_length).astype(int)
        captions.append([[*rng.integers(4, VOCABULARY, n - 1).tolist(), EOS] for n in lengths])
    return BatchPlan(
        captions,
        batch_size=settings.train.batch_size,
        rows=settings.train.rows,
        buckets=settings.train.buckets,
        max_length=settings.data.max_length,
        seed=settings.seed,
    )


def make_batch(plan: BatchPlan, locations: int, features: int) -> dict[str, jax.Array]:
    """The first batch of the plan's middle row length."""
    wanted = plan.lengths[len(plan.lengths) // 2]
    batches = map(plan.batch, range(plan.batches_per_epoch))
    tokens = next(tokens for _, tokens in batches if tokens.shape[2] == wanted)
    shape = (len(tokens), locations, features)
    annotations = np.maximum(np.random.default_rng(0).normal(size=shape), 0).astype(np.float16)
    return {"inputs": jnp.asarray(annotations), "tokens": jnp.asarray(tokens)}


def unpacked(tokens: Any) -> np.ndarray:
    """The captions of packed rows (B, R, T), each in a row of its own: (B * 5, longest)."""
    captions = []
    for image in np.array(tokens):
        for row in image:
            ends = np.flatnonzero(row == EOS) + 1
            captions += np.split(row[: ends[-1]], ends[:-1])
    rows = np.zeros((len(captions), max(map(len, captions))), np.int64)
    for row, caption in zip(rows, captions, strict=True):
        row[: len(caption)] = caption
    return rows


def training_flops(settings: Settings, tokens: jax.Array) -> float:
    """Multiplications and additions of products, forward and backward, for a batch's real tokens.

    With several samples of hard attention a token counts once for each; further rollouts of a
    baseline do not count. Backward is twice forward, except for the projection of the given
    annotation vectors, which get no gradient. Element-wise work does not count.
    """
    sizes = settings.decoder
    locations = GRID[0] * GRID[1]
    d = sizes.projection or FEATURES
    e, h, a = sizes.embedding, sizes.hidden, settings.attention.units
    of_token = 4 * h * (e + h + d) + h * a + locations * (a + d) + e * (h + d + VOCABULARY)
    # What is multiplied with the given vectors needs no gradient towards them.
    keys = locations * d * a
    of_image = 3 * keys + 2 * locations * FEATURES * d if sizes.projection else 2 * keys
    samples = settings.hard.samples if settings.attention.kind == "hard" else 1
    real = samples * int((tokens != PAD).sum())
    return 2 * (3 * real * of_token + len(tokens) * of_image)


def make_step(
    settings: Settings,
    batch: Any,
    words: int | None = None,
    grid: tuple[int, int] | None = None,
) -> Callable[[], None]:
    """A function that takes a training step and waits for it; `words` is the vocabulary's size."""
    encoder = Precomputed(batch["inputs"].shape[2], grid or GRID)
    model = build_captioner(settings, encoder, words or VOCABULARY)
    optimizer = make_optimizer(settings.optimizer, total_steps=10_000)
    objective = make_objective(settings)
    step = make_train_step(
        model,
        objective,
        optimizer,
        key=jax.random.key(settings.seed),
        average=settings.optimizer.average,
    )
    state = initial_state(model, objective, optimizer)

    def take() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return take


def torch_step(settings: Settings, batch: Any, number_format: str) -> Callable[[], None]:
    """The same step in PyTorch, after a check that its loss is ours."""
    import in_pytorch
    import torch

    loss = dataclasses.asdict(settings.loss)
    exact = config.replaced(settings, {"decoder.dtype": "float32"})
    decoder = build_captioner(exact, Precomputed(FEATURES, GRID), VOCABULARY).decoder
    out = decoder(Annotations(batch["inputs"]), batch["tokens"])
    ours, _ = soft_loss(out.logits, out.alpha, batch["tokens"], **loss)
    model = in_pytorch.from_decoder(
        decoder,
        dropout=settings.decoder.dropout,
        annotation_dropout=settings.decoder.annotation_dropout,
    )
    annotations = torch.tensor(np.array(batch["inputs"], np.float32))
    captions = torch.tensor(unpacked(batch["tokens"]))
    with torch.inference_mode(), in_pytorch.computed_in(number_format):
        theirs = in_pytorch.loss_of(model.eval(), annotations, captions, **loss).item()
    if abs(theirs - float(ours)) > (1e-4 if number_format == "float32" else 2e-2):
        raise SystemExit(f"PyTorch's loss is {theirs}, ours {ours}: not the same mathematics")
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), settings.optimizer.learning_rate)

    def take() -> None:
        optimizer.zero_grad()
        with in_pytorch.computed_in(number_format):
            value = in_pytorch.loss_of(model, annotations, captions, **loss)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip_norm)
        optimizer.step()

    return take


def peer_step(
    peer: Any, annotations: Any, captions: np.ndarray, number_format: str
) -> Callable[[], None]:
    import torch

    annotations = torch.tensor(np.array(annotations, np.float32))
    model = peer.make(VOCABULARY, FEATURES).train()
    return peer.train_step(model, annotations, torch.tensor(captions), number_format)


# L, D, T of the table of memory, and 64 images of 5 captions, a row each.
BASE = {"images": 64, "rows": 5, "steps": 24, "locations": 196}


def memory(settings: Settings) -> tuple[dict[str, Any], str]:
    """Bytes that XLA plans for a training step besides its inputs, for several sizes."""
    sizes = [
        BASE,
        *(BASE | {"images": n} for n in (16, 32)),
        *(BASE | {"steps": n} for n in (6, 12)),
        *(BASE | {"locations": n} for n in (49, 98)),
    ]
    figures, rows = [], []
    for size in sizes:
        bytes_ = step_bytes(settings, **size)
        figures.append(size | {"bytes": bytes_})
        rows.append([*(str(n) for n in size.values()), f"{bytes_ / 2**30:.2f}"])
    title = "Memory of a soft training step (512 features, projected to 512), temporary, GiB"
    return {"setting": title, "rows": figures}, print_table(
        title, ["B images", "captions", "T steps", "L locations", "GiB"], rows
    )


def step_bytes(settings: Settings, *, images: int, rows: int, steps: int, locations: int) -> int:
    model = build_captioner(settings, Precomputed(512, GRID), VOCABULARY)
    optimizer = make_optimizer(settings.optimizer, total_steps=10_000)
    objective = make_objective(settings)
    step = make_train_step(model, objective, optimizer, key=jax.random.key(0), average=0.99)
    batch = {
        "inputs": jax.ShapeDtypeStruct((images, locations, 512), jnp.float16),
        "tokens": jax.ShapeDtypeStruct((images, rows, steps), jnp.int32),
    }
    state = initial_state(model, objective, optimizer)
    return int(
        step.func.lower(*step.args, state, batch).compile().memory_analysis().temp_size_in_bytes
    )
