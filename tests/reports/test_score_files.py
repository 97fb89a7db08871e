"""Scores of files of captions: those of `evaluate`, with the intervals and tests of `compare`."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from finished_runs import HARD, RIGHT, TRUTH, half_right, scores_of, write_run

from show_attend_tell.data import ptb_tokenizer
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation import meteor, spice
from show_attend_tell.evaluation.results_file import write_results
from show_attend_tell.evaluation.scores import digest
from show_attend_tell.reports.compare import compare
from show_attend_tell.reports.score_files import _letters, score_files, score_tables
from show_attend_tell.reports.uncertainty import METEOR_MEAN


@pytest.fixture(autouse=True)
def quick_meteor(monkeypatch):
    """METEOR as the finished runs have it."""

    def score(references, hypotheses):
        exact = [float(said in references[name]) for name, said in hypotheses.items()]
        return 0.5 * float(np.mean(exact)), [0.1 + 0.3 * one for one in exact]

    monkeypatch.setattr(meteor, "score", score)


@pytest.fixture
def references(tmp_path):
    """References in the form of COCO."""
    annotations = [{"image_id": k, "caption": text} for k, of in TRUTH.items() for text in of]
    path = tmp_path / "references.json"
    path.write_text(json.dumps({"annotations": annotations}))
    return path


@pytest.fixture
def captions(tmp_path):
    """Captions of which half are right, and others that all are."""
    for name, said in (("half.json", half_right()), ("right.json", RIGHT)):
        write_results(tmp_path / name, said)
    return [tmp_path / "half.json", tmp_path / "right.json"]


def test_scores_intervals_and_tests_are_those_of_evaluate_and_compare(references, tmp_path):
    folders = [
        write_run(tmp_path / "b", half_right()),
        write_run(tmp_path / "a", RIGHT, settings=HARD),
    ]
    captions = [Path(str(scores_of(run)).replace(".scores.", ".captions.")) for run in folders]
    found = score_files(captions, [references], samples=99)
    compared = compare(folders, "val", tmp_path / "out", samples=99, shown=0)
    for one, folder, row in zip(found["files"], folders, compared["scores"], strict=True):
        record = json.loads(scores_of(folder).read_text())
        values = {name: of["value"] for name, of in one["scores"].items()}
        assert {name: values[name] for name in record["scores"]} == record["scores"]
        for name, of in one["scores"].items():
            assert of["value"] == row["scores"][name]["mean"]
            assert of["interval"] == row["scores"][name]["interval"]
    [pair], [test] = found["differences"], compared["tests"]
    for name, of in test["scores"].items():
        assert pair["scores"][name]["p"] == of["p"]
        assert pair["scores"][name]["difference"] == -of["difference"]
    assert found["tokenizer"] == ptb_tokenizer.NAME
    assert found["references"] == digest(TRUTH) and found["images"] == len(TRUTH)


def test_the_interval_of_a_difference_is_paired(captions, references, tmp_path):
    half, right = captions
    found = score_files([right, half], [references], samples=400)
    [pair] = found["differences"]
    assert (pair["a"], pair["b"]) == ("B", "A")
    # Of 20 captions 10 differ: the share that does is binomial(20, 1/2) / 20.
    assert pair["scores"]["exact"]["difference"] == -0.5
    assert pair["scores"]["exact"]["interval"] == pytest.approx([-0.7, -0.3], abs=0.051)
    scores = found["files"][1]["scores"]
    assert pair["scores"]["exact"]["interval"] == pytest.approx(
        [low - 1 for low in scores["exact"]["interval"]]
    )
    assert pair["scores"][METEOR_MEAN]["p"] < 0.01
    same = tmp_path / "same.json"
    same.write_text(half.read_text())
    [pair] = score_files([half, same], [references], samples=20)["differences"]
    assert all((of["interval"], of["p"]) == ([0, 0], 1) for of in pair["scores"].values())


def test_scores_of_each_image(captions, references, tmp_path):
    path = tmp_path / "each.csv"
    found = score_files(captions, [references], per_image=path, samples=2)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(TRUTH)
    assert rows[0]["file"] == str(captions[0]) and rows[-1]["file"] == str(captions[1])
    assert (rows[1]["image_id"], rows[1]["caption"]) == list(half_right().items())[1]
    for name in ("CIDEr", "ROUGE-L", "exact"):
        mean = np.mean([float(row[name]) for row in rows[: len(TRUTH)]])
        assert mean == pytest.approx(found["files"][0]["scores"][name]["value"])
    with pytest.raises(UserError, match="each.csv: its folder is not there; make it first"):
        score_files(captions, [references], per_image=tmp_path / "none" / "each.csv")
    with pytest.raises(UserError, match=": a folder; name a file in it"):
        score_files(captions, [references], per_image=tmp_path)


def test_the_order_of_captions_means_nothing(captions, references, tmp_path):
    found = score_files(captions[:1], [references], samples=20)
    turned = tmp_path / "turned.json"
    write_results(turned, dict(reversed(half_right().items())))
    other = score_files([turned], [references], samples=20)
    assert other["references"] == found["references"]
    assert other["files"][0]["scores"] == found["files"][0]["scores"]


def test_translations_have_several_references_and_two_cases(tmp_path):
    said, truth = tmp_path / "said.txt", tmp_path / "truth.txt"
    said.write_text("ein Hund läuft im Schnee\nZwei Katzen schlafen auf dem Sofa\n")
    truth.write_text(
        "ein Hund rennt\tein Hund läuft im Schnee\nzwei Katzen schlafen auf dem Sofa\n"
    )
    found = score_files([said], [truth], scorer="translations", samples=9)
    scores = {name: of["value"] for name, of in found["files"][0]["scores"].items()}
    assert scores["BLEU (lower case)"] == pytest.approx(100)
    assert scores["BLEU"] < 99 and scores["exact"] == 0.5
    assert found["signatures"]["BLEU (lower case)"].startswith("nrefs:var|case:lc")
    assert found["noun"] == "sentences" and "by_length" not in found
    [table] = score_tables(found)
    assert any("case:mixed" in note for note in table.notes)


def test_tables(captions, references):
    found = score_files(captions, [references], samples=9)
    found["files"][1]["scores"]["METEOR"] = {"value": None, "interval": None}
    found["files"][1]["missing"] = {"METEOR": "left out: no tables"}
    scores, differences = score_tables(found)
    assert [row[0].text for row in scores.cells] == ["A", "B"]
    assert "BLEU-4" in scores.head and "BLEU-4 (no BP)" not in scores.head
    cells = dict(zip(scores.head, scores.cells[0], strict=True))
    assert cells["exact"].text == "0.500" and cells["exact"].small.startswith("[0.")
    assert scores.cells[1][scores.head.index("METEOR")].text == "left out"
    for note in (f"A: {captions[0]}", "B: METEOR left out: no tables"):
        assert note in scores.notes
    assert {row[0].text for row in differences.cells} == {"B − A"}
    assert len(score_tables(score_files(captions[:1], [references], samples=9))) == 1


def test_spice_is_opt_in_and_checked_first(captions, references, monkeypatch):

    def add(scores, truth, said):
        scores.per_image["SPICE"] = [0.25] * len(said)
        scores.values["SPICE"] = 0.25

    from show_attend_tell.reports import score_files as module

    monkeypatch.setattr(module, "add_spice", add)
    monkeypatch.setattr(module, "check_spice", lambda: [])
    found = score_files(captions, [references], spice=True, samples=9)
    assert found["files"][0]["scores"]["SPICE"] == {"value": 0.25, "interval": [0.25, 0.25]}
    assert found["differences"][0]["scores"]["SPICE"]["p"] == 1
    monkeypatch.setattr(module, "check_spice", spice.check_spice)
    monkeypatch.setattr(spice.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="SPICE needs Java"):
        score_files([captions[0].with_name("none")], [references], spice=True)


def test_a_file_is_given_once(captions, references):
    with pytest.raises(UserError, match="the same file is given twice"):
        score_files([captions[0], captions[0]], [references])


def test_what_is_scored_is_not_overwritten(captions, references, tmp_path):
    (tmp_path / "link.csv").symlink_to(references)
    for path in (captions[1], references, tmp_path / "link.csv"):
        kept = path.read_text()
        with pytest.raises(UserError, match=f"{path.name}: one of the files to score; give --per-"):
            score_files(captions, [references], per_image=path, samples=2)
        assert path.read_text() == kept


def test_letters():
    assert _letters(2) == ["A", "B"] and _letters(28)[25:] == ["Z", "A1", "B1"]
