"""What `evaluate` measures, prints and writes, of a run that has learnt eight scenes by heart."""

import json
import math

import tiny

from show_attend_tell.cli.parser import main


def test_evaluate_prints_and_stores_all_that_it_measures(trained, monkeypatch, capsys):
    tiny.use_scenes(monkeypatch)
    for other in trained[0].glob("val-*.scores.json"):  # from an earlier test
        other.unlink()
    assert main(["evaluate", "--workdir", str(trained[0]), "--split", "val"]) == 0
    printed = capsys.readouterr().out
    for title in ("Grounding", "perplexity", "What attention is worth", "must look at a place"):
        assert title in printed, title
    assert "depends on where it looks" not in printed
    assert printed.splitlines()[-1].startswith("scene 3: ")
    [path] = trained[0].glob("val-*.scores.json")
    record = json.loads(path.read_text())
    grounding, nats = record["grounding"], record["faithfulness"]["nll"]
    assert 0 <= grounding["prior"]["pointing"] <= 1 and grounding["captions"]["mentions"]
    assert record["likelihood"]["kind"] == "exact"
    assert record["likelihood"]["perplexity"] == math.exp(nats["own"]) < 1.1
