"""The notebooks: their cells run, they are stored without outputs, and they name one address."""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from show_attend_tell.cli.parser import main

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# What makes a notebook quick here: a line, and its replacement.
SHORTER = {
    "your-own-pictures": {"EPOCHS = 40": "EPOCHS = 0.3", "range(320)": "range(90)"},
}


def cells(notebook: Path, kind: str) -> list[str]:
    """The text of a notebook's cells of one kind."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def as_python(cell: str) -> str:
    """A cell whose lines for the shell are calls of `shell`, and which installs nothing."""
    cell = re.sub(r"^( *)%pip .*$", r"\1raise AssertionError('installs')", cell, flags=re.MULTILINE)
    return re.sub(r"^!(.*)$", r"shell(f'''\1''')", cell, flags=re.MULTILINE)


def shell(line: str) -> None:
    """Runs the project's command in this process."""
    program, *arguments = shlex.split(line)
    assert program == "show-attend-tell", line
    assert main(arguments) == 0, line


def run(cell: str, names: dict[str, Any]) -> Any:
    """Runs a cell as a notebook does; returns the value of a last expression."""
    tree = ast.parse(as_python(cell))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(FOLDER / "chelsea.jpg", tmp_path)
    monkeypatch.setattr("urllib.request.urlretrieve", None)  # nothing is fetched
    code = cells(notebook, "code")
    for line, shorter in SHORTER.get(notebook.stem, {}).items():
        assert sum(cell.count(line) for cell in code) == 1, line
        code = [cell.replace(line, shorter) for cell in code]
    names: dict[str, Any] = {"__name__": "__main__", "shell": shell}
    shown = [run(cell, names) for cell in code]
    pictures = [value for value in shown if hasattr(value, "_repr_png_")]
    assert pictures and all(value._repr_png_() for value in pictures)
    assert capsys.readouterr().out


def test_notebooks_are_stored_without_outputs():
    assert [path.stem for path in NOTEBOOKS] == [
        "caption-a-photo",
        "soft-beside-hard",
        "your-own-pictures",
    ]
    for notebook in NOTEBOOKS:
        found = json.loads(notebook.read_text(encoding="utf-8"))
        for cell in found["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None, notebook
        assert "widgets" not in found["metadata"], notebook


def test_notebooks_name_one_repository_and_themselves():
    addresses = set()
    for notebook in NOTEBOOKS:
        text = notebook.read_text(encoding="utf-8")
        addresses |= set(re.findall(r"git\+https://github\.com/([\w.-]+/[\w.-]+)", text))
        addresses |= set(re.findall(r"https://github\.com/([\w.-]+/[\w.-]+)/blob/", text))
        addresses |= set(re.findall(r"githubusercontent\.com/([\w.-]+/[\w.-]+)/main/", text))
        [own] = re.findall(r"research\.google\.com/github/(\S+)/blob/main/(\S+?)\)", text)
        addresses.add(own[0])
        assert own[1] == f"docs/notebooks/{notebook.name}"
    assert len(addresses) == 1, addresses


def test_links_of_notebooks_lead_to_pages():
    for notebook in NOTEBOOKS:
        for cell in cells(notebook, "markdown"):
            for page in re.findall(r"github\.com/[^/]+/[^/]+/blob/main/(docs/[^)#\s]+\.md)", cell):
                assert (FOLDER.parents[1] / page).is_file(), f"{notebook.name}: {page}"


def test_the_install_cell_comes_first():
    for notebook in NOTEBOOKS:
        first, *others = cells(notebook, "code")
        assert "%pip" in first and 'find_spec("show_attend_tell") is None' in first
        assert not any("%pip" in cell for cell in others)
