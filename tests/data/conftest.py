"""Fixtures for the tests of data."""

import logging
from collections.abc import Callable

import pytest


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Returns what the package has logged since the last call, one message per line."""
    caplog.set_level(logging.INFO, "show_attend_tell")

    def logged() -> str:
        ours = [r.getMessage() for r in caplog.records if r.name.startswith("show_attend_tell")]
        caplog.clear()
        return "".join(f"{message}\n" for message in ours)

    return logged
