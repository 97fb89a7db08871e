"""The tiers of the suite name files that are there."""

from pathlib import Path

from conftest import LONGEST


def test_long_files_are_there_and_named_once():
    missing = [n for n in LONGEST if not (Path(__file__).parent / f"{n}.py").is_file()]
    assert missing == [] and len(set(LONGEST)) == len(LONGEST)
