"""Runs of several languages compared: rows and tests by language, each on its own references."""

import shutil

import pytest
from finished_runs import HARD, RIGHT, TRUTH, WRONG, edit, half_right, scores_of, write_run

from show_attend_tell.errors import UserError
from show_attend_tell.reports.compare import compare
from show_attend_tell.reports.tables import usual_scores

BILINGUAL = {"data.languages": ("en", "de"), "data.vocabulary": "13a"}
ROWS = ("A | en", "B | en", "A | de", "B | de")
FEWER = dict(list(TRUTH.items())[:12])  # not every image has captions in German


def bilingual(workdir, english, german, **settings):
    """A run whose German captions, of fewer images, are scored beside its English ones."""
    write_run(workdir, english, settings=BILINGUAL | settings)
    edit(scores_of(workdir), language="en")
    other = workdir.with_name(f"{workdir.name} in German")
    write_run(other, {name: german[name] for name in FEWER})
    edit(scores_of(other), language="de", references="cd" * 32, tokenizer="13a 1")
    for kind in ("scores", "captions"):
        name = scores_of(other).name.replace("scores", kind)
        shutil.move(other / name, workdir / name.replace("val-", "val.de-"))
    return workdir


def test_each_language_has_its_rows_tests_and_references(tmp_path):
    a = bilingual(tmp_path / "a", RIGHT, half_right())
    b = bilingual(tmp_path / "b", WRONG, RIGHT, **HARD)
    out = tmp_path / "out"
    found = compare([a, b], "val", out, samples=200)
    exact = {row["label"]: row["scores"]["exact"]["mean"] for row in found["scores"]}
    assert exact == {"A, en": 1, "B, en": 0, "A, de": 0.5, "B, de": 1}
    intervals = [row["scores"]["exact"]["interval"] for row in found["scores"]]
    assert intervals[0] == [1, 1] and intervals[2][0] < 0.5 < intervals[2][1]
    assert [(t["a"], t["b"]) for t in found["tests"]] == [("A, en", "B, en"), ("A, de", "B, de")]
    assert [t["scores"]["CIDEr"]["difference"] > 0 for t in found["tests"]] == [True, False]
    assert [(of["language"], of["images"]) for of in found["languages"]] == [("en", 20), ("de", 12)]
    table = (out / "table.md").read_text()
    marked = [f"| {row} | expected | 2 | 0.7 | 1 | **" in table for row in ROWS]
    assert marked == [True, False, False, True]  # the best of each language is bold
    assert "20 images in en, 12 images in de" in table and "In de: tokenizer 13a 1" in table
    shown = usual_scores(found)
    assert shown.head[:3] == ["", "language", "seeds"] and len(shown.rows) == 4
    page = (out / "index.html").read_text()
    assert "val split, images in en, de." in page


def test_references_must_agree_within_a_language(tmp_path):
    a = bilingual(tmp_path / "a", RIGHT, RIGHT)
    b = bilingual(tmp_path / "b", WRONG, WRONG, **HARD)
    edit(b / scores_of(b).name.replace("val-", "val.de-"), references="ef" * 32)
    with pytest.raises(UserError, match=r"b/val\.de-.* and .*a/val\.de-.* different reference"):
        compare([a, b], "val", tmp_path / "out", samples=10)
