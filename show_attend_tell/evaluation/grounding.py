"""What attention maps do, in numbers: how sharp they are, how they move, which objects they find.

T steps, L = h * w locations; the geometry is that of `inference.attention_record`.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from show_attend_tell.data.examples import Box
from show_attend_tell.data.vocabulary import whole_words
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.boxes import box_cover
from show_attend_tell.evaluation.nouns import class_words
from show_attend_tell.files import replacing
from show_attend_tell.inference.attention_record import AttentionRecord

STATIC_CHANGE = 0.01  # a mean change below this counts as maps that never move


# Which words name an object


def steps_naming(record: AttentionRecord, box: Box) -> list[int]:
    """The steps that name the box's object; of a word of several pieces, that of the last.

    If the true caption has the object's noun at a known position, that is the word at this
    position, provided that it is the noun. If only the class is known, it is every word for the
    class (see `class_words`).
    """
    words = whole_words(record.tokens)
    if box.word_index >= 0:
        there = words[box.word_index : box.word_index + 1]
        return [t for t, word in there if word == box.label]
    names = class_words(box.label)
    return [t for t, word in words if word.lower() in names]


# Statistics


def attention_statistics(records: Sequence[AttentionRecord]) -> dict[str, Any]:
    """Describes a run's attention maps in numbers.

    A step is an emitted token, `<eos>` included. Means are over all steps of all captions; the mean
    change is over all pairs of consecutive steps of one caption.

    An object is matched if the caption says its noun at the position where the true caption has it
    (word_index counts from the caption's start; the order of nouns would not be enough). If only
    classes are known, all objects of one class in a picture count as one, in the union of their
    boxes, and every word for the class is a match (`class_words`). Only matches are measured, each
    at its step. Attention inside a box is sum_i alpha_i * (share of cell i's area inside the box).
    A grown box extends the box by one cell, (1 / h, 1 / w), on each side, within the picture.
    Uniform attention has 1 / L at every location.

    Returns:
      A dict that JSON can hold; a mean over nothing is None.
      images, steps, grid: what was measured; grid is None for sentences.
      centres: "measured" or "computed", where the places were taken to look; "both" if records
        differ; None for sentences.
      mean_entropy: of alpha, in nats; uniform_entropy = log L is the most it can be.
      effective_patches: exp(mean_entropy), from 1 to L.
      mean_change: total variation 1/2 sum_i |alpha_ti - alpha_(t-1)i|, from 0 (same map) to 1,
        over `pairs` pairs.
      mean_beta: of the gate.
      static_maps: whether mean_change is below `STATIC_CHANGE`; None without pairs.
      warnings: lines for the user; there is one if static_maps is not False.
      objects: None if no record has boxes, else a dict: `matched` is the number of matches,
        `unmatched` the number of objects without one. `in_box` and `in_grown_box` are mean shares
        of attention over the matches, `uniform_in_box` and `uniform_in_grown_box` the shares of
        uniform attention.

    Raises:
      UserError: there are no records.
      ValueError: the records' grids differ.
    """
    if not records:
        raise UserError("there are no captions whose attention could be measured")
    sentences = all(record.is_sentence for record in records)
    grids = {record.grid for record in records}
    if len(grids) > 1 and not sentences:
        raise ValueError(f"records of different grids: {sorted(grids)}")
    centres = {record.centres for record in records}
    alphas = [record.alpha.astype(np.float64) for record in records]
    entropies = np.concatenate([_entropy(alpha) for alpha in alphas])
    changes = np.concatenate([_change(alpha) for alpha in alphas])
    entropy, change = _mean(entropies), _mean(changes)
    uniform_entropy = _uniform_entropy(records)
    return {
        "images": len(records),
        "steps": len(entropies),
        "grid": None if sentences else list(records[0].grid),
        "centres": None if sentences else centres.pop() if len(centres) == 1 else "both",
        "mean_entropy": entropy,
        "uniform_entropy": uniform_entropy,
        "effective_patches": None if entropy is None else math.exp(entropy),
        "mean_change": change,
        "pairs": len(changes),
        "mean_beta": _mean(np.concatenate([record.beta.astype(np.float64) for record in records])),
        "static_maps": None if change is None else change < STATIC_CHANGE,
        "warnings": _warnings(entropy, uniform_entropy, change),
        "objects": _object_statistics(records),
    }


def write_statistics(path: Path, statistics: dict[str, Any]) -> None:
    """Writes what `attention_statistics` returned as JSON."""
    with replacing(path) as file:
        file.write((json.dumps(statistics, indent=2, allow_nan=False) + "\n").encode())


def _entropy(alpha: Float[np.ndarray, "T L"]) -> Float[np.ndarray, " T"]:
    """The entropy of each row, scaled to sum to 1, in nats; 0 log 0 = 0."""
    alpha = alpha / np.maximum(alpha.sum(axis=1, keepdims=True), np.finfo(alpha.dtype).tiny)
    return -(alpha * np.log(alpha, where=alpha > 0, out=np.zeros_like(alpha))).sum(axis=1)


def _change(alpha: Float[np.ndarray, "T L"]) -> Float[np.ndarray, " T-1"]:
    """Total variation between consecutive rows."""
    return np.abs(np.diff(alpha, axis=0)).sum(axis=1) / 2


def _uniform_entropy(records: Sequence[AttentionRecord]) -> float:
    """The mean over all steps of log L, in nats; L differs between sentences."""
    steps = np.array([len(record.tokens) for record in records])
    places = np.array([math.prod(record.grid) for record in records])
    return float(steps @ np.log(places) / steps.sum())


def _warnings(entropy: float | None, uniform_entropy: float, change: float | None) -> list[str]:
    if change is None:
        return ["no caption has two tokens, so whether the maps move is unknown"]
    if change >= STATIC_CHANGE:
        return []
    return [
        f"maps never move: from word to word alpha changes by {change:.2g} of at most 1 (entropy "
        f"{entropy:.3g} of at most {uniform_entropy:.3g} nats), so the pictures say nothing about "
        "single words"
    ]


def _mean(values: Float[np.ndarray, " N"]) -> float | None:
    return float(values.mean()) if values.size else None


# Boxes


def _object_statistics(records: Sequence[AttentionRecord]) -> dict[str, Any] | None:
    names = ("in_box", "in_grown_box", "uniform_in_box", "uniform_in_grown_box")
    shares: dict[str, list[float]] = {name: [] for name in names}
    matched = unmatched = 0
    for record in records:
        for boxes in _objects(record):
            steps = steps_naming(record, boxes[0])
            if not steps:
                unmatched += 1
                continue
            matched += len(steps)
            for name, cover in _covers(record, boxes).items():
                for t in steps:
                    shares[name].append(float(record.alpha[t].astype(np.float64) @ cover))
                    shares[f"uniform_{name}"].append(float(cover.mean()))
    if matched + unmatched == 0:
        return None
    counts = {"matched": matched, "unmatched": unmatched}
    return counts | {name: _mean(np.array(values)) for name, values in shares.items()}


def _objects(record: AttentionRecord) -> list[list[Box]]:
    """The boxes of each object."""
    objects: dict[tuple[str, int], list[Box]] = {}
    for box in record.boxes:
        objects.setdefault((box.label, box.word_index), []).append(box)
    return list(objects.values())


def _covers(record: AttentionRecord, boxes: Sequence[Box]) -> dict[str, Float[np.ndarray, " L"]]:
    """The share of each cell inside the boxes, and inside the boxes grown by one cell."""
    height, width = record.grid
    covers = {}
    for name, y, x in (("in_box", 0.0, 0.0), ("in_grown_box", 1 / height, 1 / width)):
        edges = [(b.ymin - y, b.xmin - x, b.ymax + y, b.xmax + x) for b in boxes]
        covers[name] = box_cover(edges, record.row_centres, record.column_centres)
    return covers
