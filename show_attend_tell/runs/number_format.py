"""The number format `auto`: whichever multiplies faster on this device, at the model's own sizes.

A run decides once, when it begins. Its config then names the format, so every process, a resumed
run and an exported model compute alike. It also keeps its way to draw random bits for dropout.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from show_attend_tell import config, devices, files, machine
from show_attend_tell.errors import UserError
from show_attend_tell.files import parse_json
from show_attend_tell.models.encoders import has_option
from show_attend_tell.models.products import matmul
from show_attend_tell.settings import FORMATS, Decoder, Settings

FORCED = "SHOW_ATTEND_TELL_DTYPE"  # an environment variable that decides instead
# bfloat16 must be faster by this factor: it also has to round what it multiplies.
_GAIN = 1.2
_ROUNDS = 5
_SETTINGS = ("encoder.dtype", "picture.dtype", "decoder.dtype")


def pinned(settings: Settings, saved: Settings | None = None) -> Settings:
    """Settings with the formats `float32` or `bfloat16`, the same ones in every process.

    Args:
      settings: of a run.
      saved: those that the run began with, whose formats stay, and their `dropout_bits` where none
        other than the default are asked for; None if it begins now.
    """
    chosen = {}
    if saved is not None and settings.decoder.dropout_bits == Decoder().dropout_bits:
        chosen["decoder.dropout_bits"] = saved.decoder.dropout_bits
    given, before = (dict(config.flatten(s)) if s else {} for s in (settings, saved))
    undecided = [name for name in _SETTINGS if given.get(name) == "auto"]
    if undecided and saved is None:
        faster = FORMATS[devices.from_first(FORMATS.index(fastest(settings)))]
        before = dict.fromkeys(undecided, faster)
        for group in ("encoder", "picture"):
            if not has_option(str(given.get(f"{group}.name", "")), "dtype"):
                before[f"{group}.dtype"] = "float32"
    # A folder of another kind of model lacks some; it is refused later.
    chosen |= {name: before[name] for name in undecided if name in before}
    return config.replaced(settings, chosen)


def fastest(settings: Settings) -> str:
    """The format in which the decoder trains faster on this process's device.

    On CPUs two of its products are timed, once: the file `formats.json` keeps the answer for this
    processor, this version of JAX and these sizes. The variable SHOW_ATTEND_TELL_DTYPE overrides
    it.
    """
    forced = os.environ.get(FORCED)
    if forced:
        if forced not in FORMATS:
            raise UserError(f"{FORCED} is {forced!r}: choose {' or '.join(FORMATS)}, or unset it")
        return forced
    if jax.default_backend() != "cpu":
        return "bfloat16"
    sizes = settings.decoder
    rows = settings.train.batch_size * settings.train.rows
    inputs = sizes.hidden + (sizes.projection or sizes.hidden)
    parts = [machine.processor(), jax.__version__, str((rows, inputs, sizes.hidden))]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    path = machine.cache_folder() / "formats.json"
    try:
        known = parse_json(path.read_text(encoding="utf-8"))
        if known.get(name) in FORMATS:
            return known[name]
    except (OSError, ValueError, AttributeError):
        known = {}
    seconds = {dtype: _seconds(dtype, rows, inputs, 4 * sizes.hidden) for dtype in FORMATS}
    wins = _GAIN * seconds["bfloat16"] < seconds["float32"]
    known[name] = "bfloat16" if wins else "float32"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(known, indent=2) + "\n")
    except OSError:
        pass  # measured again next time
    return known[name]


def _seconds(dtype: str, rows: int, inputs: int, outputs: int) -> float:
    """The shortest time of a step's largest product and of its gradient, in several trials."""
    x, matrix = jnp.ones((rows, inputs)), jnp.ones((inputs, outputs), dtype)

    @jax.jit
    def work(x: Float[Array, "R I"], matrix: Float[Array, "I J"]) -> tuple[Array, Array, Array]:
        y, pull_back = jax.vjp(matmul, x, matrix)
        return y, *pull_back(y)

    return min(_timed(lambda: jax.block_until_ready(work(x, matrix))) for _ in range(_ROUNDS))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
