"""Records of results: one file a part and machine, and a comparison of machines as Markdown."""

import datetime
import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from show_attend_tell import files

FOLDER = Path(__file__).parents[1] / "results" / "bench"
# Of each part that compares contestants: the figure that is shown, its unit, factor and digits.
SHOWN = {
    **dict.fromkeys(("train", "estimators"), ("tokens_per_second", "real tokens/s", 1, 0)),
    **dict.fromkeys(("beam", "extract"), ("images_per_second", "images/s", 1, 1)),
    "objectives": ("seconds", "ms a step", 1e3, 0),
    "cnns": ("limits", "time, times the limit", 1, 2),
    "input": ("milliseconds", "ms a batch", 1, 2),
    "memory": ("bytes", "GiB", 1 / 2**30, 2),
    "scaling": ("seconds", "ms a step", 1e3, 0),
    "scale": ("seconds", "s", 1, 0),
}
ENDINGS = (", float32", ", bfloat16")


def complete(figures: dict[str, Any], machine: dict[str, Any], torch: bool) -> dict[str, Any]:
    """A part's figures with date, machine and PyTorch's version, without folders of the machine."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = figures | {"date": now, "machine": machine}
    record["command"] = [_shown(word) for word in figures.get("command", ())]
    if torch:
        version = importlib.metadata.version("torch")
        record["packages"] = figures.get("packages", {}) | {"torch": version}
    return record


def keep(name: str, part: str, record: dict[str, Any]) -> None:
    """Keeps a record under `results/bench/`."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / f"{part}.json", json.dumps(record) + "\n")


def compare(folder: Path, names: Sequence[str] = ()) -> str:
    """The records of several machines side by side, as Markdown.

    Args:
      folder: of the machines' folders.
      names: of the machines; all if empty.
    """
    known = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    records: dict[str, dict[str, Any]] = {}  # by part, then machine
    for name in names or known:
        for path in sorted((folder / name).glob("*.json")):
            records.setdefault(path.stem, {})[name] = json.loads(path.read_text())
    if not records:
        return ""
    tables = [_machines(records)]
    for part in SHOWN:
        if part in records:
            tables.append(_part(part, records[part]))
    return "\n".join(tables)


def _machines(records: dict[str, dict[str, Any]]) -> str:
    """A row for each machine: what it is, and its products' speed."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for of_part in records.values():
        for name, record in of_part.items():
            by_name.setdefault(name, []).append(record)
    speeds = list(
        dict.fromkeys(
            s for of in by_name.values() for r in of for s in r["machine"]["product_flops"]
        )
    )
    columns = ["machine", "processor", "cores", "devices", "instruction sets"]
    columns += [*(f"product, {s}, GFLOP/s" for s in speeds), "commits", "dates"]
    rows = []
    for name, of_machine in by_name.items():
        machine = of_machine[0]["machine"]
        row = [name, machine["processor"], f"{machine['cores']}", machine["devices"]]
        row.append(" ".join(machine["instruction_sets"]))
        for speed in speeds:
            # Every part's command measures them anew.
            found = [r["machine"]["product_flops"].get(speed) for r in of_machine]
            found = [value / 1e9 for value in found if value]
            row.append(f"{np.median(found):,.0f}" if found else "")
        row.append(", ".join(sorted({str(r["commit"]) for r in of_machine})))
        row.append(", ".join(sorted({r["date"][:10] for r in of_machine})))
        rows.append(row)
    return _markdown(
        "Machines, and the speed of a product of two 2048×2048 matrices", columns, rows
    )


def _part(part: str, by_name: dict[str, dict[str, Any]]) -> str:
    """A row for each contestant, a column for each machine."""
    figure, unit, factor, digits = SHOWN[part]
    values: dict[str, dict[str, np.ndarray]] = {}  # by contestant, then machine
    seconds: dict[str, dict[str, np.ndarray]] = {}
    for name, record in by_name.items():
        for label, row in _rows(record["rows"]).items():
            values.setdefault(label, {})[name] = factor * np.atleast_1d(row[figure])
            if part in ("train", "estimators", "beam", "extract", "objectives"):
                seconds.setdefault(label, {})[name] = np.array(row["seconds"])
    rows = []
    for label, of_label in values.items():
        row = [label]
        for name in by_name:
            if name not in of_label:
                row.append("")
                continue
            text = f"{np.median(of_label[name]):,.{digits}f}"
            if label in seconds:
                first = next(times[name] for times in seconds.values() if name in times)
                text += f" ({np.median(seconds[label][name] / first):.2f})"
                text = f"**{text}**" if _is_fastest(label, name, seconds) else text
            row.append(text)
        rows.append(row)
    title = f"`{part}`: {unit}, median"
    if seconds:
        title += "; in brackets the time, times that of the first row; bold: a contestant's faster"
        title += " format"
    return _markdown(title, ["", *by_name], rows)


def _rows(rows: Any) -> dict[str, dict[str, Any]]:
    """Rows by label, also where a part keeps a list of sizes."""
    if isinstance(rows, dict):
        return rows
    label_of = {}
    for row in rows:
        if "varied" in row:
            label_of[f"{row['varied']} = {row['value']:,}"] = row
        else:
            sizes = (f"{k} {v}" for k, v in row.items() if k != "bytes")
            label_of[", ".join(sizes)] = row
    return label_of


def _is_fastest(label: str, name: str, seconds: dict[str, dict[str, np.ndarray]]) -> bool:
    """Whether a contestant that took part in several formats was fastest in this one."""
    stem = label
    for ending in ENDINGS:
        stem = stem.removesuffix(ending)
    others = [seconds[stem + e][name] for e in ENDINGS if name in seconds.get(stem + e, {})]
    best = min((np.median(times) for times in others), default=0.0)
    return len(others) > 1 and np.median(seconds[label][name]) == best


def _markdown(title: str, columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join([f"{title}:", "", *("| " + " | ".join(x) + " |" for x in lines), ""])


def _shown(word: str) -> str:
    """A word of a command; of an absolute path only the last part."""
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if os.path.isabs(value) else word
