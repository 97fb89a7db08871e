"""Additive scores and their gradients in C++, for training on a CPU.

A step's largest intermediate are the activations of its attention. `additive_scores.cc` computes
what XLA does with them in a third of the time. It is compiled when a gradient is first traced, with
the C++ compiler of the machine, and kept beside JAX's compiled programs. Where there is no
compiler, on accelerators, and with several devices, XLA computes the scores.

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

SOURCE = Path(__file__).with_name("additive_scores.cc")
OFF = "SHOW_ATTEND_TELL_NATIVE"
_FUNCTIONS = ("scores", "query", "memory")
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
        logging.warning("XLA computes additive scores, since %s failed: %s", compiler, error)
        return False
    return True


def _built(compiler: str) -> Path:
    """The compiled library for this machine; made if it is not there yet."""
    command = [compiler, *_OPTIONS, f"-I{jax.ffi.include_dir()}"]
    parts = [*command, version("jaxlib"), machine.processor()]
    digest = hashlib.sha256("\n".join(parts).encode() + SOURCE.read_bytes()).hexdigest()
    path = _folder() / f"additive_scores-{digest[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            subprocess.run(
                [*command, str(SOURCE), "-o", str(made)],
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


def _on_cpu(name: str, like: Any, otherwise: Callable, *given: Array) -> Any:
    """Calls a function on CPUs, and `otherwise` on accelerators; both return as `like` says."""
    call = jax.ffi.ffi_call(_target(name), like, vmap_method="sequential")
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
    return _on_cpu("scores", _floats(query.shape[:2] + keys.shape[1:2]), otherwise, query, keys, v)


def query_sums(
    query: Float[Array, "B R A"],
    keys: Float[Array, "B L A"],
    d_scores: Float[Array, "B R L"],
    otherwise: Callable,
) -> Float[Array, "B R A"]:
    """The sums over places of d r (1 - r); `otherwise` computes the same."""
    if not available():
        return otherwise(query, keys, d_scores)
    return _on_cpu("query", _floats(query.shape), otherwise, query, keys, d_scores)


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
    return _on_cpu("memory", like, otherwise, query, keys, d_scores)


_floats = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
