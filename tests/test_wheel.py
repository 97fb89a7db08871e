"""The wheel: its contents, and that it works without the checkout."""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import show_attend_tell

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "show_attend_tell"
SOURCES = ("show_attend_tell", "experiments", "tests")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"
# A model with a few units that sees 64 images: it learns nothing, but every command works.
SMALL = {
    "data.limit": 64,
    "train.epochs": 1.0,
    "optimizer.warmup_steps": 0,
    "train.buckets": 1,
    "decoder.hidden": 32,
    "decoder.embedding": 16,
    "attention.units": 16,
    "encoder.features": 16,
    "decode.beam": 1,
}


def build(kind: str, source: Path, target: Path) -> Path:
    """Builds a wheel or a source distribution like pip, but without a network."""
    target.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(target)],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel built from the source distribution, as for a release."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "copy"
    copy.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "reference", "version_0_1")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    with tarfile.open(build("sdist", copy, folder / "sdist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    return build("wheel", source, folder / "dist")


def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {p.relative_to(ROOT) for p in PACKAGE.rglob("*.py")}
    data = {p.relative_to(ROOT) for p in (PACKAGE / "pretrained_models").glob("*/*")}
    for folder in (PACKAGE / "reports" / "templates", PACKAGE / "explorer" / "static"):
        data |= {p.relative_to(ROOT) for p in folder.iterdir()}
    native = PACKAGE / "models" / "native"
    data |= {p.relative_to(ROOT) for p in native.iterdir() if p.suffix in (".cc", ".h")}
    experiments = {
        Path("show_attend_tell", "experiments", path.name)
        for path in (ROOT / "experiments").glob("*.py")
    }
    assert len(modules) > 50 and len(data) > 8 and len(experiments) > 5
    wanted = modules | data | experiments | {Path("show_attend_tell", "py.typed")}
    assert found == {path.as_posix() for path in wanted}


def test_wheel_states_version_requirements_and_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        about = {Path(n).name: n for n in archive.namelist() if ".dist-info/" in n}
        metadata = Parser().parsestr(archive.read(about["METADATA"]).decode())
        commands = archive.read(about["entry_points.txt"]).decode()
    assert metadata["Version"] == show_attend_tell.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    needed = [r for r in metadata.get_all("Requires-Dist") or [] if "extra ==" not in r]
    assert any(r.startswith("jax>=") for r in needed) and len(needed) > 20
    assert not any(r.startswith(("torch", "pytest", "pyright", "mkdocs")) for r in needed)
    assert "show-attend-tell = " in commands


class Installed:
    """A virtual environment with the wheel; it finds its dependencies in the running one."""

    def __init__(self, folder: Path, wheel: Path):
        self.bin = folder / "venv" / "bin"
        self.cwd = folder / "elsewhere"
        self.cwd.mkdir()
        venv.create(folder / "venv", symlinks=True, with_pip=False)
        place = Path(self.run("python", "-c", "import site; print(site.getsitepackages()[0])"))
        self._install(wheel)
        # Python searches folders that a .pth file names, but does not read their own .pth files.
        # So an editable installation of the checkout stays out.
        paths = sysconfig.get_paths()
        lines = dict.fromkeys([paths["purelib"], paths["platlib"], *site.getsitepackages()])
        (place / "dependencies.pth").write_text("\n".join(lines) + "\n")

    def _install(self, wheel: Path) -> None:
        python = str(self.bin / "python")
        if shutil.which("uv"):
            tool = ["uv", "pip", "install", "--offline", "--python", python]
        else:
            tool = [sys.executable, "-m", "pip", "--python", python, "install"]
        command = [*tool, "--quiet", "--no-index", "--no-deps", str(wheel)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, program: str, *arguments: str) -> str:
        """The output of a program of the environment; it must succeed."""
        hidden = ("PYTHONPATH", "GLIBC_TUNABLES", "SHOW_ATTEND_TELL_STARTED_AGAIN")
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.cwd,
            env=env | {"PATH": str(self.bin)},  # no compiler
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def test_the_checkout_is_out_of_reach(installed):
    program = (
        "import importlib.util, show_attend_tell as package; "
        "print(package.__file__, package.__version__, importlib.util.find_spec('tiny'), sep='|')"
    )
    file, version, tests = installed.run("python", "-c", program).split("|")
    assert Path(file).is_relative_to(installed.bin.parent)
    assert (version, tests) == (show_attend_tell.__version__, "None")


def test_experiments_and_models_are_included(installed):
    settings = installed.run("show-attend-tell", "config", "--config", "shapes:hard")
    assert "attention.kind" in settings and "'hard'" in settings
    names = "from show_attend_tell import pretrained; print(*pretrained.names())"
    packaged = "flickr8k-bilingual flickr8k-hard flickr8k-hard-0.1 flickr8k-soft flickr8k-soft-0.1"
    assert installed.run("python", "-c", names) == packaged


# With fewer than the data set's 7,000 pictures, which take longer to draw than all else takes.
QUICKSTART = """
import sys
from show_attend_tell.cli import training
from show_attend_tell.cli.parser import main
from show_attend_tell.data.builders import shapes

training.SHOWN = 2
shapes.SPLITS = {"train": 64, "val": 16, "test": 16}
sys.exit(main(["quickstart", *sys.argv[1:]]))
"""


def test_quickstart_runs_from_the_wheel(installed):
    changes = {"data.dir": installed.cwd / "data", **SMALL}
    overrides = [f"--config.{name}={value}" for name, value in changes.items()]
    out = installed.run("python", "-c", QUICKSTART, "--workdir", "out", *overrides)
    assert "minutes in all" in out
    assert (installed.cwd / "out" / "compare" / "index.html").is_file()
