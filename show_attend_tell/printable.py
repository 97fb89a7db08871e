"""Text that comes from data, made fit to show on a terminal, in a table or on a page.

Captions, names of files and values of settings may hold anything: commands to a terminal, marks
that turn the direction of text around, halves of characters, markup. None of it is obeyed. It is
shown as the escape by which Python would write it, such as `\\x1b`.
"""

import html
import re
from collections.abc import Sequence

# Control characters, among them line ends; marks that change the direction of text; line and
# paragraph separators; halves of surrogate pairs, as which Python also reads bytes that are no
# UTF-8. Joiners stay: emoji and many scripts need them.
_UNSEEN = re.compile(r"[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What begins a tag or a character reference, and marks that Markdown takes away. Intervals keep
# their brackets: only "](" makes a link of them.
_MARKDOWN = re.compile(
    r"<(?=[a-z/!?])|&(?=#?\w)|[\\`*|~]|(?<=\])\(|(?<!\w)_|_(?!\w)", re.IGNORECASE
)


def printable(text: object) -> str:
    """Text on one line, in which everything is visible.

    A byte of a file's name that is no UTF-8 becomes `\\xe9` or the like.
    """
    text = str(text)
    return text if text.isprintable() else _UNSEEN.sub(_escaped, text)


def markdown(text: object) -> str:
    """Text on one line, which Markdown shows as it is."""
    return _MARKDOWN.sub(
        lambda found: html.escape(found[0]) if found[0] in "<&" else f"\\{found[0]}",
        printable(text),
    )


def first_few(names: Sequence[str]) -> str:
    """The first three names, with dots where there are more."""
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def whole(text: str) -> str:
    """Text without halves of surrogate pairs, which no file can hold.

    They are left where a program cut a text in the middle of an emoji.
    """
    return text if text.isascii() else re.sub(r"[\ud800-\udfff]", "", text)


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()
