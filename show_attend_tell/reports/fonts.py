"""Fonts for words of any script, out of those that are installed.

DejaVu Sans, which comes with matplotlib, has Latin, Greek, Cyrillic, Arabic and Hebrew letters.
What it lacks is looked for in the fonts of the system. matplotlib shapes text and orders it from
right to left by itself from version 3.11 on.
"""

import logging
import warnings
from collections.abc import Iterable
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

FIRST = "DejaVu Sans"
REMEDY = (
    "install one, such as those of Noto (Debian: fonts-noto-core, and fonts-noto-cjk for Chinese, "
    "Japanese and Korean), and draw again"
)

_log = logging.getLogger(__name__)
_warned: set[str] = set()


def families_for(text: str) -> list[str]:
    """The names of fonts that have the characters of a text, the usual one first.

    Characters that no font has are drawn as boxes. The first time, a warning names them.
    """
    lacking = {c for c in text if not c.isspace()} - _letters(font_manager.findfont(FIRST))
    families = [FIRST]
    while lacking:
        path = _best_for(frozenset(lacking))
        if path is None:
            break
        lacking -= _letters(path)
        families.append(_family(path))
    _warn_of(lacking)
    return families


def file_for(text: str) -> str | None:
    """The font file that has most characters of a text; None for Latin ones, which Pillow's has."""
    characters = frozenset(character for character in text if not character.isspace())
    if all(ord(character) < 0x250 for character in characters):
        return None
    first = font_manager.findfont(FIRST)
    lacking = characters - _letters(first)
    path = _best_for(characters) if lacking else first
    _warn_of(lacking - _letters(path or first))
    return path


@cache
def _best_for(characters: frozenset[str]) -> str | None:
    """The installed font that has most of some characters; None if none has any."""
    found = [(len(characters & _letters(path)), path) for path in _installed()]
    most, path = max(found, key=lambda pair: pair[0], default=(0, ""))
    return path if most else None


@cache
def _installed() -> tuple[str, ...]:
    """The fonts of the system, those of Noto and plain ones first."""

    def order(path: str) -> tuple[bool, bool, str]:
        name = path.rpartition("/")[2].lower()
        return not name.startswith("noto"), "regular" not in name, name

    return tuple(sorted(font_manager.findSystemFonts(), key=order))


@cache
def _letters(path: str) -> frozenset[str]:
    """The characters that a font has; empty if it cannot be read."""
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (RuntimeError, OSError):
        return frozenset()


@cache
def _family(path: str) -> str:
    """Makes a font known to matplotlib, which may have been installed since it looked."""
    font_manager.fontManager.addfont(path)
    return FT2Font(path).family_name


def _warn_of(characters: Iterable[str]) -> None:
    """Warns of characters without a font, of each once."""
    new = sorted(set(characters) - _warned)
    if new:
        _warned.update(new)
        # matplotlib says the same of each of them, whenever it draws one.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        shown = " ".join(new[:5]) + " ..." * (len(new) > 5)
        _log.warning("no installed font has %s: drawn as boxes; %s", shown, REMEDY)
