"""Scores of anybody's captions, read from files, with intervals, and their differences.

`evaluate` computes the same scores for a run's captions. Intervals and tests are those of
`compare` (see `uncertainty`).
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
from jaxtyping import Float

from show_attend_tell import files
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.caption_files import Matched, match, read_captions, read_references
from show_attend_tell.evaluation.scores import Scores, digest
from show_attend_tell.evaluation.scoring import SCORERS
from show_attend_tell.evaluation.spice import add_spice, check_spice
from show_attend_tell.evaluation.translation_metrics import LOWER_CASE
from show_attend_tell.reports.tables import Cell, Table, p_text
from show_attend_tell.reports.uncertainty import (
    CHRF_MEAN,
    MEANS,
    TESTED,
    paired_intervals,
    randomisation_tests,
    score_table,
    with_means,
)

_PERCENT = ("BLEU", LOWER_CASE, "chrF", CHRF_MEAN)  # scores from 0 to 100
ALL_TESTED = (*TESTED, *(name for name in MEANS.values() if name not in TESTED))


def score_files(
    captions: Sequence[Path],
    references: Sequence[Path],
    *,
    scorer: str = "captions",
    split: str | None = None,
    allow_missing: bool = False,
    spice: bool = False,
    per_image: Path | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores files of captions against the same references.

    Args:
      captions, references: files; see `evaluation.caption_files` for their formats.
      scorer: name of one in `evaluation.scoring`.
      split: of a file of references that has several; None: test.
      allow_missing: scores the images that all files have, rather than rejecting others.
      spice: adds SPICE, which needs Java, to scores of captions.
      per_image: file to write, with the scores of each caption as comma-separated values.
      samples: number of bootstrap resamples, and of random swaps in a test.
      seed: of both.

    Returns:
      What JSON can hold: how it was scored; `files`, with each one's `scores` as `value` and
      `interval`; and `differences` of each later file and the first, with `interval` and `p`.

    Raises:
      UserError: a file cannot be read, has another form or is given twice; captions and references
        do not belong together; SPICE does not run here; or `per_image` cannot be written, or is one
        of the files to read.
    """
    _check_once(captions)
    if per_image is not None:
        _check_written(per_image, [*captions, *references])
    if spice:
        check_spice()
    read = [read_captions(path) for path in captions]
    matched = match(read, read_references(references, split), allow_missing=allow_missing)
    scored = [_scores(scorer, matched, k, spice) for k in range(len(captions))]
    tables = [_table(one) for one in scored]
    intervals, apart = paired_intervals(tables, samples, seed)
    pairs = [(table, tables[0]) for table in tables[1:]]
    tests = randomisation_tests(pairs, samples, seed, ALL_TESTED)
    labels = _letters(len(captions))
    content = {
        "images": len(matched.references),
        "noun": SCORERS[scorer].noun,
        "left_out": matched.left_out,
        "reference_files": [str(path) for path in references],
        "references": digest(matched.references),
        **SCORERS[scorer].describe(matched.references, matched.captions[0]),
        "samples": samples,
        "seed": seed,
        "files": [
            {"label": label, "file": str(path), **_described(one, table, interval)}
            for label, path, one, table, interval in zip(
                labels, captions, scored, tables, intervals, strict=True
            )
        ],
        "differences": [
            {"a": label, "b": labels[0], "scores": _with_intervals(test, interval)}
            for label, test, interval in zip(labels[1:], tests, apart, strict=True)
        ],
    }
    if per_image is not None:
        files.write_text(per_image, _per_image(captions, matched, scored))
    return content


def _check_once(captions: Sequence[Path]) -> None:
    known: set[Path] = set()
    for path in captions:
        if path.resolve() in known:
            raise UserError(f"{path}: the same file is given twice; name each file once")
        known.add(path.resolve())


def _check_written(per_image: Path, inputs: Sequence[Path]) -> None:
    files.check_target(per_image)
    if per_image.resolve() in {path.resolve() for path in inputs}:
        raise UserError(f"{per_image}: one of the files to score; give --per-image another name")


def _scores(scorer: str, matched: Matched, number: int, spice: bool) -> Scores:
    try:
        scores = SCORERS[scorer].score(matched.references, matched.captions[number])
    except UserError as error:  # no reference has a word
        raise UserError(f"{matched.name}: {error}") from error
    if spice:
        add_spice(scores, matched.references, matched.captions[number])
    return scores


def _table(scores: Scores) -> Float[np.ndarray, "N 16"]:
    per_image = {name: np.array(of, np.float64) for name, of in scores.per_image.items()}
    return score_table(np.array(scores.bleu_counts, np.float64), per_image)


def _described(
    scores: Scores, table: Float[np.ndarray, "N 16"], intervals: Mapping[str, list[float]]
) -> dict[str, Any]:
    values = with_means(scores.values, table)
    found = {n: {"value": v, "interval": intervals.get(n)} for n, v in values.items()}
    return {"scores": found, "missing": scores.missing}


def _with_intervals(
    test: Mapping[str, Mapping[str, float]], intervals: Mapping[str, list[float]]
) -> dict[str, dict[str, Any]]:
    return {name: {**found, "interval": intervals[name]} for name, found in test.items()}


def _letters(count: int) -> list[str]:
    """A, B, ... Z, A1, B1, ..."""
    turns = [divmod(k, len(ascii_uppercase)) for k in range(count)]
    return [f"{ascii_uppercase[letter]}{turn or ''}" for turn, letter in turns]


def _per_image(captions: Sequence[Path], matched: Matched, scored: Sequence[Scores]) -> str:
    """A line for each caption of each file, with its scores."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    names = list(dict.fromkeys(name for one in scored for name in one.per_image))
    writer.writerow(["file", "image_id", "caption", *names])
    for path, texts, one in zip(captions, matched.captions, scored, strict=True):
        columns = [one.per_image.get(name, [""] * len(texts)) for name in names]
        for (image_id, text), *values in zip(texts.items(), *columns, strict=True):
            writer.writerow([path, image_id, text, *values])
    return written.getvalue()


# Tables


def score_tables(content: Mapping[str, Any]) -> list[Table]:
    """The scores, with a row for each file, and the differences from the first, if there are more.

    Args:
      content: what `score_files` returns.
    """
    tables = [_score_table(content)]
    return [*tables, _difference_table(content)] if content["differences"] else tables


def _score_table(content: Mapping[str, Any]) -> Table:
    found = content["files"]
    # Those without brevity penalty are in the JSON: a terminal is narrow.
    names = [name for name in found[0]["scores"] if not name.endswith("(no BP)")]
    rows = [[row["label"], *(_cell(n, **row["scores"][n]) for n in names)] for row in found]
    what = content["noun"]
    notes = [f"{row['label']}: {row['file']}" for row in found]
    notes.append(
        f"In brackets: the 95 % percentile bootstrap interval over {what} "
        f"({content['samples']:,} resamples, seed {content['seed']})."
    )
    notes += [
        f"{name} of a corpus is not the mean over its {what}; the interval is that mean's."
        for name, mean in MEANS.items()
        if name != mean and mean in names
    ]
    notes += [f"{row['label']}: {n} {why}" for row in found for n, why in row["missing"].items()]
    if content["left_out"]:
        notes.append(f"{content['left_out']:,} {what} are not in all files and were left out.")
    notes += [f"{name}: {text}" for name, text in content.get("signatures", {}).items()]
    return Table(f"Scores of {content['images']:,} {what}", ["", *names], rows, notes)


def _cell(name: str, value: float | None, interval: Sequence[float] | None, sign: str = "") -> Cell:
    """A score, or with the sign "+" a difference, and its interval."""
    if value is None:
        return Cell("left out")
    form = f"{sign}.{2 if name in _PERCENT else 3}f"
    ends = ", ".join(format(end, form) for end in interval or ())
    return Cell(format(value, form), f"[{ends}]" if ends else "")


def _difference_table(content: Mapping[str, Any]) -> Table:
    rows = [
        [
            f"{pair['a']} − {pair['b']}",
            name,
            _cell(name, score["difference"], score["interval"], "+"),
            p_text(score["p"]),
        ]
        for pair in content["differences"]
        for name, score in pair["scores"].items()
    ]
    note = (
        "In brackets: the 95 % interval of the difference, of paired resamples. p: two-sided "
        f"paired approximate randomisation; its least value is {1 / (1 + content['samples']):.2g}. "
        "It is not corrected for the number of files and scores."
    )
    return Table("Differences", ["files", "score", "difference", "p"], rows, [note])
