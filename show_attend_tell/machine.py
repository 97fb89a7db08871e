"""What is known of this machine, and the folder of what was made for it."""

import os
import platform
from pathlib import Path

import jax
import platformdirs


def cache_folder() -> Path:
    """Folder of files made for this machine, beside JAX's compiled programs; may not exist yet."""
    kept = getattr(jax.config, "jax_compilation_cache_dir", None)
    return Path(kept).parent if kept else Path(platformdirs.user_cache_dir("show_attend_tell"))


def processor() -> str:
    """The processor and its instruction sets: a home folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features")
    found = {line.split("\t")[0].split(":")[0].strip(): line for line in lines}
    return "\n".join(
        [f"{os.cpu_count()} cores", *(found[name] for name in wanted if name in found)]
    )
