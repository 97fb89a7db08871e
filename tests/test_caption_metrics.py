"""Scores against hand-worked values, pycocoevalcap's own pipeline, and Java."""

import math
import time
import zipfile

import pytest

from show_attend_tell import caption_metrics
from show_attend_tell.caption_metrics import read_results, score, write_results
from show_attend_tell.errors import UserError


def test_bleu_by_hand_with_and_without_brevity_penalty():
    references = {"a": ["the cat sat on the mat", "a cat is on a mat"]}
    values = score(references, {"a": "the cat on the mat"}, meteor=False).values
    # 5 tokens against 6: all words match, "the cat", "on the", "the mat" of 4 bigrams, one of 3
    # trigrams ("on the mat"), none of 2 four-grams. Brevity penalty exp(1 - 6/5).
    penalty = math.exp(1 - 6 / 5)
    assert values["BLEU-1"] == pytest.approx(penalty, rel=1e-6)
    assert values["BLEU-1 (no BP)"] == pytest.approx(1.0, rel=1e-6)
    assert values["BLEU-2"] == pytest.approx(penalty * math.sqrt(3 / 4), rel=1e-6)
    assert values["BLEU-2 (no BP)"] == pytest.approx(math.sqrt(3 / 4), rel=1e-6)
    assert values["BLEU-3 (no BP)"] == pytest.approx((3 / 4 / 3) ** (1 / 3), rel=1e-6)
    assert values["BLEU-4"] < 1e-3


def test_no_penalty_for_a_long_caption_and_exact_counts_tokens():
    references = {"a": ["A dog runs."], "b": ["a cat"]}
    values = score(references, {"a": "a dog runs", "b": "the cat sleeps"}, meteor=False).values
    assert values["exact"] == 0.5
    assert values["BLEU-1"] == values["BLEU-1 (no BP)"] == pytest.approx(4 / 6, rel=1e-6)


def flickr8k(shared, images):
    """Human captions: the first of five against the other four, on images of the test split."""
    with zipfile.ZipFile(shared / "flickr8k" / "Flickr8k_text.zip") as archive:
        lines = archive.read("Flickr8k.token.txt").decode().splitlines()
        names = archive.read("Flickr_8k.testImages.txt").decode().split()[:images]
    captions = {name: [] for name in names}
    for line in lines:
        name, caption = line.split("\t")
        if name[:-2] in captions:
            captions[name[:-2]].append(caption)
    return {n: c[1:] for n, c in captions.items()}, {n: c[0] for n, c in captions.items()}


def java_tokens(references, hypotheses):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokens = PTBTokenizer().tokenize
    truth = tokens({n: [{"caption": c} for c in cs] for n, cs in references.items()})
    return truth, tokens({n: [{"caption": c}] for n, c in hypotheses.items()})


def test_equals_pycocoevalcap_with_its_java_tokenizer(shared, java):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    references, hypotheses = flickr8k(shared, 1000)
    truth, said = java_tokens(references, hypotheses)
    bleu, single = Bleu(4).compute_score(truth, said, verbose=0)
    expected = {f"BLEU-{i + 1}": b for i, b in enumerate(bleu)}
    expected["ROUGE-L"], _ = Rouge().compute_score(truth, said)
    expected["CIDEr"], cider = Cider().compute_score(truth, said)
    got = score(references, hypotheses, meteor=False)
    assert {name: got.values[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert got.per_image["CIDEr"] == pytest.approx(list(cider), abs=1e-12)
    assert got.per_image["BLEU-4"] == pytest.approx(single[3], abs=1e-12)


def test_human_consistency_on_flickr8k_test(shared):
    # What pycocoevalcap gave with its Java tokenizer; this runs without Java.
    values = score(*flickr8k(shared, 1000), meteor=False).values
    assert values["BLEU-1"] == pytest.approx(0.636413, abs=1e-6)
    assert values["BLEU-4"] == pytest.approx(0.209457, abs=1e-6)
    assert values["ROUGE-L"] == pytest.approx(0.487548, abs=1e-6)
    assert values["CIDEr"] == pytest.approx(0.788597, abs=1e-6)


def test_meteor_is_that_of_pycocoevalcap_with_its_java_tokenizer(shared, java):
    got = score(*flickr8k(shared, 40))
    # What its PTBTokenizer and Meteor gave: a second Java process would take 10 s more.
    assert got.missing == {}
    assert got.values["METEOR"] == pytest.approx(0.2263572605629061, abs=1e-9)
    assert got.per_image["METEOR"][:3] == pytest.approx([0.2928243, 0.3909372, 0.2617368], abs=1e-6)


def test_meteor_that_cannot_be_had_is_told_not_zero(monkeypatch):
    monkeypatch.setenv("PATH", "")
    got = score({"a": ["a dog"]}, {"a": "a dog"})
    assert got.values["METEOR"] is None
    assert "Java" in got.missing["METEOR"]
    assert got.values["BLEU-1"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo Picked up x >&2; echo no memory left >&2; exit 1", "no memory left"),
        ("read line; echo 1; read line; exit 1", "could not convert"),
        ("while read line; do :; done", "no end after 0.5 s"),
    ],
)
def test_meteor_that_fails_is_told_and_ends(script, reason, monkeypatch, tmp_path):
    fake = tmp_path / "java"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(caption_metrics, "METEOR_SECONDS", 0.5)
    start = time.monotonic()
    got = score({"a": ["a dog"]}, {"a": "a dog"})
    assert time.monotonic() - start < 20
    assert got.values["METEOR"] is None
    assert "METEOR" not in got.per_image
    assert reason in got.missing["METEOR"]


def test_java_that_cannot_be_started_is_told(monkeypatch, tmp_path):
    fake = tmp_path / "java"
    fake.write_bytes(b"\x00not a program")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    got = score({"a": ["a dog"]}, {"a": "a dog"})
    assert got.values["METEOR"] is None
    assert "could not be started" in got.missing["METEOR"]


def test_nothing_is_printed(capfd):
    score({"a": ["a dog"]}, {"a": "a dog"}, meteor=False)
    assert capfd.readouterr() == ("", "")


def test_captions_that_are_nearly_all_empty():
    # The brevity penalty underflows to 0: exp(1 - 2000 / 1).
    references = {str(i): ["a dog runs over the green grass by the sea"] for i in range(200)}
    hypotheses = dict.fromkeys(references, "") | {"0": "a"}
    values = score(references, hypotheses, meteor=False).values
    assert values["BLEU-1"] == 0.0
    assert values["BLEU-1 (no BP)"] == pytest.approx(1.0, rel=1e-6)
    silent = score(references, dict.fromkeys(references, ""), meteor=False).values
    assert silent["BLEU-1 (no BP)"] == silent["BLEU-4 (no BP)"] == silent["CIDEr"] == 0.0


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ({"a": ["x"]}, {"b": "x"}, "a is one"),
        ({}, {}, "no captions"),
        ({"a": []}, {"a": "x"}, "image a has no reference"),
    ],
)
def test_bad_input(references, hypotheses, message):
    with pytest.raises(UserError, match=message):
        score(references, hypotheses, meteor=False)


def test_an_empty_caption_scores_zero_and_breaks_nothing():
    values = score({"a": ["a dog"], "b": ["a cat"]}, {"a": "", "b": "a cat"}, meteor=False).values
    assert 0 < values["BLEU-1"] < 1
    assert values["exact"] == 0.5


def test_results_files(tmp_path):
    path = tmp_path / "captions.json"
    write_results(path, {"1.jpg": "a dog", "2.jpg": "ein café"})
    assert read_results(path) == {"1.jpg": "a dog", "2.jpg": "ein café"}
    assert list(tmp_path.iterdir()) == [path]
    for content, message in [
        ("[", "not a COCO"),
        ('[{"image_id": 1}]', "not a COCO"),
        ('[{"image_id": 1, "caption": null}]', "not a COCO"),
        ('[{"image_id": null, "caption": "a"}]', "not a COCO"),
        ('{"image_id": 1, "caption": "a"}', "not a COCO"),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]', "twice"),
    ]:
        path.write_text(content)
        with pytest.raises(UserError, match=f"{path}.*{message}"):
            read_results(path)
    with pytest.raises(UserError, match="not there"):
        read_results(tmp_path / "none.json")
