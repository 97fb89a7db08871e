"""The shape of the code base: what may import what, how long things are, who asks which question.

If code cannot keep a rule, one of the tables below gets an entry with the reason. An entry that is
no longer needed fails, too.
"""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import code_rules as rules
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from show_attend_tell.settings import GROUPS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "show_attend_tell"
FILES = sorted(PACKAGE.rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
PYTHON = [
    *FILES,
    *EXPERIMENTS,
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "tests").rglob("*.py")),
]

# Each imports only from those above it.
ORDER = (
    *("memory", "errors", "printable", "terminal", "literal", "files", "hub"),
    *("machine", "tokens", "devices", "programs"),
    "schema",
    "settings",
    "config",
    "data",
    "models",
    "objectives",
    "runs",
    "inference",
    "evaluation",
    "explorer",
    "reports",
    "integrations",
    "training",
    "pretrained",
    "sharing",
    "cli",
    "__init__",  # the package's public face, which loads its contents on demand
    "__main__",
)
APART = {("data", "models"), ("models", "data")}
NO_CONFIG = ("data", "models", "objectives")
DRAWS_WITHOUT_JAX = ("reports.attention_pictures", "inference.attention_record")

LINES_OF_FILE, LINES_OF_FUNCTION = 450, 60
LONG_FILES = {"show_attend_tell/settings.py": "all settings in one file: readers look there"}
LONG_FUNCTIONS = {
    "tests/chaos/bad_arguments.py:overrides": "a list of bad values",
    "tests/chaos/bad_data.py:tables": "a list of bad tables",
    "tests/version_0_1/scenes_hard.py:get_config": "a whole config, as version 0.1 wanted it",
}

# Functions that catch every exception, and the third-party code that makes this necessary.
BROAD_HANDLERS = {
    "config.py:_run": "runs the user's own file, which can raise anything",
    "config.py:read_experiment": "runs the user's own file, which can raise anything",
    "data/builders/coco.py:_Archives._path": "TFDS downloads: network, file system, checksum",
    "data/builders/hub.py:_fetched": "the hub's client: disk, server, network",
    "data/builders/hub.py:_load": "the hub's client, and readers of many formats",
    "data/builders/hub.py:_pulled": "the same, as rows arrive",
    "data/images.py:_opened": "Pillow's decoders raise all kinds for damaged files",
    "data/images.py:_orientation": "Pillow's reader of EXIF raises all kinds for damaged EXIF",
    "data/records.py:damage_reported": "TFDS, ArrayRecord and protobuf read damaged files",
    "hub.py:fetch": "the hub's client: disk, server, network",
    "hub.py:upload": "the hub's client: server, network",
    "models/encoders/torch_weights.py:_load": "a damaged pickle can raise anything",
    "models/encoders/torch_weights.py:_open_zip": "zipfile raises many kinds for damaged files",
    "models/encoders/torch_weights.py:_read_member": "zipfile raises many kinds for damaged files",
    "models/encoders/torch_weights.py:_take": "safetensors lists no errors",
    "models/encoders/weights.py:find_weights": "the hub's client: disk, server, network",
    "programs.py:_read": "XLA documents no list of what a damaged program raises",
    "runs/checkpoint.py:Checkpoints.restore": "Orbax and TensorStore raise many kinds",
    "runs/checkpoint.py:Checkpoints.save": "Orbax and TensorStore raise many kinds",
    "runs/checkpoint.py:Checkpoints.wait": "Orbax and TensorStore raise many kinds",
    "runs/tracking.py:Background._attempt": "trackers' libraries: login, network, server, disk",
}

# Who may ask whether data are images or sentences.
KIND_OF_DATA = {
    "data/base_task.py": "declares what the tasks of both kinds have",
    "data/sentence_task.py": "is the task of sentences",
    "data/task.py": "the one place that decides",
    "settings.py": "declares which groups a data set has, and checks groups against each other",
}
KINDS = (
    *("ImageData", "SentenceData", "ImageEncoder", "SentenceEncoder"),
    *("ImageSource", "PairSource", "Example", "Pair", "Examples", "Pairs"),
)
TASKS = ("ImageTask", "SentenceTask", "SENTENCES")

# Parameters of our own types (`code_rules.OUR_TYPES`) that may be Any.
LOOSE = {
    "data/records.py:as_data_source": "TFDS has the method and documents no type",
}


@cache
def source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(source(path))


def named(path: Path) -> str:
    """A path as the tables above spell it: relative to the package, else to the repository."""
    return str(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def component(path: Path) -> str:
    """The module or package of ours that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports_of(path: Path) -> set[str]:
    return rules.imported_names(parsed(path), ".".join(path.relative_to(ROOT).parent.parts))


MODULES = {module_of(path): path for path in FILES}


@cache
def our_modules(path: Path) -> set[str]:
    """The modules of ours that a file imports, in functions and for annotations too."""
    found = set()
    for name in imports_of(path):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", module_of(path)}


each_file = pytest.mark.parametrize("path", FILES, ids=named)


def test_imports_are_read_in_every_form():
    text = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from ..g import h\n"
    assert rules.imported_names(ast.parse(text), "p.q") == {"a.b", "c.d", "p.q.e", "p.g.h"}


@each_file
def test_packages_import_only_from_those_above_them(path):
    mine = component(path)
    assert mine in ORDER, f"{mine}: give it a place in ORDER"
    for name in our_modules(path):
        other = component(MODULES[name])
        assert (mine, other) not in APART, f"{mine} imports {name}"
        assert ORDER.index(other) <= ORDER.index(mine), f"{mine} imports {name}"


def test_modules_do_not_import_in_a_circle():
    face = module_of(PACKAGE / "__init__.py")
    graph = {name: our_modules(path) - {face} for name, path in MODULES.items() if name != face}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises on a cycle


@pytest.mark.parametrize("path", [p for p in FILES if component(p) in NO_CONFIG], ids=named)
def test_data_models_and_objectives_never_see_a_config(path):
    assert not {name for name in imports_of(path) if name.split(".")[0] == "ml_collections"}
    assert "show_attend_tell.config" not in our_modules(path)
    assert [line for name, line in rules.mentioned(parsed(path)) if name == "Settings"] == []


@each_file
def test_only_the_task_asks_for_the_kind_of_data(path):
    if named(path) in KIND_OF_DATA:
        return
    # A builder serves one data set, so it knows which kind it is.
    names = () if named(path).startswith("data/builders/") else tuple(GROUPS)
    assert list(rules.asks_kind_of_data(parsed(path), KINDS, TASKS, names)) == []


@pytest.mark.parametrize(
    "text",
    [
        "from show_attend_tell.data.task import ImageTask",
        "task.SENTENCES",
        "isinstance(config.data, settings.SentenceData)",
        "isinstance(x, (int, ImageData))",
        "type(x) is ImageData",
        "match x:\n    case ImageData(): pass",
        "match name:\n    case 'multi30k' | 'reversal': pass",
        "if config.data.name in OTHERS: pass",
        "if name == 'reversal': pass",
        "if name in ('multi30k', 'reversal'): pass",
        "if task.kind == 'sentences': pass",
        "if GROUPS[name][0] is SentenceData: pass",
        "TEXTS = {'multi30k': 1, 'reversal': 2}",
    ],
)
def test_questions_about_the_kind_of_data_are_recognised(text):
    assert list(rules.asks_kind_of_data(ast.parse(text), KINDS, TASKS, tuple(GROUPS)))


@pytest.mark.parametrize(
    "text",
    ["def f(data: ImageData) -> str: return data.name", "x = read(images) == 3", "f('shapes')"],
)
def test_using_one_kind_of_data_is_not_asking_for_it(text):
    assert not list(rules.asks_kind_of_data(ast.parse(text), KINDS, TASKS, tuple(GROUPS)))


def test_files_are_short_enough_to_read():
    lengths = {str(p.relative_to(ROOT)): source(p).count("\n") for p in PYTHON}
    long = {name: lines for name, lines in lengths.items() if lines > LINES_OF_FILE}
    assert long.keys() == LONG_FILES.keys(), long


def test_functions_are_short_enough_to_read():
    long = {
        f"{path.relative_to(ROOT)}:{name}": lines
        for path in PYTHON
        for name, lines in rules.function_sizes(
            source(path), parsed(path), LINES_OF_FUNCTION
        ).items()
        if lines > LINES_OF_FUNCTION
    }
    assert long.keys() == LONG_FUNCTIONS.keys(), long


def test_only_code_counts_in_a_functions_length():
    text = '''
def f(
    a,
):
    """Two
    lines."""
    # why

    def g():
        """One."""
        return """
        text"""

    return g  # what
'''
    assert rules.function_sizes(text, ast.parse(text)) == {"f": 7, "f.g": 3}
    assert rules.function_sizes(text, ast.parse(text), 7) == {"f": 7}


def test_broad_handlers_are_only_where_third_party_code_needs_them():
    found = [
        f"{named(path)}:{name}"
        for path in FILES
        for name in rules.broad_handlers(parsed(path), PACKAGE.name)
    ]
    assert sorted(found) == sorted(BROAD_HANDLERS)


def test_broad_handlers_guard_no_call_of_ours():
    guards = {name for path in FILES for name in rules.broad_guards(parsed(path))}
    found = {}
    for path in FILES:
        handlers = rules.broad_handlers(parsed(path), PACKAGE.name)
        calls = [call for calls in handlers.values() for call in calls]
        found[named(path)] = calls + rules.our_calls_in(guards, parsed(path), PACKAGE.name)
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_broad_handlers_are_recognised():
    text = """
from show_attend_tell import files
def outer():
    def inner():
        try:
            json.loads(files.read(path))
        except (OSError, Exception):
            return None
    try:
        self._manager.save()
    except:
        log()
    try:
        self.save()
    except BaseException:
        undo()
        raise
"""
    assert rules.broad_handlers(ast.parse(text), PACKAGE.name) == {
        "outer.inner": ["files.read"],
        "outer": [],
    }


def test_what_a_broad_context_manager_guards_is_recognised():
    text = """
from show_attend_tell import files
@contextmanager
def reported():
    try:
        yield
    except Exception as error:
        raise UserError from error
with reported(), open(path) as file:
    files.read(json.load(file))
"""
    assert rules.broad_guards(ast.parse(text)) == {"reported"}
    assert rules.our_calls_in({"reported"}, ast.parse(text), PACKAGE.name) == ["files.read"]


@pytest.mark.parametrize("path", [p for p in FILES if component(p) != "cli"], ids=named)
def test_only_the_command_line_prints(path):
    found = [
        n.lineno for n in ast.walk(parsed(path)) if isinstance(n, ast.Name) and n.id == "print"
    ]
    assert found == []


def test_values_of_our_own_types_are_not_any():
    found = {
        f"{named(path)}:{name}": meant
        for path in FILES
        for name, meant in rules.loose_types(parsed(path), rules.OUR_TYPES)
    }
    assert found.keys() == LOOSE.keys(), found


@pytest.mark.parametrize(
    "text",
    [
        "def f(config: Any): ...",
        "def f(*, source_vocabulary: 'Any' = None): ...",
        "def load_run() -> Any | None: ...",
        "class A:\n    examples: list[Any]",
    ],
)
def test_loose_types_are_recognised(text):
    assert list(rules.loose_types(ast.parse(text), rules.OUR_TYPES))
    assert not list(rules.loose_types(ast.parse(text.replace("Any", "Own")), rules.OUR_TYPES))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_import_only_ml_collections(path):
    assert {name.split(".")[0] for name in imports_of(path)} <= {"ml_collections"}


@pytest.mark.parametrize("path", [*FILES, *EXPERIMENTS], ids=named)
def test_nothing_imports_tensorflow_or_torch(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"tensorflow", "tensorflow_text", "torch", "torchvision"}


def run_python(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_imports_where_tensorflow_and_torch_cannot():
    run_python(f"""
import importlib, sys, traceback
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
failed = 0
for name in {sorted(MODULES)}:
    try:
        importlib.import_module(name)
    except Exception:
        failed = 1
        print(name, traceback.format_exc(limit=-1))
sys.exit(failed)
""")


@pytest.mark.parametrize("module", DRAWS_WITHOUT_JAX)
def test_pictures_of_attention_need_no_jax(module):
    run_python(f"import sys; sys.modules['jax'] = None; import show_attend_tell.{module}")


def test_shapes_and_types_are_checked_in_all_packages():
    unchecked = {"memory", "errors", "tokens", "schema", "settings", "__init__", "__main__"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    options = project["tool"]["pytest"]["ini_options"]["addopts"]
    *checked, checker = options[options.index("--jaxtyping-packages") + 1].split(",")
    assert {name.removeprefix("show_attend_tell.") for name in checked} == {*ORDER} - unchecked
    assert checker == "beartype.beartype"


def locked(name: str = "requirements.lock") -> dict[str, str]:
    lock = (ROOT / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "extras"),
    [("requirements.lock", ("test",)), ("requirements-dev.lock", ("test", "docs", "dev"))],
)
def test_locks_have_what_the_project_requires(name, extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in extras:
        asked += project["project"]["optional-dependencies"][extra]
    for requirement in map(Requirement, asked):
        version = locked(name).get(canonicalize_name(requirement.name))
        assert version and requirement.specifier.contains(version), requirement


def test_both_locks_agree_on_every_version():
    assert locked().items() <= locked("requirements-dev.lock").items()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_locks_are_hashed_and_name_no_address(name):
    lock = (ROOT / name).read_text()
    assert "://" not in lock
    assert "--index" not in lock and "--find-links" not in lock and "@" not in lock
    blocks = re.split(r"\n(?=[a-z])", re.sub(r"^#.*\n", "", lock, flags=re.MULTILINE))
    assert len(blocks) == len(locked(name))
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block
