"""Tables as Markdown."""

from collections.abc import Iterable, Sequence

from show_attend_tell.reports.tables import Cell, Table


def text(tables: Iterable[Table]) -> str:
    """Tables with their titles and notes, one after the other."""
    return "\n".join(map(_section, tables))


def table(head: Sequence[str], rows: Iterable[Sequence[Cell | str]]) -> list[str]:
    """The lines of one table; the best cells are bold."""
    lines = [_line(head), f"|{'---|' * len(head)}"]
    return lines + [_line([_cell(cell) for cell in row]) for row in rows]


def _section(table_: Table) -> str:
    lines = [f"## {table_.title}", "", *table(table_.head, table_.rows)]
    return "\n".join([*lines, "", *(note + "\n" for note in table_.notes)])


def _line(cells: Sequence[str]) -> str:
    escaped = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return cell
    return f"{f'**{cell.text}**' if cell.best else cell.text} {cell.small}"
