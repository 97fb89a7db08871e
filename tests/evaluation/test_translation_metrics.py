"""Scores of translations against sacrebleu's own, and BLEU by length by hand."""

import pytest
import sacrebleu

from show_attend_tell.errors import UserError
from show_attend_tell.evaluation import translation_metrics

TRUTH = {
    "a": ["Ein Hund läuft im Schnee."],
    "b": ["Zwei Männer spielen Fußball."],
    "c": ["Eine Frau."],
}
SAID = {"a": "Ein Hund rennt im Schnee.", "b": "Zwei Männer spielen Fußball.", "c": ""}


def test_scores_are_sacrebleus():
    scores = translation_metrics.score(TRUTH, SAID)
    said, truth = list(SAID.values()), [[TRUTH[name][0] for name in SAID]]
    bleu = sacrebleu.corpus_bleu(said, truth).score
    assert scores.values["BLEU"] == pytest.approx(bleu)
    # Our own BLEU-4, of which `compare` makes intervals, is of the same counts.
    assert 100 * scores.values["BLEU-4"] == pytest.approx(bleu, abs=1e-6)
    assert scores.values["chrF"] == pytest.approx(sacrebleu.corpus_chrf(said, truth).score)
    assert scores.values["exact"] == pytest.approx(1 / 3)
    assert scores.per_image["exact"] == [0.0, 1.0, 0.0]
    assert len(scores.bleu_counts) == 3 and scores.bleu_counts[1][:2] == [5, 5]
    assert scores.missing == {}


def test_several_references():
    truth = {"a": ["Ein Hund läuft.", "Der Hund rennt im Schnee."], "b": TRUTH["b"], "c": ["Eine."]}
    scores = translation_metrics.score(truth, SAID)
    streams = [[of[0] for of in truth.values()], [truth["a"][1], None, None]]
    said = list(SAID.values())
    bleu = sacrebleu.corpus_bleu(said, streams)
    assert scores.values["BLEU"] == pytest.approx(bleu.score)
    assert 100 * scores.values["BLEU-4"] == pytest.approx(bleu.score, abs=1e-6)
    assert scores.values["chrF"] == pytest.approx(sacrebleu.corpus_chrf(said, streams).score)
    found = translation_metrics.score({"a": ["ein Hund", "eine Katze"]}, {"a": "eine Katze"})
    assert found.values["exact"] == 1 and found.values["BLEU-1"] == pytest.approx(1)


def test_lower_case_is_a_score_of_its_own():
    scores = translation_metrics.score(
        {"a": ["Ein Hund läuft im Schnee"]}, {"a": "ein Hund läuft im schnee"}
    )
    lower = sacrebleu.corpus_bleu(
        ["ein Hund läuft im schnee"], [["Ein Hund läuft im Schnee"]], lowercase=True
    )
    assert scores.values["BLEU (lower case)"] == pytest.approx(lower.score) == pytest.approx(100)
    assert scores.values["BLEU"] < 80


def test_signatures_tell_tokenizer_case_and_version():
    signatures = translation_metrics.signatures()
    assert "nrefs:1|case:mixed" in signatures["BLEU"] and "tok:13a" in signatures["BLEU"]
    assert "nrefs:1|case:lc" in signatures["BLEU (lower case)"]
    assert "nrefs:var|" in translation_metrics.signatures({1, 3})["BLEU"]
    assert f"version:{sacrebleu.__version__}" in signatures["chrF"]


def test_scores_by_length_are_those_of_each_buckets_sentences():
    lengths = [2, 2, 3, 9, 9, 9, 12, 12]
    truth = [f"one two three four {i}" for i in range(8)]
    said = [*truth[:3], *["nothing of it"] * 5]
    rows = translation_metrics.scores_by_length(lengths, truth, said, buckets=2)
    assert [(row["least"], row["most"], row["sentences"]) for row in rows] == [
        (2, 3, 3),
        (9, 12, 5),
    ]
    assert rows[0]["mean"] == pytest.approx(7 / 3)
    assert rows[0]["BLEU"] == pytest.approx(100) and rows[1]["BLEU"] == 0
    assert (rows[0]["exact"], rows[1]["exact"]) == (1, 0)
    one = translation_metrics.scores_by_length([4, 4], truth[:2], truth[:2])
    assert [(row["least"], row["most"], row["sentences"]) for row in one] == [(4, 4, 2)]


def test_an_empty_translation_is_not_exact():
    truth, said = {"a": ["", "Eine."], "b": TRUTH["b"]}, {"a": "", "b": TRUTH["b"][0]}
    assert translation_metrics.score(truth, said).per_image["exact"] == [0, 1]
    [row] = translation_metrics.scores_by_length([4, 4], ["", "x"], ["", "x"], buckets=1)
    assert row["exact"] == 0.5


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(UserError, match="1 sentences have a caption or references but not both"):
        translation_metrics.score(TRUTH, {"a": "x", "b": "y"})
