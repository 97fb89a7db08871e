"""Words of captions and the phrases that they name."""

import pytest

from show_attend_tell.evaluation.mentions import Mention, mentions_in_caption

LEFT, RIGHT, TOP = (0.0, 0.0, 1.0, 0.4), (0.0, 0.6, 1.0, 1.0), (0.0, 0.0, 0.3, 1.0)


def test_a_mention_has_boxes_in_the_picture():
    with pytest.raises(ValueError, match=r"a\.jpg: 'dog' has no boxes"):
        Mention("a.jpg", (), "dog", ())
    empty = [(0.2, 0.2, 0.2, 0.4), (0.4, 0.2, 0.3, 0.4)]
    outside = [(0.2, 1.0, 0.4, 1.2), (-0.2, 0.2, 0.0, 0.4)]
    for box in empty + outside:
        with pytest.raises(ValueError, match=r"a\.jpg: a box of 'dog' has no area"):
            Mention("a.jpg", (), "dog", (LEFT, box))
    Mention("a.jpg", (), "dog", ((-0.1, 0.5, 0.2, 1.2),))  # reaches into it


def test_words_of_a_caption_name_phrases_by_their_nouns():
    phrases = [
        Mention("a", ("animals",), "dog", (LEFT,)),
        Mention("a", ("people",), "men", (TOP,)),
        Mention("a", ("animals",), "cat", (RIGHT,)),
    ]
    found = mentions_in_caption(["a", "man", "sees", "a", "dog", "and", "a", "dog"], phrases)
    dog = Mention("a", ("animals",), "dog", (LEFT,))
    assert found == [(1, Mention("a", ("people",), "man", (TOP,))), (4, dog), (7, dog)]
    assert mentions_in_caption(["nothing", "here"], phrases) == []


def test_a_word_of_several_pieces_is_named_at_its_last():
    phrases = [Mention("a", ("animals",), "dog", (LEFT,))]
    found = mentions_in_caption(["▁Two", "▁Do", "g", "s", ".", "<eos>"], phrases)
    assert found == [(3, Mention("a", ("animals",), "dogs", (LEFT,)))]


def test_phrases_of_one_noun_are_joined():
    phrases = [
        Mention("a", ("animals",), "dog", (LEFT,)),
        Mention("a", ("animals", "other"), "dog", (RIGHT, LEFT)),
        Mention("a", ("people",), "girl", (TOP,)),
        Mention("a", ("animals",), "dogs", (LEFT, RIGHT, TOP)),
    ]
    [(step, mention)] = mentions_in_caption(["two", "dogs"], phrases)
    assert step == 1
    assert mention == Mention("a", ("animals", "other"), "dogs", (LEFT, RIGHT, TOP))
