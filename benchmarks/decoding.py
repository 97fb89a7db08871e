"""Beam search: 20 forced steps beside PyTorch and the peers, and a trained run's real captions."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from timing import interleaved, print_table, spread
from training import FEATURES, GRID, VOCABULARY

from show_attend_tell import config
from show_attend_tell.inference.decoding import make_decode
from show_attend_tell.inference.run import load_run
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.runs.build import build_captioner
from show_attend_tell.runs.inputs import load_inputs
from show_attend_tell.settings import Settings
from show_attend_tell.tokens import EOS

IMAGES, BEAM, STEPS = 50, 5, 20


def run(
    settings: Settings,
    rounds: int,
    peers: dict[str, Any],
    torch: bool,
    workdir: Path | None,
    formats: Sequence[str],
) -> tuple[dict[str, Any], str]:
    """Times the searches; returns the figures, and the table as Markdown.

    Every contestant takes part once in each of the formats, except a trained run, which has its
    own.
    """
    shape = (IMAGES, GRID[0] * GRID[1], FEATURES)
    inputs = np.maximum(np.random.default_rng(0).normal(size=shape), 0).astype(np.float16)
    contestants = {}
    for number_format in formats:
        changed = config.replaced(settings, {"decoder.dtype": number_format})
        model = build_captioner(changed, Precomputed(FEATURES, GRID), VOCABULARY)
        # No caption ends: all take every step.
        bias = model.decoder.output_bias
        bias[...] = bias[...].at[EOS].set(-1e9)
        contestants[f"beam search, {number_format}"] = search(changed, model, inputs)
        if torch:
            name = f"PyTorch, the same mathematics, {number_format}"
            contestants[name] = torch_search(model, inputs, number_format)
        for name, peer in peers.items():
            contestants[f"{name}, {number_format}"] = peer_search(peer, inputs, number_format)
    if workdir is not None:
        contestants[f"a trained run's captions, {IMAGES} images"] = trained_search(workdir)

    seconds = interleaved(contestants, rounds)
    ours = seconds[f"beam search, {formats[0]}"]
    figures, rows = {}, []
    for name, times in seconds.items():
        speed = IMAGES / times
        figures[name] = {"seconds": times.tolist(), "images_per_second": speed.tolist()}
        rows.append([name, spread(speed, 1), spread(times / ours, 2)])
    title = (
        f"Beam {BEAM}, {STEPS} forced steps, batches of {IMAGES}, annotations"
        f" {GRID[0] * GRID[1]}×{FEATURES}, {rounds} rounds, median (least to most)"
    )
    columns = ["", "images/s", "time, times the first"]
    return {"setting": title, "rows": figures}, print_table(title, columns, rows)


def search(settings: Settings, model: Any, inputs: np.ndarray) -> Callable[[], None]:
    changes = {"beam": BEAM, "max_length": STEPS, "context": "expected"}
    decode = make_decode(model, dataclasses.replace(settings.decode, **changes))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    inputs, numbers = jnp.asarray(inputs), jnp.arange(len(inputs))
    return lambda: jax.block_until_ready(decode(params, inputs, numbers))


def torch_search(model: Any, inputs: np.ndarray, number_format: str) -> Callable[[], None]:
    import in_pytorch
    import torch

    theirs = in_pytorch.from_decoder(model.decoder, dropout=0, annotation_dropout=0).eval()
    annotations = torch.tensor(inputs.astype(np.float32))

    def take() -> None:
        with in_pytorch.computed_in(number_format):
            in_pytorch.beam_search(theirs, annotations, BEAM, STEPS)

    return take


def peer_search(peer: Any, inputs: np.ndarray, number_format: str) -> Callable[[], None]:
    import in_pytorch
    import torch

    model = peer.make(VOCABULARY, inputs.shape[2])
    annotations = torch.tensor(inputs.astype(np.float32))

    def take() -> None:
        with in_pytorch.computed_in(number_format):
            peer.beam_search(model, annotations, BEAM, STEPS)

    return take


def trained_search(workdir: Path) -> Callable[[], None]:
    """Captions of the first validation images by the run's best weights, as `evaluate` makes."""
    run = load_run(workdir)
    examples = run.task.load("val")
    inputs = load_inputs(run.settings, run.task, examples, run.encoder, run.source_vocabulary)
    inputs = np.array(inputs[:IMAGES])
    decoding = dataclasses.replace(run.decoding, beam=BEAM, batch_size=IMAGES)
    decode = make_decode(run.model, decoding)
    inputs, numbers = jnp.asarray(inputs), jnp.arange(len(inputs))
    return lambda: jax.block_until_ready(decode(run.params, inputs, numbers))
