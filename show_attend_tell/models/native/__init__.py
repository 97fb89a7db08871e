"""What training computes inside of its scan on a CPU, besides products, in C++.

XLA runs each small operation of a step by itself, most of them on one thread, and divides for each
of the attention's activations. The functions here take a third of that time. They are compiled when
a gradient is first traced, with the C++ compiler of the machine, and kept beside JAX's compiled
programs. Where there is no compiler, on accelerators, and with several devices, XLA does the work.
Only gradients and the passes that they need use them: decoding never does.

The environment variable SHOW_ATTEND_TELL_NATIVE=0 turns it off.

Symbols as in `models.attention`.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from show_attend_tell import machine

SOURCES = tuple(Path(__file__).with_name(name) for name in ("additive_scores.cc", "step.cc"))
HEADER = Path(__file__).with_name("kernels.h")
OFF = "SHOW_ATTEND_TELL_NATIVE"
_FUNCTIONS = (
    *("scores", "query", "memory"),
    *("combine_float32", "combine_bfloat16", "compare_float32", "compare_bfloat16"),
    *("cell", "cell_gradient"),
)
_OPTIONS = (
    *("-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512"),
    *("-ffast-math", "-fPIC", "-shared"),
)
_SECONDS = 120  # for the compiler


@lru_cache
def available() -> bool:
    """Whether the functions can be called; builds and registers them at the first question."""
    if os.environ.get(OFF) == "0" or jax.default_backend() != "cpu" or jax.device_count() > 1:
        return False
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return False
    try:
        library = ctypes.CDLL(str(_built(compiler)))
        for name in _FUNCTIONS:
            function = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(_target(name), function, platform="cpu")
    except (OSError, subprocess.SubprocessError) as error:
        logging.warning("training is slower: %s failed (%s)", compiler, error)
        return False
    return True


def _built(compiler: str) -> Path:
    """The compiled library for this machine; made if it is not there yet."""
    command = [compiler, *_OPTIONS, f"-I{jax.ffi.include_dir()}"]
    parts = [*command, version("jaxlib"), machine.processor()]
    texts = [path.read_bytes() for path in (HEADER, *SOURCES)]
    digest = hashlib.sha256(b"\n".join(["\n".join(parts).encode(), *texts])).hexdigest()
    path = _folder() / f"step-{digest[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            subprocess.run(
                [*command, *map(str, SOURCES), "-o", str(made)],
                check=True,
                capture_output=True,
                timeout=_SECONDS,
            )
            os.replace(made, path)
        finally:
            made.unlink(missing_ok=True)
    return path


def _folder() -> Path:
    return machine.cache_folder() / "native"


def _target(name: str) -> str:
    return f"show_attend_tell_{name}"


def _call(name: str, like: Any, otherwise: Callable, *given: Array) -> Any:
    """Calls a function on CPUs, and `otherwise` elsewhere; both return arrays as `like` says."""
    if not available():
        return otherwise(*given)
    call = jax.ffi.ffi_call(_target(name), like, vmap_method="sequential")
    return jax.lax.platform_dependent(*given, cpu=call, default=otherwise)


_floats = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)


def scores(
    query: Float[Array, "B R A"],
    keys: Float[Array, "B L A"],
    v: Float[Array, " A"],
    otherwise: Callable,
) -> Float[Array, "B R L"]:
    """sum_a v (1 - 2 r), where r = 1 / (1 + k q); `otherwise` computes the same."""
    like = _floats((*query.shape[:2], keys.shape[1]))
    return _call("scores", like, otherwise, query, keys, v)


def query_sums(
    query: Float[Array, "B R A"],
    keys: Float[Array, "B L A"],
    d_scores: Float[Array, "B R L"],
    otherwise: Callable,
) -> Float[Array, "B R A"]:
    """The sums over places of d r (1 - r); `otherwise` computes the same."""
    return _call("query", _floats(query.shape), otherwise, query, keys, d_scores)


def memory_sums(
    query: Float[Array, "B R A"],
    keys: Float[Array, "B L A"],
    d_scores: Float[Array, "B R L"],
    otherwise: Callable,
) -> tuple[Float[Array, "B L A"], Float[Array, "B A"]]:
    """The sums over rows of d r (1 - r), and over places too of d r; `otherwise`: the same."""
    like = (_floats(keys.shape), _floats((keys.shape[0], keys.shape[2])))
    return _call("memory", like, otherwise, query, keys, d_scores)


def combine(
    weights: Float[Array, "B R L"], vectors: Float[Array, "B L D"], otherwise: Callable
) -> Float[Array, "B R D"]:
    """Sums of vectors, float32 or bfloat16, with weights; `otherwise` computes the same."""
    like = _floats((*weights.shape[:2], vectors.shape[2]))
    return _call(f"combine_{vectors.dtype.name}", like, otherwise, weights, vectors)


def compare(
    x: Float[Array, "B R D"], vectors: Float[Array, "B L D"], otherwise: Callable
) -> Float[Array, "B R L"]:
    """Inner products with vectors, float32 or bfloat16; `otherwise` computes the same."""
    like = _floats((*x.shape[:2], vectors.shape[1]))
    return _call(f"compare_{vectors.dtype.name}", like, otherwise, x, vectors)


def cell(
    c: Float[Array, "B R H"], gates: Float[Array, "B R G"], otherwise: Callable
) -> tuple[Float[Array, "B R H"], Float[Array, "B R H"]]:
    """h and c of an LSTM after a step; `otherwise` computes the same."""
    return _call("cell", (_floats(c.shape),) * 2, otherwise, c, gates)


def cell_gradient(
    c: Float[Array, "B R H"],
    gates: Float[Array, "B R G"],
    after: Float[Array, "B R H"],
    d_h: Float[Array, "B R H"],
    d_c: Float[Array, "B R H"],
    otherwise: Callable,
) -> tuple[Float[Array, "B R H"], Float[Array, "B R G"]]:
    """Gradients towards c before the step and the gates; `otherwise` computes the same.

    Args:
      after: c after the step.
      d_h, d_c: gradients towards what `cell` returns.
    """
    like = (_floats(c.shape), _floats(gates.shape))
    return _call("cell_gradient", like, otherwise, c, gates, after, d_h, d_c)
