"""Tables as Markdown."""

import re
from collections.abc import Iterable, Sequence

from show_attend_tell.printable import markdown as escaped
from show_attend_tell.printable import printable
from show_attend_tell.reports.tables import Cell, Table

_TAG = re.compile(r"<(?=[a-z/!?])", re.IGNORECASE)  # notes are Markdown; only tags are not


def text(tables: Iterable[Table]) -> str:
    """Tables with their titles and notes, one after the other."""
    return "\n".join(map(_section, tables))


def table(head: Sequence[str], rows: Iterable[Sequence[Cell | str]]) -> list[str]:
    """The lines of one table; the best cells are bold."""
    lines = [_line(map(escaped, head)), f"|{'---|' * len(head)}"]
    return lines + [_line([_cell(cell) for cell in row]) for row in rows]


def _section(table_: Table) -> str:
    lines = [f"## {table_.title}", "", *table(table_.head, table_.rows)]
    notes = (_TAG.sub("&lt;", printable(note)) for note in table_.notes)
    return "\n".join([*lines, "", *(f"{note}\n" for note in notes)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |"


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return escaped(cell)
    text = escaped(cell.text)
    return f"{f'**{text}**' if cell.best else text} {escaped(cell.small)}"
