"""Comparisons of hand-made run folders: figures worked out by hand, and what is written."""

import dataclasses
import json
import math
import shutil
import statistics
from unittest.mock import Mock

import pytest
from finished_runs import (
    HARD,
    RIGHT,
    WRONG,
    edit,
    half_right,
    measured,
    pair,
    scores_of,
    viewed,
    without_pictures,
    write_run,
)

from show_attend_tell import sharing
from show_attend_tell.cli.parser import main
from show_attend_tell.errors import UserError
from show_attend_tell.inference.attention_record import load_attention, save_attention
from show_attend_tell.inference.run import Run
from show_attend_tell.reports.compare import compare
from show_attend_tell.reports.tables import Cell, usual_scores
from show_attend_tell.reports.uncertainty import METEOR_MEAN
from show_attend_tell.settings import Decode


def rows_by_label(result) -> dict[str, dict]:
    return {row["label"]: row for row in result["scores"]}


def test_runs_are_grouped_by_all_but_the_seed(three):
    result, _ = three
    assert [g["letter"] for g in result["groups"]] == ["A", "B"]
    assert [[r["seed"] for r in g["runs"]] for g in result["groups"]] == [[0, 1], [0]]
    assert result["groups"][0]["name"] == "attention.kind=soft, hard.baseline=moving_average"
    assert result["groups"][1]["name"] == "attention.kind=hard, hard.baseline=learned"
    assert list(rows_by_label(result)) == [
        "A, context expected",
        "B, context argmax",
        "B, context expected",
    ]


def test_score_files_of_earlier_versions_state_todays_defaults(tmp_path):
    old, new = pair(tmp_path)
    stated = {"beam": 2, "length_penalty": 0.7, "context": "expected", "n_best": 2}
    edit(scores_of(new), decoding=dataclasses.asdict(Decode(**stated)))
    result = compare([old, new], "val", tmp_path / "out", samples=10)
    assert list(rows_by_label(result)) == ["A", "B"]
    edit(scores_of(new), decoding=dataclasses.asdict(Decode(**stated, no_repeat=3)))
    result = compare([old, new], "val", tmp_path / "out", samples=10)
    assert list(rows_by_label(result)) == ["A, no repeat 0", "B, no repeat 3"]


def test_config_diff_has_only_what_differs(three):
    assert three[0]["config"] == {
        "attention.kind": ["soft", "hard"],
        "hard.baseline": ["moving_average", "learned"],
    }


def test_mean_and_deviation_over_seeds_by_hand(three):
    rows = rows_by_label(three[0])
    soft, hard = rows["A, context expected"], rows["B, context argmax"]
    # Right are 20 of 20 and 10 of 20 captions.
    assert soft["scores"]["exact"]["mean"] == 0.75
    assert soft["scores"]["exact"]["std"] == pytest.approx(math.sqrt(0.125))
    assert soft["scores"]["METEOR"]["mean"] == pytest.approx(0.375)
    assert soft["scores"]["METEOR"]["interval"] is None
    assert soft["scores"][METEOR_MEAN]["mean"] == pytest.approx(0.325)
    assert soft["seeds"] == 2
    assert hard["scores"]["exact"]["mean"] == 0
    assert hard["scores"]["exact"]["std"] is None
    values = soft["scores"]["BLEU-4"]["values"]
    assert soft["scores"]["BLEU-4"]["std"] == pytest.approx(statistics.stdev(values))
    # Of the images 10 have a mean of 1/2 and 10 of 1: 1/2 + binomial(20, 1/2) / 40.
    low, high = soft["scores"]["exact"]["interval"]
    assert (low, high) == pytest.approx((0.65, 0.85))


def test_time_and_tokens_to_a_score_by_hand(three):
    progress = three[0]["progress"]
    # The lowest best is 0.6, of the second soft run.
    assert [t["CIDEr"] for t in progress["targets"]] == pytest.approx([0.3, 0.54, 0.6])
    soft, hard = progress["rows"]
    assert [r["step"]["values"] for r in soft["reached"]] == [[100, 100], [200, 300], [200, 300]]
    assert soft["reached"][1]["step"] == {
        "mean": 250,
        "std": pytest.approx(math.sqrt(5000)),
        "values": [200, 300],
    }
    assert [r["seconds"]["mean"] for r in hard["reached"]] == [120, 240, 240]
    assert [r["tokens"]["mean"] for r in hard["reached"]] == [3e5, 6e5, 6e5]


def test_what_is_written(three):
    result, out = three
    assert sorted(p.name for p in out.iterdir()) == ["comparison.json", "index.html", "table.md"]
    assert json.loads((out / "comparison.json").read_text()) == result
    table = (out / "table.md").read_text()
    assert "| A | expected | 2 | 0.7 | 2 |" in table
    assert "**0.750 ± 0.354** [0.650, 0.850]" in table
    assert "| B, seed 0 | none | to_go | 12.5 | 0.25 |" in table
    assert result["samples"] == 20000
    # Both experiments were decoded with one beam, but read different contexts.
    assert [*usual_scores(result).head][:5] == ["", "context", "seeds", "BLEU-1", "BLEU-4"]
    assert usual_scores(result).rows[0][-1] == Cell("0.375 ± 0.177")


def test_interval_of_a_binomial(tmp_path):
    # 10 of 20 right: a resample's share is binomial(20, 1/2) / 20, whose quantiles are 6 and 14.
    runs = [write_run(tmp_path / "a", half_right())]
    result = compare(runs, "val", tmp_path / "out", samples=6000)
    scores = result["scores"][0]["scores"]
    assert scores["exact"]["interval"] == [0.3, 0.7]
    assert scores[METEOR_MEAN]["interval"] == pytest.approx([0.1 + 0.3 * 0.3, 0.1 + 0.3 * 0.7])
    low, high = scores["BLEU-4"]["interval"]
    assert low < scores["BLEU-4"]["mean"] < high
    assert result["tests"] == [] and result["groups"][0]["name"] == "a"


def test_the_seeds_of_a_sweep_share_a_name_without_one(tmp_path):
    runs = [
        write_run(tmp_path / f"soft-reward-seed={seed}", RIGHT, settings={"seed": seed})
        for seed in (0, 1)
    ]
    [group] = compare(runs, "val", tmp_path / "out", samples=10)["groups"]
    assert group["name"] == "soft-reward" and len(group["runs"]) == 2
    plain = write_run(tmp_path / "hard" / "seed=0", RIGHT)
    assert compare([plain], "val", tmp_path / "one", samples=10)["groups"][0]["name"] == "hard"


def test_scores_of_weights_that_training_left_behind_are_passed_over(tmp_path):
    run = write_run(tmp_path / "a", RIGHT)
    for kind in ("scores", "captions"):
        path = scores_of(run).with_name(f"val-expected-beam2-lp0.7.{kind}.json")
        shutil.copy(path, path.with_name(f"val-expected-beam9-lp0.7.{kind}.json"))
    stale = run / "val-expected-beam9-lp0.7.scores.json"
    edit(stale, step=200, decoding=json.loads(stale.read_text())["decoding"] | {"beam": 9})
    rows = compare([run], "val", tmp_path / "out", samples=10)["scores"]
    assert [row["decoding"]["beam"] for row in rows] == [2]


def test_scores_with_other_settings_are_passed_over(tmp_path):
    run = write_run(tmp_path / "a", RIGHT)
    stem = "val-expected-beam2-lp0.7"
    for kind in ("scores.json", "captions.json"):
        shutil.copy(run / f"{stem}.{kind}", run / f"{stem}-overridden=0a1b2c3d.{kind}")
    [row] = compare([run], "val", tmp_path / "out", samples=10)["scores"]
    assert row["files"] == [str(scores_of(run))]


def test_records_of_two_runs_do_not_mix(tmp_path, capsys):
    runs = [
        write_run(tmp_path / "soft" / "seed=0", RIGHT),
        write_run(tmp_path / "hard" / "seed=0", RIGHT, settings=HARD),
    ]
    out = tmp_path / "out"
    assert main(["publish", *map(str, runs), "--out", str(out)]) == 2
    assert "another run is called seed=0, too" in capsys.readouterr().err and not out.exists()
    sharing.publish(runs[0], out / "seed=0")
    with pytest.raises(UserError, match="holds another model or the records of another run"):
        sharing.publish(runs[1], out / "seed=0")
    # What the run no longer has goes.
    stale = out / "seed=0" / "test-expected-beam9-lp1.scores.json"
    stale.write_text("{}")
    sharing.publish(runs[0], out / "seed=0")
    assert not stale.exists() and scores_of(out / "seed=0").exists()
    with pytest.raises(UserError, match="holds the records of a run; export to another folder"):
        sharing.export(Mock(spec=Run), out / "seed=0")


def test_p_of_equal_and_of_very_different_runs(tmp_path):
    runs = pair(tmp_path)
    runs.append(write_run(tmp_path / "c", RIGHT, settings={"train.epochs": 9}))
    tests = compare(runs, "val", tmp_path / "out", samples=400, shown=0)["tests"]
    found = {(t["a"], t["b"]): t["scores"] for t in tests}
    for name in ("BLEU-4", METEOR_MEAN, "CIDEr"):
        assert found["A", "C"][name] == {"difference": 0, "p": 1}
        assert found["A", "B"][name]["p"] == pytest.approx(1 / 401)
        assert found["A", "B"][name]["difference"] > 0 > found["B", "C"][name]["difference"]


def test_p_of_three_images_by_hand(tmp_path):
    # Of 8 ways to swap, all or none swapped differ as much as the truth: p is 1/4.
    right, wrong = (dict(list(said.items())[:3]) for said in (RIGHT, WRONG))
    runs = [write_run(tmp_path / "a", right), write_run(tmp_path / "b", wrong, settings=HARD)]
    tests = compare(runs, "val", tmp_path / "out", samples=20000)["tests"]
    assert tests[0]["scores"][METEOR_MEAN]["p"] == pytest.approx(0.25, abs=0.01)
    assert tests[0]["scores"]["BLEU-4"]["p"] == pytest.approx(0.25, abs=0.01)


def test_the_reason_for_a_missing_meteor_is_shown(tmp_path):
    runs = pair(tmp_path)
    path = scores_of(runs[1])
    record = json.loads(path.read_text())
    del record["per_image"]["METEOR"]
    missing = {"METEOR": "left out: no tables"}
    edit(
        path,
        scores=record["scores"] | {"METEOR": None},
        missing=missing,
        **{"per_image": record["per_image"]},
    )
    result = compare(runs, "val", tmp_path / "out", samples=50, shown=0)
    assert [row["scores"]["METEOR"]["mean"] for row in result["scores"]] == [0.5, None]
    assert set(result["tests"][0]["scores"]) == {"BLEU-4", "CIDEr"}
    assert "B: METEOR left out: no tables" in (tmp_path / "out" / "index.html").read_text()


def test_a_run_that_starts_from_another_is_marked(tmp_path):
    begun = write_run(tmp_path / "b", RIGHT, settings={"train.init_from": "runs/soft"})
    result = compare([begun], "val", tmp_path / "out", samples=50, shown=0)
    text = (tmp_path / "out" / "index.html").read_text()
    assert result["groups"][0]["runs"][0]["init_from"] == "runs/soft"
    assert "began with the weights of runs/soft" in text
    plain = compare([write_run(tmp_path / "c", RIGHT)], "val", tmp_path / "two", samples=50)
    assert plain["groups"][0]["runs"][0]["init_from"] is None
    assert "began with" not in (tmp_path / "two" / "index.html").read_text()


def test_published_records_make_the_same_page_without_pictures(tmp_path):
    runs = [
        write_run(tmp_path / "a", RIGHT, data="flickr8k"),
        write_run(tmp_path / "b", WRONG, data="flickr8k", settings=HARD),
    ]
    edit(runs[0] / "run.json", command=["x", "train", "--config.data.dir=/secret", "--more"])
    published = [tmp_path / "out" / run.name for run in runs]
    for run, folder in zip(runs, published, strict=True):
        written = sharing.publish(run, folder)
        assert {path.suffix for path in written} == {".json", ".jsonl"}
        assert not any(str(tmp_path) in path.read_text() for path in written)
    assert json.loads((published[0] / "run.json").read_text())["command"] == [
        "x",
        "train",
        "--more",
    ]
    for name, folders in (("a", runs), ("b", published)):
        compare(folders, "val", tmp_path / "pages" / name, samples=50, shown=0)
    pages = [(tmp_path / "pages" / name / "table.md").read_text() for name in "ab"]
    assert pages[0] == pages[1].replace(f"{tmp_path}/out/", f"{tmp_path}/")
    page = (tmp_path / "pages" / "b" / "index.html").read_text()
    assert "redistributed" not in page and "<img" not in page
    with pytest.raises(UserError, match="config.json: not there"):
        sharing.publish(tmp_path / "pages", tmp_path / "more")
    (tmp_path / "pages" / "checkpoints").mkdir()
    with pytest.raises(UserError, match="the folder of a run; publish to another"):
        sharing.publish(runs[0], tmp_path / "pages")


def test_the_page_says_which_maps_lie_at_computed_centres(tmp_path):
    runs = pair(tmp_path)
    [path, *_] = sorted((runs[0] / "attention" / "val").glob("*.npz"))
    measured = load_attention(path)
    compare(runs, "val", tmp_path / "all", samples=50)
    save_attention(path, dataclasses.replace(measured, centres="computed"))
    compare(runs, "val", tmp_path / "out", samples=50)
    pages = [(tmp_path / name / "index.html").read_text() for name in ("all", "out")]
    assert [page.count("“Computed centres”") for page in pages] == [0, 1]
    found = [
        reading["run"]
        for readings in viewed(pages[1])["readings"].values()
        for reading in readings.values()
        if not reading["grid"]["measured"]
    ]
    assert found == ["A, seed 0"]
    without_pictures(*runs)
    compare(runs, "val", tmp_path / "old", samples=50)
    assert (tmp_path / "old" / "index.html").read_text().count("computed centres") == 1


def test_what_maps_show_stands_side_by_side(tmp_path):
    said = {name: RIGHT[name] for name in list(RIGHT)[:2]}
    seeds = [write_run(tmp_path / f"a{k}", said, settings={"seed": k}) for k in (0, 1)]
    old = write_run(tmp_path / "old", said, settings={"train.epochs": 9})
    hard = write_run(tmp_path / "hard", said, settings=HARD)
    edit(scores_of(seeds[0]), **measured())
    more = measured()
    more["likelihood"]["perplexity"] = 16.5
    more["faithfulness"]["deletion"]["ordered"] = 0.6
    edit(scores_of(seeds[1]), **more)
    edit(scores_of(hard), **measured(bound=True, random=-0.01))
    result = compare([*seeds, old, hard], "val", tmp_path / "out", samples=10, shown=0)
    assert [row["group"] for row in result["measured"]] == ["A", "C"]
    soft, hard = (row["figures"] for row in result["measured"])
    assert soft["perplexity"]["values"] == [15.5, 16.5]
    assert soft["ratio"]["values"] == pytest.approx([4, 6])
    assert soft["pointing: prior"]["interval"] is None
    assert hard["pointing: prior"]["interval"] == [0.4, 0.6]
    table = (tmp_path / "out" / "table.md").read_text()
    [head] = [line for line in table.splitlines() if "perplexity" in line and "|" in line]
    assert "posterior" not in head
    start = "| C | ≤ 15.500 | 0.620 [0.400, 0.600] | 0.550 [0.400, 0.600] | 0.540 [0.400, 0.600] |"
    [row] = [line for line in table.splitlines() if line.startswith(start)]
    assert row.endswith("| 0.250 | 0.500 | 0.400 | -0.010 | — |")
    page = (tmp_path / "out" / "index.html").read_text()
    assert 'id="measured"' in page and "≤ 15.500" in page
    plain = compare([old], "val", tmp_path / "plain", samples=10, shown=0)
    assert plain["measured"] == []
    assert 'id="measured"' not in (tmp_path / "plain" / "index.html").read_text()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return pair(tmp_path_factory.mktemp("sound"))


def test_runs_that_are_no_comparison(sound, tmp_path):
    a, b = sound
    copy = shutil.copytree(a, tmp_path / "copy")
    other = write_run(tmp_path / "other", RIGHT, data="flickr8k")
    for runs, message in [
        ([], "no runs"),
        ([a, b, a.parent / "." / "a"], "given twice"),
        ([a, copy], "same experiment with the same seed, 0"),
        ([a, other], "different data sets"),
    ]:
        with pytest.raises(UserError, match=message):
            compare(runs, "val", tmp_path / "out")
    with pytest.raises(UserError, match="no scores of the test split"):
        compare([a, b], "test", tmp_path / "out")
    with pytest.raises(UserError, match="samples 0"):
        compare([a, b], "val", tmp_path / "out", samples=0)


def test_sentences_are_compared_by_bleu_and_by_length(tmp_path):
    runs = [
        write_run(tmp_path / "a", RIGHT, data="multi30k", progress=(10, 20)),
        write_run(
            tmp_path / "b",
            half_right(),
            data="multi30k",
            progress=(30, 25),
            settings={"seed": 1},
        ),
    ]
    result = compare(runs, "val", tmp_path / "out", samples=50)
    assert result["what"] == "sentences" and result["progress"]["score"] == "BLEU"
    assert [t["BLEU"] for t in result["progress"]["targets"]] == [10, 18, 20]
    short, long = result["by_length"][0]["buckets"]
    assert (short["least"], long["most"], short["sentences"]) == (3, 4, 10)
    # Those of even length are right in both runs, the others in one.
    assert (short["exact"], long["exact"]) == (1, 0.5)
    scores = result["scores"][0]["scores"]
    assert scores["chrF"]["interval"] is None and scores["chrF, sentence mean"]["interval"]
    text = (tmp_path / "out" / "index.html").read_text()
    assert "exact by length of the source" in text and "20 sentences" in text
    assert "redistributed" not in text

    edit(scores_of(runs[1]), by_length=[])  # as an earlier version scored it
    assert compare(runs, "val", tmp_path / "out", samples=50)["by_length"] == []
