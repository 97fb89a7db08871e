"""Words that name the same thing."""

import pytest

from show_attend_tell.evaluation.nouns import class_words, same_noun


def test_words_for_classes():
    for name, words in {
        "person": "person persons people man men women girls child children kids baby babies lady",
        "dog": "dog dogs puppy puppies",
        "cell phone": "phone phones cellphone",
        "bus": "bus buses",
        "knife": "knife knives",
        "airplane": "plane airplanes jets",
        "couch": "couch couches sofa sofas",
        "tv": "tv tvs television televisions",
        "skis": "skis ski",
        "wine glass": "glass glasses",
    }.items():
        assert set(words.split()) <= class_words(name)
    assert not class_words("person") & class_words("dog")
    assert "cell" not in class_words("cell phone")


@pytest.mark.parametrize(
    "pair",
    [
        "dog dog",
        "dog dogs",
        "bus buses",
        "glass glasses",
        "puppy puppies",
        "man men",
        "policeman policemen",
        "woman women",
        "child children",
        "person people",
        "foot feet",
        "knife knives",
        "scarf scarves",
        "mouse mice",
    ],
)
def test_a_noun_is_the_same_in_singular_and_plural(pair):
    one, many = pair.split()
    assert same_noun(one, many) and same_noun(many, one)


@pytest.mark.parametrize(
    "pair", ["dog cat", "man woman", "person man", "puppy dog", "ball football"]
)
def test_other_nouns_are_not_the_same(pair):
    one, other = pair.split()
    assert not same_noun(one, other) and not same_noun(other, one)
