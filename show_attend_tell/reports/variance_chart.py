"""The chart of what `evaluation.gradient_variance` measures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from show_attend_tell import files

Row = Mapping[str, str | int | float]

_LABELS = {
    "relative": "trace of the gradient's covariance at equal rollouts,\n"
    "over that of none + sequence",
    "snr": "signal to noise of one estimate",
}


def write_variance(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes gradient_variance.json and a bar chart of it, gradient_variance.png.

    Args:
      folder: of the run.
      record: `rows` (see `evaluation.gradient_variance.table`), and how they were measured.
    """
    files.write_text(folder / "gradient_variance.json", json.dumps(record, indent=2) + "\n")
    with files.replacing(folder / "gradient_variance.png") as file:
        variance_chart(record["rows"]).savefig(file, format="png")


def variance_chart(rows: Sequence[Row]) -> Figure:
    """Bars for each baseline and credit: the relative variance, and signal to noise."""
    figure = Figure((11, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, label) in zip(panels, _LABELS.items(), strict=True):
        _bars(axes, rows, name)
        axes.set_xscale("log" if name == "relative" else "linear")
        axes.margins(x=0.15)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    baselines = list(dict.fromkeys(row["baseline"] for row in rows))
    panels[0].set_yticks(np.arange(len(baselines)), baselines)
    panels[0].invert_yaxis()
    panels[1].legend(title="credit", frameon=False)
    return figure


def _bars(axes: Axes, rows: Sequence[Row], name: str, height: float = 0.4) -> None:
    for k, credit in enumerate(dict.fromkeys(row["credit"] for row in rows)):
        values = [float(row[name]) for row in rows if row["credit"] == credit]
        places = np.arange(len(values)) + (0.5 - k) * height
        bars = axes.barh(places, values, height, label=credit)
        axes.bar_label(bars, [f"{value:.2g}" for value in values], padding=3, fontsize=8)
