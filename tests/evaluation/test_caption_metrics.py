"""Scores against hand-worked values, pycocoevalcap's own pipeline, and Java."""

import math
import zipfile

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu_scorer import BleuScorer

from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.caption_metrics import score
from show_attend_tell.evaluation.scores import bleu_from_counts, bleu_from_sums


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


def test_exact_takes_the_images_own_references():
    references = {"a": ["a dog", "one dog"], "b": ["a cat"]}
    got = score(references, {"a": "one dog", "b": "a dog"}, meteor=False)
    assert got.per_image["exact"] == [1.0, 0.0]


def test_cider_by_hand():
    references = {"a": ["dog runs"], "b": ["dog eats"], "c": ["cat runs"]}
    got = score(references, {"a": "dog sits", "b": "dog eats", "c": "cat runs"}, meteor=False)
    # "dog" and "runs" are in two of the three images' references: log(3/2); others: log 3.
    common, rare = math.log(3 / 2), math.log(3)
    cosine = common**2 / (math.hypot(common, rare) * math.hypot(common, common))
    # Of n = 1 .. 4 only the first counts for a, and two for the others, which are right.
    expected = [10 * cosine / 4, 10 * 2 / 4, 10 * 2 / 4]
    assert got.per_image["CIDEr"] == pytest.approx(expected)
    assert got.values["CIDEr"] == pytest.approx(sum(expected) / 3)


@pytest.mark.parametrize("said", ["the cat on the mat", "a cat is on a mat and so on", "mat", ""])
def test_bleu_from_counts_is_the_scorers_own(said):
    references = {
        "a": ["the cat sat on the mat", "a cat is on a mat"],
        "b": ["two dogs run over green grass", "dogs run"],
        "c": ["a man rides a bicycle down the hill"],
    }
    hypotheses = {"a": said, "b": "two dogs run on the grass", "c": "a man rides down the hill"}
    got = score(references, hypotheses, meteor=False)
    scorer = BleuScorer(n=4)
    for image_id, caption in hypotheses.items():
        scorer += (caption, references[image_id])
    expected, _ = scorer.compute_score(option="closest", verbose=0)
    counts = np.array(got.bleu_counts)
    values = bleu_from_counts(counts)
    for n in range(1, 5):
        assert values[f"BLEU-{n}"] == pytest.approx(expected[n - 1], abs=1e-9)
        assert values[f"BLEU-{n}"] == got.values[f"BLEU-{n}"]
    # Any choice of images, here b twice and a not at all, and several at a time.
    again = BleuScorer(n=4)
    for image_id in ("b", "b", "c"):
        again += (hypotheses[image_id], references[image_id])
    chosen, _ = again.compute_score(option="closest", verbose=0)
    sums = np.array([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0]]) @ counts
    both = bleu_from_sums(sums)
    assert both["BLEU-3"] == pytest.approx([chosen[2], expected[2]], abs=1e-9)


def test_bleu_counts_by_hand():
    references = {"a": ["the cat sat on the mat", "a cat is on"]}
    got = score(references, {"a": "the cat on the mat"}, meteor=False)
    # Of 4 and 6 words the shorter is as close to 5. One trigram is right: "on the mat".
    assert got.bleu_counts == [[5, 4, 5, 3, 1, 0, 5, 4, 3, 2]]


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


def test_meteor_is_that_of_pycocoevalcap_with_its_java_tokenizer(shared):
    got = score(*flickr8k(shared, 40))
    # What its PTBTokenizer and Meteor gave.
    assert got.missing == {}
    assert got.values["METEOR"] == pytest.approx(0.2263572605629061, abs=1e-9)
    assert got.per_image["METEOR"][:3] == pytest.approx([0.2928243, 0.3909372, 0.2617368], abs=1e-6)


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
        ({"a": ["..."], "b": ["?"]}, {"a": "x", "b": "y"}, "no reference caption has a word"),
    ],
)
def test_bad_input(references, hypotheses, message):
    with pytest.raises(UserError, match=message):
        score(references, hypotheses, meteor=False)


def test_an_empty_caption_scores_zero_and_breaks_nothing():
    values = score({"a": ["a dog"], "b": ["a cat"]}, {"a": "", "b": "a cat"}, meteor=False).values
    assert 0 < values["BLEU-1"] < 1
    assert values["exact"] == 0.5
    # Even against a reference without a word, which pycocoevalcap's ROUGE-L takes for a hit.
    references, said = {"a": ["!", "a dog"], "b": ["a cat", "?"]}, {"a": ".", "b": "a cat"}
    found = score(references, said, meteor=False)
    for name in ("ROUGE-L", "exact"):
        assert found.per_image[name] == [0, 1] and found.values[name] == 0.5
