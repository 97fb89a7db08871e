"""The tables of grounding, from a summary made by hand."""

import copy

from show_attend_tell.reports import markdown
from show_attend_tell.reports.grounding_tables import grounding_tables, measured_tables

GROUP = {
    "mentions": 1234,
    "images": 56,
    "prior": {"pointing": 0.6204, "in_box": 0.5, "null_share": 0.0},
    "posterior": None,
    "other_image": None,
    "fixed_map": {"pointing": 0.55, "in_box": 0.36},
    "fixed_map_per_noun": None,
    "middle": {"pointing": 0.54},
    "uniform": {"in_box": 0.3},
    "differences": {"prior_minus_fixed_map": {"pointing": 0.0704, "in_box": -0.1}},
    "intervals": {
        "prior": {"pointing": [0.6, 0.64], "in_box": [0.48, 0.52], "null_share": [0.0, 0.0]},
        "fixed_map": {"pointing": [0.53, 0.57], "in_box": [0.35, 0.37]},
        "middle": {"pointing": [0.52, 0.56]},
        "uniform": {"in_box": [0.29, 0.31]},
        "prior_minus_fixed_map": {"pointing": [0.05, 0.09], "in_box": [-0.12, -1e-6]},
    },
}


def summary(**changes):
    kind = {"people": copy.deepcopy(GROUP) | {"mentions": 70}}
    return {"samples": 10000, "seed": 0} | copy.deepcopy(GROUP) | {"kinds": kind} | changes


def test_figures_differences_and_kinds_as_markdown():
    text = markdown.text(grounding_tables(summary()))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in [
        "| alpha | pointing game | share in the boxes |",
        "| prior | 0.620 [0.600, 0.640] | 0.500 [0.480, 0.520] |",
        "| fixed map | 0.550 [0.530, 0.570] | 0.360 [0.350, 0.370] |",
        "| middle of the picture | 0.540 [0.520, 0.560] | — |",
        "| uniform | — | 0.300 [0.290, 0.310] |",
        "| prior − fixed map | +0.070 [+0.050, +0.090] | -0.100 [-0.120, +0.000] |",
        "| people | 70 | 0.620 | 0.550 | 0.500 | 0.300 |",
    ]:
        assert line in lines, line
    assert "1,234 phrases of 56 images" in text and "10,000 resamples" in text
    assert "posterior" not in text and "null place" not in text


def test_a_null_place_and_a_posterior_have_their_columns_and_rows():
    made = summary(posterior={"pointing": 0.7, "in_box": 0.6, "null_share": 0.05})
    made["intervals"]["posterior"] = dict.fromkeys(("pointing", "in_box", "null_share"), [0.0, 1.0])
    made["kinds"] = {}
    first, second = grounding_tables(made)
    assert first.head[-1] == "null place" and second.title == "Differences in grounding"
    [row] = [row for row in first.cells if row[0].text == "posterior, given the word"]
    assert [cell.text for cell in row[1:]] == ["0.700", "0.600", "0.050"]


def test_nothing_measured_is_shown_as_dashes():
    made = summary(prior={"pointing": None, "in_box": None}, kinds={}, differences={})
    made["intervals"]["prior"] = {"pointing": None, "in_box": None}
    [table] = grounding_tables(made)
    assert [cell.text + cell.small for cell in table.cells[0]] == ["prior", "—", "—"]


def curve(scale):
    """Changes of log p at two shares."""
    made = {"words": 1234, "share": 0.2, "shares": [0.2, 0.6], "all": 4 * scale}
    return made | {
        "ordered": scale,
        "random": 0.1,
        "ordered_curve": [scale, 2 * scale],
        "random_curve": [0.1, 0.2],
        "ordered_area": 1.5,
        "random_area": 0.75,
    }


def record(**changes):
    """What a score file holds besides scores."""
    return {
        "likelihood": {
            "nats": 2.5,
            "perplexity": 12.1825,
            "tokens": 4321,
            "kind": "bound",
            "paths": 5,
        },
        "grounding": None,
        "faithfulness": {
            "nll": {"own": 2.5, "uniform": 2.75, "shuffled": 2.504},
            "depends": False,
            "deletion": curve(0.5),
            "insertion": curve(0.7),
            "gaze": {"words": 470, "inside_minus_outside": 0.25, "divergence": 0.125},
        }
        | changes,
    }


def test_likelihood_readings_curves_and_gaze_as_markdown():
    text = markdown.text(measured_tables(record()))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in [
        "| bound | ≤ 12.18 | ≤ 2.500 |",
        "| every place alike | 2.750 | +0.250 |",
        "| 20% | 0.500 | 0.100 | 0.700 | 0.100 |",
        "| 60% | 1.000 | 0.200 | 1.400 | 0.200 |",
        "| 100% | 2.000 | 2.000 | 2.800 | 2.800 |",
        "| mean over shares | 1.500 | 0.750 | 1.500 | 0.750 |",
        "| divergence of the next word between the two | 0.125 |",
    ]:
        assert line in lines, line
    assert "4,321 words" in text and "5 drawn paths" in text and "1,234 phrases" in text
    assert "another image" not in text and "Grounding" not in text
    [said] = [line for line in lines if "depends on where it looks" in line]
    assert "0.004 nats a token" in said


def test_what_was_not_measured_has_no_table():
    made = record(deletion=None, insertion=None, gaze=None, depends=True)
    made["likelihood"] |= {"kind": "exact", "paths": None}
    made["grounding"] = summary()
    text = markdown.text(measured_tables(made))
    assert "Deleting" not in text and "must look" not in text and "| exact | 12.18 |" in text
    assert "depends on where" not in text and "drawn paths" not in text and "Grounding" in text
