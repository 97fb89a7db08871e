"""Captions of any language as tokens, and the scripts that they are written in.

English captions are scored over the tokens of `ptb_tokenizer`, as in the COCO evaluation. Those of
other languages are scored over the tokens of `tokenize`: the rules of `mteval-v13a`, sacrebleu's
tokenizer `13a`, over lower-cased text with normalised punctuation. WMT's tasks on Multi30k lower
case, normalise and tokenise German in this order (Elliott et al. 2017, arXiv 1710.07177). Scripts
that put no spaces between words, such as Chinese, Japanese and Thai, are split into characters, as
sacrebleu's tokenizer `zh` does for Chinese.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache

from show_attend_tell.data import ptb_tokenizer

# Recorded in score files. The number changes whenever any text gets other tokens.
NAME = "show_attend_tell 13a 1 (sacrebleu 13a, lower-cased, normalised punctuation, characters)"

# Letters of scripts without spaces, and the marks that belong to them; fullwidth punctuation.
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Tibetan, Burmese, Khmer
    "\u2e80-\u312f\u3190-\u31ff\u3400-\u4dbf\u4e00-\ua4cf\uf900-\ufaff\uff00-\uffef"  # CJK
    "\U00020000-\U0003ffff"
)
_OF_UNSPACED = re.compile(f"[{_UNSPACED}]")
_DIGITS = re.compile("[0-9\uff10-\uff19]+")
# Typographic signs as `13a` knows them, in the manner of Moses' normalize-punctuation.
_NORMALISED = str.maketrans(
    {
        **dict.fromkeys("“”„‟«»〝〞", '"'),
        **dict.fromkeys("‘’‚‛`´", "'"),
        **dict.fromkeys("–—―", "-"),
        "…": "...",
        "\u00a0": " ",
        "\u00ad": "",
        "\u200b": "",
    }
)


def tokenize(text: str) -> list[str]:
    """Lower-cased words and punctuation marks; the characters of scripts without spaces."""
    text = unicodedata.normalize("NFC", text).translate(_NORMALISED)
    if not text.isascii():
        text = "".join(map(_spaced, _clusters(text)))
    return _thirteen_a()(text).lower().split()


def tokenizer_of(language: str) -> tuple[str, Callable[[str], list[str]]]:
    """Name and function of the tokenizer that captions of a language are scored with."""
    if language == "en":
        return ptb_tokenizer.NAME, ptb_tokenizer.tokenize
    return NAME, tokenize


def is_unspaced(token: str) -> bool:
    """Whether a token is of a script that puts no space beside it."""
    return bool(_OF_UNSPACED.match(token))


def joined(tokens: Iterable[str]) -> str:
    """Words with spaces between them, but none between those of a script that has none."""
    text, before = "", False
    for token in tokens:
        unspaced = is_unspaced(token)
        text += token if not text or (before and unspaced) else f" {token}"
        before = unspaced
    return text


def script_of(text: str) -> str:
    """The script of most letters, such as LATIN or ARABIC; EAST ASIAN for those mixed in Japanese.

    Empty if there is no letter.
    """
    counts = Counter(script for character in text if (script := _script(character)))
    return counts.most_common(1)[0][0] if counts else ""


def in_other_scripts(captions: Iterable[str]) -> tuple[str, dict[str, list[str]]]:
    """The script of most captions, and the captions in another by its name."""
    by_script: dict[str, list[str]] = {}
    for caption in captions:
        by_script.setdefault(script_of(caption), []).append(caption)
    by_script.pop("", None)
    if not by_script:
        return "", {}
    most = max(by_script, key=lambda script: len(by_script[script]))
    del by_script[most]
    return most, by_script


@cache
def _script(character: str) -> str:
    if not character.isalpha():
        return ""
    first = unicodedata.name(character, "").partition(" ")[0]
    east = first in ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "BOPOMOFO")
    return "EAST ASIAN" if east else first


def _clusters(text: str) -> list[str]:
    """Characters with the marks that follow them; runs of digits stay whole."""
    clusters: list[str] = []
    for character in text:
        mark = unicodedata.category(character).startswith("M") or character == "\u200d"
        digits = clusters and _DIGITS.fullmatch(clusters[-1]) and _DIGITS.fullmatch(character)
        if clusters and (mark or digits):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def _spaced(cluster: str) -> str:
    """A cluster with spaces around it if it is a token of its own."""
    own = _OF_UNSPACED.match(cluster)
    # `13a` knows the punctuation of ASCII only.
    sign = not cluster.isascii() and unicodedata.category(cluster[0])[0] in "PS"
    return f" {cluster} " if own or sign else cluster


@cache
def _thirteen_a() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a  # imports all of sacrebleu

    return Tokenizer13a()
