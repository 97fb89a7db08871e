"""A few damaged files for each reader of files that come from others; `fuzz.py` has more."""

import fuzz
import pytest

READERS = {reader.name: reader for reader in fuzz.readers()}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_reported(name, tmp_path):
    assert fuzz.check(READERS[name], tmp_path, 15, derandomize=True) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_read_or_reported(name, tmp_path):
    assert fuzz.check(READERS[name], tmp_path, 50, derandomize=True) >= 40
