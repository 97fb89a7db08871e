"""A Griffe extension: tables in the docstrings of modules keep their columns on the site.

Such a table is indented and follows its sentence directly. Markdown would run it into the
paragraph; with an empty line before and after, it is preformatted text.
"""

from typing import Any

import griffe


class Tables(griffe.Extension):
    """Puts empty lines around indented lines."""

    def on_module(self, *, mod: griffe.Module, **_: Any) -> None:
        """Called for every module that is loaded."""
        if mod.docstring is None:
            return
        lines: list[str] = []
        indented = False
        for line in mod.docstring.value.splitlines():
            starts = line.startswith("    ")
            if starts != indented and lines and lines[-1] and line:
                lines.append("")
            if line:
                indented = starts
            lines.append(line)
        mod.docstring.value = "\n".join(lines)
