"""What a run or a figure records about itself: settings, seed, commit, versions, command."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from show_attend_tell import config, hub
from show_attend_tell.settings import Settings

PACKAGES = ("jax", "flax", "optax", "grain", "orbax-checkpoint", "tensorflow-datasets", "numpy")
PACKAGES += ("sacrebleu", "sentencepiece")
_DESCRIBED = ("--always", "--dirty")


def provenance(settings: Settings) -> dict[str, Any]:
    """What every figure must carry with it, as JSON values."""
    return {
        "config_digest": config.digest(settings),
        "seed": settings.seed,
        "commit": _commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": sys.version.split()[0],
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def without_places(command: Iterable[str], also: Iterable[str] = ()) -> list[str]:
    """The words of a command that mean something on another machine.

    Options that say where data, weights or earlier runs lie go, as `--k=v` and as `--k v`. Of any
    other absolute path the last name stays.

    Args:
      command: its words.
      also: further options that go.
    """
    places = {*also, *(f"--config.{name}" for name in (*config.PLACES, *config.ORIGINS))}
    kept: list[str] = []
    words = iter(command)
    for word in words:
        option, joined, value = word.partition("=")
        if option in places:
            if not joined and option != "--config.data.download":  # which needs no value
                next(words, None)
        elif option == "--config.data.repo":
            value = value if joined else next(words, "")
            kept += [f"{option}={value}"] if hub.is_dataset(value) else []
        else:
            kept.append(_last_name(word))
    return kept


def _last_name(word: str) -> str:
    option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{Path(value).name}" if value.startswith(("/", "~")) else word


def _commit() -> str | None:
    """The commit of the source tree, with "-dirty" if it has changes; None outside git.

    A package installed inside another project's tree is not part of that project's commits.
    """
    source = Path(__file__)
    git = ("git", "-C", str(source.parent))
    try:
        for command in (("ls-files", "--error-unmatch", source.name), ("describe", *_DESCRIBED)):
            done = subprocess.run(
                [*git, *command], capture_output=True, text=True, timeout=10, check=True
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
