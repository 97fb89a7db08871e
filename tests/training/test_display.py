"""What a run shows while it trains."""

import io
import re

import pytest
from rich.console import Console

from show_attend_tell.training.display import Display


def shown(seconds, *, terminal=False, quiet=False, width=80, steps=30):
    """What is written during steps of so many seconds, each with a validation."""
    file, now = io.StringIO(), [0.0]
    console = Console(
        file=file, force_terminal=terminal, width=width, quiet=quiet, color_system=None, _environ={}
    )
    with Display(console, steps, 0, lambda: now[0]) as display:
        for step in range(1, steps + 1):
            now[0] += seconds
            status = f"loss {step / 10:.3f}  5,120 tokens/s"
            display.advance(step, status)
            display.validated(step, status, f"CIDEr {step}", f"CIDEr {step}, BLEU-4 [b]0.1[/b]")
    return file.getvalue()


def validations(text):
    return [int(step) for step in re.findall(r"^step (\d+)\b.*CIDEr", text, re.MULTILINE)]


def test_a_log_has_a_line_for_each_validation():
    lines = shown(2.0).splitlines()
    assert len(lines) == 30
    assert lines[6] == (
        "step 7 of 30  loss 0.700  5,120 tokens/s  validation: CIDEr 7, BLEU-4 [b]0.1[/b]"
    )


def test_a_log_has_at_most_one_line_a_second_and_always_the_last():
    assert validations(shown(0.25)) == [1, 5, 9, 13, 17, 21, 25, 29, 30]
    assert validations(shown(0.0)) == [1, 30]


def test_checkpoints_between_validations_are_in_a_log_only():
    for terminal in (False, True):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, _environ={})
        with Display(console, 9, 0) as display:
            display.saved(4, "loss 1.000")
        assert ("step 4 of 9  loss 1.000" in file.getvalue()) != terminal


def test_a_terminal_has_one_line_that_changes():
    # The bar is erased before a line goes above it.
    written = shown(0.25, terminal=True).replace("\r\x1b[2K", "\n")
    assert validations(re.sub("\x1b.*?[A-Za-z]", "", written)) == [1, 30]
    [last] = [line for line in written.splitlines() if "30/30" in line]
    # It fits into a narrow window, so it stays a single line.
    assert last.endswith("CIDEr 30  loss 3.000  5,120 tokens/s")
    slow = shown(5.0, terminal=True).replace("\r\x1b[2K", "\n")
    assert validations(re.sub("\x1b.*?[A-Za-z]", "", slow))[:3] == [1, 3, 5]


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_nothing(terminal):
    assert shown(2.0, terminal=terminal, quiet=True) == ""


def test_what_was_held_back_is_shown_when_a_run_fails():
    file = io.StringIO()
    console = Console(file=file, _environ={})
    with pytest.raises(RuntimeError), Display(console, 9, 0, lambda: 0.0) as display:
        for step in (1, 2, 3):
            display.validated(step, "", "CIDEr", "CIDEr 1")
        raise RuntimeError
    assert validations(file.getvalue()) == [1, 3]
