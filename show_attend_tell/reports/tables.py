"""The tables of a comparison, made of what `compare` found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from show_attend_tell.reports.measured import PERPLEXITY
from show_attend_tell.reports.notes import counted
from show_attend_tell.reports.read_runs import BY_LENGTH

# Scores that a terminal has room for.
USUAL = ("BLEU-1", "BLEU-4", "ROUGE-L", "METEOR", "CIDEr", "SPICE", "BLEU", "chrF")
# Columns of the progress table: what is counted, its unit in a record, and its format.
_PROGRESS = {
    "steps": ("step", 1.0, "{:,.0f}"),
    "minutes": ("seconds", 60.0, "{:.1f}"),
    "million tokens": ("tokens", 1e6, "{:.3g}"),
}


@dataclass(frozen=True)
class Cell:
    """A cell: its text, something smaller beside it, and whether it is the column's best."""

    text: str
    small: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its title and notes; the first cell of a row names the row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    notes: Sequence[str] = ()

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, every cell a `Cell`."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]


def tables(content: dict[str, Any]) -> dict[str, Table]:
    """All tables by name, in the order in which they are shown.

    Args:
      content: what `compare` returns.
    """
    found = {
        "runs": _runs_table(content),
        "scores": _score_table(content),
        "tests": _test_table(content) if content["tests"] else None,
        "by_length": _length_table(content) if content["by_length"] else None,
        "progress": _progress_table(content),
        "attention": _attention_table(content),
        "measured": _measured_table(content) if content["measured"] else None,
        "variance": _variance_table(content) if content["gradient_variance"] else None,
        "config": _config_table(content) if len(content["groups"]) > 1 else None,
    }
    return {name: table for name, table in found.items() if table}


def usual_scores(content: dict[str, Any]) -> Table:
    """The table of scores as it fits into a terminal: the usual scores, without intervals.

    Of the columns about decoding those stay whose cells differ.
    """
    table = _score_table(content)
    usual = {"language", "seeds", *USUAL}
    usual |= {n for k, n in enumerate(table.head) if len({row[k].text for row in table.cells}) > 1}
    usual -= content["scores"][0]["scores"].keys() - {*USUAL}
    columns = [k for k, name in enumerate(table.head) if not k or name in usual]
    rows = [[Cell(row[k].text) for k in columns] for row in table.cells]
    note = f"{counted(content)}. Mean ± standard deviation over seeds."
    return Table(table.title, [table.head[k] for k in columns], rows, [note])


def _runs_table(content: dict[str, Any]) -> Table:
    rows = []
    for group in content["groups"]:
        for run in group["runs"]:
            seconds = run["seconds"]
            minutes = "—" if seconds is None else f"{seconds / 60:.1f}"
            row = [group["letter"], group["name"], str(run["seed"]), f"{run['step']:,}", minutes]
            rows.append([*row, as_text(run["device"]), as_text(run["commit"]), run["workdir"]])
    head = ["", "experiment", "seed", "best step", "minutes", "device", "commit", "folder"]
    return Table("Experiments", head, rows, content["notes"]["runs"])


def _score_table(content: dict[str, Any]) -> Table:
    found = content["scores"]
    names = list(dict.fromkeys(name for row in found for name in row["scores"]))
    language = ["language"] if any(row["language"] for row in found) else []
    rows = []
    for row in found:
        same = [other for other in found if other["language"] == row["language"]]
        cells = [row["group"], *filter(None, [row["language"]])]
        cells += [*map(as_text, row["decoding"].values()), str(row["seeds"])]
        for name in names:
            score = row["scores"].get(name, {"mean": None, "interval": None})
            small = "[{:.3f}, {:.3f}]".format(*score["interval"]) if score["interval"] else ""
            best = _best(same, name) if len(same) > 1 else None
            is_best = score["mean"] is not None and score["mean"] == best
            cells.append(Cell(spread(score), small, is_best))
        rows.append(cells)
    head = ["", *language, *found[0]["decoding"], "seeds", *names]
    return Table("Scores", head, rows, content["notes"]["scores"])


def _best(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    means = [row["scores"][name]["mean"] for row in rows if name in row["scores"]]
    return max((mean for mean in means if mean is not None), default=None)


def _test_table(content: dict[str, Any]) -> Table:
    names = list(dict.fromkeys(name for pair in content["tests"] for name in pair["scores"]))
    head, rows = ["pair"], []
    for name in names:
        head += [f"Δ {name}", "p"]
    for pair in content["tests"]:
        row = [f"{pair['a']} − {pair['b']}"]
        for name in names:
            score = pair["scores"].get(name)
            row += [f"{score['difference']:+.3f}", p_text(score["p"])] if score else ["—"] * 2
        rows.append(row)
    return Table("Differences", head, rows, content["notes"]["tests"])


def _length_table(content: dict[str, Any]) -> Table:
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
    note = (
        f"By the number of words in the source sentence; {counts} sentences. BLEU and chrF range "
        "from 0 to 100."
    )
    return Table("Scores by length", head, rows, [note])


def _progress_table(content: dict[str, Any]) -> Table:
    score = content["progress"]["score"]
    head = ["", f"best {score}", "minutes in all"]
    for target in content["progress"]["targets"]:
        head += [f"{what} to {target[score]:.3f}" for what in _PROGRESS]
    rows = []
    for row in content["progress"]["rows"]:
        cells = [row["group"], spread(row["best"]), spread(row["seconds"], "{:.1f}", 60.0)]
        for reached in row["reached"]:
            for key, unit, pattern in _PROGRESS.values():
                cells.append(spread(reached[key], pattern, unit))
        rows.append(cells)
    return Table("Time and tokens to a score", head, rows, content["notes"]["progress"])


def _attention_table(content: dict[str, Any]) -> Table:
    found = content["attention"]
    head = ["", "context", *found[0]["statistics"]]
    rows = [
        [row["group"], row["context"], *map(spread, row["statistics"].values())] for row in found
    ]
    return Table("Attention", head, rows, content["notes"]["attention"])


def _measured_table(content: dict[str, Any]) -> Table:
    """A column for each figure that some experiment has."""
    found = content["measured"]
    names = [
        name
        for name in found[0]["figures"]
        if any(row["figures"][name]["mean"] is not None for row in found)
    ]
    rows = []
    for row in found:
        cells: list[Cell | str] = [row["group"]]
        for name in names:
            figure = row["figures"][name]
            text = spread(figure)
            if name == PERPLEXITY and row["bound"] and figure["mean"] is not None:
                text = f"≤ {text}"
            interval = figure["interval"]
            cells.append(Cell(text, "[{:.3f}, {:.3f}]".format(*interval) if interval else ""))
        rows.append(cells)
    title = "Likelihood, grounding and faithfulness"
    return Table(title, ["", *names], rows, content["notes"]["measured"])


def _variance_table(content: dict[str, Any]) -> Table:
    found = content["gradient_variance"]
    keys = list(dict.fromkeys(key for row in found for key in row))
    rows = [[as_text(row.get(key)) for key in keys] for row in found]
    return Table("Gradient variance", keys, rows)


def _config_table(content: dict[str, Any]) -> Table:
    head = ["key", *(group["letter"] for group in content["groups"])]
    rows = [[key, *map(as_text, values)] for key, values in content["config"].items()]
    return Table("Settings that differ", head, rows, content["notes"]["config"])


def p_text(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def spread(value: dict[str, Any], pattern: str = "{:.3f}", unit: float = 1.0) -> str:
    """Mean ± deviation of what `uncertainty.over_seeds` returned, in the unit."""
    if value["mean"] is None:
        return "—"
    text = pattern.format(value["mean"] / unit)
    return text if value["std"] is None else f"{text} ± {pattern.format(value['std'] / unit)}"


def as_text(value: Any) -> str:
    """A value of JSON as it is shown; — for None."""
    if value is None:
        return "—"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
