"""METEOR's words: the tokens of a text as its option `-norm` makes them, and their synonyms.

The word lists are read out of METEOR's own archive, which pycocoevalcap ships.
"""

import functools
import re
import zipfile
from pathlib import Path

from pycocoevalcap.meteor import meteor as shipped

from show_attend_tell.errors import UserError

FOLDER = Path(shipped.__file__).parent
_ARCHIVE = FOLDER / shipped.METEOR_JAR

# Java's classes of characters, which are narrower than Python's.
_ALPHA = "A-Za-zŠŽšžŸÀ-ÖØ-öø-ž\u0400-\u0527\ua640-\ua66e\ua67e-\ua697\u1d00-\u1d7f"
_ALNUM = f"0-9{_ALPHA}"
_SYMBOL = re.compile(rf"([^{_ALNUM} \t\n\x0b\f\r.'`,\-‘’])")
# In this order. Each replacement sees what those before it left.
_COMMAS = [
    (re.compile("([^0-9]),([^0-9])"), r"\1 , \2"),
    (re.compile("([0-9]),([^0-9])"), r"\1 , \2"),
    (re.compile("([^0-9]),([0-9])"), r"\1 , \2"),
]
_QUOTES = [(re.compile("[`‘’]"), "'"), (re.compile("[“”]|''"), ' " ')]
_HYPHEN = re.compile(rf"([{_ALNUM}.])-([{_ALNUM}])")
_APOSTROPHES = [
    (re.compile(f"([^{_ALPHA}])'([^{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(f"([^{_ALPHA}0-9])'([{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(f"([{_ALPHA}])'([^{_ALPHA}])"), r"\1 ' \2"),
    (re.compile(f"([{_ALPHA}])'([{_ALPHA}])"), r"\1 '\2"),
    (re.compile("([0-9])'(s)"), r"\1 '\2"),
]
_DOTS = re.compile(r"\.(\.+)")
_ONE_DOT = re.compile(r"DOTMULTI\.([^.])")
_SPACES = re.compile("[ \u2000-\u200a\u202f\u205f\u3000\xa0]+")
_CONTROL = "".join(map(chr, range(33)))  # what Java's trim() removes
_BLANK = re.compile("[ \t\n\r\f]+")


def words(text: str) -> list[str]:
    """The words METEOR compares: lower case, punctuation apart, "don't" as "don" and "'t".

    It works on text as written and on tokens joined by spaces.
    """
    line = _SYMBOL.sub(r" \1 ", f" {text} ")
    line = _DOTS.sub(r" DOTMULTI\1", line)
    while "DOTMULTI." in line:  # METEOR's spelling of several dots in a row; undone below
        line = _ONE_DOT.sub(r"DOTDOTMULTI \1", line).replace("DOTMULTI.", "DOTDOTMULTI")
    for pattern, replacement in (*_COMMAS, *_QUOTES):
        line = pattern.sub(replacement, line)
    line = _HYPHEN.sub(r"\1 \2", line.replace("–", "-").replace("--", "-"))
    for pattern, replacement in _APOSTROPHES:
        line = pattern.sub(replacement, line)
    parts = _split(line)
    line = " ".join(
        _full_stop(part, after) for part, after in zip(parts, [*parts[1:], ""], strict=False)
    )
    while "DOTDOTMULTI" in line:
        line = line.replace("DOTDOTMULTI", "DOTMULTI.")
    line = line.replace("DOTMULTI", ".")
    return _split(_SPACES.sub(" ", line).strip(_CONTROL).lower())


def _split(line: str) -> list[str]:
    return [part for part in _BLANK.split(line) if part]


def _full_stop(part: str, after: str) -> str:
    """Splits a full stop from a word, unless it abbreviates; `after` is the next word."""
    if len(part) < 2 or not part.endswith("."):
        return part
    word = part[:-1]
    if "." in word and re.search(f"[{_ALPHA}]", word):
        return part.replace(".", "")  # U.S.
    always, before_numbers = _abbreviations()
    if word in always or re.match("[a-z]", after):
        return part
    if word in before_numbers and re.match("[0-9]", after):
        return part
    return f"{word} ."


@functools.lru_cache(maxsize=100_000)
def synonym_sets(word: str) -> frozenset[str]:
    """WordNet's synonym sets of a word and of its base forms. Synonyms share one of them.

    The base forms follow WordNet's `morphy`: its list of exceptions, else the first of its endings
    that leads to a known word.
    """
    sets = _synonym_table()
    bases = _exceptions().get(word)
    if bases is None:
        bases = [_base(word)]
    return frozenset(" ".join(sets.get(form, "") for form in (word, *bases)).split())


# Endings of nouns, verbs and adjectives, and what replaces them.
_ENDINGS = [("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh")]
_ENDINGS += [("men", "man"), ("ies", "y"), ("s", ""), ("ies", "y"), ("es", "e"), ("es", "")]
_ENDINGS += [("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")]
_ENDINGS += [("er", ""), ("est", ""), ("er", "e"), ("est", "e")]


def _base(word: str) -> str:
    if word.endswith("ss") or len(word) <= 2:
        return word
    known = _synonym_table()
    for ending, replacement in _ENDINGS:
        if word.endswith(ending):
            base = word.removesuffix(ending) + replacement
            if base in known:
                return base
    return ""


def _lines(name: str) -> list[str]:
    try:
        with zipfile.ZipFile(_ARCHIVE) as archive:
            return archive.read(name).decode().split("\n")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"METEOR needs {name} in {_ARCHIVE} ({error}): install pycocoevalcap again"
        ) from error


@functools.cache
def function_words() -> frozenset[str]:
    """The words that count for less than others, such as "the" and ","."""
    return frozenset(_lines("function/english.words"))


@functools.cache
def _abbreviations() -> tuple[frozenset[str], frozenset[str]]:
    """Words whose full stop belongs to them: always, and before a number."""
    found: dict[bool, set[str]] = {False: set(), True: set()}
    for line in _lines("nonbreaking/english.prefixes"):
        word, _, rest = line.partition(" ")
        if word and not word.startswith("#"):
            found[rest.split()[:1] == ["#NUMERIC_ONLY#"]].add(word)
    return frozenset(found[False]), frozenset(found[True])


@functools.cache
def _synonym_table() -> dict[str, str]:
    """The numbers of a word's synonym sets, joined by spaces."""
    lines = _lines("synonym/english.synsets")
    return dict(zip(lines[::2], lines[1::2], strict=False))


@functools.cache
def _exceptions() -> dict[str, list[str]]:
    """The base forms of irregular words: "abetted" has "abet"."""
    bases: dict[str, list[str]] = {}
    lines = _lines("synonym/english.exceptions")
    for base, forms in zip(lines[::2], lines[1::2], strict=False):
        for form in forms.split():
            bases.setdefault(form, []).append(base)
    return bases
