"""Compiled programs that serve one request, kept on disk for the next process.

JAX keeps what XLA compiled, but looks it up by the traced program. To caption one picture, tracing
takes longer than everything that follows it. Here a program is looked up by what it was made from:
the package's source files, the libraries, the processor, the caller's name for the program, and the
shapes of its arguments. These programs run once or a few times, so they are compiled quickly rather
than well.

Files lie in a subfolder of JAX's own cache. Like JAX's files they hold machine code. Whoever can
write there can run programs as the user.
"""

import contextlib
import hashlib
import math
import os
import pickle
import platform
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib.version
from jax.experimental import serialize_executable

from show_attend_tell import files, machine

_FOLDER = "show_attend_tell"  # inside JAX's cache
_KEPT = 3  # versions of the package or its libraries whose programs stay on disk
# About half the time to compile, and as fast for what this package computes on CPUs. XLA's older
# emitters round some sums differently, in the last bit.
_QUICKLY = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_backend_optimization_level": 1,
}

_lock = threading.Lock()
_programs: dict[tuple[Any, ...], Callable[..., Any]] = {}
_locks: dict[tuple[Any, ...], threading.Lock] = {}  # one program may wait for another's compiler
_compiling, _least_seconds = 0, 0.0  # how many threads compile, and JAX's setting without them


def compiled(name: str, function: Any, *arguments: Any) -> Callable[..., Any]:
    """A jitted function, compiled for arguments of these shapes. Safe to use from several threads.

    On accelerators, and with several devices, it is `function` itself.

    Args:
      name: stands for all that the function depends on besides its arguments and the package's
        source: the structure of a model, its settings. The same name and shapes give the same
        program, within a process and, if JAX has a cache folder, beyond it.
      function: made by `jax.jit`.
      arguments: arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return function
    leaves, structure = jax.tree.flatten(arguments)
    key = (name, structure, *((leaf.shape, str(leaf.dtype)) for leaf in leaves))
    with _lock:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        if key not in _programs:
            _programs[key] = _read_or_compile(key, function, arguments)
    return _programs[key]


def _read_or_compile(
    key: tuple[Any, ...], function: Any, arguments: tuple[Any, ...]
) -> Callable[..., Any]:
    with _lock:  # several threads begin at once, and each would read all of the source
        kept = folder()
    path = kept and kept / hashlib.sha256(repr(key).encode()).hexdigest()
    found = _read(path) if path else None
    if found is not None:
        return found
    lowered = function.lower(*arguments)
    try:
        with _without_jax_files():
            program = lowered.compile(_QUICKLY)
    except jax.errors.JaxRuntimeError:  # an XLA that has other options
        return lowered.compile()
    if path:
        with contextlib.suppress(OSError):  # a full disk: the next process compiles again
            _write(path, program)
    return program


@contextlib.contextmanager
def _without_jax_files() -> Iterator[None]:
    """JAX keeps no file of what is compiled meanwhile: it would be a second one.

    Moreover, what JAX has read from a file cannot be written to another one. XLA loses functions.
    """
    global _compiling, _least_seconds
    name = "jax_persistent_cache_min_compile_time_secs"
    with _lock:
        if not _compiling:
            _least_seconds = jax.config.values[name]
            jax.config.update(name, math.inf)
        _compiling += 1
    try:
        yield
    finally:
        with _lock:
            _compiling -= 1
            if not _compiling:
                jax.config.update(name, _least_seconds)


def _read(path: Path) -> Callable[..., Any] | None:
    """The program of a file; None if there is none, or it is damaged."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        return serialize_executable.deserialize_and_load(*pickle.loads(content[32:]))
    except OSError:
        return None
    except Exception:  # XLA documents no list of what it raises
        return None


def _write(path: Path, program: Any) -> None:
    content = pickle.dumps(serialize_executable.serialize(program))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not synced to disk, which would take longer than compiling: the checksum tells.
    with files.replacing(path, sync=False) as file:
        file.write(hashlib.sha256(content).digest() + content)


@cache
def folder() -> Path | None:
    """The folder of this version's programs; None: JAX keeps nothing either.

    To tell the version, it reads the package's source. Call it before another thread imports:
    with every file that is opened, Python may hand over to that thread for 5 ms.
    """
    cache_dir = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    enabled = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    if not cache_dir or "://" in cache_dir or not enabled:
        return None
    found = Path(cache_dir) / _FOLDER / _version()
    if not found.exists():
        _remove_others(found)
    return found


def _remove_others(own: Path) -> None:
    """Removes the programs of all but the newest other versions."""
    with contextlib.suppress(OSError):
        others = sorted(own.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in others[: 1 - _KEPT]:
            shutil.rmtree(path, ignore_errors=True)


@cache
def _version() -> str:
    """A digest of all that a program depends on besides its name and the shapes."""
    versions = jax.__version__, jaxlib.version.__version__, flax.__version__
    settings = [item for item in jax.config.values.items() if not re.search("cache|log", item[0])]
    options = sorted(settings), os.environ.get("XLA_FLAGS", ""), platform.python_version()
    digest = hashlib.sha256(repr((versions, machine.processor(), options)).encode())
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"\n{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
