"""The view of the same images in the page of `compare`, and what takes its place."""

import base64
import dataclasses
import io

import numpy as np
import pytest
from finished_runs import HARD, RIGHT, WRONG, edit, pair, viewed, write_run
from PIL import Image
from records import ONE, TWO, record, sentence

from show_attend_tell.data.examples import Box
from show_attend_tell.errors import UserError
from show_attend_tell.inference.attention_record import (
    load_attention,
    safe_name,
    save_attention,
)
from show_attend_tell.reports.compare import compare

BOX = Box("square", 2, 0.1, 0.2, 0.6, 0.7)


def page_of(runs, out, **options) -> str:
    compare(runs, "val", out, samples=10, **options)
    return (out / "index.html").read_text()


def maps_of(run):
    return sorted((run / "attention" / "val").glob("*.npz"))


def test_the_view_holds_words_weights_and_pictures(tmp_path):
    runs = pair(tmp_path)
    [path, *_] = maps_of(runs[0])
    boxed = dataclasses.replace(load_attention(path), boxes=(BOX,))
    save_attention(path, boxed)
    data = viewed(page_of(runs, tmp_path / "out"))
    session = data["session"]
    assert session["offline"] and data["gazes"] == {}
    assert [run["name"] for run in session["runs"]] == ["A, seed 0", "B, seed 0"]
    assert [run["hard"] for run in session["runs"]] == [False, True]
    names = {facts["name"]: facts for facts in session["examples"]}
    assert list(names) == list(RIGHT)[:3]
    facts = names[boxed.image_id]
    assert facts["boxes"] == [{"label": "square", "sides": [0.1, 0.2, 0.6, 0.7]}]
    uri = data["pictures"][facts["id"]]["image"].removeprefix("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(uri))).size == (64, 64)
    reading = data["readings"][facts["id"]]["A, seed 0"]
    assert reading["text"] == RIGHT[boxed.image_id] and reading["context"] == "expected"
    assert tuple(step["word"] for step in reading["steps"]) == boxed.tokens
    for step, alpha, beta in zip(reading["steps"], boxed.alpha, boxed.beta, strict=True):
        assert step["prior"] == [round(float(weight), 4) for weight in alpha]
        assert step["beta"] == pytest.approx(beta)
        entropy = -np.sum(alpha * np.log(alpha))
        assert step["entropy"] == pytest.approx(entropy, abs=1e-4) and step["null"] == 0
        assert (step["log_p"], step["top"], step["posterior"]) == (None, [], None)
    other = data["readings"][facts["id"]]["B, seed 0"]
    assert other["text"] == WRONG[boxed.image_id]


def test_only_images_that_the_statistics_are_of_are_shown(tmp_path):
    runs = pair(tmp_path)
    names = list(RIGHT)[:3]
    edit(runs[0] / "attention" / "val" / "statistics.json", ids=names[1:])
    examples = viewed(page_of(runs, tmp_path / "out"))["session"]["examples"]
    assert [facts["name"] for facts in examples] == names[1:]


def test_a_null_place_has_the_rest_of_the_weights(tmp_path):
    settings = {"attention.kind": "hard", "attention.null_place": True}
    run = write_run(tmp_path / "a", RIGHT, settings=settings, maps=1)
    [path] = maps_of(run)
    old = load_attention(path)
    made = dataclasses.replace(old, alpha=old.alpha * np.float32(0.75), normalised=False)
    save_attention(path, dataclasses.replace(made, context="argmax"))
    page = page_of([run], tmp_path / "out")
    assert "Below are the maps of all words.</p>" in page
    data = viewed(page)
    [[reading]] = [list(found.values()) for found in data["readings"].values()]
    assert reading["hard"] and data["session"]["runs"][0]["null_place"]
    assert reading["steps"][0]["null"] == pytest.approx(0.25, abs=1e-5)
    entropy = -np.sum(made.alpha[0] * np.log(made.alpha[0])) - 0.25 * np.log(0.25)
    assert reading["steps"][0]["entropy"] == pytest.approx(entropy, abs=1e-4)


def test_images_without_a_picture_are_shown_as_before(tmp_path):
    runs = pair(tmp_path)
    images = list(RIGHT)[:3]
    (runs[1] / "attention" / "val" / f"{safe_name(images[1])}.jpg").unlink()
    page = page_of(runs, tmp_path / "out")
    assert [facts["name"] for facts in viewed(page)["session"]["examples"]] == [
        images[0],
        images[2],
    ]
    assert f"<h3>{images[1]}</h3>" in page and page.count("<h3>val/") == 1
    assert page.count('src="data:image/png') == 2


def test_no_pictures_are_shown_where_none_are_wanted(tmp_path):
    page = page_of(pair(tmp_path), tmp_path / "out", shown=0)
    assert "<iframe" not in page and "data:image" not in page and "The same" not in page


def test_a_damaged_picture_is_named(tmp_path):
    runs = pair(tmp_path)
    path = maps_of(runs[0])[0].with_suffix(".jpg")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=path.name):
        page_of(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ids_and_words_are_only_text(tmp_path):
    hostile = '"></iframe><script>alert(1)</script><img src=x onerror=alert(1)>'
    runs = pair(tmp_path)
    for run in runs:
        for path in maps_of(run):
            made = record([ONE, TWO], (hostile, "<eos>"), image_id=hostile)
            save_attention(path, made)
    page = page_of(runs, tmp_path / "out")
    assert "alert(1)</script>" not in page and "<img src=x" not in page
    data = viewed(page)  # as the browser reads it
    assert {facts["name"] for facts in data["session"]["examples"]} == {hostile}
    assert all(
        reading["steps"][0]["word"] == hostile
        for readings in data["readings"].values()
        for reading in readings.values()
    )


def test_sentences_need_no_picture(tmp_path):
    runs = [
        write_run(tmp_path / "a", RIGHT, data="multi30k"),
        write_run(tmp_path / "b", WRONG, data="multi30k", settings=HARD),
    ]
    page = page_of(runs, tmp_path / "out")
    data = viewed(page)
    same = " ".join(["w"] * 16)  # all three read the same, so ids tell two of them apart
    others = [f"{same} ({image_id})" for image_id in list(RIGHT)[1:3]]
    assert data["session"]["sentences"] == [same, *others] == list(data["readings"])
    assert data["session"]["examples"] == [] and data["session"]["runs"][0]["kind"] == "sentences"
    readings = data["readings"][others[0]]
    assert readings["B, seed 0"]["text"] == WRONG[list(RIGHT)[1]]
    assert readings["A, seed 0"]["source"] == ["w"] * 16
    assert "redistributed" not in page and "<img" not in page


def test_self_attention_is_drawn_as_before(tmp_path):
    run = write_run(tmp_path / "a", RIGHT, data="multi30k", maps=1)
    [path] = maps_of(run)
    weights = np.array([[1, 0], [0.5, 0.5]], np.float32)
    image_id = next(iter(RIGHT))
    made = sentence([ONE, TWO], ("w",) * 4, ("x", "<eos>"), image_id=image_id)
    save_attention(path, dataclasses.replace(made, self_alpha=weights))
    page = page_of([run], tmp_path / "out")
    assert viewed(page) is None and page.count('src="data:image/png') == 1
