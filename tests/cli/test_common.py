"""What verbs share."""

from show_attend_tell.cli.common import print_table
from show_attend_tell.reports.tables import Cell, Table


def test_tables_are_printed_with_title_brackets_and_notes(capsys):
    rows = [["prior", Cell("0.620", "[0.600, 0.640]")], ["[bold]odd", "—"]]
    print_table(Table("Grounding", ["alpha", "pointing"], rows, ["A note [in brackets]."]))
    printed = capsys.readouterr().out
    for text in ("Grounding", "pointing", "0.620 [0.600, 0.640]", "[bold]odd", "—"):
        assert text in printed
    assert printed.rstrip().endswith("A note [in brackets].")
