"""Tables in the pages of results: figures by hand, and that no committed page drifts."""

from pathlib import Path

import pytest
from finished_runs import HARD, RIGHT, WRONG, edit, half_right, write_run

from show_attend_tell.errors import UserError
from show_attend_tell.reports.results_tables import filled, update_pages

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "results").glob("*.md"))
PAGE = "Before.\n\n<!-- table: own -->\nold\n<!-- end -->\n\nAfter.\n"


@pytest.fixture
def results(tmp_path):
    """Records of two seeds of one experiment and of a hard one, decoded in two ways."""
    folder = tmp_path / "results" / "own"
    folder.mkdir(parents=True)
    runs = [
        write_run(folder / "soft-seed=0", RIGHT, split="test"),
        write_run(folder / "soft-seed=1", half_right(), settings={"seed": 1}, split="test"),
        write_run(
            folder / "hard-seed=0",
            WRONG,
            settings=HARD,
            contexts=("expected", "argmax"),
            split="test",
        ),
    ]
    start = ["main.py", "train", "--config", "experiments/shapes.py:soft", "--workdir"]
    for seed, run in enumerate(runs[:2]):
        edit(
            run / "run.json",
            seconds=60.0 + 120 * seed,
            command=[*start, str(run), f"--config.train.init_from=runs/a-seed={seed}", f"-{seed}"],
        )
    return tmp_path / "results"


def test_a_table_has_a_line_for_each_experiment_and_decoding(results):
    text = filled(PAGE, results)
    assert text.startswith("Before.\n\n<!-- table: own -->\n| experiment | BLEU-1 |")
    assert text.endswith("```\n<!-- end -->\n\nAfter.\n") and "old" not in text
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = lines
    assert [row[0] for row in rows] == ["hard, argmax", "hard, expected", "soft"]
    soft = dict(zip(head, rows[2], strict=True))
    # METEOR is half of the share of right captions: 50 and 25 of 100.
    assert soft["METEOR"] == "37.50 ± 17.68"
    assert (soft["seeds"], soft["minutes"]) == ("2", "2.0 ± 1.4")
    command = "./launch.sh train --config shapes:soft --config.train.init_from=runs/a-seed=N"
    assert f"\n# soft\n{command}\n```\n" in text
    # Of 20 times 7 words "a" is right, and "green" four times.
    assert dict(zip(head, rows[0], strict=True))["BLEU-1"] == f"{100 * 24 / 140:.2f}"
    assert "exact" not in head
    assert filled(text, results) == text


def test_pages_are_rewritten_where_they_drifted(results, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "a.md").write_text(PAGE)
    (pages / "b.md").write_text("no table\n")
    assert update_pages(pages, results) == [pages / "a.md"]
    assert (pages / "a.md").read_text() == filled(PAGE, results)
    assert update_pages(pages, results) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            PAGE.replace("own", "none"),
            "none: no records of runs; `publish RUN --out .*none`",
        ),
        (PAGE.replace("<!-- end -->", ""), "table own: no line '<!-- end -->' after it"),
        (PAGE.replace("old", "<!-- table: own -->"), "table own: no line"),
    ],
)
def test_pages_that_cannot_be_filled_are_refused(text, message, results):
    with pytest.raises(UserError, match=message):
        filled(text, results)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_committed_pages_have_the_tables_of_the_records(page):
    text = page.read_text(encoding="utf-8")
    assert filled(text, ROOT / "results") == text, "results_tables.update_pages writes them anew"


def test_a_page_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "page.md").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="page.md: not UTF-8"):
        update_pages(tmp_path, tmp_path)
