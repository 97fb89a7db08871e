"""What all tests share: a strict JAX, headless pictures, and fixtures that skip what is absent."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tolerances are the CPU's; set it to test another
# Compiled programs are kept for the next run and for the processes that tests start: a second run
# takes half the processor time. `pytest --cache-clear` removes them.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "d" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Programs here are compiled once for each shape and run for moments: optimising them costs more.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax  # noqa: E402  (reads the environment)
import pytest  # noqa: E402
import submitit  # noqa: E402, F401  (its import closes what logging writes to: before a test captures that)
import tiny  # noqa: E402

from show_attend_tell import files  # noqa: E402
from show_attend_tell.training.session import train  # noqa: E402

# (H,) against (B, H) must be written out: silent broadcasting hides wrong shapes.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Files that take longest go first, so that no process has a long one left when the other is done.
SLOW = (
    "train",
    "translate",
    "devices",
    "estimators",
    "encoders",
    "sequence_training",
    "main",
    "gradient_variance",
    "sweep",
    "decoder",
    "evaluate",
    "flickr8k",
    "sources",
    "caption_metrics",
    "ptb_tokenizer",
)

SHARED = Path(__file__).parents[1].parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(SLOW)))


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """Mixing dtypes is an error inside the test; for models only, since optax.adam mixes them."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the repository with the real data sets."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent")
    return SHARED


@pytest.fixture(scope="session")
def java() -> str:
    """The path of a Java that runs, for comparisons with the metrics' Java tools."""
    path = shutil.which("java")
    if path is None:
        pytest.skip("Java is absent")
    try:
        subprocess.run([path, "-version"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"Java does not run: {error}")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, worker_id) -> tuple[Path, "tiny.Scenes"]:
    """The folder of a run that has learnt eight scenes by heart, and the scenes.

    It is trained once; each of pytest's processes gets a copy, since tests write into it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "shared"
    shared.mkdir(exist_ok=True)
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, files.locked(shared / "lock"):
        scenes = tiny.use_scenes(patch, copies=30)
        if not (shared / "done").exists():
            changes = {"train.epochs": 12.0, "train.log_every": 20}
            train(tiny.settings(shared / "data", changes), shared / "run")
            (shared / "done").touch()
    shutil.copytree(shared / "run", folder / "run")
    return folder / "run", scenes
