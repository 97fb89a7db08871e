"""Functions in C++, for what XLA computes slowly on a CPU.

XLA runs each small operation by itself, most of them on one thread, and divides for each of the
attention's activations. `recurrence.cc`, called from `native.recurrence`, has all steps of the
recurrence in one call, for training; decoding does not use it. `memory_sums.cc` has the sums over
steps in its gradient. `inverted_residual.cc`, called from `native.convolutions`, has the blocks of
EfficientNet-Lite.

One library of all sources is compiled when a function is first traced, with the C++ compiler of the
machine, and kept beside JAX's compiled programs. Where there is no compiler, on accelerators, and
with several devices, XLA computes everything.

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
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from show_attend_tell import files, machine

OFF = "SHOW_ATTEND_TELL_NATIVE"
# The functions of each file.
SOURCES = {
    "memory_sums.cc": ("memory",),
    "recurrence.cc": ("recurrence", "recurrence_gradient"),
    "inverted_residual.cc": ("inverted_residual", "stem"),
}
HEADERS = ("activations.h", "crew.h", "for_each.h", "matrix_product.h", "packed.h")
_OPTIONS = (
    # -O3 takes three times as long to compile and gains nothing.
    *("-std=c++17", "-O2", "-ftree-vectorize", "-march=native", "-ffast-math", "-fPIC", "-w"),
    *(("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()),
)
# Without -ffast-math: some compilers would have the library set the whole process to flush small
# numbers to zero.
_LINK = ("-shared",)
_SECONDS = 120  # for the compiler

_traced = threading.local()


@contextmanager
def without() -> Iterator[None]:
    """Programs that this thread traces within call none of the functions, so none is compiled."""
    before = getattr(_traced, "without", False)
    _traced.without = True
    try:
        yield
    finally:
        _traced.without = before


def available() -> bool:
    """Whether the functions can be called; builds and registers them at the first question."""
    return not getattr(_traced, "without", False) and _registered()


@lru_cache
def _registered() -> bool:
    if os.environ.get(OFF) == "0" or jax.default_backend() != "cpu" or jax.device_count() > 1:
        return False
    named = os.environ.get("CXX")
    compiler = shutil.which(named or "c++")
    if compiler is None:
        if named:
            logging.warning(
                "XLA computes everything, more slowly: CXX names no program (%s)", named
            )
        return False
    try:
        library = _library(compiler)
        for name in (name for names in SOURCES.values() for name in names):
            function = jax.ffi.pycapsule(getattr(library, name))
            jax.ffi.register_ffi_target(_target(name), function, platform="cpu")
    except (OSError, subprocess.SubprocessError) as error:
        logging.warning("XLA computes everything, more slowly: %s failed (%s)", compiler, error)
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
    parts = [*command, *_LINK, version("jaxlib"), machine.processor()]
    sources = [Path(__file__).with_name(name) for name in SOURCES]
    headers = [Path(__file__).with_name(name) for name in HEADERS]
    content = b"".join(path.read_bytes() for path in (*sources, *headers))
    digest = hashlib.sha256("\n".join(parts).encode() + content).hexdigest()
    path = _folder() / f"functions-{digest[:16]}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(path.with_suffix(".lock")):
        if not path.exists():
            _build(command, sources, path)
    return path


def _build(command: list[str], sources: list[Path], path: Path) -> None:
    """Compiles the files at the same time, in a folder beside the library's; wants its lock."""
    for killed in path.parent.glob(f".{path.name}.*"):  # left by a process that was killed
        shutil.rmtree(killed, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]
        with ThreadPoolExecutor(len(sources)) as threads:
            steps = [[*command, "-c", s, "-o", o] for s, o in zip(sources, objects, strict=True)]
            list(threads.map(_run, steps))
        made = Path(folder) / path.name
        _run([command[0], *_LINK, *objects, "-o", made])
        with made.open("rb") as library:  # a part of it would end every process that loads it
            os.fsync(library.fileno())
        os.replace(made, path)


def _run(command: list[Any]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)


def _folder() -> Path:
    return machine.cache_folder() / "native"


def _target(name: str) -> str:
    return f"show_attend_tell_{name}"


def can_multiply(dtype: str) -> bool:
    """Whether the functions can be called with products in this number format."""
    return available() and (dtype != "bfloat16" or matrix_units())


def function(name: str, like: Any, aliases: dict[int, int] | None = None) -> Callable:
    """A function of the library, which returns as `like` says.

    Args:
      aliases: numbers of arguments that results overwrite, with those of the results.
    """
    return jax.ffi.ffi_call(
        _target(name), like, input_output_aliases=aliases, vmap_method="sequential"
    )


def on_cpu(
    name: str, like: Any, otherwise: Callable, *given: Array, **attributes: np.int64 | bool
) -> Any:
    """Calls a function on CPUs, and `otherwise` on accelerators; both return as `like` says."""
    target = jax.ffi.ffi_call(_target(name), like, vmap_method="sequential")
    call = partial(target, **attributes)
    return jax.lax.platform_dependent(*given, cpu=call, default=otherwise)


def call(name: str, like: Any, otherwise: Callable, *given: Array) -> Any:
    """The same where the functions are available, else `otherwise`."""
    if not available():
        return otherwise(*given)
    return on_cpu(name, like, otherwise, *given)


_floats = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)


def memory_sums(
    query: Float[Array, "B R A"],
    keys: Float[Array, "B L A"],
    d_scores: Float[Array, "B R L"],
    otherwise: Callable,
) -> tuple[Float[Array, "B L A"], Float[Array, "B A"]]:
    """The sums over rows of d r (1 - r), and over places too of d r; `otherwise`: the same."""
    like = (_floats(keys.shape), _floats((keys.shape[0], keys.shape[2])))
    return call("memory", like, otherwise, query, keys, d_scores)
