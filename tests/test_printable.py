"""Text from data: what is shown of it, on a terminal and in Markdown."""

import ast
import io
from pathlib import Path

import pytest
from rich.table import Table

from show_attend_tell.printable import markdown, printable, whole
from show_attend_tell.terminal import Terminal

PACKAGE = Path(__file__).parents[1] / "show_attend_tell"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ein Hund läuft 🐕 über [bold]Gras[/b].", "Ein Hund läuft 🐕 über [bold]Gras[/b]."),
        ("👩\u200d🚀 स्त्री", "👩\u200d🚀 स्त्री"),  # joined by marks that stay
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("two\nlines\r\tand\u2028more", "two\\nlines\\r\\tand\\u2028more"),
        ("gpj.\u202etxt", "gpj.\\u202etxt"),
        ("caf\udce9.jpg", "caf\\xe9.jpg"),  # the byte of a name that is no UTF-8
        ("half \ud83d", "half \\ud83d"),
        (Path("a b"), "a b"),
    ],
)
def test_everything_in_it_is_visible(text, shown):
    assert printable(text) == shown
    shown.encode()


def test_half_a_character_is_left_out():
    assert whole("a dog \ud83d runs 🐕") == "a dog  runs 🐕"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("a|b *c* `d` \\e", "a\\|b \\*c\\* \\`d\\` \\\\e"),
        ("![x](http://x.y)", "![x]\\(http://x.y)"),
        ("&lt; & < 0.0001 [0.1, 0.2]", "&amp;lt; & < 0.0001 [0.1, 0.2]"),
        ("attention.kind=soft train_loss _up_", "attention.kind=soft train_loss \\_up\\_"),
        ("\x1b]0;title\x07", "\\\\x1b]0;title\\\\x07"),
    ],
)
def test_markdown_shows_it_as_it_is(text, shown):
    assert markdown(text) == shown


def test_the_terminal_takes_brackets_and_codes_for_text():
    hostile = "x [/b] [bold]y :smile: \x1b[2J caf\udce9"
    table = Table(title=hostile)
    table.add_column(hostile)
    table.add_row(hostile)
    file = io.StringIO()
    console = Terminal(file=file, width=120)
    console.print(hostile)
    console.print(table)
    printed = file.getvalue()
    assert printed.count("x [/b] [bold]y :smile: \\x1b[2J caf\\xe9") == 4
    assert "\x1b" not in printed


def calls(path):
    """The names that a module calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {node.id for node in found if isinstance(node, ast.Name)}


def test_all_that_is_printed_goes_through_one_console_and_one_function():
    for path in PACKAGE.rglob("*.py"):
        assert "Console" not in calls(path), f"{path}: use terminal.Terminal"
        assert "print" not in calls(path) or path.name == "common.py", f"{path}: use cli.common.say"
