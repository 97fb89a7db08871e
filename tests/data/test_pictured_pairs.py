"""Sentences with their pictures: Flickr8k's split decides, whichever file a sentence is in."""

import pytest
import sources

from show_attend_tell import config
from show_attend_tell.data.load import load_images, terms_of
from show_attend_tell.data.masking import COLOURS, HIDDEN, NUMBERS, heads, hide
from show_attend_tell.data.phrases import Description, Phrase
from show_attend_tell.data.pictured_pairs import PicturedPairs, read_pairs
from show_attend_tell.data.task import check_has_split, task_of
from show_attend_tell.errors import UserError

NAMES = {
    "train": ["10_aa.jpg", "11_aa.jpg", "12_aa.jpg"],
    "val": ["20_bb.jpg", "21_bb.jpg"],
    "test": ["30_cc.jpg", "31_cc.jpg"],
}
# Multi30k splits the same pictures in another way, and lacks some of them.
LISTS = {
    "train": ["30.jpg", "10.jpg", "99.jpg", "20.jpg"],
    "val": ["31.jpg", "12.jpg"],
    "test_2016_flickr": ["21.jpg", "11.jpg"],
}


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "multi30k"
    (folder / "image_splits").mkdir(parents=True)
    for stem, names in LISTS.items():
        (folder / "image_splits" / f"{stem}.txt").write_text("\n".join(names) + "\n")
        for language in ("en", "de"):
            lines = "".join(f"Two red dogs {language} {name}.\n" for name in names)
            (folder / f"{stem}.{language}").write_text(lines)
    return folder


@pytest.fixture
def images(tmp_path, monkeypatch):
    for split, names in NAMES.items():
        monkeypatch.setitem(sources.FLICKR8K, split, names)
    sources.flickr8k(tmp_path / "flickr8k")

    def load(split):
        found = tmp_path / "flickr8k"
        return load_images("flickr8k", split, data_dir=tmp_path / "data", manual_dir=found)

    return load


def test_the_split_of_the_picture_decides(texts, images):
    pairs = read_pairs(texts, ("en", "de"))
    found = {split: PicturedPairs(images(split), pairs, name="both") for split in NAMES}
    assert {split: of.ids for split, of in found.items()} == NAMES
    trained = {pair.source for pair in found["train"]}
    assert trained == {f"Two red dogs en {n}.jpg." for n in (10, 11, 12)}
    for split in ("val", "test"):
        assert not trained & {pair.source for pair in found[split]}
    for of in found.values():
        for pair, row in zip(of, of.rows, strict=True):
            number = of.images[row].image_id.partition("_")[0]
            assert pair.pair_id.partition("_")[0] == number
            assert pair.target == pair.source.replace(" en ", " de ") and number in pair.source


def test_pictures_without_sentences_are_left_out(texts, images):
    pairs = read_pairs(texts, ("en", "de"))
    del pairs["11"]
    some = PicturedPairs(images("train"), pairs, name="both")
    assert some.ids == ["10_aa.jpg", "12_aa.jpg"] and some.rows == [0, 2]
    assert some.left_out == {"no sentence of Multi30k": ["11_aa.jpg"]}
    assert PicturedPairs(images("train"), pairs, name="both", limit=1).ids == ["10_aa.jpg"]
    with pytest.raises(UserError, match="none of the pictures of the split 'train'"):
        PicturedPairs(images("train"), {"5": pairs["10"]}, name="both")


def test_lists_that_do_not_match_are_named(texts):
    path = texts / "image_splits" / "val.txt"
    path.write_text("31.jpg\n")
    with pytest.raises(UserError, match=r"val\.txt: names 1 images, but val\.en has 2 lines"):
        read_pairs(texts, ("en", "de"))
    path.unlink()
    with pytest.raises(UserError, match=r"val\.txt: not there; set --config\.data\.manual_dir"):
        read_pairs(texts, ("en", "de"))


def test_words_are_hidden(texts, images):
    sentence = "Two men in Red-striped shirts, one red, watch three dogs."
    assert hide(sentence, COLOURS) == sentence.replace("red,", f"{HIDDEN},")
    assert hide(sentence, NUMBERS).split().count(HIDDEN) == 2 + 1
    phrases = (Phrase(0, 1, "1", (), ()), Phrase(3, 4, "2", (), ()))
    described = [Description("Two Dogs near a ball", phrases, 0)] * 3
    nouns = heads([*described, Description("a cat", (Phrase(0, 1, "3", (), ()),), 0)])
    assert nouns == {"dogs", "ball"}  # "cat" ends too few phrases
    pairs = read_pairs(texts, ("en", "de"))
    hidden = PicturedPairs(images("train"), pairs, name="both", hidden=COLOURS)
    shown = PicturedPairs(images("train"), pairs, name="both")
    assert hidden[0].source == f"Two {HIDDEN} dogs en 10.jpg."
    assert hidden[0].target == shown[0].target
    assert hidden.fingerprint != shown.fingerprint


def test_the_terms_are_those_of_sentences_and_photographs():
    both = terms_of("multi30k_pictures")
    for one in map(terms_of, ("multi30k", "flickr8k")):
        assert one.title in both.title and one.text in both.text and one.licence == both.licence


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["31.jpg", "31.jpg"], "line 2: '31.jpg' is listed twice"),
        (["31.jpg", "dog.jpg"], "line 2: 'dog.jpg' does not begin with a picture's number"),
        (["31.jpg", "10.jpg"], "line 2: '10.jpg' is listed twice"),  # of train's list
    ],
)
def test_a_list_names_every_picture_once(texts, names, message):
    (texts / "image_splits" / "val.txt").write_text("\n".join(names) + "\n")
    with pytest.raises(UserError, match=f"val\\.txt: {message}"):
        read_pairs(texts, ("en", "de"))


def test_folders_and_languages_that_are_not_named_are_asked_for(texts):
    def load(*overrides):
        given = (f"--config.data.{override}" for override in overrides)
        settings = config.load_experiment("multi30k:pictured", [*given])
        task_of(settings.data).load("train")

    folder = f"manual_dir={texts}"
    with pytest.raises(UserError, match=r"config\.data\.pictures_dir is empty"):
        load(folder, "source=en", "target=de")
    with pytest.raises(UserError, match=r"and config\.data\.source and \.target to their"):
        load(folder, f"pictures_dir={texts}", "source=en", "target=")
    with pytest.raises(UserError, match=r"hides English words, but config\.data\.source is 'de'"):
        load(folder, "source=de", "target=en", "masked=colours")
    with pytest.raises(UserError, match="no split 'tset'; the nearest is 'test'"):
        settings = config.load_experiment(
            "multi30k:pictured", [f"--config.data.pictures_dir={texts}"]
        )
        check_has_split(settings.data, "tset")
