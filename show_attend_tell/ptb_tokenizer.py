"""Tokens of captions, as the Java PTB tokenizer of the COCO evaluation gives them, without Java.

`pycocoevalcap.tokenizer.PTBTokenizer` runs Stanford CoreNLP 3.4.1 (`PTBTokenizer -preserveLines
-lowerCase`) and drops punctuation. The rules below are those of its lexer that captions meet. On
all 40,460 captions of Flickr8k the tokens are the same (tested where Java is).
"""

import re

NAME = "show_attend_tell PTB 1 (= pycocoevalcap PTBTokenizer on Flickr8k)"

# What pycocoevalcap drops. It compares after lower-casing, so "-LRB-" in its list drops nothing,
# and brackets stay as "-lrb-" and "-rrb-".
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# How the lexer writes brackets and quotation marks.
_WRITTEN = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_WRITTEN |= {'"': "''", "“": "``", "”": "''", "‘": "`"}

# Words that keep their full stop, and those that keep it only before a word (not at a line's end).
_ABBREVIATIONS = (
    "mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lts?|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|"
    "mt|capt|st|ste|ave|pres|lieut|hon|brig|co?mdr|pfc|spc|supts?|det|jr|sr|bros|inc|corp|ltd|co|"
    "llc|dept|etc|vs|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|ph\\.d|no|vol|e\\.g|i\\.e|a\\.m|p\\.m"
)
_LETTER = r"[^\W\d_]"
_WORD = rf"(?:{_LETTER}|\d)+"
_APOSTROPHE = rf"(?<={_LETTER})['’](?!(?:s|m|d|re|ve|ll)\b){_LETTER}{{2,}}"  # within a word

# Tried in this order at every position; the first that matches is the token. Case is ignored
# except where a rule needs capitals.
_TOKEN = re.compile(
    rf"""
      (?P<markup></?[a-z]+[^<>]*> | @\w+)
    | (?P<url>(?:https?://|www\.)\S+[^\s.,;:!?'")\]]
        | (?:[\w-]+\.)+(?:com|net|org|edu|gov)\b(?:/[^\s.,;:!?'")\]]*)?)
    | (?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)
    | (?P<acronym>(?:[A-Za-z]\.){{2,}}(?!\w) | [A-Za-z](?:\.[A-Za-z])+(?=['’]s\b)
        | (?<!\S)(?-i:[A-Z]\.)(?!\S))
    | (?P<ampersand>(?-i:[A-Z]+(?:&[A-Z]+)+)\b)
    | (?P<abbreviation>\b(?:{_ABBREVIATIONS})\.(?!\w))
    | (?P<oclock>o'clock\b | d'(?:oeuvres?)\b | 'n'(?=\s) | '(?:em|til|cause)\b | '\d\ds\b)
    | (?P<split>(?:can(?=not\b) | gon(?=na\b) | wan(?=na\b) | got(?=ta\b) | gim(?=me\b)
        | lem(?=me\b) | 't(?=(?:is|was)\b)))
    | (?P<negated>{_LETTER}+?(?=n['’]t\b)) | (?P<not>n['’]t\b)
    | (?P<clitic>['’](?:s|m|d|re|ve|ll)\b)
    | (?P<number>\d+(?:[.,:]\d+)+(?!\w) | \d+(?:st|nd|rd|th|s)\b(?!-))
    | (?P<word>{_WORD}(?:[-_/.]{_WORD})*(?:{_APOSTROPHE})?)
    | (?P<dots>\.{{2,}} | …) | (?P<dashes>--+ | [–—]) | (?P<quotes>''|``)
    | (?P<other>\S)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
_ENTITY = re.compile("|".join(_ENTITIES), re.IGNORECASE)


def tokenize(text: str) -> list[str]:
    """The lower-case tokens of a caption, without punctuation.

    Contractions are parted ("dog's" gives "dog", "'s"), brackets are written "-lrb-", "-rrb-".
    """
    return [token for token in _tokens(text) if token not in PUNCTUATION]


def _tokens(text: str):
    for match in _TOKEN.finditer(_ENTITY.sub(lambda entity: _ENTITIES[entity[0].lower()], text)):
        token, kind = match[0].lower(), match.lastgroup
        if kind == "dots":
            token = "..."
        elif kind == "dashes":
            token = "--"
        elif token == "/":
            token = "\\/"
        yield _WRITTEN.get(token, token).replace("’", "'")
