"""The page and the Markdown tables of `compare`, made of the figures that it found."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from show_attend_tell.errors import UserError

LARGEST = 200_000  # bytes of a picture in the page

# Each with contrast of at least 3 to 1 on light and on dark; dashes are in line widths.
COLOURS = ("#3d7edb", "#d0661a", "#239b56", "#c2559f", "#8270e0", "#8a7f2a")
DASHES = ((), (5.0, 2.0), (1.5, 1.5), (6.0, 2.0, 1.5, 2.0), (9.0, 3.0))
BY_LENGTH = ("BLEU", "chrF", "exact")  # scores told by the length of a source sentence
WIDTH = 1.5  # of lines, in points
_INK = "#010203"  # what becomes the page's own text colour in a plot

# Axis by key of a record: its name, and what is 1 on it.
_ALONG = {"step": ("step", 1.0), "seconds": ("minutes", 60.0), "tokens": ("million tokens", 1e6)}
_PLOTS = (
    ("Training: nats per token", "train", "nll", "step"),
    ("Validation: CIDEr", "val", "CIDEr", "step"),
    ("Validation: BLEU-4", "val", "BLEU-4", "step"),
    ("Validation: CIDEr over time", "val", "CIDEr", "seconds"),
    ("Validation: CIDEr over tokens", "val", "CIDEr", "tokens"),
    ("Validation: BLEU", "val", "BLEU", "step"),
    ("Validation: BLEU over time", "val", "BLEU", "seconds"),
)


def markdown(content: dict[str, Any]) -> str:
    """All tables; `content` is what `compare` returns."""
    return "\n".join(_markdown(table) for table in _tables(content).values())


def html(
    content: dict[str, Any],
    metrics: Sequence[Sequence[dict[str, list[dict[str, Any]]]]],
    images: Sequence[dict[str, Any]],
    *,
    shown: bool = True,
) -> str:
    """The page, which loads nothing from elsewhere.

    Args:
      content: what `compare` returns.
      metrics: of each run of each experiment, the records of its metrics.jsonl by kind.
      images: `image_id` and `panels`, one a run: `label`, `context`, `caption`, `picture` (from
        `data_uri`), and `file`, the picture's name.
      shown: whether the page has a place for images at all.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    legend = []
    for i, group in enumerate(content["groups"]):
        colour, dashes = _style(i)
        lengths = " ".join(f"{length * WIDTH:g}" for length in dashes)
        legend.append({"colour": colour, "dashes": lengths, "width": WIDTH} | group)
    return environment.get_template("compare.html").render(
        content=content,
        tables=_tables(content),
        plots=_plots(metrics),
        by_length=_length_plots(content),
        images=images,
        shown=shown,
        legend=legend,
        runs=sum(len(group["runs"]) for group in content["groups"]),
    )


def data_uri(path: Path) -> str | None:
    """A PNG for the page, as a smaller JPEG where it is large; None where there is no file.

    Raises:
      UserError: it is no PNG.
    """
    if not path.exists():
        return None
    try:
        content, kind = path.read_bytes(), "png"
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a PNG that can be read; run `attend` again") from error
    for scale in (1.0, 0.8, 0.6, 0.4, 0.2):
        if len(content) <= LARGEST:
            break
        size = [max(1, round(side * scale)) for side in picture.size]
        buffer = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=85)
        content, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


# Plots


def _style(i: int) -> tuple[str, tuple[float, ...]]:
    return COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]


def _plots(metrics: Sequence[Sequence[dict[str, list[dict[str, Any]]]]]) -> list[dict[str, Any]]:
    """Curves of training and validation; a plot that lacks some of the runs would mislead."""
    plots = []
    for title, kind, key, along in _PLOTS:
        axis, unit = _ALONG[along]
        curves = [
            (i, [(r[along] / unit, r[key]) for r in run[kind] if r.keys() >= {along, key}])
            for i, group in enumerate(metrics)
            for run in group
        ]
        if all(points for _, points in curves):
            svg = _svg(f"plot{len(plots)}", curves, axis, title.partition(": ")[2])
            plots.append({"title": title, "svg": svg})
    return plots


def _length_plots(content: dict[str, Any]) -> list[dict[str, Any]]:
    """A score against the source's length (Bahdanau et al. 2015, Fig. 2); none of images."""
    letters = [group["letter"] for group in content["groups"]]
    plots = []
    for key in ("BLEU", "exact") if content["by_length"] else ():
        curves = [
            (letters.index(row["group"]), [(b["mean"], b[key]) for b in row["buckets"]])
            for row in content["by_length"]
        ]
        svg = _svg(f"length{len(plots)}", curves, "source words", key)
        plots.append({"title": f"{key} by length of the source", "svg": svg})
    return plots


def _svg(
    name: str, curves: Sequence[tuple[int, Sequence[tuple[float, float]]]], across: str, up: str
) -> str:
    figure = Figure((4.6, 3.0), layout="constrained", facecolor="none")
    canvas = FigureCanvasSVG(figure)
    axes = figure.add_subplot(facecolor="none")
    axes.locator_params(nbins=6)
    for i, points in curves:
        colour, dashes = _style(i)
        # Means of neighbours keep noisy curves of long runs readable, and the page small.
        parts = np.array_split(np.array(points, np.float64), min(len(points), 200))
        axes.plot(
            *np.array([part.mean(axis=0) for part in parts]).T,
            color=colour,
            linestyle=(0, dashes) if dashes else "-",
            linewidth=WIDTH,
            marker="o" if len(points) <= 30 else None,
            markersize=3,
        )
    axes.set_xlabel(across, color=_INK)
    axes.set_ylabel(up.partition(" over ")[0], color=_INK)
    axes.tick_params(colors=_INK)
    axes.grid(color="#808080", alpha=0.3, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        canvas.print_svg(buffer, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows them
    # Plots of one page must not share names.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    return svg.replace(_INK, "currentColor")


# Tables


@dataclass(frozen=True)
class _Cell:
    text: str
    small: str = ""
    best: bool = False


@dataclass(frozen=True)
class _Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[_Cell | str]]  # the first cell names the row
    notes: Sequence[str] = ()

    @property
    def cells(self) -> list[list[_Cell]]:
        return [[c if isinstance(c, _Cell) else _Cell(c) for c in row] for row in self.rows]


def _tables(content: dict[str, Any]) -> dict[str, _Table]:
    groups, notes = content["groups"], content["notes"]
    tables = {"runs": _runs_table(content), "scores": _score_table(content)}
    if content["tests"]:
        names = list(dict.fromkeys(name for pair in content["tests"] for name in pair["scores"]))
        head, rows = ["pair"], []
        for name in names:
            head += [f"Δ {name}", "p"]
        for pair in content["tests"]:
            row = [f"{pair['a']} − {pair['b']}"]
            for name in names:
                score = pair["scores"].get(name)
                row += [f"{score['difference']:+.3f}", _p(score["p"])] if score else ["—"] * 2
            rows.append(row)
        tables["tests"] = _Table("Differences", head, rows, notes["tests"])
    if content["by_length"]:
        tables["by_length"] = _length_table(content)
    tables["progress"] = _progress_table(content)
    tables["attention"] = _Table(
        "Attention",
        ["", "context", *content["attention"][0]["statistics"]],
        [
            [row["group"], row["context"], *map(_spread, row["statistics"].values())]
            for row in content["attention"]
        ],
        notes["attention"],
    )
    if variances := content["gradient_variance"]:
        keys = list(dict.fromkeys(key for row in variances for key in row))
        rows = [[_text(row.get(key)) for key in keys] for row in variances]
        tables["variance"] = _Table("Gradient variance", keys, rows)
    if len(groups) > 1:
        rows = [[key, *map(_text, values)] for key, values in content["config"].items()]
        head = ["key", *(group["letter"] for group in groups)]
        tables["config"] = _Table("Configs: what differs", head, rows, notes["config"])
    return tables


def _runs_table(content: dict[str, Any]) -> _Table:
    rows = []
    for group in content["groups"]:
        for run in group["runs"]:
            seconds = run["seconds"]
            minutes = "—" if seconds is None else f"{seconds / 60:.1f}"
            row = [group["letter"], group["name"], str(run["seed"]), f"{run['step']:,}", minutes]
            rows.append([*row, _text(run["device"]), _text(run["commit"]), run["workdir"]])
    head = ["", "experiment", "seed", "best step", "minutes", "device", "commit", "folder"]
    return _Table("Experiments", head, rows, content["notes"]["runs"])


def _score_table(content: dict[str, Any]) -> _Table:
    found = content["scores"]
    names = list(dict.fromkeys(name for row in found for name in row["scores"]))
    best = {}
    for name in names:
        means = [row["scores"][name]["mean"] for row in found if name in row["scores"]]
        best[name] = max((mean for mean in means if mean is not None), default=None)
    rows = []
    for row in found:
        cells = [row["group"], *map(_text, row["decoding"].values()), str(row["seeds"])]
        for name in names:
            score = row["scores"].get(name, {"mean": None, "interval": None})
            small = "[{:.3f}, {:.3f}]".format(*score["interval"]) if score["interval"] else ""
            is_best = len(found) > 1 and score["mean"] is not None and score["mean"] == best[name]
            cells.append(_Cell(_spread(score), small, is_best))
        rows.append(cells)
    head = ["", *found[0]["decoding"], "seeds", *names]
    return _Table("Scores", head, rows, content["notes"]["scores"])


def _length_table(content: dict[str, Any]) -> _Table:
    found = content["by_length"]
    head = ["", "score"]
    for bucket in found[0]["buckets"]:
        head.append(f"{bucket['least']:.0f} to {bucket['most']:.0f} words")
    rows = [
        [row["label"], key, *(f"{bucket[key]:.3g}" for bucket in row["buckets"])]
        for row in found
        for key in BY_LENGTH
    ]
    counts = ", ".join(f"{bucket['sentences']:.0f}" for bucket in found[0]["buckets"])
    note = f"By words of the source sentence; {counts} sentences. BLEU and chrF from 0 to 100."
    return _Table("Scores by length", head, rows, [note])


def _progress_table(content: dict[str, Any]) -> _Table:
    patterns = {"steps": "{:,.0f}", "minutes": "{:.1f}", "million tokens": "{:.3g}"}
    score = content["progress"]["score"]
    head = ["", f"best {score}", "minutes in all"]
    for target in content["progress"]["targets"]:
        head += [f"{axis} to {target[score]:.3f}" for axis in patterns]
    rows = []
    for row in content["progress"]["rows"]:
        cells = [row["group"], _spread(row["best"]), _spread(row["seconds"], "{:.1f}", 60.0)]
        for reached in row["reached"]:
            for (key, (_, unit)), pattern in zip(_ALONG.items(), patterns.values(), strict=True):
                cells.append(_spread(reached[key], pattern, unit))
        rows.append(cells)
    return _Table("Time and tokens to a score", head, rows, content["notes"]["progress"])


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def _spread(value: dict[str, Any], pattern: str = "{:.3f}", unit: float = 1.0) -> str:
    """Mean and deviation."""
    if value["mean"] is None:
        return "—"
    text = pattern.format(value["mean"] / unit)
    return text if value["std"] is None else f"{text} ± {pattern.format(value['std'] / unit)}"


def _text(value: Any) -> str:
    if value is None:
        return "—"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _markdown(table: _Table) -> str:
    def line(cells: Sequence[str]) -> str:
        escaped = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
        return f"| {' | '.join(escaped)} |"

    def cell(c: _Cell) -> str:
        return f"{f'**{c.text}**' if c.best else c.text} {c.small}"

    lines = [f"## {table.title}", "", line(table.head), f"|{'---|' * len(table.head)}"]
    lines += [line([cell(c) for c in row]) for row in table.cells]
    return "\n".join([*lines, "", *(note + "\n" for note in table.notes)])
