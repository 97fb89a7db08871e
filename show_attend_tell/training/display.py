"""What a run shows while it trains: one line that changes on a terminal, lines in a log."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Seconds between two lines that stay. On a terminal the changing line shows the rest.
ON_TERMINAL, IN_LOG = 10.0, 1.0


class Display:
    """Shows steps and validations. Use it as a context: its end shows what was held back.

    On a terminal one line shows the step, the newest watched score and the newest loss. Lines of
    validations stay above it, at most one every `ON_TERMINAL` seconds. A log has a line for each
    validation or checkpoint instead, at most one every `IN_LOG` seconds.

    Args:
      console: where to show it; a quiet one shows nothing.
      total_steps, first_step: of the run, and of this part of it.
      clock: tells seconds.
    """

    def __init__(
        self,
        console: Console,
        total_steps: int,
        first_step: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console, self._total, self._clock = console, total_steps, clock
        can_change = console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)
        self._changes = can_change and not console.quiet
        self._interval = ON_TERMINAL if can_change else IN_LOG
        self._watched, self._held, self._printed = "", "", -float("inf")
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=console,
            disable=not self._changes,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=first_step, status="")

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()
        if self._held:
            self._print(self._held)

    def advance(self, step: int, status: str) -> None:
        """Moves the changing line to a step; `status` words its loss and speed."""
        shown = "  ".join(part for part in (self._watched, status) if part)
        self._bar.update(self._task, completed=step, status=shown)

    def validated(self, step: int, status: str, watched: str, scores: str) -> None:
        """Shows a validation.

        Args:
          step, status: as in `advance`.
          watched: the score that picks the best weights, with its name.
          scores: all scores to show.
        """
        self._watched = watched
        self.advance(step, status)
        if self._changes:
            self._line(f"step {step}, validation: {scores}")
        else:
            self._line(f"{self._where(step, status)}  validation: {scores}")

    def saved(self, step: int, status: str) -> None:
        """Shows a checkpoint between validations: in a log only."""
        if not self._changes:
            self._line(self._where(step, status))

    def _where(self, step: int, status: str) -> str:
        return f"step {step} of {self._total}{'  ' if status else ''}{status}"

    def _line(self, text: str) -> None:
        """Prints a line, or holds it back for the next one to take its place."""
        self._held = text
        if self._clock() >= self._printed + self._interval:
            self._print(text)

    def _print(self, text: str) -> None:
        # As it is: a log's lines are as long as they are, and brackets are no markup.
        self._console.print(text, markup=False, soft_wrap=True)
        self._held, self._printed = "", self._clock()
