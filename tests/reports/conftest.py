"""A comparison that the tests of figures, tables and the page look at."""

import pytest
from finished_runs import HARD, RIGHT, WRONG, half_right, write_json, write_run

from show_attend_tell.reports.compare import compare


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Two seeds of soft and one hard run, compared."""
    root = tmp_path_factory.mktemp("three")
    runs = [
        write_run(root / "soft-0", RIGHT),
        write_run(root / "hard", WRONG, settings=HARD, contexts=("expected", "argmax")),
        write_run(root / "soft-1", half_right(), settings={"seed": 1}, progress=(0.3, 0.5, 0.6)),
    ]
    variance = {"rows": [{"baseline": "none", "credit": "to_go", "variance": 12.5, "snr": 0.25}]}
    write_json(runs[1] / "gradient_variance.json", variance)
    return compare(runs, "val", root / "out", samples=20000), root / "out"
