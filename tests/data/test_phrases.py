"""Phrases and their places among tokens and in copies."""

import pytest

from show_attend_tell.data.copies import Crop
from show_attend_tell.data.phrases import (
    CUT,
    NO_AREA,
    Counted,
    Described,
    Description,
    Phrase,
    count,
    joined,
    usable,
)
from show_attend_tell.data.vocabulary import TOKENIZERS, Subwords


def phrase(first: int, last: int, *boxes: tuple[float, float, float, float]) -> Phrase:
    return Phrase(first, last, "1", ("other",), boxes)


def place(text: str, first: int, last: int, tokenizer: str = "ptb") -> int | None:
    spoken = phrase(first, last)
    return Description(text, (spoken,), 0).last_token(spoken, TOKENIZERS[tokenizer])


@pytest.mark.parametrize(
    "text, first, last, tokenizer, token",
    [
        ("A child in a pink dress climbs .", 0, 1, "ptb", 1),
        ("A child in a pink dress climbs .", 3, 5, "ptb", 5),
        ("A man , a dog .", 3, 4, "ptb", 3),  # PTB drops the comma
        ("A man , a dog .", 3, 4, "words", 4),  # and this does not
        ("The man's dog can't run .", 0, 2, "ptb", 3),  # the, man, 's, dog
        ("I see the cannot do sign", 2, 3, "ptb", 4),  # i, see, the, can, not: a word's last token
        ('He reads a " stop " sign', 2, 5, "ptb", 3),  # the phrase ends with a dropped mark
        ('A man says " now', 3, 3, "ptb", None),  # and this one holds nothing else
        (", a dog", 0, 0, "ptb", None),
        ("A number 3 . 5 sign", 0, 2, "ptb", 2),
    ],
)
def test_the_last_word_among_the_tokens(text, first, last, tokenizer, token):
    assert place(text, first, last, tokenizer) == token


def test_a_tokenizer_that_looks_ahead_is_noticed():
    spoken = phrase(0, 1)
    merging = {"a b": ["a", "b"], "": [], "a b c": ["a", "bc"], "a b d": ["a", "b", "d"]}
    assert Description("a b c", (spoken,), 0).last_token(spoken, merging.__getitem__) is None
    assert Description("a b d", (spoken,), 0).last_token(spoken, merging.__getitem__) == 1


def test_pieces_of_words():
    pieces = Subwords.from_texts(["a small dog", "a big dog", "dogs run"] * 5, 30)
    text = "a small dog runs"
    spoken = phrase(0, 2)
    index = Description(text, (spoken,), 0).last_token(spoken, pieces.encode_text)
    assert index is not None
    decoded = pieces.decode(pieces.encode_text(text))
    assert "".join(decoded[: index + 1]).replace("\u2581", " ").strip() == "a small dog"


def test_copies_of_a_description():
    boxes = ((0.0, 0.0, 0.5, 0.25), (0.5, 0.5, 1.0, 1.0))
    described = Description("the left dog", (phrase(0, 2, *boxes), phrase(2, 2)), 3)
    mirrored = Description(
        "the right dog",
        (phrase(0, 2, (0.0, 0.75, 0.5, 1.0), (0.5, 0.0, 1.0, 0.5)), phrase(2, 2)),
        3,
    )
    assert described.mirror() == mirrored and mirrored.mirror() == described
    # The lower half: the first box is gone.
    lower = described.crop(Crop(0.5, 0.0, 0.5, 1.0))
    assert lower.phrases[0].boxes == ((0.0, 0.5, 1.0, 1.0),)
    assert (lower.text, lower.caption, lower.phrases[1]) == ("the left dog", 3, phrase(2, 2))
    # The upper right corner: both are gone, and the phrase stays.
    corner = described.crop(Crop(0.0, 0.5, 0.5, 0.5))
    assert corner.phrases == (phrase(0, 2), phrase(2, 2))


def test_boxes_are_cut_to_the_picture_and_counted():
    counts: dict[str, Counted] = {}
    assert usable((0.0, 0.25, 0.5, 1.0), "a", counts) == ((0.0, 0.25, 0.5, 1.0),)
    assert counts == {}
    assert usable((-0.5, 0.25, 0.5, 1.5), "b", counts) == ((0.0, 0.25, 0.5, 1.0),)
    assert usable((0.5, 0.25, 0.5, 1.0), "c", counts) == ()
    assert usable((0.5, 1.25, 0.75, 1.5), "d", counts) == ()
    assert counts == {CUT: Counted(1, ("b",)), NO_AREA: Counted(2, ("c", "d"))}


def test_counts_keep_the_first_names():
    counts: dict[str, Counted] = {}
    for name in "abcde":
        count(counts, "odd", name)
    assert counts == {"odd": Counted(5, ("a", "b", "c"))}
    one, two = Description("one", (), 0), Description("two", (), -1)
    both = joined(
        [
            Described([(one,), ()], {"odd": Counted(1, ("x",))}),
            Described([(two,)], counts | {"even": Counted(2, ("y", "z"))}),
        ]
    )
    assert both == Described(
        [(one,), (), (two,)],
        {"odd": Counted(6, ("x", "a", "b")), "even": Counted(2, ("y", "z"))},
    )
