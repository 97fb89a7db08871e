"""What all tests share: a strict JAX, headless pictures, and fixtures that skip what is absent."""

import gc
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tolerances are the CPU's; set it to test another
# Compiled programs are kept for the next run, for pytest's other process and for those that tests
# start. Small ones count: a test's operations outside of jit are hundreds of programs of 20 ms.
# `pytest --cache-clear` removes them.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "d" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Programs here are compiled once for each shape and run for moments: optimising them costs more.
# The older emitters of fusions compile in half the time of the newer ones.
XLA_FLAGS = ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):  # XLA ends a process that names a flag it does not know
    XLA_FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(XLA_FLAGS))

# Runs choose the same number format on every machine.
os.environ.setdefault("SHOW_ATTEND_TELL_DTYPE", "float32")

import jax  # noqa: E402  (reads the environment)
import pytest  # noqa: E402
import submitit  # noqa: E402, F401  (its import closes what logging writes to: before a test captures that)
import tiny  # noqa: E402

from show_attend_tell import files  # noqa: E402
from show_attend_tell.training.session import train  # noqa: E402

if version("jaxlib").startswith("0.10."):
    # Every program gets an MLIR context of its own, which takes 3 ms: for the thousands of small
    # programs here an eighth of the time. One for each thread serves them all.
    from jax._src.interpreters import mlir

    contexts = threading.local()
    make_context = mlir.make_ir_context

    def shared_context() -> object:
        if not hasattr(contexts, "made"):
            contexts.made = make_context()
        return contexts.made

    mlir.make_ir_context = shared_context

# Tracing makes millions of objects that are in no cycle. To look for cycles after every 700 of them
# took a sixth of the time of `objectives/test_marginal` and `models/test_speaking`.
gc.set_threshold(200_000, 20, 100)

# (H,) against (B, H) must be written out: silent broadcasting hides wrong shapes.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Files that train, compile large models or read the real data sets. --quick leaves them out. They
# go first, the longest before the others, so that both processes end at about the same time.
LONGEST = (
    "training/test_session",
    "inference/test_translate",
    "test_devices",
    "models/test_encoders",
    "objectives/test_reinforce",
    "objectives/test_rewarded",
    "test_wheel",
    "explorer/test_static",
    "cli/test_parser",
    "test_benchmarks",
    "test_notebooks",
    "test_pretrained",
    "test_hub",
    "models/test_decoder",
    "cli/test_sweep",
    "test_version_0_1",
    "evaluation/test_gradient_variance",
    "inference/test_captioning",
    "explorer/test_respondent",
    "explorer/test_export",
    "explorer/test_browsing",
    "explorer/test_server",
    "integrations/test_trackers",
    "training/test_tracked_captions",
    "data/test_sources",
    "data/test_flickr8k",
    "data/test_entities",
    "data/test_multi30k",
    "evaluation/test_caption_metrics",
    "data/test_ptb_tokenizer",
)
SHARED = Path(__file__).parents[1].parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("how much of the suite")
    group.addoption("--quick", action="store_true", help="only what takes under 90 seconds")
    group.addoption("--all", action="store_true", help="also the tests that are marked slow")


def pytest_configure(config: pytest.Config) -> None:
    for name in LONGEST:
        if not (Path(__file__).parent / f"{name}.py").is_file():
            raise pytest.UsageError(f"LONGEST in {__file__}: there is no tests/{name}.py")


def stem(item: pytest.Item) -> str:
    """A test's file below tests/, without its ending."""
    return item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    quick, everything = config.getoption("--quick"), config.getoption("--all")
    if quick and everything:
        raise pytest.UsageError("--quick and --all: choose one")

    def left_out(item: pytest.Item) -> bool:
        if item.get_closest_marker("slow"):
            return not everything and not config.getoption("-m")
        return quick and stem(item) in LONGEST

    config.hook.pytest_deselected(items=[item for item in items if left_out(item)])
    order = {name: place for place, name in enumerate(LONGEST)}
    items[:] = sorted(
        (item for item in items if not left_out(item)),
        key=lambda item: order.get(stem(item), len(LONGEST)),
    )


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


@pytest.fixture
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
            changes = {"train.epochs": 8.0, "train.log_every": 20}
            train(tiny.settings(shared / "data", changes), shared / "run")
            (shared / "done").touch()
    shutil.copytree(shared / "run", folder / "run")
    return folder / "run", scenes
