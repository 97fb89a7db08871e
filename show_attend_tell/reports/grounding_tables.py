"""The tables of what `evaluate` measured besides scores: likelihood, grounding, faithfulness."""

from collections.abc import Mapping
from typing import Any

from show_attend_tell.reports.tables import Cell, Table

_LABELS = {
    "prior": "prior",
    "posterior": "posterior, given the word",
    "other_image": "prior, another image",
    "fixed_map_per_noun": "fixed map of the noun",
    "fixed_map": "fixed map",
    "middle": "middle of the picture",
    "uniform": "uniform",
}
_MEASURES = {
    "pointing": "pointing game",
    "in_box": "share in the boxes",
    "null_share": "null place",
}
_DIFFERENCES = {
    "prior_minus_fixed_map": "prior − fixed map",
    "prior_minus_other_image": "prior − another image",
    "prior_minus_middle": "prior − middle",
    "posterior_minus_prior": "posterior − prior",
}
_READINGS = {
    "own": "as trained",
    "uniform": "every place alike",
    "shuffled": "places shuffled",
    "mean": "mean vector at every place",
    "other_image": "places of another input",
    "none": "nothing",
}
_BY_KIND = (
    *(("prior", "pointing"), ("posterior", "pointing"), ("fixed_map", "pointing")),
    *(("prior", "in_box"), ("posterior", "in_box"), ("uniform", "in_box")),
)


def measured_tables(record: Mapping[str, Any]) -> list[Table]:
    """All tables of a score file's record; what was not measured is left out."""
    if "likelihood" not in record:  # of an ensemble
        return []
    tables = [_likelihood(record["likelihood"])]
    if record["grounding"]:
        tables += grounding_tables(record["grounding"])
    if "pictures" in record:
        tables.append(_pictures(record["pictures"]))
    found = record.get("faithfulness")
    return tables + (faithfulness_tables(found) if found else [])


def grounding_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Tables of the figures, of their differences, and of the figures by kind of entity.

    A table without rows is left out, and so is what was not measured.

    Args:
      summary: what `evaluation.pointing.summarise` returned.
    """
    made = (_figures(summary), _differences(summary), _kinds(summary))
    return [table for table in made if table.rows]


def faithfulness_tables(found: Mapping[str, Any]) -> list[Table]:
    """Tables of the likelihood under other readings, of deleted places, and of forced gaze.

    Args:
      found: what `evaluation.faithfulness.split_faithfulness` returned.
    """
    tables = [_readings(found)]
    if found["deletion"]:
        tables.append(_curves(found["deletion"], found["insertion"]))
    if found["gaze"]:
        tables.append(_gaze(found["gaze"]))
    return tables


def _likelihood(found: Mapping[str, Any]) -> Table:
    least = "" if found["kind"] == "exact" else "≤ "
    row = [found["kind"], f"{least}{found['perplexity']:.2f}", f"{least}{found['nats']:.3f}"]
    note = f"Of the references, over {found['tokens']:,} words and ends of sentences."
    if found["paths"]:
        note += f" The bound is the mean over {found['paths']} drawn paths of places."
    head = ["likelihood", "perplexity", "nats a token"]
    return Table("How probable the references are", head, [row], [note])


def _pictures(found: Mapping[str, Any]) -> Table:
    """The scores of a translator with the right, a wrong and no picture."""
    names = [name for name in next(iter(found.values())) if not name.startswith("BLEU-")]
    rows = [[which, *(_text(scores[name]) for name in names)] for which, scores in found.items()]
    note = (
        "The wrong picture is that of the sentence before. A translator that scores alike with all "
        "of them reads the sentence only."
    )
    return Table("Scores by picture", ["picture", *names], rows, [note])


def _readings(found: Mapping[str, Any]) -> Table:
    nll = found["nll"]
    rows: list[list[Cell | str]] = [
        [label, Cell(_text(nll[name])), Cell(_text(nll[name] - nll["own"], "+"))]
        for name, label in _READINGS.items()
        if name in nll
    ]
    notes = ["On the references. What attention reads is changed, the state's beginning is not."]
    if not found["depends"]:
        notes.append(
            "Hardly anything that this model says depends on where it looks: with the places of "
            f"an input shuffled it loses {_text(nll['shuffled'] - nll['own'])} nats a token."
        )
    head = ["what steps read", "nats a token", "more than as trained"]
    return Table("What attention is worth", head, rows, notes)


def _curves(deletion: Mapping[str, Any], insertion: Mapping[str, Any]) -> Table:
    both, orders = (deletion, insertion), ("ordered", "random")
    rows = []
    for k, share in enumerate(deletion["shares"]):
        values = [of[f"{order}_curve"][k] for of in both for order in orders]
        rows.append([f"{share:.0%}", *map(_text, values)])
    rows.append(["100%", *(_text(of["all"]) for of in both for _ in orders)])
    areas = [of[f"{order}_area"] for of in both for order in orders]
    rows.append(["mean over shares", *map(_text, areas)])
    head = ["places", "deleted by alpha", "deleted at random"]
    head += ["inserted by alpha", "inserted at random"]
    note = (
        f"Before the last words of {deletion['words']:,} phrases, in nats: how far log p falls "
        "when places become the mean vector of the training split, and how far it rises when "
        "they return."
    )
    return Table("Deleting and inserting places", head, rows, [note])


def _gaze(found: Mapping[str, Any]) -> Table:
    rows = [
        ["log p of the noun, places inside − outside of its boxes", found["inside_minus_outside"]],
        ["divergence of the next word between the two", found["divergence"]],
    ]
    note = (
        f"At the last words of {found['words']:,} phrases the step reads one place. Divergence: "
        "Jensen-Shannon, between even mixtures over the places inside and outside; at most 0.693."
    )
    shown = [[label, _text(value)] for label, value in rows]
    return Table("When the step must look at a place", ["", "nats"], shown, [note])


def _figures(summary: Mapping[str, Any]) -> Table:
    shown = {name: summary[name] for name in _LABELS if summary[name]}
    measures = dict(_MEASURES)
    if not any(figure.get("null_share") for figure in shown.values()):
        del measures["null_share"]
    rows = [
        [_LABELS[name], *(_cell(summary, name, figure, measure) for measure in measures)]
        for name, figure in shown.items()
    ]
    notes = [
        f"{summary['mentions']:,} phrases of {summary['images']:,} images. In brackets: 95 % "
        f"intervals over images, from {summary['samples']:,} resamples.",
        "Pointing game: the centre of the largest alpha's place lies in a box of the phrase's "
        "entity. Share in the boxes: of alpha over the real places.",
    ]
    return Table("Grounding", ["alpha", *measures.values()], rows, notes)


def _differences(summary: Mapping[str, Any]) -> Table:
    found = summary["differences"]
    measures = {k: v for k, v in _MEASURES.items() if any(k in of for of in found.values())}
    rows = [
        [label, *(_cell(summary, name, found[name], measure, "+") for measure in measures)]
        for name, label in _DIFFERENCES.items()
        if name in found
    ]
    note = "Both sides of a difference are resampled with the same images."
    return Table("Differences in grounding", ["", *measures.values()], rows, [note])


def _kinds(summary: Mapping[str, Any]) -> Table:
    shown = [(name, measure) for name, measure in _BY_KIND if summary[name]]
    head = ["kind", "phrases", *(f"{_LABELS[n].split(',')[0]}: {_MEASURES[m]}" for n, m in shown)]
    rows = [
        [kind, f"{of['mentions']:,}", *(_text(of[name][measure]) for name, measure in shown)]
        for kind, of in summary["kinds"].items()
    ]
    note = "A phrase of two kinds counts in both."
    return Table("Grounding by kind of entity", head, rows, [note])


def _cell(
    summary: Mapping[str, Any], name: str, figure: Mapping[str, Any], measure: str, sign: str = ""
) -> Cell:
    if measure not in figure:
        return Cell("—")
    interval = summary["intervals"][name][measure]
    small = f"[{', '.join(_text(end, sign) for end in interval)}]" if interval else ""
    return Cell(_text(figure[measure], sign), small)


def _text(value: float | None, sign: str = "") -> str:
    return "—" if value is None else f"{value:{sign}z.3f}"
