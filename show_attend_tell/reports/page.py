"""The HTML page of `compare`, made of what it found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from show_attend_tell.printable import printable
from show_attend_tell.reports.plots import curve_plots, length_legend, length_plots, look
from show_attend_tell.reports.side_by_side import SideBySide
from show_attend_tell.reports.tables import tables


def html(
    content: dict[str, Any],
    metrics: Sequence[Sequence[dict[str, list[dict[str, Any]]]]],
    images: SideBySide,
    *,
    shown: bool = True,
) -> str:
    """The page, which loads nothing from elsewhere.

    Args:
      content: what `compare` returns.
      metrics: for each run of each experiment, the records of its metrics.jsonl by kind.
      images: what the runs said of the same images.
      shown: whether the page has a section for images at all.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    legend = [
        {"label": f"{group['letter']}: {group['name']}"} | look(i).for_legend()
        for i, group in enumerate(content["groups"])
    ]
    return environment.get_template("compare.html").render(
        content=content,
        tables=tables(content),
        plots=curve_plots(metrics),
        by_length=length_plots(content),
        images=images,
        shown=shown,
        legend=legend,
        length_legend=length_legend(content),
        runs=sum(len(group["runs"]) for group in content["groups"]),
    )


def _shown(value: object) -> object:
    """A value as it stands on the page: text from data is made printable, our own HTML is not."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else printable(value)
