"""The documentation: its commands parse, its links resolve, its lines are short."""

import dataclasses
import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from show_attend_tell import config as configs
from show_attend_tell import settings
from show_attend_tell.cli.parser import make_parser

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "results" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
OURS = ("test", "bench", "--help")  # what launch.sh handles itself, or what is not a verb
WRITTEN_BY_READERS = "experiments/luong.py"  # a file that a recipe asks its reader to write


def shell_of(text: str) -> str:
    """The shell commands of a page: all its bash blocks, including indented ones."""
    return "\n".join(re.findall(r"^ *```bash\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE))


def commands_of(page: Path, folder: Path) -> list[list[str]]:
    """The arguments of every call of launch.sh, as a shell passes them.

    `folder` has a launch.sh that notes its arguments, and no other program.
    """
    noted = folder / "noted.jsonl"
    noted.touch()
    launch = folder / "launch.sh"
    launch.write_text(f"#!/bin/bash\nprintf '%s\\0' \"$@\" $'\\n' >>{noted}\n")
    launch.chmod(0o755)
    # No other program is found, and a failing line does not end the script.
    subprocess.run(
        ["/bin/bash", "-c", shell_of(page.read_text(encoding="utf-8"))],
        cwd=folder,
        env={"PATH": str(folder / "nowhere")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    calls: list[list[str]] = [[]]
    for word in noted.read_text().split("\0")[:-1]:
        if word == "\n":
            calls.append([])
        else:
            calls[-1].append(word)
    return calls[:-1]


@cache
def keys() -> set[str]:
    """All keys of settings."""
    known = {"seed"}
    for own in settings.GROUPS.values():
        for name, group in {**own, **settings.COMMON}.items():
            known |= {f"{name}.{field.name}" for field in dataclasses.fields(group)}
    return known


parser = cache(make_parser)


@cache
def load_experiment(reference: str, overrides: tuple[str, ...]) -> settings.Settings:
    """Pages say much the same: each experiment is loaded once."""
    return configs.load_experiment(reference, overrides)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_of_the_documentation_parse(page, tmp_path):
    for call in commands_of(page, tmp_path):
        if not call or call[0] in OURS:
            continue
        arguments, rest = parser().parse_known_args(call)
        overrides = [word for word in rest if word.startswith("--config.")]
        assert rest == overrides, f"{page.name}: {' '.join(call)}"
        for override in overrides:
            key = override.split("=")[0].removeprefix("--config.")
            assert key in keys(), f"{page.name}: {override}"
        named = getattr(arguments, "config", None) or []
        for reference in [named] if isinstance(named, str) else named:
            if not reference.startswith(WRITTEN_BY_READERS):
                load_experiment(reference, tuple(overrides))


def test_commands_are_found(tmp_path):
    [call] = [c for c in commands_of(ROOT / "README.md", tmp_path) if c[:1] == ["caption"]]
    assert call == ["caption", "photo.jpg", "another.png"]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_of_the_documentation_resolve(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    generated = ("verbs.md", "settings.md", "api/")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if re.match(r"[a-z]+:", target) or any(part in target for part in generated):
            continue
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_lines_of_prose_are_short(page):
    if page.parts[-2:] in (("flickr8k", "table.md"), ("grounding", "table.md")):  # by `compare`
        return
    long = [
        line
        for line in page.read_text(encoding="utf-8").splitlines()
        if len(line) > 100 and not line.startswith(("|", "![")) and "](http" not in line
    ]
    assert not long, long[:3]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_tables_have_both_markers():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        names = re.findall(r"<!-- table: (\S+) -->\n\|", text)
        assert len(names) == text.count("<!-- table:") == text.count("<!-- end -->"), page
        for name in names:
            assert (ROOT / "results" / name).is_dir(), name


def test_settings_page_knows_every_group():
    """docs/site_hooks.py shows every group of `settings`."""
    hooks = (ROOT / "docs" / "site_hooks.py").read_text(encoding="utf-8")
    for groups in settings.GROUPS.values():
        for group in groups.values():
            assert f"typed.{group.__name__}," in hooks, group
    assert "typed.COMMON" in hooks


def test_results_name_the_commit_of_each_record():
    for record in sorted((ROOT / "results").glob("*/*/run.json")):
        run = json.loads(record.read_text(encoding="utf-8"))
        assert run["commit"] and run["command"] and "seed" in run, record
