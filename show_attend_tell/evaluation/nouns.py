"""Which words of a caption name the same thing."""

from functools import cache

# Caption words for COCO's classes, beside the last word of a class's name. They mean nothing else
# in a caption. Plurals need no entry.
SYNONYMS = {
    "person": ("man", "woman", "boy", "girl", "child", "kid", "baby", "lady", "guy"),
    "bicycle": ("bike",),
    "motorcycle": ("motorbike",),
    "airplane": ("plane", "aeroplane", "jet"),
    "cat": ("kitten",),
    "dog": ("puppy",),
    "donut": ("doughnut",),
    "couch": ("sofa",),
    "tv": ("television",),
    "cell phone": ("cellphone",),
    "refrigerator": ("fridge",),
}

# Endings of plurals other than "s" and "es". They hold for compounds, too, as in "policemen".
_PLURALS = {
    "y": "ies",
    "f": "ves",
    "fe": "ves",
    "man": "men",
    "child": "children",
    "person": "people",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
}


@cache
def plurals(noun: str) -> frozenset[str]:
    """What the plural of a lower-case noun may look like; most of these are no words."""
    irregular = {
        noun.removesuffix(one) + many for one, many in _PLURALS.items() if noun.endswith(one)
    }
    return frozenset({f"{noun}s", f"{noun}es"} | irregular)


def same_noun(a: str, b: str) -> bool:
    """Whether two lower-case words are the same, or one is a plural of the other."""
    return a == b or a in plurals(b) or b in plurals(a)


@cache
def class_words(name: str) -> frozenset[str]:
    """The caption words that name an object of a class, in the singular and the plural.

    They are `SYNONYMS` and the last word of the class's name: "phone" for "cell phone", but also
    "dog" for "hot dog".
    """
    words = {name.split()[-1], *SYNONYMS.get(name, ())}
    singulars = {word[:-1] for word in words if word.endswith("s")}  # "ski" of "skis"
    return frozenset(words | singulars).union(*map(plurals, words))
