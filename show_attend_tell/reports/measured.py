"""What a score file holds besides scores, for a comparison: likelihood, grounding, faithfulness."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

# Figures by name: where they are in `grounding`, as `evaluation.pointing.summarise` made it.
_GROUNDING = {
    "pointing: prior": ("prior", "pointing"),
    "pointing: posterior": ("posterior", "pointing"),
    "pointing: fixed map": ("fixed_map", "pointing"),
    "pointing: middle": ("middle", "pointing"),
    "in the boxes: prior": ("prior", "in_box"),
    "in the boxes: posterior": ("posterior", "in_box"),
    "in the boxes: uniform": ("uniform", "in_box"),
}
_COSTS = {"uniform α costs": "uniform", "shuffled places cost": "shuffled"}
_DELETED = {"deleted by α": "ordered", "deleted at random": "random"}
PERPLEXITY = "perplexity"
NAMES = (PERPLEXITY, *_GROUNDING, *_COSTS, *_DELETED, "ratio")


class Figure(NamedTuple):
    """A figure, with its 95 % interval where one was stored."""

    value: float
    interval: list[float] | None = None


class Measured(NamedTuple):
    """The figures of a score file by name, of `NAMES`; those that were not measured are left out.

    `bound`: its perplexity is an upper bound of the model's.
    """

    figures: dict[str, Figure]
    bound: bool


def read_measured(record: Mapping[str, Any]) -> Measured:
    """The figures of a score file's content; none of a file of version 0.2 or before.

    Raises:
      KeyError, TypeError, ValueError: the content is damaged.
    """
    found, bound = {}, False
    if likelihood := record.get("likelihood"):
        found[PERPLEXITY] = Figure(_number(likelihood["perplexity"]))
        bound = likelihood["kind"] != "exact"
    if grounding := record.get("grounding"):
        for name, (what, measure) in _GROUNDING.items():
            if grounding[what]:
                found[name] = _with_interval(grounding, what, measure)
    if faithfulness := record.get("faithfulness"):
        nll = faithfulness["nll"]
        for name, reading in _COSTS.items():
            found[name] = Figure(_number(nll[reading]) - _number(nll["own"]))
        if deletion := faithfulness["deletion"]:
            for name, order in _DELETED.items():
                found[name] = Figure(_number(deletion[order]))
            if deletion["random"] > 0:
                found["ratio"] = Figure(deletion["ordered"] / deletion["random"])
    return Measured(found, bound)


def _with_interval(grounding: Mapping[str, Any], what: str, measure: str) -> Figure:
    low, high = grounding["intervals"][what][measure]
    return Figure(_number(grounding[what][measure]), [_number(low), _number(high)])


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number
