"""Runs and models of version 0.1 load, score and resume as they did; see version_0_1/README.md."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from show_attend_tell import config
from show_attend_tell.cli.parser import main
from show_attend_tell.evaluation.split_scores import reported_contexts, score_split
from show_attend_tell.inference.captioning import caption_split
from show_attend_tell.inference.run import load_run
from show_attend_tell.runs.metrics_log import read_metrics

OLD = Path(__file__).parent / "version_0_1"
EXPECTED = json.loads((OLD / "expected.json").read_text())


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Overrides with the paths of the old run's data, whose original times are restored."""
    folder = tmp_path_factory.mktemp("places")
    shutil.copytree(OLD / "scenes", folder / "scenes")
    for name, time in EXPECTED["mtimes_ns"].items():  # part of a folder's fingerprint
        os.utime(folder / "scenes" / name, ns=(time, time))
    return [f"--config.data.manual_dir={folder / 'scenes'}", f"--config.data.dir={folder}"]


@pytest.mark.parametrize(
    "folder, more",
    [
        ("run", ()),
        pytest.param("exported", ("--config.data.limit=40",), marks=pytest.mark.slow),
    ],
)
def test_scores_are_those_of_version_0_1(folder, more, places, tmp_path):
    overrides = [places[1], *more] if folder == "exported" else places
    run = dataclasses.replace(load_run(OLD / folder, overrides), workdir=tmp_path)
    assert reported_contexts(run.settings)[: len(EXPECTED[folder])] == tuple(
        sorted(EXPECTED[folder], reverse=True)
    )
    for context, expected in EXPECTED[folder].items():
        decoding = dataclasses.replace(run.decoding, context=context)
        examples, captions = caption_split(run, "test", decoding)
        texts = {name: c.text for name, c in zip(examples.ids, captions, strict=True)}
        assert texts == expected["captions"]
        for name, caption in zip(examples.ids, captions, strict=True):
            assert caption.log_prob == pytest.approx(expected["log_probs"][name], rel=1e-5)
        scores = score_split(run, "test", decoding, examples, captions)["scores"]
        for name, value in expected["scores"].items():
            assert scores[name] == value, name


@pytest.mark.slow  # `training/test_session.py` has it for runs of today
def test_a_cut_run_resumes_to_the_same_end(places, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(OLD / "run", workdir)
    settings = json.loads((workdir / "config.json").read_text())
    settings["data"] |= {
        "manual_dir": places[0].split("=")[1],
        "dir": places[1].split("=")[1],
    }
    (workdir / "config.json").write_text(json.dumps(settings))

    experiment = str(OLD / "scenes_hard.py")
    assert main(["train", "--config", experiment, "--workdir", str(workdir), *places]) == 0
    error = " ".join(capsys.readouterr().err.split())
    assert "sets 43 settings to their defaults" in error
    assert "resuming" in error and "at step 80 of 120" in error

    rows = [r for r in read_metrics(workdir / "metrics.jsonl") if r["kind"] == "val"][-5:]
    for row, expected in zip(rows, EXPECTED["resumed"]["validation"], strict=True):
        assert {name: row[name] for name in expected} == expected
    run = load_run(workdir, weights="last", half=False)
    assert run.step == EXPECTED["resumed"]["step"] == 120
    found = {".".join(map(str, k)): np.asarray(v) for k, v in flatten_dict(run.params).items()}
    with np.load(OLD / "resumed.npz") as expected:
        assert found.keys() == set(expected)
        for name in expected:  # other processors round differently
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4)
    assert config.load_run(workdir / "config.json").hard.baseline == "learned"
