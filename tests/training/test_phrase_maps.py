"""Targets of supervised attention, worked out by hand, and where they lie in a batch."""

import numpy as np
import pytest
import tiny

from show_attend_tell.data.batches import BatchPlan, train_batches
from show_attend_tell.data.copies import Crop, mirror_text
from show_attend_tell.data.phrases import Description, Phrase
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.boxes import Places
from show_attend_tell.training.phrase_maps import boxed_descriptions, supervise

EOS = 2
# The cells meet at 0.4 down and at 0.5 across.
PLACES = Places(np.array([0.2, 0.6]), np.array([0.25, 0.75]))
MIDDLE = (0.0, 0.25, 0.7, 0.75)
CORNER, STRIP = (0.0, 0.0, 0.4, 0.5), (0.4, 0.5, 1.0, 0.75)
TEXT = "a the left right dog sees two cats red sky and"
WORDS = {word: number for number, word in enumerate(TEXT.split(" "), 4)}


def encode(text):
    return [WORDS[word] for word in text.lower().split(" ") if word not in ("", ".")]


def phrase(first, last, *boxes):
    return Phrase(first, last, "1", ("other",), boxes)


DOG = phrase(0, 2, MIDDLE)
CATS = phrase(4, 5, CORNER, STRIP)
SCENE = (
    Description("The left dog sees two cats .", (DOG, CATS), 1),
    Description("the sky", (phrase(0, 1),), 0),  # without boxes
    Description("a red sky and two cats", (phrase(0, 2, STRIP), CATS), 2),
    Description("a sky", (phrase(0, 1, MIDDLE),), -1),  # no caption
)
CAPTIONS = ("The sky", "the left dog sees two cats", "A red sky and two cats", "two cats")
CROP = Crop(0.0, 0.5, 1.0, 0.5)  # the right half
COPIES = (
    SCENE,
    tuple(d.mirror() for d in SCENE),
    tuple(d.crop(CROP) for d in SCENE),
)


def encoded(mirrored=False):
    texts = map(mirror_text, CAPTIONS) if mirrored else CAPTIONS
    return [[*encode(text), EOS] for text in texts]


ENCODED = [encoded(), encoded(mirrored=True), encoded()]
# By copy and word. Of the middle box the cells hold 1/2, 1/2, 1/4, 1/4, and of the right half of it
# 1, 0, 1/2, 0; the cats' boxes fill one cell and half of another.
BY_HAND = {
    "dog": ([2 / 6, 2 / 6, 1 / 6, 1 / 6], [2 / 6, 2 / 6, 1 / 6, 1 / 6], [2 / 3, 0, 1 / 3, 0]),
    "cats": ([2 / 3, 0, 0, 1 / 3], [0, 2 / 3, 1 / 3, 0], [0, 0, 1, 0]),
    "red sky": ([0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 0]),
}


@pytest.mark.parametrize("rows", [1, 3])
def test_a_target_lies_at_its_word_in_a_batch(rows):
    found = supervise(COPIES, ENCODED, encode, 40)
    options = dict(rows=rows, buckets=2, max_length=40, seed=0)
    plan = BatchPlan(ENCODED, batch_size=3, maps=found.numbers, **options)
    batch = next(train_batches(np.zeros((3, 1)), plan, maps=found.maps(PLACES), prefetch=0))
    images, tokens = plan.batch(0)
    np.testing.assert_array_equal(batch["tokens"], tokens)
    assert batch["maps"].shape == (*tokens.shape, 4) and batch["maps"].dtype == np.float16
    seen = 0
    for image, rows_of, maps_of in zip(images, tokens, batch["maps"], strict=True):
        ids, maps = rows_of.ravel().tolist(), maps_of.reshape(-1, 4)
        supervised = {}
        for step, token in enumerate(ids):
            before = ids[step - 1] if step else 0
            if token == WORDS["dog"]:
                supervised[step] = BY_HAND["dog"][image]
            elif token == WORDS["cats"] and len_of_caption(ids, step) == 6:
                supervised[step] = BY_HAND["cats"][image]
            elif token == WORDS["sky"] and before == WORDS["red"]:
                supervised[step] = BY_HAND["red sky"][image]
        assert np.flatnonzero(maps.any(axis=1)).tolist() == list(supervised)
        np.testing.assert_allclose(
            maps[list(supervised)], list(supervised.values()), rtol=1e-3, atol=0
        )
        seen += len(supervised)
    assert seen == 12


def len_of_caption(ids, last):
    """The words of the caption that ends with this step."""
    begin = last
    while begin and ids[begin - 1] not in (0, EOS):
        begin -= 1
    return last + 1 - begin


def test_what_is_not_supervised_is_counted():
    found = supervise(COPIES, ENCODED, encode, 40)
    assert (found.words, found.captions, found.undescribed, found.lost) == (12, 6, 3, 0)
    assert "12 words of 6 captions (3 have no description; 0 phrases" in found.summary()
    cut = supervise(COPIES, ENCODED, encode, 5)  # the cats, sixth word of two captions, are lost
    assert (cut.words, cut.captions, cut.undescribed, cut.lost) == (6, 6, 3, 6)
    numbers = cut.numbers[0][1]
    assert len(numbers) == 7 and np.flatnonzero(numbers).tolist() == [2]
    assert len(supervise(COPIES, ENCODED, encode, 6).unions) == 7  # distinct ones


def test_a_caption_of_other_tokens_is_not_supervised():
    captions = [[[WORDS["a"], WORDS["dog"], WORDS["dog"], EOS]]]
    other = Description("a dog", (phrase(0, 1, MIDDLE),), 0)
    found = supervise([(other,)], captions, encode, 40)
    assert found.numbers == [[[0, 0, 0, 0]]] and (found.words, found.lost) == (0, 1)
    assert not found.maps(PLACES).any() and found.maps(PLACES).shape == (1, 4)


def test_phrases_that_end_at_the_same_token_are_one():
    both = Description("a dog .", (phrase(0, 1, CORNER), phrase(0, 2, STRIP)), 0)
    found = supervise([(both,)], [[[WORDS["a"], WORDS["dog"], EOS]]], encode, 40)
    assert found.numbers == [[[0, 1, 0]]] and found.unions == ((CORNER, STRIP),)
    # Sentences of the same words may share a caption.
    apart = [Description("a dog .", (spoken,), 0) for spoken in both.phrases]
    assert supervise([apart], [[[WORDS["a"], WORDS["dog"], EOS]]], encode, 40) == found


def test_many_maps_are_made_in_parts(monkeypatch):
    found = supervise(COPIES, ENCODED, encode, 40)
    whole = found.maps(PLACES)
    monkeypatch.setattr("show_attend_tell.training.phrase_maps._AT_ONCE", 4)
    np.testing.assert_array_equal(found.maps(PLACES), whole)
    np.testing.assert_allclose(whole[1:].sum(axis=1, dtype=float), 1, rtol=1e-3)


def test_a_split_without_boxes_is_rejected():
    scenes = tiny.Scenes(2)
    assert len(boxed_descriptions(scenes)) == 2
    for found in ([(), ()], [SCENE[1:2], ()]):
        scenes.descriptions = lambda found=found: found
        with pytest.raises(UserError, match="no phrase of scenes train has boxes; set it to 0"):
            boxed_descriptions(scenes)
    scenes.descriptions = lambda: [(), SCENE]
    assert boxed_descriptions(scenes) == [(), SCENE]
