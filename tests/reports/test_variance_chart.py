"""The chart of the gradient's variance, and the file beside it."""

import json

import pytest

from show_attend_tell.reports.variance_chart import row_name, variance_chart, write_variance

ROWS = [
    {"estimator": "reinforce", "baseline": baseline, "credit": credit, "rollouts": 1}
    | {"relative": 1.0 / (1 + i), "snr": 0.1 * (i + j)}
    for i, baseline in enumerate(("none", "learned", "expected"))
    for j, credit in enumerate(("sequence", "to_go"))
]


def test_table_and_chart_are_written(tmp_path):
    record = {"rows": ROWS, "samples": 4, "weights": "step 3"}
    assert write_variance(tmp_path, record) == tmp_path / "gradient_variance.png"
    assert json.loads((tmp_path / "gradient_variance.json").read_text()) == record
    picture = (tmp_path / "gradient_variance.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000
    # What initial weights do does not replace it.
    chart = write_variance(tmp_path, record | {"weights": "fresh"})
    assert chart == tmp_path / "gradient_variance_fresh.png" and chart.exists()
    assert json.loads(chart.with_suffix(".json").read_text())["weights"] == "fresh"
    assert json.loads((tmp_path / "gradient_variance.json").read_text()) == record


def test_every_bar_has_the_length_of_its_number():
    relative, noise = variance_chart(ROWS).axes
    for axes, name in ((relative, "relative"), (noise, "snr")):
        for bars, credit in zip(axes.containers, ("sequence", "to_go"), strict=True):
            lengths = [bar.get_width() for bar in bars]
            wanted = [row[name] for row in ROWS if row["credit"] == credit]
            assert lengths == pytest.approx(wanted) and bars.get_label() == credit
    names = [label.get_text() for label in relative.get_yticklabels()]
    assert names == ["none", "learned", "expected"]


def test_a_row_is_called_by_its_baseline_or_else_by_its_estimator():
    of = {"estimator": "reinforce", "baseline": "leave_one_out", "credit": "word"}
    assert row_name(of | {"rollouts": 2}) == "leave_one_out"
    assert row_name(of | {"rollouts": 4}) == "leave_one_out of 4"
    assert row_name(of | {"estimator": "gumbel", "baseline": None, "rollouts": 1}) == "gumbel"


OF_REINFORCE = {"relative_bias": 0.0, "bias": 0.0, "bias_noise": 0.1, "against": "expected"}
KNOWN = [row | OF_REINFORCE for row in ROWS] + [
    {"estimator": name, "baseline": None, "credit": None, "rollouts": 1, "bias": 2.0} | numbers
    for name, numbers in {
        "gumbel": {"relative": 0.1, "snr": 2.0, "relative_bias": 0.4, "against": "expected"}
        | {"bias_noise": 0.9},
        "marginal": {"relative": 0.0, "snr": None, "relative_bias": 0.0, "against": "marginal"},
    }.items()
]


def test_known_biases_have_a_panel_and_rows_say_what_they_estimate():
    relative, noise, bias = variance_chart(KNOWN).axes
    names = [label.get_text() for label in relative.get_yticklabels()]
    wanted = ["none", "learned", "expected", "gumbel", "marginal"]
    assert [name.split("\n")[0] for name in names] == wanted
    assert [name.split()[-1] for name in names] == ["expected"] * 4 + ["marginal"]
    (of_gumbel, of_marginal) = bias.containers[-1]
    assert (of_gumbel.get_width(), of_marginal.get_width()) == (0.4, 0.0)
    # Both rows stand alone on their places, the bars of two credits beside each other.
    for bar, place in ((of_gumbel, 3), (of_marginal, 4)):
        assert bar.get_y() + bar.get_height() / 2 == pytest.approx(place)
    first, second = (axes[0] for axes in bias.containers[:2])
    assert first.get_y() + first.get_height() == pytest.approx(second.get_y()) == pytest.approx(0.0)
    texts = [text.get_text() for text in bias.texts]
    assert texts == ["0, within noise"] * 6 + ["0.4", "0"]
    # What is no number on its axis is written out.
    assert "exact" in [text.get_text() for text in noise.texts]
    assert "0" in [text.get_text() for text in relative.texts]
