"""Scores against hand-worked values, pycocoevalcap's own pipeline, and Java."""

import math
import zipfile

import pytest

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


def flickr8k(shared, images=100):
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


def test_equals_pycocoevalcap_with_its_java_tokenizer(shared, java):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    references, hypotheses = flickr8k(shared)
    java_tokens = PTBTokenizer().tokenize
    truth = java_tokens({n: [{"caption": c} for c in cs] for n, cs in references.items()})
    said = java_tokens({n: [{"caption": c}] for n, c in hypotheses.items()})
    meteor = Meteor()
    bleu, _ = Bleu(4).compute_score(truth, said, verbose=0)
    expected = {f"BLEU-{i + 1}": b for i, b in enumerate(bleu)}
    expected["ROUGE-L"], _ = Rouge().compute_score(truth, said)
    expected["CIDEr"], _ = Cider().compute_score(truth, said)
    expected["METEOR"], per_image = meteor.compute_score(truth, said)
    meteor.meteor_p.kill()
    got = score(references, hypotheses)
    assert {name: got.values[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert got.per_image["METEOR"] == pytest.approx(per_image)
    assert got.missing == {}


def test_meteor_that_cannot_be_had_is_told_not_zero(monkeypatch):
    monkeypatch.setenv("PATH", "")
    got = score({"a": ["a dog"]}, {"a": "a dog"})
    assert got.values["METEOR"] is None
    assert "Java" in got.missing["METEOR"]
    assert got.values["BLEU-1"] == pytest.approx(1.0)


def test_meteor_whose_process_dies_is_told(java, monkeypatch, tmp_path):
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\necho no memory left >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    got = score({"a": ["a dog"]}, {"a": "a dog"})
    assert got.values["METEOR"] is None
    assert "left out" in got.missing["METEOR"]


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
    for content, message in [
        ("[", "not a COCO"),
        ('[{"image_id": 1}]', "not a COCO"),
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]', "twice"),
    ]:
        path.write_text(content)
        with pytest.raises(UserError, match=f"{path}.*{message}"):
            read_results(path)
    with pytest.raises(UserError, match="not there"):
        read_results(tmp_path / "none.json")
