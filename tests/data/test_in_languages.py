"""Captions in several languages: from files beside the images, and from a table."""

import gzip
import json
import logging
import re

import pytest
import sources

from show_attend_tell.data.builders.common import zip_members
from show_attend_tell.data.builders.flickr8k import SPLITS
from show_attend_tell.data.builders.shapes import render_scene
from show_attend_tell.data.copies import mirror_text
from show_attend_tell.data.examples import ImageSource
from show_attend_tell.data.further_captions import by_picture, number_of, read_captions
from show_attend_tell.data.in_languages import InLanguages
from show_attend_tell.data.load import load_images
from show_attend_tell.data.scenes import in_german
from show_attend_tell.errors import UserError

NAMES = {
    "train": ["10_aa.jpg", "11_ab.jpg", "12_ac.jpg", "13_ad.jpg"],
    "val": ["20_ba.jpg", "21_bb.jpg"],
    "test": ["30_ca.jpg", "31_cb.jpg"],
}
# Multi30k's lists cross over: 30 is a test picture of Flickr8k, 13 and 31 have no captions.
LISTS = {"train": [10, 11, 20, 30], "val": [12], "test_2016": [21, 99]}


def said(number: int, k: int) -> str:
    return f"Bild {number}, links gesehen, das {k}."


@pytest.fixture
def german(tmp_path):
    """The layout of Multi30k's task 2."""
    folder = tmp_path / "german"
    folder.mkdir()
    for stem, numbers in LISTS.items():
        (folder / f"{stem}_images.txt").write_text("".join(f"{n}.jpg\n" for n in numbers))
        for k in (1, 2):
            text = "".join(f"{said(n, k)}\n" for n in numbers)
            (folder / f"{stem}.{k}.de.gz").write_bytes(gzip.compress(text.encode()))
    return folder


@pytest.fixture
def load(tmp_path, german, monkeypatch):
    """Loads a split of a stand-in for Flickr8k, with German captions beside it."""
    monkeypatch.setattr(sources, "FLICKR8K", NAMES)
    sources.flickr8k(tmp_path / "flickr8k")

    def load(split, *languages, **options):
        return load_images(
            "flickr8k",
            split,
            data_dir=tmp_path / "data",
            manual_dir=tmp_path / "flickr8k",
            languages=languages or ("en",),
            **{"captions_dir": german, **options},
        )

    return load


def test_the_data_sets_own_splits_decide_in_every_language(load):
    for split, names in NAMES.items():
        allowed = {number_of(name) for name in names}
        for languages in (("en",), ("de",), ("en", "de"), ("de", "en")):
            found = load(split, *languages)
            assert set(found.ids) <= set(names)
            for image_id, captions in zip(found.ids, found.captions(), strict=True):
                spoken = {c.split(",")[0].removeprefix("Bild ") for c in captions if "Bild" in c}
                assert spoken <= {number_of(image_id)} <= allowed
                english = [c for c in captions if c.startswith("Picture")]
                assert all(f"'s {image_id[0]} toys" in c for c in english)
    assert load("test", "de").ids == ["30_ca.jpg"]  # which Multi30k has for training


def test_images_without_captions_are_left_out_or_keep_what_they_have(load, caplog):
    caplog.set_level(logging.WARNING)
    one = load("train", "de")
    assert set(one.ids) == {*NAMES["train"]} - {"13_ad.jpg"}
    assert one.captions()[one.ids.index("10_aa.jpg")] == (said(10, 1), said(10, 2))
    assert "1 of 4 images have no caption in de; left out" in caplog.text
    both = load("train", "en", "de")
    assert set(both.ids) == {*NAMES["train"]}
    counts = dict(zip(both.ids, map(len, both.captions()), strict=True))
    assert counts == dict.fromkeys(NAMES["train"], 7) | {"13_ad.jpg": 5}
    assert both.language_numbers()[both.ids.index("10_aa.jpg")] == (0, 0, 0, 0, 0, 1, 1)
    assert "1 of 4 images have no caption in de; they have those in en" in caplog.text
    assert [e.captions for e in one] == one.captions() and [e.image_id for e in one] == one.ids
    assert [both.ids[number] for number in one.numbers] == one.ids
    assert one.fingerprint != both.fingerprint


def test_english_alone_is_what_it_was(load):
    plain = load("train", captions_dir=None)
    assert isinstance(plain, ImageSource) and isinstance(load("train"), ImageSource)
    assert load("train").fingerprint == plain.fingerprint


def test_copies_keep_their_language_and_their_sides(load):
    found = load("train", "en", "de", mirrored=True, crops=1)
    assert isinstance(found, InLanguages) and len(found) == 12
    at = found.ids.index("10_aa.jpg")
    assert found.captions()[at + 4][5] == said(10, 1).replace("links", "rechts")
    assert found.captions()[at + 8][5] == said(10, 1)
    copy = found[at + 4]
    assert copy.captions == found.captions()[at + 4] and copy.mirrored


def test_german_sides_change_places():
    text = "Links die rechte Hand, rechts vom linken Fuß; ein Linkshänder"
    swapped = "Rechts die linke Hand, links vom rechten Fuß; ein Linkshänder"
    assert mirror_text(text, "de") == swapped and mirror_text(swapped, "de") == text
    assert mirror_text("à gauche", "fr") == "à gauche"


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: f / "train.1.de.gz", "train.1.de.gz: has 3 lines, train_images.txt names 4"),
        (lambda f: f / "none", "none: no such folder; set --config.data.captions_dir"),
        (lambda f: None, "has no list of images such as train_images.txt"),
    ],
)
def test_damaged_layouts_are_named(load, german, damage, message):
    path = damage(german)
    if path is None:
        for lists in german.glob("*_images.txt"):
            lists.unlink()
    elif path.name != "none":
        path.write_bytes(gzip.compress(b"Eins\nZwei\nDrei\n"))
    folder = path if path is not None and path.name == "none" else german
    with pytest.raises(UserError, match=message):
        load("train", "de", captions_dir=folder)


def test_a_language_that_is_nowhere(load):
    with pytest.raises(UserError, match=r"no captions in 'fr', a file such as .* there is en, de"):
        load("train", "en", "fr")
    with pytest.raises(UserError, match=r"no captions in 'de', only in en; .*captions_dir"):
        load("train", "de", captions_dir=None)


def test_captions_of_other_pictures(load, german):
    for lists in german.glob("*_images.txt"):
        lists.write_text(re.sub(r"(\d+)", r"5\1", lists.read_text()))
    message = r"in .de. of 7 images \(5.*, ...\), of none of those of split .train. \(1\d_a.\.jpg, "
    with pytest.raises(UserError, match=message):
        load("train", "de")


def test_only_a_name_that_is_a_number_stands_for_other_names():
    captions = {"20190704_101010.jpg": ["one"], "7.jpg": ["two"], "a/8.jpg": ["three"]}
    names = ["20190704_101530.jpg", "7_ab.jpg", "b/7_ab.jpg", "b/8.jpg", "a/8.jpg"]
    assert by_picture(captions, names) == [(), ("two",), (), (), ("three",)]


def test_captions_in_another_script_are_counted(load, german, caplog):
    text = "Eins\n一只狗\n一只猫\nVier\n"
    for k in (1, 2):
        (german / f"train.{k}.de.gz").write_bytes(gzip.compress(text.encode()))
    caplog.set_level(logging.WARNING)
    load("train", "de")
    assert "captions in de are in East Asian script, most in Latin" in caplog.text


@pytest.mark.parametrize(
    "header, rows",
    [
        ("file_name,language,caption", ["{0},en,A dog .", "{0},German,Ein Hund ."]),
        ("file_name,caption_en,caption_de", ["{0},A dog .,Ein Hund ."]),
    ],
)
def test_a_table_has_languages(tmp_path, header, rows):
    folder = tmp_path / "own"
    sources.own(folder)
    names = [f"{i}.jpg" for i in range(10)]
    lines = [row.format(name) for name in names for row in rows]
    (folder / "metadata.csv").write_text("\n".join([header, *lines]) + "\n")

    def load(*languages):
        return load_images(
            "folder",
            "train",
            data_dir=tmp_path / "data",
            manual_dir=folder,
            languages=languages,
        )

    assert set(load("en").captions()) == {("A dog .",)}
    assert set(load("de").captions()) == {("Ein Hund .",)}
    assert set(load("de", "en").captions()) == {("Ein Hund .", "A dog .")}
    with pytest.raises(UserError, match="no captions in 'fr', only in de, en"):
        load("fr")


def test_a_table_that_says_nothing_has_the_first_language(tmp_path):
    sources.own(tmp_path / "own")
    place = {"data_dir": tmp_path / "data", "manual_dir": tmp_path / "own"}
    found = load_images("folder", "train", languages=("de",), **place)
    assert found.captions() == load_images("folder", "train", **place).captions()


@pytest.mark.parametrize("languages", [("en", "de"), ("de", "en"), ("en",)])
def test_descriptions_are_of_the_english_captions(languages, tmp_path):
    folder = tmp_path / "own"
    sources.own(folder)
    (folder / "metadata.csv").unlink()
    boxes = {"bbox": [[1, 1, 5, 5]], "category": ["animal"], "words": ["dog"]}
    texts = {"caption_de": "Ein Hund dog links .", "caption_en": "A dog left ."}
    rows = [{"file_name": f"{i}.jpg", "objects": boxes} | texts for i in range(10)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    place = {"data_dir": tmp_path / "data", "manual_dir": folder, "mirrored": True}
    found = load_images("folder", "train", languages=languages, **place)
    descriptions = found.descriptions()
    assert len(descriptions) == 2 * found.stored and all(descriptions)
    for captions, [description] in zip(found.captions(), descriptions, strict=True):
        assert description.text.split() == captions[description.caption].split()
        assert description.text.startswith("A dog")
    assert not any(load_images("folder", "train", languages=("de",), **place).descriptions())


def test_generated_scenes_speak_german():
    import numpy as np

    found = {render_scene(np.random.default_rng([0, i]))[1] for i in range(50)}
    german = [in_german(caption) for caption in found]
    assert in_german(
        "a small red circle left of a large purple square above a small blue cross"
    ) == (
        "ein kleiner roter Kreis links von einem großen lila Quadrat "
        "über einem kleinen blauen Kreuz"
    )
    assert len(set(german)) == len(found)
    assert not {word for text in german for word in text.split()} & {"a", "of", "above", "red"}


def test_the_german_captions_of_flickr8k(shared):
    texts = zip_members(shared / "flickr8k" / "Flickr8k_text.zip")
    lists = {split: texts[name]().decode().split() for split, name in SPLITS.items()}
    folder = shared / "multi30k" / "task2"
    captions = read_captions(folder, "de")
    assert captions is not None
    found = {split: by_picture(captions, names) for split, names in lists.items()}
    counts = {split: sum(map(bool, of_split)) for split, of_split in found.items()}
    assert counts == {"train": 5528, "val": 934, "test": 929}
    assert {len(of_image) for of_split in found.values() for of_image in of_split} <= {0, 5}
    # Multi30k's lists say another split for most test pictures, which is why they do not count.
    trained = {number_of(name) for name in (folder / "train_images.txt").read_text().split()}
    assert len(trained & set(map(number_of, lists["test"]))) == 871
    numbers = [set(map(number_of, names)) for names in lists.values()]
    assert sum(map(len, numbers)) == len(set().union(*numbers)) == 8000
