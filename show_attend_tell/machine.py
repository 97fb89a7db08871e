"""What is known of this machine, and the folder of what was made for it."""

import contextlib
import os
import platform
from pathlib import Path

import jax
import platformdirs


def cache_folder() -> Path:
    """Folder of files made for this machine, beside JAX's compiled programs; may not exist yet.

    Where the user chose a folder for these, the files are in one of their own inside it: what
    surrounds it may be anybody's, and libraries in it are loaded.
    """
    own = Path(platformdirs.user_cache_dir("show_attend_tell"))
    kept = getattr(jax.config, "jax_compilation_cache_dir", None)
    if not kept or "://" in kept or Path(kept).parent == own:
        return own
    return Path(kept).absolute() / "show_attend_tell_machine"


def processor() -> str:
    """The processor, its instruction sets and cores: machines may share a home folder."""
    lines = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    kinds = ("model name", "flags", "Features", "CPU part")  # the latter two are ARM's
    found = dict.fromkeys(line for line in lines if line.startswith(kinds))
    named = found or (platform.machine(), platform.processor(), platform.platform())
    return "\n".join((f"{os.cpu_count()} cores", *named))
