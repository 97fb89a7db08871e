"""Folders that are no finished runs, or damaged: refused in one line, and nothing is written."""

import shutil

import pytest
from finished_runs import RIGHT, edit, measured, pair, scores_of, write_json, write_run

from show_attend_tell.data.vocabulary import Vocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.reports.compare import compare
from show_attend_tell.reports.read_runs import read_run


def damage_a_drawing(run):
    path = run / "attention" / "val" / "val%2Fred-circle.png.png"
    path.with_suffix(".jpg").unlink()  # else the drawing is not shown
    path.write_bytes(b"x")


REFUSALS = {
    "references": (lambda run: edit(scores_of(run), references="cd" * 32), "different reference"),
    "tokenizer": (lambda run: edit(scores_of(run), tokenizer="other"), "different tokenizers"),
    "unfinished": (lambda run: edit(run / "run.json", finished=False), "b: .*not finished"),
    "no run.json": (lambda run: (run / "run.json").unlink(), "run.json: not there"),
    "no run": (lambda run: (run / "config.json").unlink(), "b: not the folder of a run"),
    "config": (
        lambda run: write_json(run / "config.json", [1]),
        "config.json: not a readable config",
    ),
    "no object": (lambda run: write_json(run / "run.json", [1]), "run.json: damaged .no JSON obj"),
    "origin": (lambda run: edit(run / "run.json", init_from={}), "run.json: lacks 'experiment'"),
    "decoding": (lambda run: edit(scores_of(run), decoding=1), "scores.json: damaged"),
    "no weights": (lambda run: write_json(run / "run.json", {"finished": True}), "best_step"),
    "no scores": (lambda run: scores_of(run).unlink(), "evaluate --workdir .*b --split val"),
    "no captions": (
        lambda run: (run / "val-expected-beam2-lp0.7.captions.json").unlink(),
        "captions.json: not there",
    ),
    "old weights": (lambda run: edit(scores_of(run), step=200), "best weights are of 300"),
    "no maps": (
        lambda run: shutil.rmtree(run / "attention"),
        "statistics.json: not there; run `attend --workdir .*b --split val",
    ),
    "no statistics": (
        lambda run: (run / "attention" / "val" / "statistics.json").unlink(),
        "statistics.json: not there; run `attend",
    ),
    "statistics": (
        lambda run: edit(run / "attention" / "val" / "statistics.json", mean_entropy="x"),
        "statistics.json: damaged",
    ),
    "maps of other weights": (
        lambda run: edit(run / "attention" / "val" / "statistics.json", step=200),
        "statistics.json: damaged .*of step 200, but the best weights are of 300.*attend",
    ),
    "half a file": (
        lambda run: scores_of(run).write_text(scores_of(run).read_text()[:-9]),
        "beam2-lp0.7.scores.json: damaged .*evaluate",
    ),
    "grounding": (
        lambda run: edit(scores_of(run), **measured() | {"grounding": {"prior": 1}}),
        "scores.json: lacks 'intervals'",
    ),
    "likelihood": (
        lambda run: edit(scores_of(run), likelihood={"perplexity": "x", "kind": "exact"}),
        "scores.json: damaged",
    ),
    "old form": (lambda run: write_json(scores_of(run), {"split": "val"}), "lacks 'images'"),
    "counts": (lambda run: edit(scores_of(run), bleu_counts=[[1] * 10]), "scores.json: damaged"),
    "no metrics": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl: not there"),
    "metrics": (lambda run: (run / "metrics.jsonl").write_text("{}\n"), "metrics.jsonl: damaged"),
    "variance": (lambda run: write_json(run / "gradient_variance.json", []), "variance.json: dam"),
    "variance of other weights": (
        lambda run: write_json(run / "gradient_variance.json", {"rows": [], "weights": "step 200"}),
        "variance.json: damaged .of step 200, but the best weights are of step 300.*again",
    ),
    "vocabulary": (
        lambda run: Vocabulary.from_captions([["cat"]], 1).save(run / "vocabulary.json"),
        "different vocabularies",
    ),
    "picture": (
        damage_a_drawing,
        "circle.png.png: not a readable PNG",
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return pair(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_name_the_file_and_write_nothing(case, sound, tmp_path):
    harm, message = REFUSALS[case]
    for run in sound:
        shutil.copytree(run, tmp_path / run.name)
    harm(tmp_path / "b")
    with pytest.raises(UserError, match=message) as error:
        compare([tmp_path / "a", tmp_path / "b"], "val", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_noise_of_initial_weights_is_not_that_of_a_run(tmp_path):
    run, rows = write_run(tmp_path / "a", RIGHT), [{"baseline": "none", "variance": 12.5}]
    for weights, found in (("step 300", rows), ("fresh", [])):
        write_json(run / "gradient_variance.json", {"rows": rows, "weights": weights})
        assert read_run(run, "val").variance == found
