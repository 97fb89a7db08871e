"""The notebooks: their cells run, they are stored without outputs, and they name one address."""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from show_attend_tell import pretrained, sharing
from show_attend_tell.cli.parser import main
from show_attend_tell.inference.run import load_run

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
# What makes a notebook quick here: text, and its replacement.
SPLITS = '"val" if number < {} else "test" if number < {}'
SIZES = "--config.decoder.hidden=32 --config.decoder.embedding=16 --config.encoder.features=16"
SHORTER = {
    "your-own-pictures": {
        "EPOCHS = 20": "EPOCHS = 1",
        "range(320)": "range(20)",
        SPLITS.format(30, 60): SPLITS.format(2, 4),
        "range(30, 60)": "range(2, 4)",
        "enumerate(captions, 30)": "enumerate(captions, 2)",
        "rows[30]": "rows[2]",
        "warmup_steps=10": f"warmup_steps=0 {SIZES}",
    },
}


def cells(notebook: Path, kind: str) -> list[str]:
    """The text of a notebook's cells of one kind."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def as_python(cell: str) -> str:
    """A cell whose lines for the shell are calls of `shell`, and which installs nothing."""
    cell = re.sub(r"^( *)%pip .*$", r"\1raise AssertionError('installs')", cell, flags=re.MULTILINE)
    continued = r"^!((?:.*\\\n)*.*)$"  # lines that end in a backslash go on
    return re.sub(continued, r"shell(rf'''\1''')", cell, flags=re.MULTILINE)


def shell(line: str) -> None:
    """Runs the project's command in this process."""
    program, *arguments = shlex.split(line.replace("\\\n", " "))
    assert program == "show-attend-tell", line
    # Data sets are built below the working directory, not in the user's cache folder.
    assert main([*arguments, "--config.data.dir=data"]) == 0, line


def run(cell: str, names: dict[str, Any]) -> Any:
    """Runs a cell as a notebook does; returns the value of a last expression."""
    tree = ast.parse(as_python(cell))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


def play(notebook: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Runs a notebook's cells in a folder; returns what it shows."""
    monkeypatch.chdir(folder)
    shutil.copy(FOLDER / "chelsea.jpg", folder)
    monkeypatch.setattr("urllib.request.urlretrieve", None)  # nothing is fetched
    code = cells(notebook, "code")
    for line, shorter in SHORTER.get(notebook.stem, {}).items():
        assert sum(cell.count(line) for cell in code) == 1, line
        code = [cell.replace(line, shorter) for cell in code]
    names: dict[str, Any] = {"__name__": "__main__", "shell": shell}
    return [run(cell, names) for cell in code]


def check_pictures(shown: list[Any], least: int) -> None:
    pictures = [value for value in shown if hasattr(value, "_repr_png_")]
    assert len(pictures) >= least and all(value._repr_png_() for value in pictures)


# The one that trains takes longer than the others together.
@pytest.mark.parametrize(
    "notebook",
    [
        pytest.param(path, id=name, marks=pytest.mark.slow if name.startswith("your") else ())
        for path, name in zip(NOTEBOOKS, NAMES, strict=True)
    ],
)
def test_a_notebook_runs(notebook, trained, tmp_path, monkeypatch):
    """With a tiny model in place of the packaged ones, which take long to compile."""
    for name in ("flickr8k-soft", "flickr8k-hard"):
        sharing.export(load_run(trained[0]), tmp_path / "models" / name)
    monkeypatch.setattr(pretrained, "PACKAGED", tmp_path / "models")
    check_pictures(play(notebook, tmp_path, monkeypatch), least=1)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=NAMES)
def test_a_notebook_runs_with_packaged_models(notebook, tmp_path, monkeypatch, capsys):
    shown = play(notebook, tmp_path, monkeypatch)
    check_pictures(shown, least=1)
    for value in shown:
        if isinstance(value, pretrained.Captions) and value:
            assert "<iframe" in value._repr_html_()
    if notebook.stem == "soft-beside-hard":
        soft, hard = re.findall(r"(\S+) nats on average", capsys.readouterr().out)
        assert float(hard) < float(soft)


def test_notebooks_are_stored_without_outputs():
    assert NAMES == ["caption-a-photo", "soft-beside-hard", "your-own-pictures"]
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
