"""launch.sh with a stand-in for uv, which downloads nothing and writes its calls to a file."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

UV = f"""#!/usr/bin/env bash
echo "$1 $2" >>"$UV_CALLS"
if [ "$1" = venv ]; then
  mkdir -p "${{@: -1}}/bin"
  ln -sf '{sys.executable}' "${{@: -1}}/bin/python"
  printf '#!/usr/bin/env bash\\npwd\\nprintf "<%%s>" "$@"\\n' >"${{@: -1}}/bin/show-attend-tell"
  chmod +x "${{@: -1}}/bin/show-attend-tell"
elif [ -n "${{UV_FAILS-}}" ]; then
  echo 'no space left' >&2
  exit 1
elif [ -n "${{UV_SLEEPS-}}" ]; then
  echo 'Collecting a-package'
  '{shutil.which("sleep")}' "$UV_SLEEPS"
fi
"""


class Checkout:
    """A folder with launch.sh, outside the working directory."""

    def __init__(self, folder: Path):
        self.root = folder / "a folder"
        self.cwd = folder / "elsewhere"
        self.calls = folder / "calls"
        tools = folder / "tools"
        for path in (self.root, self.cwd, tools):
            path.mkdir()
        for name in ("launch.sh", "requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        (tools / "uv").write_text(UV)
        (tools / "uv").chmod(0o755)
        self.path = f"{tools}:{os.environ['PATH']}"

    def start(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        return subprocess.run(
            ["bash", str(self.root / "launch.sh"), *arguments],
            env={"PATH": self.path, "UV_CALLS": str(self.calls), **environment},
            cwd=self.cwd,
            capture_output=True,
            text=True,
        )

    def installed(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


def test_installs_once_and_passes_arguments_from_the_users_folder(checkout):
    first = checkout.start("caption", "my photo.jpg", "")
    assert first.stdout == f"{checkout.cwd.resolve()}\n<caption><my photo.jpg><>"
    assert "installing" in first.stderr and first.returncode == 0
    assert checkout.installed() == ["venv --quiet", "pip install", "pip install", "pip install"]

    second = checkout.start("caption")
    assert second.stdout == f"{checkout.cwd.resolve()}\n<caption>"
    assert second.stderr == "" and checkout.installed() == []


def test_a_changed_lock_is_installed_over_what_is_there(checkout):
    checkout.start("x")
    with (checkout.root / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    (checkout.root / ".venv" / "kept").touch()
    assert "bringing" in checkout.start("x").stderr
    assert checkout.installed() == ["pip install"] * 3
    assert (checkout.root / ".venv" / "kept").exists()


def test_a_failed_installation_says_why_and_starts_over(checkout):
    failed = checkout.start("x", UV_FAILS="1")
    assert failed.returncode == 1 and failed.stdout == ""
    assert "no space left" in failed.stderr and "install.log" in failed.stderr
    (checkout.root / ".venv" / "half-written").touch()
    assert checkout.start("x").returncode == 0
    assert not (checkout.root / ".venv" / "half-written").exists()


def test_a_long_installation_says_how_far_it_is(checkout, tmp_path):
    assert "still" not in checkout.start("x").stderr
    sleep = tmp_path / "tools" / "sleep"  # what launch.sh finds
    sleep.write_text(f"#!/usr/bin/env bash\nexec '{shutil.which('sleep')}' 0.1\n")
    sleep.chmod(0o755)
    slow = checkout.start("x", SHOW_ATTEND_TELL_EXTRA="cuda", UV_SLEEPS="0.3")
    lines = slow.stderr.splitlines()
    assert any(
        re.fullmatch(r"launch.sh: still installing, \d s: Collecting a-package", line)
        for line in lines
    )
    assert lines[-1] == "launch.sh: installed" and slow.returncode == 0


def test_a_moved_folder_is_installed_anew(checkout):
    checkout.start("x")
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    checkout.start("x")
    assert checkout.installed()[0] == "venv --quiet"


def test_an_extra_is_remembered(checkout):
    checkout.start("x", SHOW_ATTEND_TELL_EXTRA="cuda")
    assert len(checkout.installed()) == 5  # .venv, build tool, lock, project, extra
    checkout.start("x")
    assert checkout.installed() == []
    assert "bringing" in checkout.start("x", SHOW_ATTEND_TELL_EXTRA="cuda,hub").stderr
    assert checkout.installed() == ["pip install"] * 4
    checkout.start("x", SHOW_ATTEND_TELL_EXTRA="hub")  # which removes cuda
    assert checkout.installed() == ["venv --quiet", *["pip install"] * 4]
    checkout.start("x", SHOW_ATTEND_TELL_EXTRA="")
    assert checkout.installed() == ["venv --quiet", *["pip install"] * 3]


def test_a_failed_update_keeps_what_is_there_and_the_extra(checkout):
    checkout.start("x", SHOW_ATTEND_TELL_EXTRA="cuda")
    (checkout.root / ".venv" / "kept").touch()
    with (checkout.root / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    for _ in range(2):
        assert checkout.start("x", UV_FAILS="1").returncode == 1
    assert checkout.start("x").returncode == 0
    assert checkout.installed() == ["pip install"] * 4
    assert (checkout.root / ".venv" / "kept").exists()


def test_without_a_python_one_line_says_what_to_install(checkout, tmp_path):
    tools = tmp_path / "few tools"
    tools.mkdir()
    for name in ("bash", "cat", "cksum", "dirname", "mkdir", "rm"):
        (tools / name).symlink_to(shutil.which(name))
    checkout.path = str(tools)
    done = checkout.start("x")
    assert done.returncode == 1
    assert "no Python 3.11 to 3.14 found" in done.stderr.splitlines()[-1]


def test_the_program_not_the_launcher_sets_up_its_memory(checkout):
    assert "GLIBC" not in (ROOT / "launch.sh").read_text()
    checkout.start("x")
    script = checkout.root / ".venv" / "bin" / "show-attend-tell"
    script.write_text("#!/usr/bin/env bash\nexport -p\n")
    assert "GLIBC_TUNABLES" not in checkout.start("x").stdout


def test_the_tests_run_in_the_checkout_with_their_arguments(checkout):
    checkout.start("x")
    python = checkout.root / ".venv" / "bin" / "python"
    python.unlink()
    checks = f'if [ "$1" = -c ]; then exec {shlex.quote(sys.executable)} "$@"; fi\n'
    python.write_text(f"#!/usr/bin/env bash\n{checks}pwd\nprintf '<%s>' \"$@\"\n")
    python.chmod(0o755)
    done = checkout.start("test", "--quick", "-k", "a or b")
    assert done.stdout == f"{checkout.root.resolve()}\n<-m><pytest><--quick><-k><a or b>"
