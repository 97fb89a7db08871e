"""The page in a browser: every part is clicked through, and its numbers are the decoder's."""

import dataclasses
import io
import math
import os
import shutil
import threading
import time

import pytest
import uvicorn
from PIL import Image
from records import record, sentence

from show_attend_tell.explorer.answers import GivenStep, RunFacts
from show_attend_tell.explorer.export import export
from show_attend_tell.explorer.live import Watch
from show_attend_tell.explorer.page import frame
from show_attend_tell.explorer.records import Recorded, view
from show_attend_tell.explorer.server import make_app

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no Playwright: the pages of the explorer are not tested"
)
BROWSER = os.environ.get("BROWSER_PATH") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if BROWSER is None:
    pytest.skip("no Chromium: the pages of the explorer are not tested", allow_module_level=True)

EXACT = 1e-5


@pytest.fixture(scope="module")
def address(explorer, trained):
    """Where the explorer is served, with the trained run as one to watch."""
    watch = Watch([trained[0]], interval=0.1)
    session = explorer.session.model_copy(update={"live": True})
    made = explorer.__class__(
        explorer.respondents, explorer.pictures, explorer.browsing, session, explorer.turns
    )
    app = make_app(made, watch)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    made.warm_up()
    made.browsing.start()
    made.browsing.wait()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    watch.close()
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser):
    """A page; a message of the console that is an error fails the test."""
    size = {"width": 1280, "height": 900}
    opened, wrong = browser.new_page(viewport=size, reduced_motion="reduce"), []
    opened.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.expected = []  # texts of errors that a test provokes
    yield opened
    opened.close()
    assert [text for text in wrong if not any(e in text for e in opened.expected)] == []


@pytest.fixture(scope="module")
def picture(explorer):
    return explorer.pictures.split[0]


def look(page, address, picture, runs="one", more=""):
    page.goto(f"{address}/#/look?picture={picture}&runs={runs}{more}")
    hook(page, "word").first.wait_for()


def hook(page, name, **data):
    more = "".join(f'[data-{key}="{value}"]' for key, value in data.items())
    return page.locator(f'[data-test="{name}"]{more}')


def value(page, name, **data) -> float:
    return float(hook(page, name, **data).first.get_attribute("value"))


def words(page) -> list[str]:
    return hook(page, "word").evaluate_all("all => all.map((word) => word.dataset.word)")


def shows(page, expected, numbers=True) -> None:
    """Waits until the caption is the expected one, and compares the numbers of some words."""
    texts = [step.word for step in expected.steps]
    for _ in range(200):
        if words(page) == texts:
            break
        time.sleep(0.05)
    assert words(page) == texts
    count = len(texts)
    for t in sorted({0, 1, count // 2, count - 1}) if numbers else ():
        step = expected.steps[t]
        hook(page, "word", index=t).click()
        sync_api.expect(hook(page, "word", index=t)).to_have_attribute("aria-current", "true")
        assert value(page, "log-p") == pytest.approx(step.log_p, abs=EXACT)
        assert value(page, "entropy") == pytest.approx(step.entropy, abs=EXACT)
        if hook(page, "beta").count():  # of a run with a gate
            assert value(page, "beta") == pytest.approx(step.beta, abs=EXACT)
        found = [float(top.get_attribute("value")) for top in hook(page, "top-p").all()]
        assert found == pytest.approx([chance.p for chance in step.top], abs=EXACT)


def direct(explorer, picture, run="one", steps=(), masks=(), **options):
    respondent = explorer.respondents[run]
    seen = respondent.see_picture("direct", explorer.pictures[picture].picture, masks)
    respondent._kept.clear()
    return respondent.caption(seen, steps, **options)


def given(reading, count, **last):
    return [*(GivenStep(word=s.word) for s in reading.steps[:count]), GivenStep(**last)]


def accessible(page) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    assert [(v["id"], [n["html"][:120] for n in v["nodes"][:2]]) for v in found] == []


def test_words_show_what_the_decoder_computed(page, explorer, address, picture):
    look(page, address, picture)
    shows(page, direct(explorer, picture))
    hook(page, "word", index=0).click()
    page.keyboard.press("ArrowRight")
    sync_api.expect(hook(page, "word", index=1)).to_have_attribute("aria-current", "true")
    page.wait_for_url("**word=1**")
    page.keyboard.press("Space")  # a film
    sync_api.expect(hook(page, "word", index=3)).to_have_attribute("aria-current", "true")
    page.keyboard.press("Space")
    for kind in ("contours", "cells", "heat"):
        hook(page, "style").locator(f"input[value={kind}]").check(force=True)
    hook(page, "boxes").check()
    assert hook(page, "box").count() == len(explorer.pictures[picture].facts.boxes)
    accessible(page)


def test_maps_given_the_word_and_two_runs_beside_each_other(page, explorer, address, picture):
    look(page, address, picture, "one,latent", "&word=1")
    assert hook(page, "panel").count() == 2
    latent = direct(explorer, picture, "latent")
    panel = hook(page, "panel", run="latent")
    step = latent.steps[1]
    hook(page, "map").first.locator("input[value=posterior]").check(force=True)
    # The largest weight's place is marked or named; the map itself is a picture.
    largest = panel.locator('[data-test="largest"]')
    expected = max(step.posterior)
    assert float(largest.get_attribute("value")) == pytest.approx(expected, abs=EXACT)
    hook(page, "map").first.locator("input[value=prior]").check(force=True)
    assert float(largest.get_attribute("value")) == pytest.approx(max(step.prior), abs=EXACT)
    assert float(panel.locator('[data-test="null"]').get_attribute("value")) == pytest.approx(
        step.null, abs=EXACT
    )
    hook(page, "overview").wait_for()
    assert hook(page, "mini").count() >= len(latent.steps)
    hook(page, "difference").wait_for()
    accessible(page)


def test_a_forced_gaze_changes_the_word_and_can_be_undone(page, explorer, address, picture):
    look(page, address, picture, more="&word=2")
    free = direct(explorer, picture)
    hook(page, "mode").locator("input[value=gaze]").check(force=True)
    respondent = explorer.respondents["one"]
    seen = respondent.see_picture("direct", explorer.pictures[picture].picture)
    around = respondent.gaze(seen, given(free, 2)[:-1])
    place = max(range(64), key=lambda i: 1 - around.map[i])  # where the word is least likely
    cell = hook(page, "cell", place=place)
    cell.wait_for()
    width = cell.bounding_box()["width"]
    cell.hover()
    row, column = divmod(place, 8)
    line = hook(page, "gaze-line").first  # it may still tell of a place passed on the way
    sync_api.expect(line).to_contain_text(f"row {row + 1}, column {column + 1}:")
    sync_api.expect(line).to_have_attribute("aria-busy", "false")
    assert cell.bounding_box()["width"] == width  # the picture does not grow with the line
    here = hook(page, "gaze-here").first
    assert float(here.get_attribute("value")) == pytest.approx(around.map[place], abs=EXACT)
    cell.click()
    hook(page, "undo").first.wait_for()
    shows(page, direct(explorer, picture, steps=given(free, 2, gaze=place)))
    hook(page, "undo").first.click()
    shows(page, free)
    accessible(page)


def test_the_keyboard_forces_a_gaze_and_a_word_is_mapped(page, explorer, address, picture):
    look(page, address, picture, more="&word=1&mode=gaze")
    free = direct(explorer, picture)
    hook(page, "cell", place=0).wait_for()
    hook(page, "cell").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    hook(page, "undo").first.wait_for()
    place = int(hook(page, "place-forced").first.get_attribute("data-place"))
    shows(page, direct(explorer, picture, steps=given(free, 1, gaze=place)))
    hook(page, "reset").click()
    shows(page, free)
    hook(page, "word", index=1).click()
    hook(page, "map-word").fill("red")
    hook(page, "map-word-go").click()
    respondent = explorer.respondents["one"]
    seen = respondent.see_picture("direct", explorer.pictures[picture].picture)
    around = respondent.gaze(seen, given(free, 1)[:-1], "red")
    hook(page, "map-own").wait_for()  # the way back to the caption's word
    sync_api.expect(hook(page, "gaze-line")).to_contain_text("red")
    sync_api.expect(hook(page, "gaze-line")).to_have_attribute("aria-busy", "false")
    assert value(page, "gaze-own") == pytest.approx(around.own, abs=EXACT)


def test_another_word_is_said_and_the_caption_goes_on(page, explorer, address, picture):
    look(page, address, picture, more="&word=1")
    free = direct(explorer, picture)
    other = free.steps[1].top[1].word
    hook(page, "top", word=other).click()
    shows(page, direct(explorer, picture, steps=given(free, 1, word=other)))
    hook(page, "reset").click()
    hook(page, "word", index=0).click()
    hook(page, "say-word").fill("purple")
    hook(page, "say-word-go").click()
    shows(page, direct(explorer, picture, steps=[GivenStep(word="purple")]))


def test_a_mask_hides_a_part_of_the_picture(page, explorer, address, picture):
    look(page, address, picture, more="&mode=mask")
    sides = {"top": 0, "left": 0, "bottom": 50, "right": 100}
    for name, percent in sides.items():
        hook(page, f"mask-{name}").fill(str(percent))
    hook(page, "mask-add").click()
    hook(page, "mask").first.wait_for()
    shows(page, direct(explorer, picture, masks=[(0.0, 0.0, 0.5, 1.0)]))


def test_any_picture_is_captioned_and_a_bad_file_named(page, explorer, address):
    page.goto(f"{address}/#/look?runs=one,latent")
    hook(page, "word").first.wait_for()
    file = io.BytesIO()
    Image.new("RGBA", (300, 100), (200, 30, 30, 100)).save(file, "PNG")
    upload = page.locator('input[type="file"]')
    name = 'a"><img src=x onerror=alert(1)>.png'
    upload.set_input_files([{"name": name, "mimeType": "image/png", "buffer": file.getvalue()}])
    sync_api.expect(hook(page, "picture-name")).to_contain_text(name)
    key = page.url.split("picture=")[1].split("&")[0]
    assert explorer.pictures[key].facts.width == 300
    page.expected.append("400")
    upload.set_input_files([{"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}])
    sync_api.expect(hook(page, "upload-error")).to_contain_text("x.png: not an image")


def test_a_split_is_browsed(page, explorer, address):
    page.goto(f"{address}/#/browse")
    hook(page, "browse-card").first.wait_for()
    assert hook(page, "browse-card").count() == 6
    accessible(page)
    caption = explorer.browsing.table().rows[4].runs["one"].caption
    rare = [word for word in caption.split() if len(word) > 4][-1]
    hook(page, "browse-words").fill(rare)
    rows = [
        row
        for row in explorer.browsing.table().rows
        if any(rare in text for text in [*row.references, *(r.caption for r in row.runs.values())])
    ]
    sync_api.expect(hook(page, "browse-card")).to_have_count(len(rows))
    page.wait_for_url("**words=**")
    hook(page, "browse-link").first.click()
    hook(page, "word").first.wait_for()
    assert "#/look?picture=split-" in page.url
    page.go_back()
    sync_api.expect(hook(page, "browse-card")).to_have_count(len(rows))
    found = """async ([sought, words]) =>
        (await import("/static/browsetable.js")).wordTest(sought)(new Set(words))"""
    shirt = ["t", "shirt", "reddish", "小", "狗", "हिन्दी"]
    for sought, expected in {
        "t-shirt": True,
        "t-skirt": False,
        "t-shi*": True,
        "x-shi*": False,
        "red*": True,
        "-t-shirt": False,
        "-t-skirt": True,
        "小狗": True,
        "小猫": False,
        "हिन्दी": True,
        "हि*": True,
        "हद": False,
    }.items():
        assert page.evaluate(found, [sought, shirt]) is expected, sought
    ranges = """async (text) =>
        (await import("/static/browsetable.js")).rangesFrom(text).map((range) => range.from)"""
    assert page.evaluate(ranges, "CIDEr:0.5..,entropy:1e-3..2,x:..-1") == ["0.5", "1e-3", ""]
    assert page.evaluate(ranges, "CIDEr:1E2..,x:1e+2..3E-1,y:..1E5") == ["1E2", "1e+2", ""]
    named = """async (word) => (await import("/static/geometry.js"))
        .boxesNamed(word, [{ label: "a dog" }, { label: "hot-dog" }, { label: "dogs" }]).length"""
    assert page.evaluate(named, "▁dog") == page.evaluate(named, "Dog") == 2


def test_training_is_watched(page, address, trained):
    page.goto(f"{address}/#/training")
    page.locator("canvas").first.wait_for()
    sync_api.expect(page.locator("main")).to_contain_text("480")
    accessible(page)


def test_sentences_are_aligned(page, explorer, address):
    page.goto(f"{address}/#/sentences")
    hook(page, "sentence").fill("two dogs run")
    hook(page, "translate").click()
    hook(page, "align-cell").first.wait_for()
    respondent = explorer.respondents["translator"]
    reading = respondent.caption(respondent.see_text("two dogs run"))
    for t in (0, len(reading.steps) - 1):
        for s in range(4):
            shown = float(hook(page, "align-cell", step=t, token=s).get_attribute("data-value"))
            assert shown == pytest.approx(reading.steps[t].prior[s], abs=EXACT)
    accessible(page)
    hook(page, "align-cell", step=1, token=2).click()
    forced = respondent.caption(respondent.see_text("two dogs run"), given(reading, 1, gaze=2))
    cell = hook(page, "align-cell", step=2, token=0)
    sync_api.expect(cell).to_have_attribute("data-value", str(forced.steps[2].prior[0]))


def test_an_export_works_from_a_file_without_a_network(browser, explorer, tmp_path):
    path, ids = tmp_path / "out.html", explorer.pictures.split[:2]
    export(explorer, path, ids)
    context, wrong = browser.new_context(offline=True), []
    page = context.new_page()
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(path.as_uri())
    hook(page, "word").first.wait_for()
    assert [tab.get_attribute("data-tab") for tab in hook(page, "tab").all()] == ["look", "browse"]
    reading = direct(explorer, ids[0])
    assert words(page)[: len(reading.steps)] == [step.word for step in reading.steps]
    hook(page, "word", index=1).first.click()
    assert value(page, "log-p") == pytest.approx(reading.steps[1].log_p, abs=EXACT)
    hook(page, "mode").locator("input[value=gaze]").check(force=True)
    respondent = explorer.respondents["one"]
    seen = respondent.see_picture("direct", explorer.pictures[ids[0]].picture)
    around = respondent.gaze(seen, given(reading, 1)[:-1])
    hook(page, "cell", place=20).first.hover()
    first = hook(page, "top").first
    sync_api.expect(first).to_have_attribute("data-word", around.cells[20][0].word)
    accessible(page)
    context.close()
    assert wrong == []


def recorded(name, kind):
    """A run as a comparison describes it."""
    facts = {"name": name, "kind": kind, "context": "expected", "contexts": ["expected"]}
    facts |= {"hard": False, "posterior": False, "gate": True, "null_place": False, "places": 4}
    facts |= {"beam": None, "max_length": None, "length_penalty": None, "vocabulary": 9, "step": 1}
    return RunFacts(**facts, description="of a comparison")


def test_records_are_shown_without_what_they_lack(browser, tmp_path):
    picture, words_of = tmp_path / "picture.jpg", ("a", "dog", "<eos>")
    Image.new("RGB", (40, 30), (90, 120, 60)).save(picture)
    sharp, even = ([0.7, 0.1, 0.1, 0.1], [0.25] * 4)
    of = {"one": record([even, sharp, even], words_of), "two": record([sharp, even], ("cat", "a"))}
    of["two"] = dataclasses.replace(of["two"], centres="computed")
    align = {"three": sentence([even, sharp], ("ein", "Hund", "rennt", "."), ("dog", "<eos>"))}
    images = view([recorded(name, "images") for name in of], [Recorded(of, picture)])
    texts = view([recorded("three", "sentences")], [Recorded(align)])
    context, wrong = browser.new_context(offline=True), []
    page = context.new_page()
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_content(frame(images, "maps", 900))
    inside = page.frame_locator("iframe")
    panel = inside.locator('[data-test="panel"][data-run="one"]')
    hook(panel, "word", index=1).click()
    assert words(panel) == list(words_of)
    assert value(panel, "largest") == 0.7
    assert hook(inside, "mini").count() == 3 + 2 + 3  # the last of the difference
    assert hook(inside, "computed").count() == 1
    (tmp_path / "images.html").write_text(images, encoding="utf-8")
    page.goto(f"{(tmp_path / 'images.html').as_uri()}#/look?mode=gaze")
    hook(page, "word").first.wait_for()
    for absent in ("log-p", "word-p", "top", "mode", "cell", "gaze-line"):
        assert hook(page, absent).count() == 0, absent
    assert page.get_by_text("Likeliest words").count() == 0
    accessible(page)
    (tmp_path / "texts.html").write_text(texts, encoding="utf-8")
    page.goto((tmp_path / "texts.html").as_uri())
    hook(page, "align-cell", step=1, token=0).wait_for()
    shown = hook(page, "align-cell", step=1, token=0).get_attribute("data-value")
    assert float(shown) == 0.7 and hook(page, "log-p").count() == 0
    assert hook(page, "translate").count() == 0 and hook(page, "sentence-example").count() == 1
    accessible(page)
    context.close()
    assert wrong == []


# The other tests have checked the light scheme, on a wide screen.
@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_a_narrow_screen_needs_no_sideways_scrolling(browser, address, picture, scheme):
    page = browser.new_page(
        viewport={"width": 400, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    for hash in (f"look?picture={picture}", "browse", "training", "sentences"):
        page.goto(f"{address}/#/{hash}")
        page.locator("main").wait_for()
        time.sleep(0.3)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, hash
        accessible(page)
    page.close()


def test_two_browsers_at_once_each_get_their_own(browser, explorer, address):
    pages = [browser.new_page() for _ in range(2)]
    for page, key in zip(pages, explorer.pictures.split, strict=False):
        page.goto(f"{address}/#/look?picture={key}&runs=one")
    for page, key in zip(pages, explorer.pictures.split, strict=False):
        shows(page, direct(explorer, key), numbers=False)
        page.close()


def test_probabilities_are_probabilities(explorer, picture):
    """What the page shows is compared with this, so this is checked by itself."""
    reading = direct(explorer, picture, "latent")
    for step in reading.steps:
        assert math.isclose(sum(step.prior) + step.null, 1, abs_tol=1e-4)
        assert sum(chance.p for chance in step.top) <= 1 + 1e-5
