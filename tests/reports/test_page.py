"""The page: it loads nothing, is in order, readable, and opens in a browser."""

import html.parser
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from finished_runs import RIGHT, pair, viewed, without_pictures, write_run
from PIL import Image

from show_attend_tell.reports import plots
from show_attend_tell.reports.compare import compare


class Page(html.parser.HTMLParser):
    """Headings, pictures and whatever a page would load."""

    def __init__(self, text: str):
        super().__init__()
        self.headings, self.loads, self.alts, self.tags, self.ids = [], [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.loads += [v for k, v in attributes.items() if k in ("src", "href", "xlink:href")]
        if tag == "img":
            self.alts.append(attributes["alt"])
        if "id" in attributes:
            self.ids.append(attributes["id"])

    handle_startendtag = handle_starttag


def test_page_loads_nothing_and_is_in_order(three):
    text = re.sub(r'srcdoc="[^"]*"', "", (three[1] / "index.html").read_text())
    page = Page(text)
    assert all(load.startswith(("data:image/", "#")) for load in page.loads)
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert not page.tags & {"script", "link", "object"}
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    assert len(set(page.ids)) == len(page.ids)
    assert text.count("<iframe") == 1 and page.alts == []
    assert text.count("<svg") >= 5 and "currentColor" in text and plots.INK not in text
    assert "redistributed" not in text  # generated pictures


def test_curves_of_one_experiment_are_told_apart(tmp_path):
    """Of one that was decoded in several ways."""
    contexts = ("expected", "argmax", "mixture")
    run = write_run(tmp_path / "a", RIGHT, data="multi30k", contexts=contexts)
    labels = [row["label"] for row in compare([run], "val", tmp_path / "out")["by_length"]]
    text = (tmp_path / "out" / "index.html").read_text()
    *_, part = text.partition("<h2>Length</h2>")
    legend, _, drawn = part.partition("</ul>")
    assert [html.unescape(x) for x in re.findall("</svg>(.*)</li>", legend)] == labels
    assert len(set(labels)) == len(contexts)
    shown = re.findall(r"<line.*?</svg>", legend)
    assert len(set(shown)) == len(contexts)
    first = drawn[: drawn.index("</svg>")]
    lines = re.findall(r'<path [^>]*style="fill: none; ?(stroke[^"]*)"', first)
    curves = [line for line in lines if plots.COLOURS[0] in line]
    assert len(curves) == len(set(curves)) == len(contexts)


def contrast(a: str, b: str) -> float:
    """WCAG's contrast of two colours."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", ["#f4f5f7", "#1e2127"])
def test_curves_stand_out_on_light_and_dark_panels(ground, three):
    assert ground in (three[1] / "index.html").read_text()
    assert all(contrast(colour, ground) >= 3 for colour in plots.COLOURS)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_missing_and_large_pictures(tmp_path):
    runs = pair(tmp_path, said=RIGHT | {"val/red-square.png": "<b>a & b</b>"}, data="shapes")
    without_pictures(*runs)
    folder = runs[0] / "attention" / "val"
    (folder / "val%2Fred-circle.png.png").unlink()
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(folder / "val%2Fred-square.png.png")
    result = compare(runs, "val", tmp_path / "out", samples=50, shown=2)
    assert result["pictures"] == ["val/red-square.png", "val/red-circle.png"]
    text = (tmp_path / "out" / "index.html").read_text()
    alts = Page(text).alts
    assert len(alts) == 3 and all("looked" in alt for alt in alts) and viewed(text) is None
    assert "val%2Fred-circle.png.png is not in the run" in text
    large = re.search(r"data:image/jpeg;base64,([^\"]*)", text)
    assert large and len(large[1]) * 3 / 4 <= 200_000
    assert "<b>a" not in text and "&lt;b&gt;a" in text


def test_photographs_are_marked_and_old_metrics_have_steps_only(tmp_path):
    run = write_run(tmp_path / "a", RIGHT, data="flickr8k", maps=1)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    old = [{k: v for k, v in row.items() if k not in ("seconds", "tokens")} for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    result = compare([run], "val", tmp_path / "out", samples=50)
    text = (tmp_path / "out" / "index.html").read_text()
    assert "may not be redistributed" in text
    assert "over time</figcaption>" not in text and "Validation: CIDEr</figcaption>" in text
    reached = result["progress"]["rows"][0]["reached"]
    assert [(r["step"]["mean"], r["seconds"]["mean"]) for r in reached] == [
        (200, None),
        (300, None),
        (300, None),
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opens_in_a_browser(scheme, three, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is absent")
    picture = tmp_path / "page.png"
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            "--window-size=1200,900",
            f"--screenshot={picture}",
            (three[1] / "index.html").as_uri(),
        ],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()[-500:]
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("L"), np.float64)
    # The ground is light or dark, and there is something on it.
    ground = np.median(pixels)
    assert ground > 230 if scheme == "light" else ground < 40
    assert np.mean(np.abs(pixels - ground) > 80) > 0.005


def test_names_of_runs_are_shown_as_text(tmp_path):
    run = write_run(tmp_path / "<script>x[b]\x1b[2J\u202e", RIGHT)
    compare([run], "val", tmp_path / "out", samples=20, shown=0)
    page = (tmp_path / "out" / "index.html").read_text()
    table = (tmp_path / "out" / "table.md").read_text()
    assert "&lt;script&gt;x[b]\\x1b[2J\\u202e" in page
    assert "&lt;script>x[b]\\\\x1b[2J\\\\u202e" in table
    for text in (page, table):
        assert "\x1b" not in text and "\u202e" not in text and "<script" not in text
