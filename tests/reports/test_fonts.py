"""Fonts for words of any script."""

import logging

import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from show_attend_tell.reports import fonts


@pytest.fixture
def system(monkeypatch):
    """A system whose only further fonts are two of matplotlib's; returns their paths."""
    found = [font_manager.findfont(name) for name in ("DejaVu Sans Mono", "STIXGeneral")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: found)
    monkeypatch.setattr(fonts, "_warned", set())
    caches = (fonts._best_for, fonts._installed, fonts._letters, fonts._family)
    for cached in caches:
        cached.cache_clear()
    yield found
    for cached in caches:
        cached.cache_clear()


def only(path: str, *, rather_than: str) -> str:
    """A letter that a font has, and another has not."""
    letters = set(FT2Font(path).get_charmap()) - set(FT2Font(rather_than).get_charmap())
    return next(chr(n) for n in sorted(letters) if chr(n).isprintable())


def test_usual_letters_need_no_other_font(system):
    assert fonts.families_for("Ein Mädchen, собака, كلب") == ["DejaVu Sans"]
    assert fonts.file_for("Ein Mädchen") is None
    assert fonts.file_for("собака") == font_manager.findfont("DejaVu Sans")


def test_other_letters_are_looked_for_in_the_systems_fonts(system):
    letter = only(system[1], rather_than=font_manager.findfont("DejaVu Sans"))
    assert fonts.families_for(f"a {letter}") == ["DejaVu Sans", "STIXGeneral"]
    assert fonts.file_for(letter) == system[1]


def test_letters_that_no_font_has_are_said_once(system, caplog):
    caplog.set_level(logging.WARNING)
    assert fonts.families_for("狗 dog") == ["DejaVu Sans"]
    assert "no installed font has 狗: drawn as boxes; install one" in caplog.text
    caplog.clear()
    fonts.families_for("狗")
    assert not caplog.text
