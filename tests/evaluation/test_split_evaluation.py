"""What `evaluate` measures, prints and writes, of a run that has learnt eight scenes by heart."""

import json
import math

import clips
import pytest
import tiny
import vits

from show_attend_tell.cli.parser import main


def test_evaluate_prints_and_stores_all_that_it_measures(trained, tmp_path, monkeypatch, capsys):
    tiny.use_scenes(monkeypatch)
    vits.make_tiny(monkeypatch)
    clip = ["--clip", str(clips.write(tmp_path))]
    for other in trained[0].glob("val-*.scores.json"):  # from an earlier test
        other.unlink()
    assert main(["evaluate", "--workdir", str(trained[0]), "--split", "val", *clip]) == 0
    printed = capsys.readouterr().out
    for title in ("Grounding", "perplexity", "What attention is worth", "must look at a place"):
        assert title in printed, title
    assert "depends on where it looks" not in printed
    assert "RefCLIPScore" in printed
    assert printed.splitlines()[-1].startswith("scene 3: ")
    [path] = trained[0].glob("val-*.scores.json")
    record = json.loads(path.read_text())
    fit, both = (record["per_image"][name] for name in ("CLIPScore", "RefCLIPScore"))
    # The captions are the references, whose cosine is 1.
    assert both == pytest.approx([2 * a / (a + 1) for a in fit], abs=1e-5) and len(set(fit)) > 1
    assert record["scores"]["CLIPScore"] == pytest.approx(sum(fit) / 8)
    assert len(record["clip"]["weights"]) == 64
    grounding, nats = record["grounding"], record["faithfulness"]["nll"]
    assert 0 <= grounding["prior"]["pointing"] <= 1 and grounding["captions"]["mentions"]
    assert record["likelihood"]["kind"] == "exact"
    assert record["likelihood"]["perplexity"] == math.exp(nats["own"]) < 1.1
