"""The server: its answers, its errors, and what it keeps out."""

import asyncio
import io
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from show_attend_tell.explorer import server
from show_attend_tell.explorer.answers import Reading
from show_attend_tell.explorer.pictures import Pictures
from show_attend_tell.explorer.server import make_app


@pytest.fixture(scope="module")
def client(explorer):
    return TestClient(make_app(explorer), base_url="http://127.0.0.1:8000")


@pytest.fixture(scope="module")
def picture(explorer):
    return explorer.pictures.split[0]


def png(width=40, height=20, mode="RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG")
    return file.getvalue()


def error(response, status) -> str:
    assert response.status_code == status, response.text
    [(key, line)] = response.json().items()
    assert key == "error" and line and "\n" not in line
    return line


def test_a_caption_is_the_runs(client, explorer, picture):
    found = client.post("/api/caption", json={"run": "one", "picture": picture}).json()
    respondent = explorer.respondents["one"]
    expected = respondent.caption(
        respondent.see_picture("other key", explorer.pictures[picture].picture)
    )
    assert Reading.model_validate(found).model_dump(exclude={"seconds"}) == expected.model_dump(
        exclude={"seconds"}
    )


def test_given_steps_and_masks_arrive(client, picture):
    ask = {"run": "one", "picture": picture}
    free = client.post("/api/caption", json=ask).json()
    first = free["steps"][0]["word"]
    steps = [{"word": first}, {"gaze": 5}]
    found = client.post("/api/caption", json=ask | {"steps": steps, "beam": 1}).json()
    assert found["steps"][0]["word"] == first and found["steps"][1]["gaze"] == 5
    around = client.post("/api/gaze", json=ask | {"steps": steps[:1]}).json()
    assert found["steps"][1]["word"] == around["cells"][5][0]["word"]
    hidden = client.post("/api/caption", json=ask | {"masks": [[0, 0, 1, 1]]}).json()
    assert hidden["log_prob"] != free["log_prob"]


def test_the_beam_and_what_a_step_reads_are_the_askers(client, explorer, picture, monkeypatch):
    respondent = explorer.respondents["one"]
    caption, asked = respondent.caption, []

    def recorded(seen, steps, **options):
        asked.append(options)
        return caption(seen, steps, **options)

    monkeypatch.setattr(respondent, "caption", recorded)
    ask = {"run": "one", "picture": picture, "beam": 3, "context": "argmax"}
    answer = client.post("/api/caption", json=ask).json()
    assert asked == [{"beam": 3, "context": "argmax"}]
    assert answer["context"] == "argmax" and answer["hard"]


def test_a_sentence_is_translated_and_its_alignment_forced(client):
    ask = {"run": "translator", "text": "two  dogs run"}
    free = client.post("/api/caption", json=ask).json()
    assert free["source"] == ["two", "dogs", "run", "<eos>"] and free["grid"]["rows"] == [0.5]
    assert all(len(step["prior"]) == 4 for step in free["steps"])
    forced = client.post("/api/caption", json=ask | {"steps": [{"gaze": 2}], "beam": 1}).json()
    [step] = forced["steps"][:1]
    around = client.post("/api/gaze", json=ask | {"word": step["word"]}).json()
    assert len(around["cells"]) == len(around["map"]) == 4
    assert step["log_p"] == pytest.approx(math.log(around["map"][2]), abs=1e-5)
    assert step["location"] == 2


def test_pictures_are_brought_and_shown(client):
    facts = client.post("/api/pictures", params={"name": "a.png"}, content=png()).json()
    assert (facts["name"], facts["width"], facts["height"]) == ("a.png", 40, 20)
    assert client.get(f"/api/pictures/{facts['id']}").json() == facts
    for kind in ("image", "thumbnail"):
        shown = client.get(f"/api/pictures/{facts['id']}/{kind}")
        assert shown.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(shown.content)).size == (40, 20)
    found = client.post("/api/caption", json={"run": "latent", "picture": facts["id"]})
    assert found.json()["run"] == "latent"


def test_the_split_knows_its_references_and_boxes(client, explorer, picture):
    facts = client.get(f"/api/pictures/{picture}").json()
    [caption] = facts["references"]
    nouns = {word for word in caption.split() if word in ("circle", "square", "triangle", "cross")}
    assert {box["label"] for box in facts["boxes"]} == nouns
    session = client.get("/api/session").json()
    assert session["split"] == "val" and [run["name"] for run in session["runs"]] == [
        "one",
        "latent",
        "translator",
    ]
    assert len(session["examples"]) == 6 and not session["offline"]


def test_words_are_completed(client):
    found = client.get("/api/words", params={"run": "one", "begins": "re"}).json()
    assert found == ["red"]


@pytest.mark.parametrize(
    ("question", "status", "why"),
    [
        ({"run": "none", "picture": "PICTURE"}, 404, "no run 'none'"),
        ({"run": "one", "picture": "split-0"}, 404, "send it again"),
        ({"run": "one"}, 400, "name a picture or give a text"),
        ({"run": "one", "text": "a dog"}, 400, "captions pictures"),
        ({"run": "translator", "picture": "PICTURE"}, 400, "translates sentences"),
        ({"run": "translator", "text": "  "}, 400, "the sentence is empty"),
        ({"run": "translator", "text": "two dogs", "steps": [{"gaze": 3}]}, 400, "0 to 2"),
        ({"run": "one", "picture": "PICTURE", "steps": [{"gaze": 64}]}, 400, "no such place"),
        ({"run": "one", "picture": "PICTURE", "steps": [{"gaze": -1}]}, 422, "steps.0.gaze"),
        ({"run": "one", "picture": "PICTURE", "steps": [{"gaze": 10**12}]}, 422, "steps.0.gaze"),
        ({"run": "one", "picture": "PICTURE", "masks": [[0, 0, 2, 1]]}, 422, "masks.0.2"),
        ({"run": "one", "picture": "PICTURE", "beam": 99}, 422, "beam"),
        ({"run": "one", "picture": "PICTURE", "bean": 2}, 422, "bean"),
    ],
)
def test_a_wrong_question_gets_one_clear_line(client, picture, question, status, why):
    if "picture" in question:
        question = question | {"picture": question["picture"].replace("PICTURE", picture)}
    assert why in error(client.post("/api/caption", json=question), status)
    assert client.get("/api/session").status_code == 200  # it goes on


def test_a_picture_is_decoded_in_a_thread(client, monkeypatch):
    called, add = [], Pictures.add

    def noting(pictures, name, content):
        called.append(name)
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return add(pictures, name, content)

    monkeypatch.setattr(Pictures, "add", noting)
    assert client.post("/api/pictures", params={"name": "b.png"}, content=png()).status_code == 200
    assert called == ["b.png"]


def test_what_is_no_picture_is_refused(client, monkeypatch):
    wrong = client.post("/api/pictures", params={"name": "notes.txt"}, content=b"hello")
    assert error(wrong, 400).startswith("notes.txt: not an image")
    cut = client.post("/api/pictures", params={"name": "b.png"}, content=png()[:40])
    assert error(cut, 400).startswith("b.png: ")
    monkeypatch.setattr(server, "LARGEST_BODY", 50)
    assert "larger than" in error(client.post("/api/pictures", content=b"x" * 51), 413)
    stream = client.post("/api/pictures", content=iter([b"x" * 30, b"x" * 30]))  # says no length
    assert "larger than" in error(stream, 413)


def test_no_path_leaves_the_folder(client):
    for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/static//etc/passwd"):
        assert client.get(path).status_code == 404
    for key in ("..%2f..%2fsecret", "%00", "x" * 3000):
        assert client.get(f"/api/pictures/{key}").status_code in (404, 400)


def test_other_sites_are_kept_out(client, picture):
    question = {"run": "one", "picture": picture}
    for origin in ("http://elsewhere.example", "null", "http://127.0.0.1:9000"):
        refused = client.post("/api/caption", json=question, headers={"origin": origin})
        assert "other sites" in error(refused, 403)
    own = {"origin": "http://127.0.0.1:8000"}
    assert client.post("/api/caption", json=question, headers=own).status_code == 200
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"


def test_a_strange_host_is_refused(client):
    """Or another site's name could be made to lead here, and its scripts could ask."""
    strange = client.get("/api/session", headers={"host": "elsewhere.example"})
    assert "elsewhere.example" in error(strange, 400)


def test_twenty_questions_at_once_are_answered(client, explorer):
    keys = [explorer.pictures.split[i % 6] for i in range(20)]

    def ask(key):
        return client.post("/api/caption", json={"run": "one", "picture": key})

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, keys))
    assert [answer.status_code for answer in answers] == [200] * 20
    by_key = {}
    for key, answer in zip(keys, answers, strict=True):
        assert by_key.setdefault(key, answer.json()["text"]) == answer.json()["text"]


def test_the_interface_is_documented(client):
    found = client.get("/api/openapi.json").json()
    assert {"/api/caption", "/api/gaze", "/api/pictures", "/api/table"} <= found["paths"].keys()
    steps = found["components"]["schemas"]["GivenStep"]["properties"]
    assert "the place to read" in str(steps["gaze"])


def test_there_is_no_table_without_a_split(explorer, monkeypatch):
    alone = explorer.__class__(
        explorer.respondents, explorer.pictures, None, explorer.session, explorer.turns
    )
    answer = TestClient(make_app(alone), base_url="http://127.0.0.1").get("/api/table")
    assert "no split" in error(answer, 404)


def test_every_kind_of_picture_is_read(client):
    for mode in ("RGBA", "L", "P", "1", "I;16"):
        facts = client.post("/api/pictures", content=png(mode=mode)).json()
        assert client.get(f"/api/pictures/{facts['id']}/image").status_code == 200
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    image = Image.fromarray(rng.integers(0, 255, (20, 40, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # on its side
    image.save(file, "JPEG", exif=exif)
    facts = client.post("/api/pictures", content=file.getvalue()).json()
    assert (facts["width"], facts["height"]) == (20, 40)
