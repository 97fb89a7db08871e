"""What a run records about itself, and what of it leaves the machine."""

from show_attend_tell.runs.record import without_places


def test_a_published_command_names_no_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme" / "parquet").mkdir(parents=True)
    command = [
        *("train", "--config", "/home/me/acme/own.py:soft", "--clip=~/clips", "--quiet"),
        *("--config.data.manual_dir=/home/me/raw", "--config.data.dir", "../raw"),
        *("--config.data.repo=acme/parquet", "--config.data.repo", "acme/scenes@v1:small"),
        *("--config.train.init_from", "runs/secret", "--config.picture.weights=w.pth"),
        *("--config.loss.teachers=('a',)", "--workdir", "runs/own", "--config.seed=3"),
    ]
    kept = ["train", "--config", "own.py:soft", "--clip=clips", "--quiet"]
    kept += ["--config.data.repo=acme/scenes@v1:small"]
    workdir = ["--workdir", "runs/own"]
    assert without_places(command) == [*kept, *workdir, "--config.seed=3"]
    assert without_places(command, also=("--workdir",)) == [*kept, "--config.seed=3"]
