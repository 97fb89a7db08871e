"""The English Snowball stemmer "Porter2", in the version that METEOR 1.5 uses.

The algorithm is Martin Porter's, https://snowballstem.org/algorithms/english/stemmer.html. Later
versions of it changed some rules and would give METEOR other scores. Two regions of a word bound
what may be removed: R1 follows the first consonant after a vowel, R2 the same again inside R1. They
are found once; `r1` and `r2` are the positions where they begin.
"""

import functools
import re
from collections.abc import Iterable

_WHOLE = {"skis": "ski", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie"}
_WHOLE |= {"idly": "idl", "gently": "gentl", "ugly": "ugli", "early": "earli", "only": "onli"}
_WHOLE |= {"singly": "singl"}
_WHOLE |= {"andes": "andes", "atlas": "atlas", "bias": "bias", "cosmos": "cosmos"}
_WHOLE |= {"howe": "howe", "news": "news", "sky": "sky"}
_KEPT = frozenset(["succeed", "proceed", "exceed", "canning", "inning"])
_KEPT |= frozenset(["earring", "herring", "outing"])

_VOWEL = re.compile("[aeiouy]")
_REGION = re.compile("[^aeiouy]*[aeiouy]+[^aeiouy]")
_FIRST_REGION = re.compile(f"arsen|commun|gener|{_REGION.pattern}")
_SHORT = re.compile(r"(?:[^aeiouy][aeiouy][^aeiouywxY]|\A[aeiouy][^aeiouy])\Z")
_DOUBLED = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")
_BEFORE_LI = frozenset("cdeghkmnrt")

# What replaces an ending in R1. Of several that fit, the longest counts.
_STEP_2 = {"tional": "tion", "enci": "ence", "anci": "ance", "abli": "able", "entli": "ent"}
_STEP_2 |= {"izer": "ize", "ization": "ize", "ational": "ate", "ation": "ate", "ator": "ate"}
_STEP_2 |= {"alism": "al", "aliti": "al", "alli": "al", "fulness": "ful", "ousli": "ous"}
_STEP_2 |= {"ousness": "ous", "iveness": "ive", "iviti": "ive", "biliti": "ble", "bli": "ble"}
_STEP_2 |= {"ogi": "og", "fulli": "ful", "lessli": "less", "li": ""}
_STEP_3 = {"tional": "tion", "ational": "ate", "alize": "al", "icate": "ic", "iciti": "ic"}
_STEP_3 |= {"ical": "ic", "ful": "", "ness": "", "ative": ""}
# Removed in R2.
_STEP_4 = ["al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ism"]
_STEP_4 += ["ate", "iti", "ous", "ive", "ize", "ion"]


def _endings(endings: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(endings, key=len, reverse=True)
    return re.compile(rf"(?:{'|'.join(longest_first)})\Z")


_ENDS_1A = _endings(["sses", "ied", "ies", "us", "ss", "s"])
_ENDS_1B = _endings(["eed", "eedly", "ed", "edly", "ing", "ingly"])
_ENDS_2, _ENDS_3, _ENDS_4 = _endings(_STEP_2), _endings(_STEP_3), _endings(_STEP_4)


@functools.lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """The stem of a word in lower case, which need be no word itself: "happily" gives "happili"."""
    if word in _WHOLE:
        return _WHOLE[word]
    if len(word) < 3:
        return word
    word = _mark_consonants(word.removeprefix("'"))
    first = _FIRST_REGION.match(word)
    r1 = first.end() if first else len(word)
    second = _REGION.match(word, r1)
    r2 = second.end() if second else len(word)
    word = _step_1a(word)
    if word not in _KEPT:
        word = _step_1b(word, r1)
        if len(word) > 2 and word[-1] in "yY" and word[-2] not in "aeiouy":
            word = word[:-1] + "i"
        word = _step_2(word, r1)
        word = _step_3(word, r1, r2)
        word = _step_4(word, r2)
        word = _step_5(word, r1, r2)
    return word.replace("Y", "y")


def _mark_consonants(word: str) -> str:
    """Writes "Y" for a y that is a consonant: the first letter, or one after a vowel."""
    if "y" not in word:
        return word
    letters = list(word)
    for i, letter in enumerate(letters):
        if letter == "y" and (i == 0 or letters[i - 1] in "aeiouy"):
            letters[i] = "Y"
    return "".join(letters)


def _step_1a(word: str) -> str:
    for ending in ("'s'", "'s", "'"):
        if word.endswith(ending):
            word = word.removesuffix(ending)
            break
    found = _ENDS_1A.search(word)
    if not found:
        return word
    ending, start = found.group(), found.start()
    if ending == "sses":
        return word[:-2]
    if ending in ("ied", "ies"):
        return word[:start] + ("i" if start > 1 else "ie")
    if ending == "s" and _VOWEL.search(word, 0, max(0, start - 1)):
        return word[:-1]
    return word


def _step_1b(word: str, r1: int) -> str:
    found = _ENDS_1B.search(word)
    if not found:
        return word
    start = found.start()
    if found.group().startswith("eed"):
        return word[:start] + "ee" if start >= r1 else word
    if not _VOWEL.search(word, 0, start):
        return word
    word = word[:start]
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if word.endswith(_DOUBLED):
        return word[:-1]
    if len(word) == r1 and _SHORT.search(word):
        return word + "e"
    return word


def _step_2(word: str, r1: int) -> str:
    found = _ENDS_2.search(word)
    if not found or found.start() < r1:
        return word
    ending, start = found.group(), found.start()
    before = word[start - 1 : start]
    if (ending == "ogi" and before != "l") or (ending == "li" and before not in _BEFORE_LI):
        return word
    return word[:start] + _STEP_2[ending]


def _step_3(word: str, r1: int, r2: int) -> str:
    found = _ENDS_3.search(word)
    if not found or found.start() < (r2 if found.group() == "ative" else r1):
        return word
    return word[: found.start()] + _STEP_3[found.group()]


def _step_4(word: str, r2: int) -> str:
    found = _ENDS_4.search(word)
    if not found or found.start() < r2:
        return word
    rest = word[: found.start()]
    return word if found.group() == "ion" and not rest.endswith(("s", "t")) else rest


def _step_5(word: str, r1: int, r2: int) -> str:
    start = len(word) - 1
    if word.endswith("e"):
        removed = start >= r2 or (start >= r1 and not _SHORT.search(word, 0, start))
        return word[:-1] if removed else word
    return word[:-1] if word.endswith("ll") and start >= r2 else word
