"""A run's folder: whose run it is, and on which data, wherever they lie."""

import errno
import json
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from show_attend_tell import config, files
from show_attend_tell.data.phrases import Description
from show_attend_tell.errors import UserError
from show_attend_tell.runs.folder import RunFolder, contents
from show_attend_tell.settings import Settings

SPLIT = {"name": "folder", "split": "train", "images": 7, "bytes": 99, "config": "ab"}


def settings(**values: str) -> Settings:
    names = {"data": "data.manual_dir", "start": "train.init_from"}
    overrides = [f"--config.{names[key]}={value}" for key, value in values.items()]
    return config.load_experiment("folder:soft", overrides)


def begun(folder: Path, of: Settings, **record: object) -> RunFolder:
    run = RunFolder(folder)
    run.claim(of)
    (folder / "checkpoints").mkdir()
    (folder / "run.json").write_text(json.dumps(record))
    return run


def examples(*captions: tuple[str, ...]) -> MagicMock:
    source = MagicMock(stored=1, fingerprint={"name": "folder"})
    source.captions.return_value = list(captions)
    return source


def test_a_run_keeps_its_folder_when_its_data_move(tmp_path):
    run = begun(tmp_path, settings(data="own"), data={"train": SPLIT})
    moved = settings(data="/elsewhere/own/")
    run.claim(moved)
    assert run.settings() == settings(data="own")  # until the data turn out to be the same
    run.check_data({"train": SPLIT})
    run.keep_places(moved)
    assert run.settings() == moved


def test_an_attempt_that_never_trained_has_no_claim(tmp_path):
    run = RunFolder(tmp_path)
    run.claim(settings(start="a"))
    run.record_centres({"shift": 1.0})
    run.claim(settings(start="b"))
    assert run.settings() == settings(start="b") and run.centres() is None
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"another config \(differing in train.init_from\)"):
        run.claim(settings(start="a"))
    (tmp_path / "checkpoints").rename(tmp_path / "last")
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(UserError, match="holds an exported model"):
        run.claim(settings(start="b"))


def test_data_are_compared_by_what_they_hold(tmp_path):
    now = SPLIT | {"captions": "cd"}
    run = begun(tmp_path, settings(), data={"train": now})
    run.check_data({"train": now | {"config": "another"}})
    for changed in ({"captions": "ef"}, {"bytes": 98}, {"images": 6}, {"mirrored": True}):
        with pytest.raises(UserError, match="the data set has changed since the run began"):
            run.check_data({"train": now | changed})
    with pytest.raises(UserError, match="has changed"):
        run.check_data({"train": now, "val": now})


def test_a_run_of_an_earlier_version_knows_no_captions(tmp_path):
    run = begun(tmp_path, settings(), data={"train": SPLIT})
    run.check_data({"train": SPLIT | {"captions": "cd", "config": "another"}})
    with pytest.raises(UserError, match="has changed"):
        run.check_data({"train": SPLIT | {"captions": "cd", "bytes": 98}})


def test_boxes_that_supervise_belong_to_the_data(tmp_path):
    run = begun(tmp_path / "now", settings(), data={"train": SPLIT | {"boxes": "ab"}})
    with pytest.raises(UserError, match="has changed"):
        run.check_data({"train": SPLIT | {"boxes": "cd"}})
    before = begun(tmp_path / "before", settings(), data={"train": SPLIT})  # kept no boxes
    before.check_data({"train": SPLIT | {"boxes": "ab"}})


def test_another_caption_of_the_same_length_is_other_data():
    a, b = (contents(examples((text,), ("Copy",))) for text in ("A dog .", "A cat ."))
    assert a["name"] == b["name"] == "folder" and a["captions"] != b["captions"]
    assert a == contents(examples(("A dog .",)))  # copies change nothing
    boxes = [contents(examples(("A dog .",)), [[Description("A dog .", (), i)]]) for i in (0, 1)]
    assert boxes[0] != boxes[1] and boxes[0] | {"boxes": ""} == a | {"boxes": ""}


def test_a_run_knows_where_it_started_after_that_run_moved(tmp_path):
    start = settings()
    origin = {"seed": 0, "experiment": config.digest(config.experiment(start)), "step": 8}
    run = begun(tmp_path / "run", settings(start="there/soft"), init_from=origin)
    moved = settings(start=str(tmp_path / "soft"))
    assert run.changes(moved) == ["train.init_from"]  # nothing is there
    other = begun(tmp_path / "soft", start)
    assert run.changes(moved) == ["train.init_from"]  # no weights
    (other.path / "best" / "8").mkdir(parents=True)
    assert run.changes(moved) == []
    config.save(config.replaced(start, {"seed": 1}), other.path / "config.json")
    assert run.changes(moved) == ["train.init_from"]
    config.save(config.replaced(start, {"train.epochs": 1.0}), other.path / "config.json")
    assert run.changes(moved) == ["train.init_from"]


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.await_free()  # not even there
    with run.held(), pytest.raises(UserError, match="another process is training in this folder"):
        run.held().__enter__()
    run.await_free()
    with run.held():
        pass


def test_what_a_killed_process_left_of_checkpoints_goes_at_once(tmp_path):
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp" / "arrays").mkdir(parents=True)
    with RunFolder(tmp_path).held():
        assert not list((tmp_path / "checkpoints").iterdir())


def test_a_file_system_without_locks_admits_all(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    left = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    left.mkdir(parents=True)
    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with RunFolder(tmp_path).held(), RunFolder(tmp_path).held():
        assert left.exists()  # perhaps another process writes it


@pytest.mark.parametrize("content", ["[]", "3", "[" * 100_000, "{"])
def test_a_record_that_is_no_object_is_an_empty_one(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    assert RunFolder(tmp_path).record() == {}


@pytest.mark.parametrize(
    "teachers", [5, [1], [{}], [{"trained_on": 3}], {"trained_on": ["elsewhere"]}]
)
def test_teachers_that_are_none_in_a_record_taught_nothing(tmp_path, teachers):
    RunFolder(tmp_path).claim(settings())
    (tmp_path / "run.json").write_text(json.dumps({"teachers": teachers}))
    assert RunFolder(tmp_path).trained_on() == ["folder"]


@pytest.mark.parametrize("damaged", [3, ["a"], {"train": 3}])
def test_a_damaged_record_binds_a_run_to_nothing(tmp_path, damaged):
    run = begun(tmp_path / "run", settings(start="there/soft"), init_from=damaged, data=damaged)
    run.check_data({"train": SPLIT})
    (tmp_path / "soft" / "best" / "8").mkdir(parents=True)
    assert run.changes(settings(start=str(tmp_path / "soft"))) == ["train.init_from"]


def test_centres_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "centres.json").mkdir()
    with pytest.raises(UserError, match="centres.json: damaged"):
        RunFolder(tmp_path).centres()
