"""CLIPScore and RefCLIPScore with a tiny CLIP, against transformers and by hand."""

import dataclasses
import io
import json
from pathlib import Path
from unittest.mock import Mock

import clips
import numpy as np
import pytest
import safetensors.numpy
import tiny
import vits
from PIL import Image

from show_attend_tell import config
from show_attend_tell.cli import describing
from show_attend_tell.cli.parser import main
from show_attend_tell.data.task import task_of
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation import clip_score, split_evaluation
from show_attend_tell.evaluation.clip_score import ClipScorer
from show_attend_tell.evaluation.scores import Scores
from show_attend_tell.inference.captioning import Caption

STORED = Path(__file__).parents[1] / "reference" / "clip.npz"


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        vits.make_tiny(patch)
        yield ClipScorer.load(str(clips.write(tmp_path_factory.mktemp("clip"))))


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def agrees(scorer, expected):
    found = scorer.text_vectors(clips.TEXTS)
    np.testing.assert_allclose(found, expected["texts"], atol=1e-5)
    image = scorer.image_vectors([png(vits.images(32)[0])])
    np.testing.assert_allclose(image, expected["image"], atol=1e-5)
    texts = [clip_score.PROMPT + text for text in clips.TEXTS]
    np.testing.assert_array_equal(scorer.tokenizer.encode(texts, clips.LENGTH), expected["ids"])


def test_agrees_with_stored_numbers_of_transformers(scorer):
    agrees(scorer, np.load(STORED))
    assert scorer.describe()["prompt"] == "A photo depicts "


def test_agrees_with_transformers(scorer, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is absent")
    pytest.importorskip("transformers", reason="transformers is absent")
    agrees(scorer, clips.in_transformers(tmp_path))


def test_the_scores_by_hand(scorer, monkeypatch):
    vectors = {"a": [1.0, 0.0], "b": [0.6, 0.8], "c": [-1.0, 0.0], "d": [0.0, 1.0]}
    found = lambda texts: np.array([vectors[text] for text in texts])  # noqa: E731
    examples = tiny.Scenes(3)
    x, y, z = examples.ids
    images = np.array([[1.0, 0.0], [0.6, 0.8], [1.0, 0.0]])
    monkeypatch.setattr(scorer, "text_vectors", found)
    monkeypatch.setattr(scorer, "image_vectors", lambda pictures: images)
    monkeypatch.setattr(scorer, "_known", {})
    references = {y: ["d", "a"], z: ["a"], x: ["b", "c"]}
    scores = Scores({}, {}, {}, [])
    scorer.add(scores, examples, references, {y: "d", x: "a", z: "c"})
    # cos with the image 0.8, 1 and -1; with the nearest reference 1, 0.6 and -1.
    assert scores.per_image["CLIPScore"] == pytest.approx([2.0, 2.5, 0.0])
    wanted = [2 * 2.0 * 1.0 / 3.0, 2 * 2.5 * 0.6 / 3.1, 0.0]
    assert scores.per_image["RefCLIPScore"] == pytest.approx(wanted)
    assert scores.values["CLIPScore"] == pytest.approx(1.5)
    assert scores.values["RefCLIPScore"] == pytest.approx(sum(wanted) / 3)
    assert clip_score.harmonic_mean(0.0, 0.0) == 0.0


def test_images_are_cut_to_the_square_in_the_middle(scorer):
    square = vits.images(32)[0]
    wide = np.zeros((32, 48, 3), np.uint8)
    wide[:, 8:40] = square
    own, cut, high = scorer.image_vectors([png(x) for x in (square, wide, wide.swapaxes(0, 1))])
    np.testing.assert_allclose(cut, own, atol=1e-5)
    assert np.abs(high - own).max() > 1e-3
    assert clip_score.middle_square(100, 50) == (0.25, 0, 0.75, 1)


def test_what_is_missing_or_no_clip_is_named(tmp_path, monkeypatch):
    vits.make_tiny(monkeypatch)
    folder = clips.write(tmp_path)
    (folder / "merges.txt").unlink()
    with pytest.raises(UserError, match="has no tokenizer: put the model's tokenizer.json, or"):
        ClipScorer.load(str(folder))
    whole = {"model": {"vocab": clips.VOCABULARY, "merges": [list(m) for m in clips.MERGES]}}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    ids = np.load(STORED)["ids"]
    found = ClipScorer.load(str(folder)).tokenizer.encode(["A photo depicts " + clips.TEXTS[0]], 40)
    np.testing.assert_array_equal(found, ids[:1])
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {}}}')
    with pytest.raises(UserError, match="cannot be read .*merges"):
        ClipScorer.load(str(folder))
    arrays = clips.weights()
    path = folder / "model.safetensors"
    for change, message in (
        ({"text_model.odd": np.zeros(1)}, "unknown to the network: .*odd"),
        ({"text_projection.weight": np.zeros((16, 31))}, "text_projection.weight has shape"),
    ):
        safetensors.numpy.save_file(arrays | change, path)
        with pytest.raises(UserError, match=message):
            ClipScorer.load(str(folder))
    images = {name: a for name, a in arrays.items() if not name.startswith("text_")}
    safetensors.numpy.save_file(images, path)
    with pytest.raises(UserError, match="lacks the weights .* with images and texts"):
        ClipScorer.load(str(folder))


def test_sentences_have_no_clip_score(tmp_path):
    task = task_of(config.load_experiment("reversal").data)
    run = dataclasses.replace(tiny.run_of(tmp_path, 3, {}), task=task)
    with pytest.raises(UserError, match="--clip scores English captions of images, not sentences"):
        split_evaluation.clip_scorer([run], "weights")


def test_of_several_languages_only_english_has_clip_scores(tmp_path, monkeypatch, capsys):
    scenes = tiny.use_bilingual_scenes(monkeypatch)
    said = [Mock(spec=Caption, text=e.captions[0], tokens=()) for e in scenes]
    run = tiny.run_of(tmp_path, 3, {"data.languages": ("de", "en"), "data.vocabulary": "13a"})
    monkeypatch.setattr(describing, "load", lambda *_: (run, run.decoding))
    measured = run.task.speaking("en").load("val"), None, {}
    monkeypatch.setattr(split_evaluation, "_measured", lambda *_: measured)
    monkeypatch.setattr(split_evaluation, "caption_examples", lambda *_: said)
    clip = Mock(spec=ClipScorer, describe=lambda: {"weights": "a checksum"})
    monkeypatch.setattr(ClipScorer, "load", lambda weights: clip)
    assert main(["evaluate", "--workdir", str(tmp_path), "--clip", "weights"]) == 0
    assert "CLIPScore left out: CLIP reads English" in capsys.readouterr().out
    german, english = (json.loads(p.read_text()) for p in sorted(tmp_path.glob("*.scores.json")))
    assert (german["language"], english["language"]) == ("de", "en")
    assert german["scores"]["CLIPScore"] is None and "clip" not in german
    assert english["clip"] and "CLIPScore" not in english["missing"]
    [(_, _, truth, _), _] = clip.add.call_args
    assert truth == {e.image_id: list(e.captions) for e in scenes}
