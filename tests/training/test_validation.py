"""What a validation leaves in the run's folder."""

import dataclasses
import json

import numpy as np
import pytest
import tiny

from show_attend_tell import devices, files
from show_attend_tell.data.task import ImageTask
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation import meteor
from show_attend_tell.inference.captioning import Caption, caption_inputs
from show_attend_tell.inference.decoding import make_decode
from show_attend_tell.inference.run import load_run
from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.runs.folder import RunFolder
from show_attend_tell.runs.inputs import load_inputs
from show_attend_tell.settings import ImageData
from show_attend_tell.training import validation
from show_attend_tell.training.validation import LatestCaptions, Validation


def test_the_latest_captions_are_those_of_the_validated_weights(trained):
    workdir, scenes = trained
    latest = json.loads((workdir / "latest_captions.json").read_text())
    run = load_run(workdir, weights="last", half=False)
    assert latest["step"] == run.step
    decoding = dataclasses.replace(run.settings.decode, beam=1)  # validation decodes greedily
    inputs = load_inputs(run.settings, run.task, scenes, run.encoder, None)
    decode = make_decode(run.model, decoding)
    captions = caption_inputs(decode, run.params, inputs, run.vocabulary, decoding.batch_size)
    assert [entry["id"] for entry in latest["captions"]] == scenes.ids
    for entry, caption in zip(latest["captions"], captions, strict=True):
        assert tuple(entry["words"]) == caption.tokens
        np.testing.assert_allclose(entry["alpha"], caption.alpha, atol=5.1e-5)
        np.testing.assert_allclose(entry["beta"], caption.beta, atol=5.1e-5)
        assert entry["grid"] == list(run.encoder.grid) and not entry["source"]


def test_meteor_is_computed_where_it_picks_the_weights(trained, tmp_path, monkeypatch):
    workdir, scenes = trained
    run = load_run(workdir, weights="last", half=False)
    inputs = load_inputs(run.settings, run.task, scenes, run.encoder, None)
    latest = LatestCaptions(RunFolder(tmp_path), run.task, run.encoder, None, scenes)
    monkeypatch.setattr(validation, "all_weights", lambda weights, frozen: weights)

    def scores(metric):
        parts = (run.task, run.model, {}, run.vocabulary, inputs, scenes, [latest])
        return Validation(run.settings.decode, *parts, metric=metric).score(run.params, 7)

    assert 0.5 < scores("METEOR")["METEOR"] <= 1
    assert "METEOR" not in scores("CIDEr")

    def no_tables(references, hypotheses):
        raise UserError("METEOR needs its tables")

    monkeypatch.setattr(meteor, "score", no_tables)
    with pytest.raises(UserError, match="config.train.metric: METEOR left out: METEOR needs its"):
        scores("METEOR")


@pytest.fixture
def latest(tmp_path):
    class Looking(Precomputed):
        image_size, shift, centres = 64, None, (0.25, 0.75)

    task = ImageTask(ImageData(name="shapes"))
    encoder = Looking(4, (2, 2))
    return LatestCaptions(RunFolder(tmp_path), task, encoder, None, tiny.Scenes(5))


def captions(count, alpha=0.25):
    weights = np.full((3, 4), alpha, np.float32)
    location = np.zeros(3, np.int32)
    one = Caption(("a", "red", "disc"), -1.0, -1.0, weights, weights[:, 0], location)
    return [one] * count


def read(folder):
    return json.loads(
        (folder / "latest_captions.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )


def test_the_file_is_bounded(latest, tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "WEIGHTS_KEPT", 30)  # a caption has twelve
    latest.write(7, captions(5))
    content = read(tmp_path)
    assert content["step"] == 7 and len(content["captions"]) == 2
    assert content["captions"][0]["grid"] == [2, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_do_not_spoil_the_file(latest, tmp_path, value):
    latest.write(7, captions(1, value))
    assert read(tmp_path)["captions"][0]["alpha"] == [[0.0] * 4] * 3


def test_only_the_first_process_writes(latest, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "is_first", lambda: False)
    latest.write(7, captions(1))
    assert not list(tmp_path.iterdir())


def test_training_goes_on_where_the_file_cannot_be_written(latest, tmp_path, monkeypatch, caplog):
    def full(path, text):
        raise OSError("no space left on device")

    monkeypatch.setattr(files, "write_text", full)
    latest.write(7, captions(1))
    assert f"{tmp_path}: the latest captions cannot be written (no space" in caplog.text
