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

Row = Mapping[str, str | int | float | None]

_LABELS = {
    "relative": "trace of the gradient's covariance at equal rollouts,\n"
    "over that of none + sequence",
    "snr": "signal to noise of one estimate",
    "relative_bias": "bias over the norm of the exact gradient",
}
_HEIGHT = 0.8  # of all bars of a group


def write_variance(folder: Path, record: Mapping[str, Any], mark: str = "") -> Path:
    """Writes gradient_variance.json and a bar chart of it, gradient_variance.png.

    What was measured with initial weights goes to gradient_variance_fresh.json and .png.

    Args:
      folder: of the run.
      record: `rows` (see `evaluation.gradient_variance.table`), and how they were measured;
        `weights` is "fresh" for initial ones.
      mark: what the names of the files end in, see `inference.run.mark_of`.

    Returns:
      The path of the chart.
    """
    fresh = "_fresh" if record.get("weights") == "fresh" else ""
    stem = f"gradient_variance{fresh}{mark}"
    files.write_text(folder / f"{stem}.json", json.dumps(record, indent=2) + "\n")
    with files.replacing(folder / f"{stem}.png") as file:
        variance_chart(record["rows"]).savefig(file, format="png")
    return folder / f"{stem}.png"


def row_name(row: Row) -> str:
    """What a row is called beside its credit: its baseline, or the estimator that has none."""
    if row["baseline"] is None:
        return str(row["estimator"])
    many = int(row["rollouts"] or 0)
    return f"{row['baseline']} of {many}" if many > 2 else str(row["baseline"])


def variance_chart(rows: Sequence[Row]) -> Figure:
    """Bars for each estimator and credit: relative variance, signal to noise and bias.

    The bias has a panel only if it is known.
    """
    names = list(dict.fromkeys(map(row_name, rows)))
    known = [name for name in _LABELS if any(row.get(name) is not None for row in rows)]
    figure = Figure((5.5 * len(known), 1 + 0.6 * len(names)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(known), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, known, strict=True):
        axes.set_xscale("log" if name == "relative" else "linear")
        _bars(axes, rows, name)
        axes.margins(x=0.15)
        axes.set_xlabel(_LABELS[name])
        axes.spines[["top", "right"]].set_visible(False)
    against = {row_name(row): row.get("against") for row in rows}
    several = len(set(against.values())) > 1
    panels[0].set_yticks(
        np.arange(len(names)),
        [f"{name}\nagainst {against[name]}" if several else name for name in names],
    )
    panels[0].invert_yaxis()
    panels[-1].legend(title="credit", frameon=False)
    return figure


def _bars(axes: Axes, rows: Sequence[Row], name: str) -> None:
    """One container of bars for each credit. A group's bars share its place."""
    names = list(dict.fromkeys(map(row_name, rows)))
    members = {group: [row for row in rows if row_name(row) == group] for group in names}
    height = _HEIGHT / max(map(len, members.values()))
    for credit in dict.fromkeys(row["credit"] for row in rows):
        places, found = [], []
        for place, group in enumerate(members.values()):
            for k, row in enumerate(group):
                if row["credit"] == credit:
                    places.append(place + (k - (len(group) - 1) / 2) * height)
                    found.append(row)
        texts = [_text(row, name) for row in found]
        # A logarithmic axis has no 0, and the ratio to a noise of 0 is no number.
        lengths = [float(row[name] or 0.0) for row in found]
        axes.barh(places, lengths, height, label="—" if credit is None else str(credit))
        for text, place, length in zip(texts, places, lengths, strict=True):
            if length > 0 or axes.get_xscale() == "linear":
                axes.annotate(
                    text, (length, place), (3, 0), textcoords="offset points", va="center", size=8
                )
            else:
                across = axes.get_yaxis_transform()
                axes.text(0.01, place, text, transform=across, va="center", size=8)


def _text(row: Row, name: str) -> str:
    if row[name] is None:
        return "exact"
    text = f"{float(row[name] or 0.0):.2g}"
    noise = row.get("bias_noise")
    if name == "relative_bias" and noise and float(row["bias"] or 0.0) < 2 * float(noise):
        return f"{text}, within noise"
    return text
