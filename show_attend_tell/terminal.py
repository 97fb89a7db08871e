"""The terminal as rich sees it."""

from typing import Any

from rich.console import Console
from rich.text import Text

from show_attend_tell.printable import printable


class Terminal(Console):
    """A console for text from data: it shows brackets as brackets, and obeys nothing."""

    def __init__(self, **options: Any):
        """Takes the options of rich's console."""
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Makes a text of a string: rich does so for all that it prints, and for tables' cells."""
        return super().render_str(printable(text), **options)
