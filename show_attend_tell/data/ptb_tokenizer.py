"""Caption tokens as in the COCO evaluation, whose Java PTB tokenizer this reproduces in Python.

`pycocoevalcap.tokenizer.PTBTokenizer` runs Stanford CoreNLP 3.4.1 (`PTBTokenizer -preserveLines
-lowerCase`) and drops punctuation. The rules below are those of its lexer that matter for captions;
they were found by comparing its input and output. The tokens are the same on all 40,460 captions of
Flickr8k and all 31,014 English ones of Multi30k, both as written and as tokens joined by spaces,
the form of a model's captions. A test compares them where Java is installed. Known differences
concern text that captions hardly contain: telephone numbers in brackets, "v1.2", "hi!there",
"end-of.Sentence" without a space, mistyped apostrophes.
"""

import re
from collections.abc import Iterator

# Recorded in score files. The number changes whenever any text gets other tokens.
NAME = "show_attend_tell PTB 2 (= pycocoevalcap PTBTokenizer on Flickr8k)"

# What pycocoevalcap drops. It compares after lower-casing, so "-LRB-" in its list matches nothing,
# and brackets stay as "-lrb-" and "-rrb-".
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

# How the lexer writes brackets, quotation marks, currencies and fractions.
_WRITTEN = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_BRACKETS = frozenset(_WRITTEN.values())
_WRITTEN |= {'"': "''", "“": "``", "”": "''", "‘": "`", "«": "``", "»": "''"}
_WRITTEN |= {"£": "#", "€": "$", "¢": "cents", "&lt;": "<", "&gt;": ">", "&quot;": "''"}
_WRITTEN |= {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}

# Words that keep their full stop always, and those that keep it only before a number.
_ABBREVIATIONS = (
    "mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lts?|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|"
    "mt|capt|ste?|ave|pres|lieut|hon|brig|co?mdr|pfc|spc|supts?|det|jr|sr|bros|inc|corp|ltd|cos?|"
    "llc|dept|etc|vs|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|ph\\.d|e\\.g|i\\.e|a\\.m|p\\.m|"
    "mon|tues?|wed|thurs?|fri|rd|blvd|ft|sq|assn|univ|intl|esq|est|al|cf|calif|mass|pa|fla|tex|va|"
    "ill|ind|wash|conn|minn|mich|mo|ala|ariz|ark|colo|ga|ky|la|md|miss|mont|neb|nev|okla|ore|tenn|"
    "vt|wis|wyo|del"
)
_BEFORE_NUMBERS = "nos?|fig|ca|art|p|pp"
_LETTER = r"[^\W\d_²³]"
_WORD = rf"(?:{_LETTER}|\d)+"
_ELISION = rf"[cdnops]['’](?!(?:re|ve|ll)\b){_LETTER}{{2,}} | ma['’]am\b | n?e['’]er\b"  # o'brien
_NUMBER = r"\d+(?:[.,:]\d+)+"

# The rules are tried in this order at every position; the first match is the token. Case is ignored
# except where a rule needs capitals.
_TOKEN = re.compile(
    rf"""
      (?P<markup></?[a-z]+[^<>]*> | [@\#]{_LETTER}+ | &(?:lt|gt|quot);
        | -[lr][rcs]b-)
    | (?P<url>(?:https?://|www\.)\S+[^\s.,;:!?'")\]]
        | (?:[\w-]+\.)+(?:com|net|org|edu|gov)\b(?:/[^\s.,;:!?'")\]]*)?)
    | (?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)
    | (?P<smiley>[:;=]-?[()](?!\w) | [:;]-?[dp](?!\w))
    | (?P<language>(?-i:[CF])\#(?!\w) | (?-i:C)\+\+)
    | (?P<acronym>(?:[A-Za-z]\.){{2,}}(?:-{_WORD} | (?!\w)) | [A-Za-z](?:\.[A-Za-z])+(?=['’]s\b)
        | (?<!\S)[A-Za-z]\.(?![\w]))
    | (?P<ampersand>(?-i:[A-Z]+(?:&[A-Z]+)+)\b)
    | (?P<abbreviation>\b(?:{_ABBREVIATIONS})\.(?!\w) | \b(?:{_BEFORE_NUMBERS})\.(?=\s?\d))
    | (?P<oclock>o'clock\b | d'(?:oeuvres?)\b | 'n'(?=\s|roll) | '(?:em|til|cause)\b | '\d\ds\b)
    | (?P<split>(?:can(?=not\b) | gon(?=na\b) | wan(?=na\b) | got(?=ta\b) | gim(?=me\b)
        | lem(?=me\b) | 't(?=(?:is|was)\b)) | y'(?=all\b))
    | (?P<negated>{_LETTER}+?(?=n['’]t\b)) | (?P<not>n['’]t\b)
    | (?P<clitic>['’](?:s|m|d|re|ve|ll)\b | ’s)
    | (?P<number>(?<!\S)[-+]?(?:\.\d+ | \d+(?!\S)) | {_NUMBER}-{_WORD} | {_NUMBER}
        | \d+(?:st|nd|rd|th|s)\b(?!-))
    | (?P<money>(?-i:[A-Z]{{1,2}})\$)
    | (?P<elision>{_ELISION})
    | (?P<word>{_WORD}(?:[-_/.]{_WORD})*)
    | (?P<dots>\.{{2,}} | …) | (?P<dashes>--+ | [–—]) | (?P<quotes>''|``) | (?P<shout>[!?]+)
    | (?P<other>[^\s\u200b\U00010000-\U0010ffff])
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Most captions: words of letters, and full stops and commas that stand alone, with a space between.
# To split them at the spaces is enough, unless they have a word of two tokens.
_PLAIN = re.compile(r"(?:[a-zA-Z]+|[.,])(?: (?:[a-zA-Z]+|[.,]))*")
_TWO_TOKENS = frozenset(("cannot", "gonna", "wanna", "gotta", "gimme", "lemme"))
# Decoded before anything else. Soft hyphens are removed.
_ENTITIES = {"&amp;": "&", "&apos;": "'", "&nbsp;": " ", "\u00ad": ""}
_ENTITY = re.compile("|".join(_ENTITIES), re.IGNORECASE)


def tokenize(text: str) -> list[str]:
    """Splits a caption into lower-case tokens, without punctuation.

    Contractions are split ("dog's" gives "dog", "'s"); brackets become "-lrb-" and "-rrb-".
    """
    if _PLAIN.fullmatch(text):
        tokens = text.lower().split(" ")
        if _TWO_TOKENS.isdisjoint(tokens):
            return [token for token in tokens if token not in PUNCTUATION]
    return [token for token in _tokens(text) if token not in PUNCTUATION]


def has_word(text: str) -> bool:
    """Whether a caption has a token with a letter or a digit; one of emoji or "..." has none."""
    tokens = (token for token in tokenize(text) if token not in _BRACKETS)
    return any(character.isalnum() for token in tokens for character in token)


def _tokens(text: str) -> Iterator[str]:
    text = _ENTITY.sub(lambda entity: _ENTITIES[entity[0].lower()], text)
    for match in _TOKEN.finditer(text):
        token, kind = match[0].lower(), match.lastgroup
        if kind == "dots":
            token = "..."
        elif kind == "dashes":
            token = "--"
        elif kind == "smiley":
            token = token.replace(")", "-rrb-").replace("(", "-lrb-")
        yield _WRITTEN.get(token, token).replace("’", "'")
