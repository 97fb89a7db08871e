"""The plots of a comparison as SVG for one page: training, validation, and scores by length."""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Each with a contrast of at least 3 to 1 on light and on dark. Dashes are in line widths.
# In the order of hues that the page's view of pictures has.
COLOURS = ("#d0661a", "#3d7edb", "#239b56", "#c2559f", "#8a7f2a", "#8270e0")
DASHES = ((), (5.0, 2.0), (1.5, 1.5), (6.0, 2.0, 1.5, 2.0), (9.0, 3.0))
WIDTH = 1.5  # of lines, in points
# Matplotlib's names, each with the path of an SVG around (20, 4), for a legend.
MARKERS = {
    "o": "M17 4a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "s": "M17 1h6v6h-6z",
    "^": "M20 0l4 7h-8z",
    "D": "M20 0l4 4-4 4-4-4z",
    "v": "M20 8l4-7h-8z",
}
INK = "#010203"  # stands in a plot for the page's own text colour

# The horizontal axis by key of a record: its name, and its unit in the record.
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


class Look(NamedTuple):
    """How a curve is drawn."""

    colour: str
    dashes: tuple[float, ...]
    marker: str  # of `MARKERS`

    def for_legend(self) -> dict[str, Any]:
        """What a legend needs, with dashes in points."""
        dashes = " ".join(f"{length * WIDTH:g}" for length in self.dashes)
        marker = MARKERS[self.marker]
        return {"colour": self.colour, "dashes": dashes, "width": WIDTH, "marker": marker}


Curve = tuple[Look, Sequence[tuple[float, float]]]  # and its points


def look(i: int, k: int = 0) -> Look:
    """That of row k of experiment i, counted from 0: rows share the experiment's colour."""
    markers = [*MARKERS]
    return Look(
        COLOURS[i % len(COLOURS)],
        DASHES[(i + k) % len(DASHES)],
        markers[(k + k // len(DASHES)) % len(markers)],
    )


def curve_plots(
    metrics: Sequence[Sequence[dict[str, list[dict[str, Any]]]]],
) -> list[dict[str, Any]]:
    """`title` and `svg` of the curves of training and validation.

    A plot that some runs have no records for is left out, since it would mislead.

    Args:
      metrics: for each run of each experiment, the records of its metrics.jsonl by kind.
    """
    plots = []
    for title, kind, key, along in _PLOTS:
        axis, unit = _ALONG[along]
        curves = [
            (look(i), [(r[along] / unit, r[key]) for r in run[kind] if r.keys() >= {along, key}])
            for i, group in enumerate(metrics)
            for run in group
        ]
        if all(points for _, points in curves):
            svg = _svg(f"plot{len(plots)}", curves, axis, title.partition(": ")[2])
            plots.append({"title": title, "svg": svg})
    return plots


def length_plots(content: dict[str, Any]) -> list[dict[str, Any]]:
    """`title` and `svg` of scores against source length (Bahdanau et al. 2015, Fig. 2).

    There are none for images.

    Args:
      content: what `compare` returns.
    """
    looks, plots = _looks_of_rows(content), []
    for key in ("BLEU", "exact") if content["by_length"] else ():
        curves = [
            (own, [(b["mean"], b[key]) for b in row["buckets"]])
            for own, row in zip(looks, content["by_length"], strict=True)
        ]
        svg = _svg(f"length{len(plots)}", curves, "source words", key)
        plots.append({"title": f"{key} by length of the source", "svg": svg})
    return plots


def length_legend(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of `length_plots`, see `Look.for_legend`, each with its `label`.

    It is empty if every experiment is one row, since the rows are then the experiments.
    """
    rows = content["by_length"]
    if len({row["group"] for row in rows}) == len(rows):
        return []
    looks = _looks_of_rows(content)
    return [
        {"label": row["label"]} | own.for_legend() for row, own in zip(rows, looks, strict=True)
    ]


def _looks_of_rows(content: dict[str, Any]) -> list[Look]:
    letters = [group["letter"] for group in content["groups"]]
    groups = [letters.index(row["group"]) for row in content["by_length"]]
    return [look(i, groups[:n].count(i)) for n, i in enumerate(groups)]


def _svg(name: str, curves: Sequence[Curve], across: str, up: str) -> str:
    figure = Figure((4.6, 3.0), layout="constrained", facecolor="none")
    canvas = FigureCanvasSVG(figure)
    axes = figure.add_subplot(facecolor="none")
    axes.locator_params(nbins=6)
    for (colour, dashes, marker), points in curves:
        # Means of neighbours keep noisy curves of long runs readable, and the page small.
        parts = np.array_split(np.array(points, np.float64), min(len(points), 200))
        axes.plot(
            *np.array([part.mean(axis=0) for part in parts]).T,
            color=colour,
            linestyle=(0, dashes) if dashes else "-",
            linewidth=WIDTH,
            marker=marker if len(points) <= 30 else None,
            markersize=3 if marker == "o" else 4,
        )
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up.partition(" over ")[0], color=INK)
    axes.tick_params(colors=INK)
    axes.grid(color="#808080", alpha=0.3, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        canvas.print_svg(buffer, metadata={"Date": None})
    return _for_page(buffer.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """An SVG file as part of an HTML page that may hold several."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows the name spaces
    # Plots of one page must not share ids.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    return svg.replace(INK, "currentColor")
