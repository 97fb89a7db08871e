"""One file with everything in it."""

import base64
import dataclasses
import hashlib
import html
import json
import re

import numpy as np
import pytest
from records import record

from show_attend_tell import pretrained
from show_attend_tell.errors import UserError
from show_attend_tell.explorer import export as module
from show_attend_tell.explorer.export import export
from show_attend_tell.explorer.page import modules, one_file


def data_of(page):
    [block] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(block)


def test_an_export_holds_what_the_server_would_answer(explorer, tmp_path):
    path = tmp_path / "out.html"
    ids = explorer.pictures.split[:2]
    size = export(explorer, path, ids)
    assert path.stat().st_size == size
    data = data_of(path.read_text(encoding="utf-8"))
    assert list(data["pictures"]) == ids and data["session"]["offline"]
    assert [facts["id"] for facts in data["session"]["examples"]] == ids
    respondent = explorer.respondents["latent"]
    seen = respondent.see_picture("x", explorer.pictures[ids[1]].picture)
    expected = respondent.caption(seen)
    reading = data["readings"][ids[1]]["latent"]
    assert reading["text"] == expected.text
    for found, step in zip(reading["steps"], expected.steps, strict=True):
        np.testing.assert_allclose(found["prior"], step.prior, atol=6e-5)
        assert found["log_p"] == pytest.approx(step.log_p, abs=1e-5)
    cells = data["gazes"][ids[1]]["latent"]
    around = respondent.gaze(seen, [], None)
    assert len(cells) == len(expected.steps)
    assert cells[0][9][0]["word"] == around.cells[9][0].word
    assert cells[0][9][0]["p"] == pytest.approx(around.cells[9][0].p, abs=1e-4)


def test_a_page_loads_nothing_and_runs_only_its_own_scripts(explorer, tmp_path):
    path = tmp_path / "out.html"
    export(explorer, path, explorer.pictures.split[:1])
    page = path.read_text(encoding="utf-8")
    shell = re.sub(r"(<(script|style)[^>]*>).*?</\2>", r"\1", page, flags=re.S)
    assert not re.search(r'(src|href)="(?!data:)', shell)
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for kind in ("script", "style"):
        pattern = rf"<{kind}(?! type=\"application/json\")[^>]*>(.*?)</{kind}>"
        for text in re.findall(pattern, page, re.S):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy


def test_data_cannot_end_its_block():
    page = one_file({"name": "</script><img src=x onerror=alert(1)>", "session": {}})
    assert "<img src=x" not in page
    assert data_of(page)["name"] == "</script><img src=x onerror=alert(1)>"


def test_modules_become_one_script_after_what_they_need():
    script = modules("app.js")
    assert not re.search(r"^(import|export) ", script, re.M)
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", script, re.M)
    assert len(names) == len(set(names)), "modules share one scope: names must be unique"
    assert script.index("= vendor") < script.index("function ")


def test_an_export_that_would_be_too_large_says_so(explorer, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(UserError, match="after 1 of 3 pictures; name fewer with --num"):
        export(explorer, tmp_path / "out.html", explorer.pictures.split[:3])
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_captions_as_the_page(trained, tmp_path):
    workdir, scenes = trained
    model = pretrained.load(workdir)
    captions = model.caption([scenes[0].image, scenes[1].image])
    assert [caption.text for caption in captions] == [s.captions[0] for s in scenes[:2]]
    shown = captions._repr_html_()
    [frame] = re.findall(r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts"', shown)
    data = data_of(html.unescape(frame))
    texts = [reading["text"] for of in data["readings"].values() for reading in of.values()]
    assert texts == [caption.text for caption in captions]
    argmax = dataclasses.replace(model.decoding, context="argmax")
    [frame] = re.findall(
        r'srcdoc="([^"]*)"', model.caption([scenes[0].image], argmax)._repr_html_()
    )
    data = data_of(html.unescape(frame))
    [[reading]] = [list(of.values()) for of in data["readings"].values()]
    assert reading["context"] == "argmax"


def test_a_notebook_shows_what_was_said_and_does_not_say_it_anew(trained):
    workdir, scenes = trained
    model = pretrained.load(workdir)
    [one, other] = model.caption([scenes[0].image, scenes[1].image])
    places = (np.arange(len(one.tokens)) * 5) % 64
    drawn = dataclasses.replace(one, context="sample", location=places)
    names, pictures = ["first", "second"], [scenes[0].image, scenes[1].image]
    # The captions of the other pictures: nothing of them would be found again.
    shown = pretrained.Captions(model, names, pictures, [other, drawn])
    shown.clear()
    [frame] = re.findall(r'srcdoc="([^"]*)"', shown._repr_html_())
    data = data_of(html.unescape(frame))
    [[first], [second]] = [list(of.values()) for of in data["readings"].values()]
    assert (first["text"], second["text"]) == (other.text, one.text)
    assert (second["context"], second["hard"]) == ("sample", True)
    assert second["log_prob"] == one.log_prob and second["finished"]
    assert [step["location"] for step in second["steps"]] == places.tolist()
    assert all(step["gaze"] is None for step in second["steps"])
    [*_, [cells]] = [list(of.values()) for of in data["gazes"].values()]
    for step, place, there in zip(second["steps"], places, cells, strict=True):
        assert step["top"][0]["p"] == pytest.approx(there[place][0]["p"], abs=1e-4)


def test_a_notebook_shows_records_of_drawn_null_places_without_probabilities(explorer):
    run = explorer.respondents["latent"].run  # which has a null place
    kept = explorer.pictures[explorer.pictures.split[0]]
    alpha = np.full((2, 64), 1 / 80)
    made = record(alpha, ("a", "<eos>"), (8, 8), context="sample", normalised=False)
    shown = pretrained.Captions(run, ["one"], [kept.picture], [made])
    data = data_of(html.unescape(re.findall(r'srcdoc="([^"]*)"', shown._repr_html_())[0]))
    [[reading]] = [list(of.values()) for of in data["readings"].values()]
    assert reading["text"] == "a" and data["gazes"] == {}
    assert reading["steps"][0]["log_p"] is None
    assert reading["steps"][0]["null"] == pytest.approx(0.2)
