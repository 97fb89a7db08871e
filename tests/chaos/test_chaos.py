"""The scripts of this folder at a scale of minutes; each says how it is run by hand for longer.

They start in a process of their own: they fork, and this one has JAX's threads.
"""

import subprocess
import sys
from pathlib import Path

import bad_cases
import long_training
import pytest
from long_training import Sample

HERE = Path(__file__).parent
SCRIPTS = {
    "kills": ("--rounds", "12"),
    "together": ("--rounds", "1"),
    "full_disk": ("--rounds", "16"),
    "bad_inputs": (),
    "long_training": ("--hours", "0.05"),
    "fuzz": ("--examples", "1000"),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_script(script):
    command = [sys.executable, str(HERE / f"{script}.py"), *SCRIPTS[script]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def test_the_table_has_200_bad_inputs_of_all_verbs():
    cases = bad_cases.cases()
    assert len(cases) >= 200
    verbs = {case.words[0] for case in cases if case.words}
    assert verbs >= {
        *("train", "config", "prepare", "inspect", "evaluate", "caption", "translate", "attend"),
        *("explore", "compare", "export", "publish", "tables", "gradient-variance", "sweep"),
        "score",
    }


@pytest.mark.parametrize(
    ("later", "wrong"),
    [
        (Sample(0, 1_000_000_000, 20, 9), []),
        (Sample(0, 1_040_000_000, 22, 11), []),
        (Sample(0, 1_060_000_000, 20, 9), ["memory"]),
        (Sample(0, 1_000_000_000, 23, 9), ["descriptors"]),
        (Sample(0, 1_000_000_000, 20, 12), ["threads"]),
    ],
)
def test_what_grows_is_seen_after_the_first_tenth(later, wrong):
    start = [Sample(0, 5_000_000_000, 99, 99)] * 10
    flat = [Sample(0, 1_000_000_000, 20, 9)] * 60
    found = long_training.growth([*start, *flat, *[later] * 30])
    assert [line.split()[0] for line in found] == wrong
