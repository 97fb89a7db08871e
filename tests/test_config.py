"""Configs from files, runs and the command line."""

import json

import pytest

from show_attend_tell import config as configs
from show_attend_tell.errors import UserError

FILE = """
from ml_collections import ConfigDict

def get_config(variant="soft"):
    if variant != "soft":
        raise ValueError(f"no variant {variant!r}: choose 'soft'")
    return ConfigDict({"seed": 0, "data": {"name": "x", "dir": "", "manual_dir": ""},
                       "train": {"rate": 0.5, "epochs": 3, "drop": False}})
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(FILE)
    return str(path)


def test_overrides_are_typed(file):
    config = configs.from_file(
        f"{file}:soft", ["--config.train.rate=0.25", "--config.train.drop=true"]
    )
    assert config.train.rate == 0.25
    assert config.train.drop is True
    assert config.train.epochs == 3


def test_unknown_key_names_the_nearest(file):
    with pytest.raises(UserError, match=r"config\.train\.epoch: .*--config\.train\.epochs"):
        configs.from_file(file, ["--config.train.epoch=4"])
    with pytest.raises(UserError, match=r"config\.sed: .*--config\.seed"):
        configs.from_file(file, ["--config.sed=4"])


@pytest.mark.parametrize("override", ["--config.train.epochs=many", "--config.train.epochs=2.5"])
def test_wrong_type_is_an_error_that_names_the_key(file, override):
    with pytest.raises(UserError, match="epochs"):
        configs.from_file(file, [override])


def test_missing_file_and_variant(file):
    with pytest.raises(UserError, match="there is no file"):
        configs.from_file("nowhere.py")
    with pytest.raises(UserError, match="choose 'soft'"):
        configs.from_file(f"{file}:sotf")


def test_saved_config_comes_back_with_overrides(file, tmp_path):
    config = configs.from_file(file)
    configs.save(config, tmp_path / "config.json")
    again = configs.load(tmp_path / "config.json")
    assert configs.differences(config, again) == []
    assert configs.digest(config) == configs.digest(again)
    moved = configs.load(tmp_path / "config.json", ["--config.data.dir=/elsewhere"])
    assert configs.differences(config, moved) == ["data.dir"]
    assert configs.digest(config) == configs.digest(moved)
    other = configs.load(tmp_path / "config.json", ["--config.train.epochs=4"])
    assert configs.digest(config) != configs.digest(other)
    with pytest.raises(UserError, match="nearest is --config.train.rate"):
        configs.load(tmp_path / "config.json", ["--config.train.rat=4"])


@pytest.mark.parametrize("trainable, since", [(True, "all"), (False, "")])
def test_a_config_of_an_earlier_version_is_brought_up_to_date(trainable, since, tmp_path):
    old = {"attention": {"kind": "soft"}, "encoder": {"name": "small", "trainable": trainable}}
    (tmp_path / "config.json").write_text(json.dumps(old))
    config = configs.load(tmp_path / "config.json")
    assert config.encoder.to_dict() == {"name": "small", "trainable_from": since}
    assert config.attention.score == "additive"


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="folder of a run"):
        configs.load(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not a readable config"):
        configs.load(tmp_path / "config.json")
