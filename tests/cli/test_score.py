"""The verb `score`."""

import json

import pytest

from show_attend_tell.cli.parser import main
from show_attend_tell.data.splitting import tokenizer_of


@pytest.fixture
def files(tmp_path):
    """Captions of three translations, and references."""
    for name, text in {
        "a.de": "ein Hund läuft im Schnee\neine Katze\nzwei Männer\n",
        "b.de": "ein Hund\neine Katze\nzwei Frauen\n",
        "r.de": "ein Hund läuft im Schnee\neine Katze\nzwei Männer\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_tables_fit_into_80_columns(files, capsys):
    names = [str(files / name) for name in ("a.de", "b.de")]
    words = ["score", *names, "--references", str(files / "r.de"), "--task", "translation"]
    assert main([*words, "--per-image", str(files / "each.csv")]) == 0
    printed = capsys.readouterr().out
    for text in ("Scores of 3 sentences", f"B: {files / 'b.de'}", "B − A", "case:lc"):
        assert text in printed.replace("\n", "") or text in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    assert (files / "each.csv").read_text().count("\n") == 7


def test_json_is_all_that_is_printed(files, capsys):
    words = ["--references", str(files / "r.de"), "--task", "translation", "--json"]
    assert main(["score", str(files / "a.de"), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"][0]["scores"]["BLEU"]["value"] == pytest.approx(100)
    assert found["differences"] == []


def test_captions_in_german_are_scored_as_evaluate_does(files, capsys):
    words = ["--references", str(files / "r.de"), "--json", "--language"]
    assert main(["score", str(files / "a.de"), *words, "de"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokenizer"] == tokenizer_of("de")[0] and found["noun"] == "images"
    assert found["files"][0]["scores"]["BLEU-1"]["value"] == pytest.approx(1)
    assert found["files"][0]["scores"]["METEOR"]["value"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.de", "--references", "none.de"), "none.de: cannot be read"),
        (("a.de",), "--references"),
        (
            ("a.de", "--references", "r.de", "--task", "translation", "--spice"),
            "--spice scores English cap",
        ),
        (("a.de", "--references", "r.de", "--language", "de", "--spice"), "leave it out for anoth"),
        (("a.de", "--references", "r.de", "--language", "German"), "--language German: no code"),
        (
            ("a.de", "--references", "r.de", "--language", "de", "--task", "translation"),
            "--language is of captions",
        ),
        (("a.de", "--references", "r.de", "--config.seed=1"), "score takes no overrides"),
    ],
)
def test_errors_are_one_line_and_status_2(files, words, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    try:
        status = main(["score", *words])
    except SystemExit as stopped:  # argparse
        status = stopped.code
    assert status == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
