"""The chart of the gradient's variance, and the file beside it."""

import json

import pytest

from show_attend_tell.reports.variance_chart import variance_chart, write_variance

ROWS = [
    {"baseline": baseline, "credit": credit, "relative": 1.0 / (1 + i), "snr": 0.1 * (i + j)}
    for i, baseline in enumerate(("none", "learned", "expected"))
    for j, credit in enumerate(("sequence", "to_go"))
]


def test_table_and_chart_are_written(tmp_path):
    record = {"rows": ROWS, "samples": 4}
    write_variance(tmp_path, record)
    assert json.loads((tmp_path / "gradient_variance.json").read_text()) == record
    picture = (tmp_path / "gradient_variance.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000


def test_every_bar_has_the_length_of_its_number():
    relative, noise = variance_chart(ROWS).axes
    for axes, name in ((relative, "relative"), (noise, "snr")):
        for bars, credit in zip(axes.containers, ("sequence", "to_go"), strict=True):
            lengths = [bar.get_width() for bar in bars]
            wanted = [row[name] for row in ROWS if row["credit"] == credit]
            assert lengths == pytest.approx(wanted) and bars.get_label() == credit
    names = [label.get_text() for label in relative.get_yticklabels()]
    assert names == ["none", "learned", "expected"]
