"""The shape of the code base: what may import what, and what the installation may rest on."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "show_attend_tell"
FILES = sorted(PACKAGE.rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))

# Leaves of the import graph, and what of ours each may use beside `errors` and `files`.
LEAVES = {
    "attention": set(),
    "attention_maps": {"datasets", "vocabulary"},
    "caption_metrics": {"ptb_tokenizer"},
    "checkpoint": {"devices"},
    "datasets": {"images"},
    "decode": set(),
    "devices": set(),
    "encoders": {"attention", "recurrence", "vocabulary"},
    "files": set(),
    "images": set(),
    "ptb_tokenizer": set(),
    "recurrence": {"attention"},
    "vocabulary": {"ptb_tokenizer"},
    "writer": {"devices"},
}


def imported_names(source: str, package: str = "") -> set[str]:
    """Dotted names that a module imports anywhere, in functions too; `package`: where it lies."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], base]).strip(".")
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def component(path: Path) -> str:
    """The module or sub-package of ours that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return imported_names(path.read_text(), package)


def our_imports() -> dict[str, set[str]]:
    """Which components of ours each component imports."""
    graph: dict[str, set[str]] = {component(path): set() for path in FILES}
    for path in FILES:
        ours = {n.split(".")[1] for n in imports_of(path) if n.startswith("show_attend_tell.")}
        graph[component(path)] |= ours - {component(path)}
    return graph


def test_imports_are_read_in_every_form():
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from ..g import h\n"
    assert imported_names(source, "p.q") == {"a.b", "c.d", "p.q.e", "p.g.h"}


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_nothing_else_of_ours(leaf):
    assert our_imports()[leaf] <= {"errors", "files"} | LEAVES[leaf]


def test_dependencies_point_one_way():
    tuple(graphlib.TopologicalSorter(our_imports()).static_order())  # raises on a cycle


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_import_only_ml_collections(path):
    assert {name.split(".")[0] for name in imports_of(path)} == {"ml_collections"}


@pytest.mark.parametrize("path", [*FILES, *EXPERIMENTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_tensorflow_or_torch(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"tensorflow", "tensorflow_text", "torch", "torchvision"}


def test_every_module_imports_where_tensorflow_and_torch_cannot():
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in FILES]
    program = f"""
import importlib, sys, traceback
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
failed = 0
for name in {[m.removesuffix(".__init__") for m in modules]}:
    try:
        importlib.import_module(name)
    except Exception:
        failed = 1
        print(name, traceback.format_exc(limit=-1))
sys.exit(failed)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_attention_maps_need_no_jax():
    module = "show_attend_tell.reports.attention_pictures"
    program = f"import sys; sys.modules['jax'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def locked() -> dict[str, str]:
    lock = (ROOT / "requirements.lock").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock, re.MULTILINE))


def test_lock_has_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["test"],
    ]
    for requirement in map(Requirement, asked):
        version = locked().get(canonicalize_name(requirement.name))
        assert version and requirement.specifier.contains(version), requirement


def test_lock_is_hashed_and_names_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock and "http" not in lock
    assert "--index" not in lock and "--find-links" not in lock and "@" not in lock
    blocks = re.split(r"\n(?=[a-z])", re.sub(r"^#.*\n", "", lock, flags=re.MULTILINE))
    assert len(blocks) == len(locked())
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block
