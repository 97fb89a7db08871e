"""Settings from experiment files, runs and the command line."""

import json
import re
from pathlib import Path

import pytest

from show_attend_tell import config
from show_attend_tell.errors import UserError

FILE = """
from ml_collections import ConfigDict

VARIANTS = {"soft": {}, "wide": {"units": 9}}

def get_config(variant="soft"):
    return ConfigDict({"data": {"name": "shapes"}, "train": {"epochs": 3},
                       "attention": {"units": 64} | VARIANTS[variant]})
"""
OLD = Path(__file__).parent / "version_0_1"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(FILE)
    return str(path)


def test_a_file_states_differences_and_defaults_fill_the_rest(file):
    settings = config.load_experiment(f"{file}:wide")
    assert (settings.attention.units, settings.train.epochs) == (9, 3.0)
    assert type(settings.train.epochs) is float
    assert settings.attention.score == "additive"
    assert config.load_experiment(file).attention.units == 64


def test_overrides_are_typed(file):
    overrides = ["--config.train.epochs=0.25", "--config.data.mirrored=true"]
    settings = config.load_experiment(file, [*overrides, "--config.data.limit", "8"])
    assert settings.train.epochs == 0.25
    assert settings.data.mirrored is True and settings.data.limit == 8


def test_lists_can_be_overridden(file):
    settings = config.load_experiment(file, ["--config.encoder.endpoints=('head', 'stage6')"])
    assert settings.encoder.endpoints == ("head", "stage6")


def test_an_unknown_key_names_the_nearest(file, tmp_path):
    with pytest.raises(UserError, match=r"config\.train\.epoch: .*--config\.train\.epochs"):
        config.load_experiment(file, ["--config.train.epoch=4"])
    with pytest.raises(UserError, match=r"config\.sed: .*--config\.seed"):
        config.load_experiment(file, ["--config.sed=4"])
    path = tmp_path / "typo.py"
    path.write_text(FILE.replace('"epochs"', '"epohcs"'))
    with pytest.raises(UserError, match=r"config\.train\.epohcs: .*--config\.train\.epochs"):
        config.load_experiment(str(path))


@pytest.mark.parametrize(
    "override", ["--config.train.buckets=many", "--config.train.buckets=2.5", "--config.seed=x"]
)
def test_a_wrong_type_is_an_error_that_names_the_key(file, override):
    with pytest.raises(UserError, match=override.split("=")[0].split(".")[-1]):
        config.load_experiment(file, [override])


def test_an_override_out_of_range_is_an_error(file):
    with pytest.raises(UserError, match=r"config\.train\.epochs is -1\.0: it must be over 0"):
        config.load_experiment(file, ["--config.train.epochs=-1"])


def test_stray_words_on_the_command_line_are_errors(file):
    with pytest.raises(UserError, match="--epochs: no such option"):
        config.load_experiment(file, ["--epochs=3"])
    with pytest.raises(UserError, match="more: not understood"):
        config.load_experiment(file, ["more"])


def test_an_experiment_is_found_by_name_or_by_path(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # an installed program does not start in a checkout
    assert config.load_experiment("shapes:hard").attention.kind == "hard"
    with pytest.raises(
        UserError, match=r"there is no file shape; .* nearest .* is shapes \(all: coco"
    ):
        config.load_experiment("shape")
    with pytest.raises(UserError, match="there is no file nowhere.py"):
        config.load_experiment("nowhere.py")
    (tmp_path / "shapes").write_text(FILE)  # a file with that name comes first
    assert config.find_experiment("shapes:hard") == (Path("shapes"), "hard")


def test_an_unknown_variant_names_those_that_exist(file):
    with pytest.raises(UserError, match="has no variant 'sotf'; choose one of soft, wide"):
        config.load_experiment(f"{file}:sotf")


@pytest.mark.parametrize(
    "content, message",
    [
        ("import nowhere_at_all", ", line 1: does not load (No module named 'nowhere_at_all')"),
        ("\nx = (\n", ", line 2: does not load ('(' was never closed)"),
        ("import sys\nsys.exit('bye')", ", line 2: does not load (bye)"),
        ("x = 1 \xff", ", line 1: does not load ("),
        ("", ": is empty; write a get_config() into it"),
        ("MZ\0\0", ": a binary file, not Python; name an experiment"),
        ("x = 1", ": has no get_config(); see the experiments of the project"),
        ("get_config = 3", ": has no get_config(); see the experiments of the project"),
        (
            "def get_config():\n    raise ValueError('not today')",
            ", line 2: get_config() fails (not today); fix it",
        ),
        ("def get_config():\n    raise SystemExit(3)", ", line 2: get_config() fails (3); fix it"),
        ("def get_config():\n    config = {}", ": get_config() must return a ConfigDict, not None"),
    ],
)
@pytest.mark.parametrize("name", ["broken.py", "broken.txt"])
def test_a_fault_in_an_experiment_file_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        config.load_experiment(str(path))
    assert str(caught.value).startswith(f"{path}{message}") and "\n" not in str(caught.value)


def test_a_home_folder_is_meant_by_a_tilde(file, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.find_experiment("~/experiment.py:wide") == (Path(file), "wide")
    of_data = ("data.dir", "data.manual_dir", "data.captions_dir")
    names = (*of_data, "encoder.weights", "train.init_from")
    of_pictures = ("data.pictures_dir", "picture.weights")
    others = {"data.repo", "data.further_dir", "loss.teachers"}
    assert {*names, *of_pictures, *others} == {*config.PATHS}
    repo = ["--config.data.name=hub", "--config.data.repo=~/x"]
    assert config.load_experiment(file, repo).data.repo == str(tmp_path / "x")
    pairs = config.load_experiment("multi30k:joint", ["--config.data.further_dir=~/x"])
    assert pairs.data.further_dir == str(tmp_path / "x")
    given = [f"--config.{name}=~/x" for name in of_pictures]
    beside = dict(config.flatten(config.load_experiment("multi30k:pictured", given)))
    assert {beside[name] for name in of_pictures} == {str(tmp_path / "x")}
    settings = config.load_experiment("~/experiment.py", [f"--config.{n}=~/x" for n in names])
    found = dict(config.flatten(settings))
    assert {found[name] for name in names} == {str(tmp_path / "x")}
    Path(file).write_text(FILE.replace('{"epochs": 3}', '{"init_from": "~/x"}'))
    assert config.load_experiment(file).train.init_from == str(tmp_path / "x")
    config.save(settings, tmp_path / "config.json")
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace(str(tmp_path / "x"), "~/x"))
    assert config.load_run(tmp_path / "config.json") == settings
    hub = config.load_experiment(file, ["--config.encoder.weights=timm/x~"])
    assert hub.encoder.weights == "timm/x~"


def test_another_data_set_needs_the_same_settings(file):
    assert config.load_experiment(file, ["--config.data.name=folder"]).data.name == "folder"
    with pytest.raises(UserError, match="needs other settings than 'shapes': choose another"):
        config.load_experiment(file, ["--config.data.name=multi30k"])
    with pytest.raises(UserError, match="nearest data set is 'folder'"):
        config.load_experiment(file, ["--config.data.name=foldr"])


def test_saved_settings_come_back_with_overrides(file, tmp_path):
    settings = config.load_experiment(file)
    path = tmp_path / "config.json"
    config.save(settings, path)
    again = config.load_run(path)
    assert again == settings and config.digest(again) == config.digest(settings)
    moved = config.load_run(path, ["--config.data.dir=/elsewhere"])
    assert config.differences(settings, moved) == ["data.dir"]
    assert config.digest(settings) == config.digest(moved)
    other = config.load_run(path, ["--config.train.epochs=4"])
    assert config.digest(settings) != config.digest(other)
    with pytest.raises(UserError, match="nearest is --config.seed"):
        config.load_run(path, ["--config.see=4"])


def test_an_empty_checksum_matches_any(file):
    pinned = config.load_experiment(file, ["--config.encoder.weights_sha256=ab"])
    other = config.load_experiment(file, ["--config.encoder.weights_sha256=cd"])
    left_open = config.load_experiment(file)
    assert config.changes(pinned, left_open) == config.changes(left_open, pinned) == []
    assert config.changes(pinned, other) == ["encoder.weights_sha256"]


def test_where_files_lie_does_not_make_another_run(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def load(**values):
        names = {"dir": "data.dir", "data": "data.manual_dir", "start": "train.init_from"}
        names["download"] = "data.download"
        names |= {"weights": "encoder.weights", "sum": "encoder.weights_sha256"}
        return config.load_experiment(
            file, [f"--config.{names[key]}={value}" for key, value in values.items()]
        )

    assert config.changes(load(dir="a", data="own"), load(dir="/b", data="/there/own/")) == []
    assert config.changes(load(download="True"), load()) == []
    assert config.changes(load(start="runs/a"), load(start=f"{tmp_path}/runs/a/")) == []
    assert config.changes(load(start="runs/a"), load(start="runs/b")) == ["train.init_from"]
    # The checksums say whether weights are the same; without both, the paths have to.
    here, there = load(weights="a/w.pth", sum="ab"), load(weights="b/w.pth", sum="ab")
    assert config.changes(here, there) == []
    assert config.changes(here, load(weights="b/w.pth", sum="cd")) == ["encoder.weights_sha256"]
    assert config.changes(here, load(weights="b/w.pth")) == ["encoder.weights"]
    assert config.changes(here, load(weights="./a/w.pth")) == []


def test_seeds_and_paths_do_not_tell_experiments_apart(file):
    a = config.load_experiment(file, ["--config.seed=3", "--config.data.manual_dir=/here"])
    assert config.experiment(a) == config.experiment(config.load_experiment(file))
    b = config.experiment(a, {"init_from": {"experiment": "0123"}})
    assert b.train.init_from == "a run of experiment 0123"


@pytest.mark.parametrize("damaged", [None, 5, "x", [1], [], {}, {"train": 5}, [{"seed": 0}]])
def test_a_damaged_record_does_not_tell_what_a_run_started_from(file, damaged):
    settings = config.load_experiment(file, ["--config.train.init_from=runs/a"])
    for name in ("init_from", "data"):
        assert config.experiment(settings, {name: damaged}).train.init_from == "runs/a"
    config.experiment(settings, {"teachers": damaged})


@pytest.mark.parametrize("trainable, since", [(True, "all"), (False, "")])
def test_a_config_from_before_0_1_is_brought_up_to_date(trainable, since, tmp_path):
    old = {"data": {"name": "shapes"}, "encoder": {"name": "small", "trainable": trainable}}
    (tmp_path / "config.json").write_text(json.dumps(old))
    settings = config.load_run(tmp_path / "config.json")
    assert (settings.encoder.name, settings.encoder.trainable_from) == ("small", since)


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="folder of a run"):
        config.load_run(tmp_path / "config.json")
    for text in ("{", "[1]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="not a readable config"):
            config.load_run(tmp_path / "config.json")


def test_an_error_in_a_runs_config_names_the_file(tmp_path):
    path = tmp_path / "config.json"
    for content, message in (
        ({}, "config.data.name is ''"),
        ({"data": {"name": ["shapes"]}}, "config.data.name is"),
        ({"data": {"name": "shapes"}, "foo": {"bar": 1}}, "config.foo.bar: no such key"),
        ({"data": {"name": "shapes"}, "foo": {}}, "config.foo: no such key"),
        ({"data": {"name": "shapes", "foo": {}}}, "config.data.foo: no such key"),
        ({"data": {"name": "shapes"}, "seed": {}}, "config.seed is {}: it must be"),
        ({"data": {"name": "shapes"}, "train": {"epochs": {}}}, "config.train.epochs is {}: it mu"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=message) as caught:
            config.load_run(path, ["--config.decode.beam=1"])
        assert str(caught.value).startswith(f"{path}: ")
        assert "use the commit that run.json names" in str(caught.value)
    path.write_text('{"data": {"name": "shapes"}, "train": {}}')  # an empty group states nothing
    assert config.load_run(path) == config.from_dict({"data": {"name": "shapes"}})


def test_a_bad_value_beside_an_override_is_one_line(tmp_path):
    path = tmp_path / "bad.py"
    for value in ("'abc'", "True"):
        path.write_text(FILE.replace('"epochs": 3', f'"epochs": {value}'))
        with pytest.raises(UserError, match="epochs"):
            config.load_experiment(str(path), ["--config.seed=1"])


def test_a_saved_list_can_be_overridden(file, tmp_path):
    config.save(config.load_experiment(file), tmp_path / "config.json")
    override = "--config.encoder.endpoints=('head',)"
    assert config.load_run(tmp_path / "config.json", [override]).encoder.endpoints == ("head",)


def test_every_setting_is_described(file):
    rows = list(config.described(config.load_experiment(file)))
    names = [name for name, *_ in rows]
    assert len(names) == len(set(names))
    assert set(names) == {name for name, _ in config.flatten(config.load_experiment(file))}
    for name, value, default, meaning in rows:
        assert len(meaning.text) > 5 and meaning.allows(value), name
        assert type(value) is type(default), name


def test_settings_stated_with_their_defaults_are_found(file):
    assert config.needless(config.read_experiment(file)) == []
    old = config.needless(config.read_experiment(str(OLD / "scenes_hard.py")))
    assert len(old) > 30 and "attention.score" in old and "attention.kind" not in old


def test_an_experiment_of_the_package_is_told_from_a_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "flickr8k.py"
    assert config.is_installed("flickr8k:small")
    own.write_text((config.FOLDERS[1] / "flickr8k.py").read_text())
    assert config.is_installed("flickr8k:small") and not config.is_installed("flickr8k.py:small")


def test_a_complete_config_of_0_1_still_runs():
    settings = config.load_experiment(str(OLD / "scenes_hard.py"))
    stated = config.read_experiment(str(OLD / "scenes_hard.py"))
    known = dict(config.flatten(settings))
    for name, value in config.flatten(stated):
        assert known[name] == value or list(known[name]) == list(value), name
    assert config.changes(config.load_run(OLD / "run" / "config.json"), settings) == [
        "decoder.dropout_bits"  # a resumed run keeps its own
    ]


def test_no_key_is_dead():
    """Each setting is an attribute somewhere in the package."""
    package = Path(config.__file__).parent.rglob("*.py")
    sources = [p.read_text() for p in package if p.name not in ("settings.py", "config.py")]
    used = set(re.findall(r"(?<=\.)\w+", "\n".join(sources)))
    for experiment in ("flickr8k", "multi30k"):
        for name, _ in config.flatten(config.load_experiment(experiment)):
            assert name.split(".")[-1] in used, name
