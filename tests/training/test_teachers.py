"""Teachers of a run: what may teach it, and what its record says of them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny

from show_attend_tell import config
from show_attend_tell.data.task import task_of
from show_attend_tell.data.vocabulary import Vocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.inference.run import load_run
from show_attend_tell.runs.build import build_encoder
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.terminal import Terminal
from show_attend_tell.training import run_data, session, teachers


def pupil(folder, **changes):
    named = {"loss.teachers": (str(folder),), "loss.distillation": 0.25}
    return tiny.settings(folder.parent / "data", named | changes)


def check(settings):
    teachers.check(settings, task_of(settings.data))


def test_a_run_learns_from_its_teachers_and_records_them(trained, tmp_path, monkeypatch):
    folder, _ = trained
    settings, run = pupil(folder), load_run(folder)
    check(config.replaced(settings, {"encoder.dtype": "auto"}))
    tiny.use_scenes(monkeypatch)
    own = RunFolder(tmp_path / "run")
    own.claim(settings)
    monkeypatch.setattr(run_data, "load_inputs", lambda *given, **named: np.zeros((8, 2, 4)))
    console, task = Terminal(quiet=True), task_of(settings.data)
    data = run_data.load_data(settings, task, own, build_encoder(settings), console, print)
    begun = session._Session(settings, task, own, data, console, ())
    [teacher] = begun.objective.teachers
    assert begun.objective.regularizers.distillation == 0.25
    jax.tree.map(np.testing.assert_array_equal, teacher.weights, run.params)
    begun._begin()
    [known] = own.record()["teachers"]
    assert (known["workdir"], known["step"]) == (str(folder), run.step)
    assert known["experiment"] == config.digest(run.settings) and known["seconds"] > 0
    record = own.record() | {"teachers": [known | {"trained_on": ["elsewhere"]}]}
    (own.path / "run.json").write_text(json.dumps(record))
    assert own.trained_on() == ["elsewhere", "shapes"]  # their data are in its weights, too

    # It resumes with the same weights only, wherever they lie.
    moved = pupil(tmp_path / "elsewhere")
    assert not own.changes(moved) and own.changes(pupil(folder, **{"loss.teachers": ()}))
    again = [settings, task, own, data.vocabulary, None]
    assert teachers.load(*again)[1] == data.origins
    for damaged in (5, [1]):
        own.update_record({"teachers": damaged})
        assert teachers.load(*again)[1] == data.origins
    own.update_record({"teachers": [known | {"weights": "0123"}]})
    assert teachers.load(*again)[1] == data.origins  # of an attempt that never began
    (own.path / "checkpoints").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"has other weights than when .*run began; restore them"):
        teachers.load(*again)
    digests = [config.digest(config.experiment(s, own.record())) for s in (settings, moved)]
    assert digests[0] == digests[1] != config.digest(config.experiment(settings))
    own.update_record({"finished": True})
    assert teachers.load(*again) == ((), [])  # it needs them no more
    unfinished = session._Session(
        settings, task, own, dataclasses.replace(data, teachers=()), console, ()
    )
    with pytest.raises(UserError, match="last checkpoint of this finished run is damaged"):
        unfinished._check_taught(3, finished=False)
    assert not own.record()["finished"]
    # Nor does it begin anew without them if all checkpoints are gone.
    with pytest.raises(UserError, match="damaged or gone; the same command trains it again from"):
        unfinished.run()
    assert "elsewhere" not in str(config.without_origins(moved))


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"encoder.features": 16},
            r"other values of encoder.features, so it reads or says something",
        ),
        ({"data.languages": ("en", "de"), "data.vocabulary": "13a"}, r"values of data.languages"),
        ({"loss.teachers": ("nowhere/",)}, r"nowhere/ has no weights of a trained run; train it"),
        ({"loss.teachers": ("owner/name",)}, r"owner/name is no folder here; name a run's"),
        ({"attention.kind": "hard"}, r"loss.teachers is for soft attention"),
        (
            {"reward.samples": 2, "train.init_from": "run"},
            r"teachers needs a likelihood to be a part of",
        ),
    ],
)
def test_teachers_that_cannot_teach_are_named(trained, changes, message):
    with pytest.raises(UserError, match=message):
        check(pupil(trained[0], **changes))


def test_a_teacher_that_translates_the_other_way_is_refused(trained, monkeypatch):
    there, back = (
        config.load_experiment(
            "multi30k:joint",
            [
                f"--config.data.{sides[0]}=en",
                f"--config.data.{sides[1]}=de",
                f"--config.loss.teachers=('{trained[0]}',)",
            ],
        )
        for sides in (("source", "target"), ("target", "source"))
    )
    monkeypatch.setattr(RunFolder, "settings", lambda folder: back)
    monkeypatch.setattr(teachers, "folder_of", lambda name: trained[0])
    with pytest.raises(UserError, match="other values of data.source, data.target, so it reads"):
        check(there)


def test_a_teacher_with_hard_attention_is_refused(trained, monkeypatch):
    settings = pupil(trained[0])
    hard = config.replaced(RunFolder(trained[0]).settings(), {"attention.kind": "hard"})
    monkeypatch.setattr(RunFolder, "settings", lambda folder: hard)
    with pytest.raises(UserError, match="has hard attention; choose teachers with soft"):
        check(settings)


def test_a_teacher_needs_the_same_words(trained, tmp_path):
    words = load_run(trained[0]).vocabulary.words
    other = Vocabulary((*words[1:], words[0]), tuple(range(len(words), 0, -1)), 1)
    with pytest.raises(UserError, match=r"the vocabulary of .* is not this run's"):
        settings = pupil(trained[0])
        teachers.load(settings, task_of(settings.data), RunFolder(tmp_path), other, None)


def test_home_folders_are_meant_by_tildes(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["--config.loss.teachers=('~/a', 'flickr8k-soft')"]
    found = config.load_experiment("shapes", given).loss.teachers
    assert found == (str(tmp_path / "a"), "flickr8k-soft")
