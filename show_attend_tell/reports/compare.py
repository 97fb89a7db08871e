"""Finished runs side by side: one self-contained page, Markdown tables and a JSON file.

It reads folders of runs (see `read_runs`) and needs no data set, no model and no weights.
`grouping` says what an experiment and a row are, `uncertainty` how intervals and tests are made.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from show_attend_tell import files
from show_attend_tell.errors import UserError
from show_attend_tell.reports import markdown, page
from show_attend_tell.reports.grouping import (
    Group,
    Row,
    by_language,
    check_comparable,
    group_runs,
    in_words,
    rows_of,
    run_label,
)
from show_attend_tell.reports.measured import NAMES
from show_attend_tell.reports.notes import notes
from show_attend_tell.reports.read_runs import read_run
from show_attend_tell.reports.side_by_side import side_by_side
from show_attend_tell.reports.tables import tables
from show_attend_tell.reports.uncertainty import (
    bootstrap_intervals,
    over_seeds,
    randomisation_tests,
)

TARGETS = (0.5, 0.9, 1.0)  # shares of the validation score that every run reached


def compare(
    workdirs: Sequence[Path],
    split: str,
    out: Path,
    *,
    samples: int = 2000,
    seed: int = 0,
    shown: int = 12,
) -> dict[str, Any]:
    """Compares runs; writes `index.html`, `table.md` and `comparison.json` into `out`.

    Args:
      workdirs: folders of finished runs that were evaluated and attended on the split, or folders
        that `sharing.publish` wrote.
      split: of the scores and maps.
      out: folder to write to; made if it is not there.
      samples: number of bootstrap resamples, and of random swaps in a test.
      seed: of both.
      shown: the most images whose maps are shown side by side.

    Returns:
      The content of `comparison.json`.

    Raises:
      UserError: there is no run, or one twice; a run is not finished, not evaluated or not
        attended; a file is damaged; or the runs' data, references, tokenizers or vocabularies
        differ.
    """
    _check_arguments(workdirs, samples, shown)
    runs = [read_run(workdir, split) for workdir in workdirs]
    check_comparable(runs)
    groups, config = group_runs(runs)
    rows = rows_of(groups)
    first = runs[0].scored[0]
    content = {
        "split": split,
        "data": runs[0].settings.data,
        "images": len(first.image_ids),
        "what": runs[0].settings.task.noun,
        "references": first.references,
        "tokenizer": first.tokenizer,
        "languages": _languages(rows),
        "samples": samples,
        "seed": seed,
        "groups": [_describe(group) for group in groups],
        "scores": _scores(rows, samples, seed),
        "tests": _tests(rows, samples, seed),
        "progress": _progress(groups),
        "by_length": _by_length(rows),
        "attention": [_attention(group) for group in groups],
        "measured": _measured(groups),
        "gradient_variance": [
            {"run": run_label(group, run)} | row
            for group in groups
            for run in group.runs
            for row in run.variance
        ],
        "config": config,
    }
    content["notes"] = notes(content)
    images = side_by_side(groups, split, first.image_ids, shown)
    content["pictures"] = images.ids
    metrics = [[run.metrics for run in group.runs] for group in groups]
    # All is made before anything is written, so that an error leaves nothing behind.
    written = {
        "comparison.json": json.dumps(content, indent=2, ensure_ascii=False) + "\n",
        "table.md": markdown.text(tables(content).values()),
        "index.html": page.html(content, metrics, images, shown=shown > 0),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        files.write_text(out / name, text)
    return content


def _check_arguments(workdirs: Sequence[Path], samples: int, shown: int) -> None:
    if not workdirs:
        raise UserError("there are no runs to compare")
    if samples < 1 or shown < 0:
        raise UserError(f"samples {samples}, shown {shown}: must be at least 1 and 0")
    known: set[Path] = set()
    for workdir in workdirs:
        if workdir.resolve() in known:
            raise UserError(f"{workdir}: the same run is given twice; name each run once")
        known.add(workdir.resolve())


# Runs


def _languages(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the scores of each language rest on; empty where no run speaks several."""
    return [
        {
            "language": language,
            "images": len((scored := same[0].scored[0]).image_ids),
            "references": scored.references,
            "tokenizer": scored.tokenizer,
        }
        for language, same in by_language(rows).items()
        if language
    ]


def _describe(group: Group) -> dict[str, Any]:
    runs = []
    for run in group.runs:
        facts = {"workdir": str(run.workdir), "seed": run.settings.seed, "step": run.step}
        facts |= {key: run.record.get(key) for key in ("commit", "device", "command")}
        runs.append(facts | {"init_from": run.settings.init_from, "seconds": run.seconds})
    return {"letter": group.letter, "name": group.name, "runs": runs}


def _progress(groups: Sequence[Group]) -> dict[str, Any]:
    """Steps, seconds and tokens until a validation score that every run reached in the end."""
    watched = groups[0].runs[0].settings.task.progress_metric
    best = {run: max(row[watched] for row in run.metrics["val"]) for g in groups for run in g.runs}
    targets = [{"share": share, watched: share * min(best.values())} for share in TARGETS]
    rows = []
    for group in groups:
        reached = []
        for target in targets:
            firsts = [
                next(row for row in run.metrics["val"] if row[watched] >= target[watched])
                for run in group.runs
            ]
            keys = ("step", "seconds", "tokens")
            reached.append({key: over_seeds([row.get(key) for row in firsts]) for key in keys})
        rows.append(
            {
                "group": group.letter,
                "best": over_seeds([best[run] for run in group.runs]),
                "seconds": over_seeds([run.seconds for run in group.runs]),
                "reached": reached,
            }
        )
    return {"score": watched, "targets": targets, "rows": rows}


def _attention(group: Group) -> dict[str, Any]:
    names = group.runs[0].attention
    return {
        "group": group.letter,
        "context": ", ".join(sorted({run.context for run in group.runs})),
        "statistics": {n: over_seeds([run.attention[n] for run in group.runs]) for n in names},
    }


def _measured(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Likelihood, grounding and faithfulness of the groups whose score files hold them.

    They do not depend on the search, so the first file of each run in a language is as good as the
    others.
    Intervals are of one run: over several seeds there is none.
    """
    made = []
    spoken = dict.fromkeys(s.language for g in groups for run in g.runs for s in run.scored)
    for language, group in itertools.product(spoken, groups):
        files = [[s for s in run.scored if s.language == language] for run in group.runs]
        if not all(files):
            continue
        runs = [of_run[0].measured for of_run in files]
        label = ", ".join(filter(None, [group.letter, language]))
        figures = {}
        for name in NAMES:
            found = [run.figures.get(name) for run in runs]
            over = over_seeds([None if figure is None else figure.value for figure in found])
            only = found[0] if len(found) == 1 else None
            figures[name] = over | {"interval": None if only is None else only.interval}
        if any(figure["mean"] is not None for figure in figures.values()):
            bound = any(run.bound for run in runs)
            made.append({"group": label, "bound": bound, "figures": figures})
    return made


# Rows


def _scores(rows: Sequence[Row], samples: int, seed: int) -> list[dict[str, Any]]:
    """The rows of the score table with bootstrap intervals of 95 %."""
    intervals: dict[Row, dict[str, list[float]]] = {}
    for same in by_language(rows).values():
        found = bootstrap_intervals([row.table for row in same], samples, seed)
        intervals |= zip(same, found, strict=True)
    made = []
    for row, interval in intervals.items():
        scores = {}
        for name in row.scored[0].scores:
            scores[name] = over_seeds([s.scores.get(name) for s in row.scored])
            known = scores[name]["mean"] is not None
            scores[name]["interval"] = interval.get(name) if known else None
        made.append(
            {
                "label": row.label,
                "group": row.group.letter,
                "language": row.language,
                "decoding": {in_words(key): value for key, value in row.decoding.items()},
                "seeds": len(row.scored),
                "files": [str(s.path) for s in row.scored],
                "scores": scores,
                "missing": {k: v for s in row.scored for k, v in s.missing.items()},
            }
        )
    return made


def _tests(rows: Sequence[Row], samples: int, seed: int) -> list[dict[str, Any]]:
    """The difference of every pair of rows in the same language, with its p-value."""
    made = []
    for same in by_language(rows).values():
        pairs = list(itertools.combinations(same, 2))
        found = randomisation_tests([(a.table, b.table) for a, b in pairs], samples, seed)
        made += [
            {"a": a.label, "b": b.label, "scores": scores}
            for (a, b), scores in zip(pairs, found, strict=True)
        ]
    return made


def _by_length(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Scores by source length for every row, averaged over seeds.

    Empty for images, and if an earlier version scored one of the runs and recorded none.
    """
    if not all(scored.by_length for row in rows for scored in row.scored):
        return []
    made = []
    for row in rows:
        buckets = zip(*(scored.by_length for scored in row.scored), strict=True)
        made.append(
            {
                "label": row.label,
                "group": row.group.letter,
                "buckets": [
                    {key: fmean(b[key] for b in same) for key in same[0]} for same in buckets
                ],
            }
        )
    return made
