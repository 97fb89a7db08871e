"""What a run or a figure records about itself: settings, seed, commit, versions, command."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from show_attend_tell import config
from show_attend_tell.settings import Settings

PACKAGES = ("jax", "flax", "optax", "grain", "orbax-checkpoint", "tensorflow-datasets", "numpy")
PACKAGES += ("sacrebleu", "sentencepiece")


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


def _commit() -> str | None:
    """The commit of the source tree, with "-dirty" if it has changes; None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
