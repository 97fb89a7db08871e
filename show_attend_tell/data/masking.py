"""Source words that are hidden, so that only a picture can tell what they were.

Caglayan et al. 2019 (arXiv:1903.08678) hide the colours of English sentences, or the heads of noun
phrases whose entities are annotated in the picture, and see whether a model finds them there.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable

from show_attend_tell.data.phrases import Description

HIDDEN = "[v]"  # in the place of a hidden word
_WORD = re.compile(r"\w+(?:[-']\w+)*")
COLOURS = frozenset(
    _WORD.findall(
        "beige black blond blonde blue bright brown colored colorful colourful dark golden gold "
        "gray green grey light maroon multicolored orange pink purple red silver striped tan teal "
        "turquoise white yellow"
    )
)
NUMBERS = frozenset(
    _WORD.findall(
        "one two three four five six seven eight nine ten eleven twelve both couple dozen few "
        "group many several single"
    )
)
_LEAST = 3  # times that a word must end a phrase to count as a noun


def heads(descriptions: Iterable[Description]) -> frozenset[str]:
    """The lower-case words in which at least three annotated phrases end."""
    counts = Counter(
        described.text.split(" ")[phrase.last].lower()
        for described in descriptions
        for phrase in described.phrases
    )
    often = (word for word, count in counts.items() if count >= _LEAST)
    return frozenset(word for word in often if _WORD.fullmatch(word))


def hide(sentence: str, words: Collection[str]) -> str:
    """The sentence with `HIDDEN` in the place of each of the words, whatever their case."""
    return _WORD.sub(lambda m: HIDDEN if m[0].lower() in words else m[0], sentence)
