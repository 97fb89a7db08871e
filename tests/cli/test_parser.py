"""The command line: verbs, help, one-line errors."""

import errno
import io
import json
import os
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from show_attend_tell.cli.common import say
from show_attend_tell.cli.parser import main
from show_attend_tell.data.images import read_picture
from show_attend_tell.data.task import ImageTask
from show_attend_tell.evaluation import gradient_variance
from show_attend_tell.inference.attention_record import load_attention
from show_attend_tell.inference.run import load_run
from show_attend_tell.models.captioner import all_weights, trained_weights
from show_attend_tell.reports import results_tables

VERBS = (
    "quickstart",
    "train",
    "evaluate",
    "caption",
    "attend",
    "sweep",
    "export",
    "gradient-variance",
)


PROBABILITIES = {"word_log_probs", "finished", "log_prob", "score"}


@pytest.fixture
def workdir(trained, monkeypatch):
    folder, scenes = trained
    monkeypatch.setattr(ImageTask, "load", lambda task, split, training=False: scenes)
    return str(folder)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert "--workdir" in capsys.readouterr().out


def test_compare_has_help(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "--split" in capsys.readouterr().out


def failing(capsys, *arguments):
    """The exit status of a failing call, and the one line that it prints."""
    try:
        status = main(list(arguments))
    except SystemExit as stopped:  # argparse
        status = stopped.code
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "\n".join(lines)
    return status, lines[-1]


def test_errors_are_one_line_and_a_status(capsys, tmp_path, workdir):
    experiment = "experiments/shapes.py"
    run = ("--workdir", str(tmp_path / "run"))
    for arguments, message in [
        (("train", "--config", "none.py", *run), "there is no file none.py"),
        (("train", "--config", f"{experiment}:hart", *run), "no variant 'hart'"),
        (("train", "--config", experiment, *run, "--config.train.epoch=1"), "train.epochs"),
        (("train", "--config", experiment, *run, "--epochs=1"), "no such option"),
        (("evaluate", *run), "must name the folder of a run"),
        (("caption", "--workdir", workdir, str(tmp_path / "no.jpg")), "no.jpg: no such file"),
        (("caption", "--workdir", workdir, "http://a.org/b.jpg"), "http://a.org/b.jpg: a URL; fet"),
        (("attend", "--workdir", workdir, str(tmp_path)), f"{tmp_path}: a folder without pictures"),
        (("attend", "--workdir", workdir, "--num", "-1"), "--num -1"),
        (("evaluate", "--workdir", workdir, "--beam", "0"), "beam"),
        (("evaluate", "--workdir", workdir, "--context", "mean"), "'expected', 'argmax', 'sample'"),
        (("gradient-variance", "--workdir", workdir, "--samples", "1"), "--samples 1"),
        (("gradient-variance", "--workdir", workdir, "--batches", "9"), "too many for 8"),
        (("compare", workdir, "--config.seed=1"), "takes no overrides"),
        (("sweep", experiment, "--set", "attention.kind"), "give values"),
        (("sweep", experiment, "--seeds", "one"), "whole numbers"),
        (("sweep", experiment, "--seeds", "1,2,1", *run), "--seeds 1,2,1: 1 comes twice"),
        (("sweep", experiment, "--pictures", "-1", *run), "--pictures -1: must be 0 or more"),
        (("compare", workdir, "--pictures", "-1"), "--pictures -1: must be 0 or more"),
        (("explore", workdir, "--split", "tets"), "--split tets: choose one of train, val, test"),
        (("explore", workdir, "--host", "a b"), "--host a b: "),
        (("tables", str(tmp_path)), "no Markdown page there; name the folder"),
        (("caption", "--workdir", workdir, ""), "'': an empty name"),
        (("train", "--config", experiment, *run, f"--config.seed={2**63}"), "below 2**63"),
        (("sweep", experiment, "--hours", "nan", *run), "--hours nan: give a number of hours"),
        (("sweep", experiment, "--hours", "inf", *run), "--hours inf: give a number of hours"),
        (("sweep", experiment, "--hours", "0", *run), "--hours 0: give a number of hours"),
        (("sweep", experiment, "--split", "tests", *run), "no split 'tests'; the nearest is 'test"),
        (("train", "--config", experiment, *run, "--config.train.epochs=inf"), "a finite number"),
        (("sweep", experiment, "--cluster", "cloud", *run), "local, slurm"),
    ]:
        status, line = failing(capsys, *arguments)
        assert status == 2, arguments
        assert message in line, (arguments, line)


def test_a_negative_value_may_follow_its_setting(capsys):
    words, setting = ("config", "--config", "shapes:soft"), "--config.hard.entropy"
    for negative in ("-0.5", "-.5", "-5e-1"):
        assert main([*words, setting, negative]) == 0
        assert re.search(r"hard\.entropy +│ -0\.5 ", capsys.readouterr().out)
    for wrong in ((setting, "--quiet"), (f"{setting}=1", "-2"), ("-2",)):
        with pytest.raises(SystemExit):
            main([*words, *wrong])
        assert "no such option" in capsys.readouterr().err


def test_an_unknown_split_names_the_nearest(capsys, trained):
    status, line = failing(capsys, "evaluate", "--workdir", str(trained[0]), "--split", "tests")
    assert status == 2 and "'test'" in line


def test_evaluate_prints_and_stores_a_hard_run_with_both_contexts(workdir, tmp_path, capsys):
    hard = ["--config.attention.kind=hard", f"--config.data.dir={tmp_path}", "--beam", "1"]
    usual = Path(workdir) / "val-expected-beam1-lp0.scores.json"
    usual.unlink(missing_ok=True)
    assert main(["evaluate", "--workdir", workdir, "--split", "val", *hard]) == 0
    printed = capsys.readouterr().out
    assert "CIDEr" in printed and "beam 1" in printed
    assert "expected context" in printed and "argmax context" in printed
    # The scores of a soft run stay as they were.
    assert not usual.exists()
    for context in ("argmax", "expected"):
        [path] = Path(workdir).glob(f"val-{context}-beam1-lp0-overridden=*.scores.json")
        stored = json.loads(path.read_text())
        assert stored["overridden"] == ["attention.kind"]
    assert stored["scores"]["exact"] == 1.0


@pytest.mark.parametrize("computed", [pytest.param(True, marks=pytest.mark.slow), False])
def test_gradient_variance_writes_table_and_chart(workdir, capsys, monkeypatch, computed):
    """With gradients of a few numbers: `evaluation/test_gradient_variance.py` has real ones."""

    def fit_baselines(graph, params, batches, key):
        assert all(inputs.shape[0] == tokens.shape[0] == 2 for inputs, tokens in batches)
        return None, {}

    def gradients(graph, form, trained, frozen, carried, inputs, tokens, key):
        model = nnx.merge(graph, all_weights(trained, frozen))
        assert model.annotations(inputs).vectors.shape[0] == tokens.shape[0] == 2
        found = {"a": jax.random.normal(key, (15, 3))}
        return found, gradient_variance.squared_norms(found)

    if not computed:
        monkeypatch.setattr(gradient_variance, "fit_baselines", fit_baselines)
        monkeypatch.setattr(gradient_variance, "gradients", gradients)
    few = ["--batches", "1", "--samples", "2", "--images", "2"]
    assert main(["gradient-variance", "--workdir", workdir, *few]) == 0
    printed = capsys.readouterr().out
    assert "leave_one_out of 4" in printed and "gumbel_rao" in printed
    stored = json.loads((Path(workdir) / "gradient_variance.json").read_text())
    assert len(stored["rows"]) == 15 and stored["samples"] == 2


def test_gradient_variance_can_use_fresh_weights(workdir, monkeypatch):
    measured = []

    def measure(model, params, *_, **__):
        measured.append(params)
        row = {"baseline": "none", "credit": "sequence", "rollouts": 1, "relative": 1.0}
        row |= {"estimator": "reinforce", "against": "expected", "relative_bias": None}
        return [row | {"variance": 1.0, "snr": 1.0, "variance_per_rollout": 1.0}]

    monkeypatch.setattr(gradient_variance, "gradient_variance", measure)
    for path in Path(workdir).glob("gradient_variance*"):  # of an earlier test
        path.unlink()
    few = ["--batches", "1", "--samples", "2", "--images", "2"]
    for more in ([], ["--fresh"]):
        assert main(["gradient-variance", "--workdir", workdir, *few, *more]) == 0
    run = load_run(Path(workdir))
    for params, expected in zip(measured, (run.params, trained_weights(run.model)), strict=True):
        jax.tree.map(np.testing.assert_array_equal, params, expected)
    written = {path.name for path in Path(workdir).glob("gradient_variance*")}
    stems = ("gradient_variance", "gradient_variance_fresh")
    assert written == {f"{stem}.{kind}" for stem in stems for kind in ("json", "png")}
    # Other settings than the run's own leave its figures as they are.
    stored = {path: path.read_bytes() for path in Path(workdir).glob("gradient_variance*")}
    other = "--config.hard.soft_probability=0.25"
    assert main(["gradient-variance", "--workdir", workdir, *few, other]) == 0
    assert all(path.read_bytes() == content for path, content in stored.items())
    [path] = Path(workdir).glob("gradient_variance-overridden=*.json")
    assert json.loads(path.read_text())["overridden"] == ["hard.soft_probability"]


def test_attend_dumps_maps_pictures_and_statistics(workdir, tmp_path, capsys, trained):
    out = tmp_path / "maps"
    assert main(["attend", "--workdir", workdir, "--num", "2", "--out", str(out)]) == 0
    assert "box" in capsys.readouterr().out
    names = sorted(path.name for path in out.iterdir())
    kinds = ("jpg", "npz", "png")
    maps = [f"scene%20{number}.{kind}" for number in (0, 1) for kind in kinds]
    assert names == [*maps, "statistics.json"]
    kept, scene = read_picture(out / "scene%201.jpg", 512), trained[1][1].image
    difference = kept.astype(float) - read_picture(scene, 512)
    assert np.abs(difference).mean() < 4  # of 255
    record = load_attention(out / "scene%200.npz")
    assert " ".join(record.tokens[:-1]) == trained[1][0].captions[0]
    statistics = json.loads((out / "statistics.json").read_text())
    assert statistics["images"] == 8 and statistics["ids"] == ["scene 0", "scene 1"]
    assert statistics["objects"]["unmatched"] == 0


def test_attend_with_other_settings_leaves_the_usual_maps(workdir, tmp_path, trained):
    picture = tmp_path / "a.png"
    picture.write_bytes(trained[1][0].image)
    of_splits = ["--split", "val", "--num", "1"]
    for what, usual in ((of_splits, "val"), ([str(picture)], "files")):
        folder = Path(workdir) / "attention"
        assert main(["attend", "--workdir", workdir, *what]) == 0
        stored = {path: path.read_bytes() for path in (folder / usual).iterdir()}
        assert main(["attend", "--workdir", workdir, *what, "--config.seed=7"]) == 0
        assert all(path.read_bytes() == content for path, content in stored.items())
        [path] = folder.glob(f"{usual}-overridden=*/statistics.json")
        assert json.loads(path.read_text())["overridden"] == ["seed"]
        assert "overridden" not in json.loads((folder / usual / "statistics.json").read_text())


def test_caption_writes_a_picture_for_each_file(workdir, tmp_path, capsys, trained):
    paths = [tmp_path / "my photo.png", tmp_path / "b" / "0.png", tmp_path / "c" / "0.png"]
    for k, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(trained[1][k].image)
    out = tmp_path / "o"
    arguments = ["--workdir", workdir, *map(str, paths), "--out", str(out)]
    assert main(["caption", *arguments]) == 0
    printed = capsys.readouterr().out
    for k in range(len(paths)):
        assert trained[1][k].captions[0] in printed
    assert (out / "my%20photo.png.png").stat().st_size > 1000
    # Files with the same name in two folders do not overwrite each other's picture.
    assert len(list(out.glob("*.png"))) == 3


def test_caption_takes_patterns_and_standard_input(workdir, tmp_path, capsys, trained, monkeypatch):
    scenes, folder = trained[1], tmp_path / "my [photos]"
    folder.mkdir()
    for k, name in enumerate(("b.png", "a.png")):
        (folder / name).write_bytes(scenes[k].image)
    (folder / "c.png").write_text("no image")
    (folder / "notes.txt").write_text("no image either")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(scenes[2].image)))
    monkeypatch.chdir(tmp_path)
    arguments = ["my [photos]/a.png", "my*/*.png", "-", "--out", str(tmp_path / "o"), "--json"]
    assert main(["caption", "--workdir", workdir, *arguments]) == 2
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [(one["path"], one["caption"]) for one in found] == [
        ("my [photos]/a.png", scenes[1].captions[0]),
        ("my [photos]/b.png", scenes[0].captions[0]),
        ("-", scenes[2].captions[0]),
    ]
    for one in found:
        assert set(one) == {"path", "maps", "caption", "words"} | PROBABILITIES
        assert sum(one["word_log_probs"]) == pytest.approx(one["log_prob"], abs=1e-5)
        assert one["finished"] and len(one["word_log_probs"]) == len(one["words"]) + 1
        assert " ".join(one["words"]) == one["caption"] and one["log_prob"] < 0
        record = load_attention(Path(one["maps"]).with_suffix(".npz"))
        assert record.score == pytest.approx(one["score"])
        assert " ".join(record.tokens[:-1]) == one["caption"]
    assert len({one["maps"] for one in found}) == 3
    assert printed.err.count("c.png: not an image of a known format") == 1
    assert "notes.txt" not in printed.err


def test_json_is_an_array_even_without_a_caption(workdir, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(["caption", "--workdir", workdir, "-", "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out) == []
    assert "error: standard input: empty; pipe the content of an image" in printed.err


@pytest.mark.parametrize("verb", ["caption", "attend"])
def test_a_file_that_is_no_image_does_not_stop_the_others(workdir, tmp_path, capsys, trained, verb):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(trained[1][0].image)
    bad.write_text("no image")
    out = tmp_path / "o"
    status = main([verb, "--workdir", workdir, str(bad), str(good), "--out", str(out)])
    assert status == 2
    assert str(bad) in capsys.readouterr().err
    assert (out / "good.png.png").exists() and not (out / "bad.png.png").exists()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space there"), (errno.EACCES, "permissions"), (errno.EIO, "see to")],
)
def test_an_error_of_the_system_has_a_remedy(capsys, tmp_path, monkeypatch, number, remedy):
    def fail(*_):
        raise OSError(number, os.strerror(number), str(tmp_path / "page.md"))

    monkeypatch.setattr(results_tables, "update_pages", fail)
    status, line = failing(capsys, "tables", str(tmp_path))
    assert status == 2 and line.startswith(f"error: {tmp_path / 'page.md'}: ") and remedy in line


@pytest.mark.parametrize(
    "stream, arguments",
    [
        ("stdout", ["tables", "page"]),
        ("stdout", ["tables", "--help"]),
        ("stderr", ["tables", "page", "--config.seed=1"]),
    ],
)
def test_a_reader_that_has_enough_ends_a_verb_without_a_word(
    capsys, monkeypatch, stream, arguments
):
    monkeypatch.setattr(results_tables, "update_pages", lambda *_: say(*range(9)))
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as unread:
        monkeypatch.setattr(sys, stream, unread)
        assert main(arguments) == 141
    assert capsys.readouterr() == ("", "")
