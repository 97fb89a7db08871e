"""Functions in C++, for what XLA computes slowly on a CPU; here also the additive scores.

A training step's largest intermediate are the activations of its attention. `additive_scores.cc`
computes what XLA does with them in a third of the time. `inverted_residual.cc`, called from
`native.convolutions`, has the blocks of EfficientNet-Lite. One library of all sources is compiled
when a function is first traced, with the C++ compiler of the machine, and kept beside JAX's
compiled programs. Where there is no compiler, on accelerators, and with several devices, XLA
computes everything.

The environment variable SHOW_ATTEND_TELL_NATIVE=0 turns it off.

Symbols as in `models.attention`.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

OFF = "SHOW_ATTEND_TELL_NATIVE"
# The functions of each file.
SOURCES = {
    "additive_scores.cc": ("scores", "query", "memory"),
    "inverted_residual.cc": ("inverted_residual", "stem"),
}
HEADERS = ("for_each.h", "matrix_product.h")
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
        library = _library(compiler)
        for name in (name for names in SOURCES.values() for name in names):
            function = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(_target(name), function, platform="cpu")
    except (OSError, subprocess.SubprocessError) as error:
        logging.warning("XLA computes everything, since %s failed: %s", compiler, error)
        return False
    return True


@lru_cache
def matrix_units() -> bool:
    """Whether the CPU has matrix units for bfloat16 (AMX), and the system lets us use them."""
    if not available():
        return False
    asked = _library(shutil.which(os.environ.get("CXX", "c++")) or "").matrix_units
    asked.restype = ctypes.c_bool
    return asked()


@lru_cache
def _library(compiler: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(_built(compiler)))


def _built(compiler: str) -> Path:
    """The compiled library for this machine; made if it is not there yet."""
    command = [compiler, *_OPTIONS, f"-I{jax.ffi.include_dir()}"]
    parts = [*command, version("jaxlib"), _processor()]
    sources = [Path(__file__).with_name(name) for name in SOURCES]
    headers = [Path(__file__).with_name(name) for name in HEADERS]
    content = b"".join(path.read_bytes() for path in (*sources, *headers))
    digest = hashlib.sha256("\n".join(parts).encode() + content).hexdigest()
    path = _folder() / f"functions-{digest[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            subprocess.run(
                [*command, *map(str, sources), "-o", str(made)],
                check=True,
                capture_output=True,
                timeout=_SECONDS,
            )
            os.replace(made, path)
        finally:
            made.unlink(missing_ok=True)
    return path


def _folder() -> Path:
    kept = getattr(jax.config, "jax_compilation_cache_dir", None)
    if kept:
        return Path(kept).with_name("native")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "show_attend_tell" / "native"


def _processor() -> str:
    """What `-march=native` depends on: homes are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _target(name: str) -> str:
    return f"show_attend_tell_{name}"


def on_cpu(
    name: str, like: Any, otherwise: Callable, *given: Array, **attributes: np.int64 | bool
) -> Any:
    """Calls a function on CPUs, and `otherwise` on accelerators; both return as `like` says."""
    target = jax.ffi.ffi_call(_target(name), like, vmap_method="sequential")
    call = partial(target, **attributes)
    return jax.lax.platform_dependent(*given, cpu=call, default=otherwise)


def scores(
    query: Float[Array, "B R A"],
    keys: Float[Array, "B L A"],
    v: Float[Array, " A"],
    otherwise: Callable,
) -> Float[Array, "B R L"]:
    """sum_a v (1 - 2 r), where r = 1 / (1 + k q); `otherwise` computes the same."""
    if not available():
        return otherwise(query, keys, v)
    like = _floats(query.shape[:2] + keys.shape[1:2])
    return on_cpu("scores", like, otherwise, query, keys, v)


def query_sums(
    query: Float[Array, "B R A"],
    keys: Float[Array, "B L A"],
    d_scores: Float[Array, "B R L"],
    otherwise: Callable,
) -> Float[Array, "B R A"]:
    """The sums over places of d r (1 - r); `otherwise` computes the same."""
    if not available():
        return otherwise(query, keys, d_scores)
    return on_cpu("query", _floats(query.shape), otherwise, query, keys, d_scores)


def memory_sums(
    query: Float[Array, "B R A"],
    keys: Float[Array, "B L A"],
    d_scores: Float[Array, "B R L"],
    otherwise: Callable,
) -> tuple[Float[Array, "B L A"], Float[Array, "B A"]]:
    """The sums over rows of d r (1 - r), and over places too of d r; `otherwise`: the same."""
    if not available():
        return otherwise(query, keys, d_scores)
    like = (_floats(keys.shape), _floats((keys.shape[0], keys.shape[2])))
    return on_cpu("memory", like, otherwise, query, keys, d_scores)


_floats = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
