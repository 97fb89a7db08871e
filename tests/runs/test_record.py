"""What a run records about itself, and what of it leaves the machine."""

import subprocess
from pathlib import Path

from show_attend_tell.runs import record
from show_attend_tell.runs.record import without_places


def test_a_published_command_names_no_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme" / "parquet").mkdir(parents=True)
    command = [
        *("train", "--config", "/home/me/acme/own.py:soft", "--clip=~/clips", "--quiet"),
        *("--config.data.manual_dir=/home/me/raw", "--config.data.dir", "../raw"),
        *("--config.data.download", "--quiet", "--config.data.download=True"),
        *("--config.data.repo=acme/parquet", "--config.data.repo", "acme/scenes@v1:small"),
        *("--config.train.init_from", "runs/secret", "--config.picture.weights=w.pth"),
        *("--config.loss.teachers=('a',)", "--workdir", "runs/own", "--config.seed=3"),
    ]
    kept = ["train", "--config", "own.py:soft", "--clip=clips", "--quiet", "--quiet"]
    kept += ["--config.data.repo=acme/scenes@v1:small"]
    workdir = ["--workdir", "runs/own"]
    assert without_places(command) == [*kept, *workdir, "--config.seed=3"]
    assert without_places(command, also=("--workdir",)) == [*kept, "--config.seed=3"]


def test_the_commit_is_that_of_the_source_and_of_nothing_around_it(tmp_path, monkeypatch):
    installed = tmp_path / "project" / ".venv" / "record.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")

    def git(*words):
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", tmp_path / "project", *author, *words], check=True)

    (tmp_path / "project" / ".gitignore").write_text(".venv\n")
    git("init", "-q")
    git("add", ".gitignore")
    git("commit", "-qm", "one")
    monkeypatch.setattr(record, "__file__", str(installed))
    assert record._commit() is None
    git("add", "-f", ".venv/record.py")
    git("commit", "-qm", "two")
    assert len(record._commit() or "") >= 7
    monkeypatch.setattr(record, "__file__", str(Path("/record.py")))
    assert record._commit() is None
