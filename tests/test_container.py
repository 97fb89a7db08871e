"""The Dockerfile: what it copies and names exists, and its RUN steps install the program."""

import fnmatch
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOME = "/opt/show-attend-tell"  # of the program in the image
FOLDERS = (HOME, "/cache", "/work")
# Programs that change the machine; the test gives way to stand-ins.
STOOD_IN = ("apt-get", "useradd")


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, with continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def given(name: str) -> list[str]:
    """The arguments of all instructions of one name."""
    return [rest for instruction, rest in instructions() if instruction == name]


def left_out(path: str) -> bool:
    """Whether .dockerignore keeps a path of the top folder out of the build."""
    out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#") and fnmatch.fnmatch(path, pattern.lstrip("!")):
            out = not pattern.startswith("!")
    return out


def copied() -> list[str]:
    """What the Dockerfile copies, as paths of the repository."""
    return [source for rest in given("COPY") for source in rest.split()[:-1]]


def test_all_that_is_copied_exists_and_is_sent_to_the_build():
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not left_out(source), source
    assert left_out("tests") and left_out(".venv") and left_out("runs")


def test_the_image_has_what_the_launcher_and_the_build_read():
    launcher = (ROOT / "launch.sh").read_text(encoding="utf-8")
    read = set(re.findall(r"\b(requirements\.lock|pyproject\.toml)\b", launcher))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    read |= {project["readme"], *project["license-files"], "setup.py", "MANIFEST.in"}
    assert read | {"launch.sh", "experiments", "show_attend_tell"} == set(copied())


def test_named_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "howto" / "container.md").read_text(encoding="utf-8")
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    named = re.findall(r"--build-arg EXTRA=([\w,]+)", page + text)
    assert named and {e for names in named for e in names.split(",")} <= set(
        project["optional-dependencies"]
    )


def test_it_starts_the_launcher_as_an_ordinary_user():
    order = [instruction for instruction, _ in instructions()]
    assert order[0] == "FROM" and order.index("USER") > max(
        k for k, instruction in enumerate(order) if instruction == "RUN"
    )
    [user] = given("USER")
    assert f"useradd --create-home --uid {user} " in " ".join(given("RUN")) and user != "0"
    assert given("ENTRYPOINT") == [f'["{HOME}/launch.sh"]']
    assert given("WORKDIR") == [HOME, "/work"] and os.access(ROOT / "launch.sh", os.X_OK)
    assert given("VOLUME") == ["/cache"] and "XDG_CACHE_HOME=/cache" in given("ENV")
    [base] = given("FROM")
    minor = int(re.fullmatch(r"python:3\.(\d+)-slim-\w+", base)[1])
    assert 11 <= minor <= 14  # what requirements.lock has wheels for


@pytest.mark.slow
def test_its_steps_install_a_program_that_works(tmp_path):
    """Runs the RUN steps in order, with the image's folders below `tmp_path`."""
    root, tools = tmp_path / "image", tmp_path / "tools"
    for folder in (root, tools):
        folder.mkdir()
    for name in STOOD_IN:
        (tools / name).write_text('#!/bin/sh\necho "$0 $*"\n')
        (tools / name).chmod(0o755)

    def inside(text: str) -> str:
        places = "|".join(FOLDERS)
        found = re.sub(rf"(?<![\w./-])({places})\b", rf"{root}\1", text)
        return found.replace("/var/lib/apt/lists", f"{root}/var/lib/apt/lists")

    cwd = root
    # A new environment: nothing of this one may be found, such as the packages of a test run.
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    shells = []
    for instruction, rest in instructions():
        if instruction == "WORKDIR":
            cwd = Path(inside(rest))
            cwd.mkdir(parents=True, exist_ok=True)
        elif instruction in ("ARG", "ENV"):
            name, _, value = rest.partition("=")
            environment[name] = inside(value.strip('"'))
        elif instruction == "COPY":
            *sources, target = rest.split()
            subprocess.run(["cp", "-r", *(ROOT / s for s in sources), cwd / target], check=True)
        elif instruction == "RUN":
            done = subprocess.run(
                ["sh", "-c", inside(rest)], cwd=cwd, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
            shells.append(done.stdout)
    assert "apt-get install --yes --no-install-recommends g++" in shells[0]
    assert "usage: show-attend-tell" in shells[-1]

    [entry] = given("ENTRYPOINT")
    program = inside(entry.strip('[]"'))
    photo = ROOT / "docs" / "notebooks" / "chelsea.jpg"
    done = subprocess.run(
        [program, "caption", str(photo)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "installing" not in done.stderr  # the image has it all
    assert (cwd / "runs" / "pretrained" / "flickr8k-soft" / "captions").is_dir()
    assert any((root / "cache" / "show_attend_tell").iterdir())
