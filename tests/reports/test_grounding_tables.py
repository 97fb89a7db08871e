"""The tables of grounding, from a summary made by hand."""

import copy

from show_attend_tell.reports import markdown
from show_attend_tell.reports.grounding_tables import grounding_tables

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
