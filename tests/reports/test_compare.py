"""Comparisons of hand-made run folders: numbers by hand, refusals, and the page in a browser."""

import html.parser
import io
import json
import math
import re
import shutil
import statistics
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from show_attend_tell import config as configs
from show_attend_tell import pretrained
from show_attend_tell.data.vocabulary import Vocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation import caption_metrics
from show_attend_tell.evaluation.grounding import attention_statistics, write_statistics
from show_attend_tell.evaluation.results_file import write_results
from show_attend_tell.inference.attention_record import AttentionRecord, safe_name, save_attention
from show_attend_tell.reports import plots
from show_attend_tell.reports.attention_pictures import draw_attention
from show_attend_tell.reports.compare import compare
from show_attend_tell.reports.uncertainty import METEOR_MEAN

COLOURS = ("red", "green", "blue", "yellow", "purple")
SHAPES = ("square", "circle", "triangle", "star")
TRUTH = {
    f"val/{c}-{s}.png": [f"a {c} {s} on a white ground", f"one {c} {s}"]
    for c in COLOURS
    for s in SHAPES
}
RIGHT = {image_id: captions[0] for image_id, captions in TRUTH.items()}
WRONG = {image_id: "a dog runs over the green grass" for image_id in TRUTH}


def half_right(shift: int = 0) -> dict[str, str]:
    return {k: (RIGHT if i % 2 == shift else WRONG)[k] for i, k in enumerate(TRUTH)}


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content))


def write_run(
    workdir: Path,
    said: dict[str, str],
    *,
    overrides=(),
    cider=(0.4, 0.8, 1.0),
    contexts=("expected",),
    maps=3,
    data=None,
) -> Path:
    """A finished run's folder, as training, `evaluate` and `attend` leave it."""
    workdir.mkdir()
    config = configs.from_file(str(tiny.EXPERIMENT), list(overrides))
    config.data.dir = str(workdir / "data")
    config.data.name = data or config.data.name
    configs.save(config, workdir / "config.json")
    told = {"device": "1 x cpu, 2 cores", "commit": "abc", "command": ["train"]}
    write_json(
        workdir / "run.json",
        told | {"finished": True, "seconds": 360.0, "tokens": 9e5, "best_step": 300},
    )
    Vocabulary.from_captions([["a", "dog"]], 1).save(workdir / "vocabulary.json")
    records = []
    for epoch, score in enumerate(cider, 1):
        step = {"step": 100 * epoch}
        records.append(step | {"kind": "train", "loss": 3 / epoch, "nll": 3 / epoch})
        spent = {"seconds": 120.0 * epoch, "tokens": 3e5 * epoch}
        records.append(step | {"kind": "val", "CIDEr": score, "BLEU-4": score / 4} | spent)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    scores = caption_metrics.score(TRUTH, said, meteor=False)
    exact = scores.per_image["exact"]
    for context in contexts:
        stem = f"val-{context}-beam2-lp0.7"
        write_results(workdir / f"{stem}.captions.json", said)
        record = {
            # METEOR of a corpus is not the mean over its images.
            "scores": scores.values | {"METEOR": 0.5 * scores.values["exact"]},
            "missing": {},
            "split": "val",
            "images": len(said),
            "decoding": {"beam": 2, "length_penalty": 0.7, "context": context, "batch_size": 4},
            "tokenizer": "ptb 1",
            "references": "ab" * 32,
            "step": 300,
            "per_image": scores.per_image | {"METEOR": [0.1 + 0.3 * e for e in exact]},
            "bleu_counts": scores.bleu_counts,
        }
        write_json(workdir / f"{stem}.scores.json", record)
    folder = workdir / "attention" / "val"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    attention = []
    for image_id in list(said)[:maps]:
        tokens = (*said[image_id].split(), "<eos>")
        alpha = generator.dirichlet(np.full(16, 0.3), len(tokens)).astype(np.float32)
        attention.append(
            AttentionRecord(
                image_id=image_id,
                tokens=tokens,
                alpha=alpha,
                beta=np.full(len(tokens), 0.5, np.float32),
                location=alpha.argmax(axis=1),
                context=contexts[-1],
                row_centres=np.linspace(0.1, 0.9, 4),
                column_centres=np.linspace(0.1, 0.9, 4),
                original_size=(64, 64),
                image_side=64,
                score=-1.0,
                log_prob=-1.0,
            )
        )
        stem = safe_name(image_id)
        save_attention(folder / f"{stem}.npz", attention[-1])
        picture = np.full((64, 64, 3), 200, np.uint8)
        draw_attention(folder / f"{stem}.png", picture, attention[-1])
    if attention:
        found = attention_statistics(attention)
        found |= {"step": 300, "decoding": {"context": contexts[-1]}}
        write_statistics(folder / "statistics.json", found)
    return workdir


def edit(path: Path, **changes) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


HARD = ["--config.attention.kind=hard", "--config.hard.baseline=learned"]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Two seeds of soft and one hard run, compared."""
    root = tmp_path_factory.mktemp("three")
    runs = [
        write_run(root / "soft-0", RIGHT),
        write_run(root / "hard", WRONG, overrides=HARD, contexts=("expected", "argmax")),
        write_run(
            root / "soft-1", half_right(), overrides=["--config.seed=1"], cider=(0.3, 0.5, 0.6)
        ),
    ]
    variance = {"rows": [{"baseline": "none", "credit": "to_go", "variance": 12.5, "snr": 0.25}]}
    write_json(runs[1] / "gradient_variance.json", variance)
    return compare(runs, "val", root / "out", samples=20000), root / "out"


def pair(root: Path, **changes) -> list[Path]:
    """Two runs that differ in a setting."""
    other = {"overrides": HARD} | changes
    return [write_run(root / "a", RIGHT), write_run(root / "b", other.pop("said", WRONG), **other)]


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
    text = (three[1] / "index.html").read_text()
    page = Page(text)
    assert page.loads and all(load.startswith(("data:image/", "#")) for load in page.loads)
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    assert len(set(page.ids)) == len(page.ids)
    assert len(page.alts) == 3 * 3 and all("looked" in alt for alt in page.alts)
    assert text.count("<svg") >= 5 and "currentColor" in text and plots.INK not in text
    assert "redistributed" not in text  # generated pictures


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


def test_interval_of_a_binomial(tmp_path):
    # 10 of 20 right: a resample's share is binomial(20, 1/2) / 20, whose quantiles are 6 and 14.
    runs = [write_run(tmp_path / "a", half_right())]
    result = compare(runs, "val", tmp_path / "out", samples=20000)
    scores = result["scores"][0]["scores"]
    assert scores["exact"]["interval"] == [0.3, 0.7]
    assert scores[METEOR_MEAN]["interval"] == pytest.approx([0.1 + 0.3 * 0.3, 0.1 + 0.3 * 0.7])
    low, high = scores["BLEU-4"]["interval"]
    assert low < scores["BLEU-4"]["mean"] < high
    assert result["tests"] == [] and result["groups"][0]["name"] == "a"


def test_the_seeds_of_a_sweep_share_a_name_without_one(tmp_path):
    runs = [
        write_run(tmp_path / f"soft-reward-seed={seed}", RIGHT, overrides=[f"--config.seed={seed}"])
        for seed in (0, 1)
    ]
    [group] = compare(runs, "val", tmp_path / "out", samples=10)["groups"]
    assert group["name"] == "soft-reward" and len(group["runs"]) == 2


def test_p_of_equal_and_of_very_different_runs(tmp_path):
    runs = pair(tmp_path)
    runs.append(write_run(tmp_path / "c", RIGHT, overrides=["--config.train.epochs=9"]))
    tests = compare(runs, "val", tmp_path / "out", samples=400, shown=0)["tests"]
    found = {(t["a"], t["b"]): t["scores"] for t in tests}
    for name in ("BLEU-4", METEOR_MEAN, "CIDEr"):
        assert found["A", "C"][name] == {"difference": 0, "p": 1}
        assert found["A", "B"][name]["p"] == pytest.approx(1 / 401)
        assert found["A", "B"][name]["difference"] > 0 > found["B", "C"][name]["difference"]


def test_p_of_three_images_by_hand(tmp_path, monkeypatch):
    # Of 8 ways to swap, all or none swapped differ as much as the truth: p is 1/4.
    for name in ("TRUTH", "RIGHT", "WRONG"):
        monkeypatch.setitem(globals(), name, dict(list(globals()[name].items())[:3]))
    tests = compare(pair(tmp_path), "val", tmp_path / "out", samples=20000)["tests"]
    assert tests[0]["scores"][METEOR_MEAN]["p"] == pytest.approx(0.25, abs=0.01)
    assert tests[0]["scores"]["BLEU-4"]["p"] == pytest.approx(0.25, abs=0.01)


def test_meteor_left_out_is_told(tmp_path):
    runs = pair(tmp_path)
    path = runs[1] / "val-expected-beam2-lp0.7.scores.json"
    record = json.loads(path.read_text())
    del record["per_image"]["METEOR"]
    missing = {"METEOR": "left out: no Java"}
    edit(
        path,
        scores=record["scores"] | {"METEOR": None},
        missing=missing,
        **{"per_image": record["per_image"]},
    )
    result = compare(runs, "val", tmp_path / "out", samples=50, shown=0)
    assert [row["scores"]["METEOR"]["mean"] for row in result["scores"]] == [0.5, None]
    assert set(result["tests"][0]["scores"]) == {"BLEU-4", "CIDEr"}
    assert "B: METEOR left out: no Java" in (tmp_path / "out" / "index.html").read_text()


def test_a_run_that_goes_on_from_another_is_marked(tmp_path):
    begun = write_run(tmp_path / "b", RIGHT, overrides=["--config.train.init_from=runs/soft"])
    result = compare([begun], "val", tmp_path / "out", samples=50, shown=0)
    text = (tmp_path / "out" / "index.html").read_text()
    assert result["groups"][0]["runs"][0]["init_from"] == "runs/soft"
    assert "began with the weights of runs/soft" in text
    plain = compare([write_run(tmp_path / "c", RIGHT)], "val", tmp_path / "two", samples=50)
    assert plain["groups"][0]["runs"][0]["init_from"] is None
    assert "began with" not in (tmp_path / "two" / "index.html").read_text()


def test_pictures_that_lack_and_that_are_large(tmp_path):
    runs = pair(tmp_path, said=RIGHT | {"val/red-square.png": "<b>a & b</b>"}, data="shapes")
    folder = runs[0] / "attention" / "val"
    (folder / "val%2Fred-circle.png.png").unlink()
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(folder / "val%2Fred-square.png.png")
    result = compare(runs, "val", tmp_path / "out", samples=50, shown=2)
    assert result["pictures"] == ["val/red-square.png", "val/red-circle.png"]
    text = (tmp_path / "out" / "index.html").read_text()
    assert "val%2Fred-circle.png.png is not in the run" in text
    large = re.search(r"data:image/jpeg;base64,([^\"]*)", text)
    assert large and len(large[1]) * 3 / 4 <= 200_000
    assert "<b>a" not in text and "&lt;b&gt;a" in text


def test_photographs_are_marked_and_old_metrics_have_steps_alone(tmp_path):
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


def test_published_records_make_the_same_page_without_pictures(tmp_path):
    runs = [
        write_run(tmp_path / "a", RIGHT, data="flickr8k"),
        write_run(tmp_path / "b", WRONG, data="flickr8k", overrides=HARD),
    ]
    edit(runs[0] / "run.json", command=["x", "train", "--config.data.dir=/secret", "--more"])
    published = [tmp_path / "out" / run.name for run in runs]
    for run, folder in zip(runs, published, strict=True):
        written = pretrained.publish(run, folder)
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
        pretrained.publish(tmp_path / "pages", tmp_path / "more")
    (tmp_path / "pages" / "checkpoints").mkdir()
    with pytest.raises(UserError, match="the folder of a run; publish to another"):
        pretrained.publish(runs[0], tmp_path / "pages")


def scores(run: Path) -> Path:
    return run / "val-expected-beam2-lp0.7.scores.json"


REFUSALS = {
    "references": (lambda run: edit(scores(run), references="cd" * 32), "different reference"),
    "tokenizer": (lambda run: edit(scores(run), tokenizer="other"), "different tokenizers"),
    "unfinished": (lambda run: edit(run / "run.json", finished=False), "b: .*not finished"),
    "no run.json": (lambda run: (run / "run.json").unlink(), "run.json: not there"),
    "no run": (lambda run: (run / "config.json").unlink(), "b: not the folder of a run"),
    "config": (lambda run: write_json(run / "config.json", [1]), "config.json: damaged"),
    "no weights": (lambda run: write_json(run / "run.json", {"finished": True}), "best_step"),
    "no scores": (lambda run: scores(run).unlink(), "evaluate --workdir .*b --split val"),
    "no captions": (
        lambda run: (run / "val-expected-beam2-lp0.7.captions.json").unlink(),
        "captions.json: not there",
    ),
    "old weights": (lambda run: edit(scores(run), step=200), "best weights are of 300"),
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
        lambda run: scores(run).write_text(scores(run).read_text()[:-9]),
        "beam2-lp0.7.scores.json: damaged .*evaluate",
    ),
    "old form": (lambda run: write_json(scores(run), {"split": "val"}), "lacks 'images'"),
    "counts": (lambda run: edit(scores(run), bleu_counts=[[1] * 10]), "scores.json: damaged"),
    "no metrics": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl: not there"),
    "metrics": (lambda run: (run / "metrics.jsonl").write_text("{}\n"), "metrics.jsonl: lacks"),
    "variance": (lambda run: write_json(run / "gradient_variance.json", []), "variance.json: dam"),
    "vocabulary": (
        lambda run: Vocabulary.from_captions([["cat"]], 1).save(run / "vocabulary.json"),
        "different vocabularies",
    ),
    "picture": (
        lambda run: (run / "attention" / "val" / "val%2Fred-circle.png.png").write_bytes(b"x"),
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
