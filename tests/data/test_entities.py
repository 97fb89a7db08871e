"""Flickr30k Entities on a stand-in in its layout, and on the real annotations where they are."""

import shutil
import zipfile
from pathlib import Path

import pytest
import sources

from show_attend_tell.data.builders.common import zip_members
from show_attend_tell.data.builders.flickr8k import SPLITS, read_captions
from show_attend_tell.data.entities import annotation_id, find_entities
from show_attend_tell.data.examples import ImageSource
from show_attend_tell.data.load import load_images
from show_attend_tell.data.phrase_index import Images
from show_attend_tell.data.phrases import Counted, Description, Phrase
from show_attend_tell.data.ptb_tokenizer import tokenize
from show_attend_tell.errors import UserError

# Of a picture of 30 x 20 pixels; boxes count pixels from 1 and include the last.
DOG, WHOLE = (5 / 20, 3 / 30, 10 / 20, 15 / 30), (0.0, 0.0, 1.0, 1.0)


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """A stand-in of Flickr8k, and the annotations extracted beside it."""
    sources.flickr8k(tmp_path / "download")
    sources.entities(tmp_path / "download")
    return tmp_path / "download"


def load(download: Path, split: str = "train", **options) -> ImageSource:
    data = download.parent / "data"
    return load_images("flickr8k", split, data_dir=data, manual_dir=download, **options)


def described(download: Path, name: str, split: str = "train") -> tuple[Description, ...]:
    examples = load(download, split)
    return examples.descriptions()[examples.ids.index(name)]


def pack(download: Path, name: str, top: str = "") -> None:
    """Replaces the extracted files with an archive."""
    folders = ("Annotations", "Sentences")
    with zipfile.ZipFile(download / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in [*(p for f in folders for p in (download / f).iterdir()), download / "README"]:
            archive.write(path, top + str(path.relative_to(download)))
            archive.writestr(f"__MACOSX/{top}Annotations/._{path.name}", b"resource fork")
        archive.write(download / "UNRELATED_CAPTIONS", f"{top}UNRELATED_CAPTIONS")
    for folder in folders:
        shutil.rmtree(download / folder)
    (download / "UNRELATED_CAPTIONS").unlink()


def annotate(download: Path, *objects: str, key: str = "1", **options) -> None:
    path = download / "Annotations" / f"{key}.xml"
    path.write_text(sources.entity_file(*objects, **options))


def say(download: Path, *lines: str, key: str = "1") -> None:
    (download / "Sentences" / f"{key}.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("layout", ["extracted", "nested", "zip", "original zip", "flat zip"])
def test_archives_and_folders(download: Path, layout):
    if layout == "nested":
        (download / "Flickr30kEntities").mkdir()
        for name in ("Annotations", "Sentences", "UNRELATED_CAPTIONS"):
            (download / name).rename(download / "Flickr30kEntities" / name)
    elif layout == "zip":
        pack(download, "flickr30k_entities.zip", "Flickr30kEntities/")
    elif layout == "original zip":
        pack(download, "annotations.zip", "annotations/")
    elif layout == "flat zip":
        pack(download, "annotations.zip")
    for split, names in sources.FLICKR8K.items():
        examples = load(download, split)
        assert len(examples.descriptions()) == len(names)
        for name, of_image in zip(examples.ids, examples.descriptions(), strict=True):
            assert of_image == tuple(
                Description(
                    f"Picture {k} of a dog 's {name[0]} toys .",
                    (
                        Phrase(0, 0, "7", ("other",), ()),
                        Phrase(1, 1, "0", ("notvisual",), ()),
                        Phrase(3, 4, "8", ("animals", "people"), (DOG, WHOLE)),
                        Phrase(6, 7, "9", ("other",), (WHOLE,)),
                    ),
                    k,
                )
                for k in range(5)
            )
        first, sentences = examples.ids[0], 5 * len(names)
        assert examples.phrase_counts() == {
            "phrases without a box": Counted(
                sentences, tuple(f"{first}, sentence {k}: Picture" for k in (1, 2, 3))
            ),
            "phrases that are not annotated": Counted(
                sentences, tuple(f"{first}, sentence {k + 1}: {k}" for k in (0, 1, 2))
            ),
        }


def test_ids_end_at_the_first_mark():
    assert annotation_id("1000268201_693b08cb0e.jpg") == "1000268201"
    assert annotation_id("36979.jpg") == "36979"
    assert annotation_id("36979.a_b.jpg") == "36979"
    assert annotation_id("flickr30k_images/36979.jpg") == "36979"
    assert annotation_id(r"my.images\36979.jpg") == "36979"


def test_folders_come_before_archives_and_no_half_is_taken(download: Path, logged):
    (download / "annotations.zip").write_bytes(b"")
    assert find_entities(download).place == download
    (download / "Sentences").rename(download / "elsewhere")
    assert find_entities(download).place == download / "annotations.zip"
    assert f"{download}: has only one of Annotations and Sentences, so it is not" in logged()
    (download / "annotations.zip").unlink()
    assert find_entities(download) is None
    assert find_entities(None) is None and find_entities(download / "absent") is None
    assert load(download).descriptions() == [()] * 6
    assert load(download).phrase_counts() == {}
    assert not list(download.parent.glob("data/**/phrases*"))


def test_sentences_are_compared_with_captions_by_their_words(download: Path):
    path = download / "Flickr8k.token.txt"
    lines = path.read_text().splitlines()
    captions = ["A dog .", "a  DOG runs", "A dog.", "It 's red .", "A dog runs ."]
    texts = [line for line in lines if not line.startswith("1_aa.jpg#")]
    path.write_text("\n".join([*texts, *(f"1_aa.jpg#{k}\t{c}" for k, c in enumerate(captions))]))
    sentences = [
        "a dog",
        "A dog runs .",
        "A Dog Runs",
        "a dog runs",
        "It's red",
        "It 's Red.",
        "Dog .",
    ]
    say(download, *sentences)
    found = described(download, "1_aa.jpg")
    # Equal sentences take one caption after the other, and the last one over and over.
    assert [d.caption for d in found] == [0, 1, 4, 4, -1, 3, -1]
    assert [d.text for d in found] == sentences
    assert load(download).phrase_counts()["sentences that equal no caption"] == Counted(
        2, ("1_aa.jpg, sentence 5", "1_aa.jpg, sentence 7")
    )


def test_sentences_equal_captions_that_are_typed_in_another_way(download: Path):
    path = download / "Flickr8k.token.txt"
    caption = "A man’s hat in “Cafe\u0301”"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("1_aa.jpg#")]
    path.write_text("\n".join([*lines, f"1_aa.jpg#0\t{caption}"]))
    say(download, '[/EN#8/clothing a man\'s hat] in [/EN#9/other "Café"] .')
    (found,) = described(download, "1_aa.jpg")
    assert (found.caption, found.text) == (0, "a man’s hat in “Cafe\u0301” .")
    assert found.last_token(found.phrases[1], tokenize) == len(tokenize(caption)) - 1


@pytest.mark.parametrize(
    "line, text, phrases",
    [
        ("[/EN#8/animals A dog]'s [/EN#9 toys]", "A dog 's toys", [(0, 1, "8"), (3, 3, "9")]),
        ("A  man [ sic ]  runs", "A man [ sic ] runs", []),
        ("[/EN#8/animals A dog][/EN#9/other toys]", "A dog toys", [(0, 1, "8"), (2, 2, "9")]),
        ("A dog\u2028runs\r", "A dog runs", []),
        ("[/EN#8/animals A dog runs", None, []),
        ("[/EN#8/animals A [/EN#9/other dog] runs]", None, []),
        ("[/EN#8/animals  ] runs", None, []),
        ("[/EN#/animals dog] runs", None, []),
        ("[/EN#8/animals] dog runs", None, []),
    ],
)
def test_lines_of_sentences(download: Path, line, text, phrases):
    say(download, "  ", line, "A cat .")
    found = described(download, "1_aa.jpg")
    assert [d.text for d in found] == [*([] if text is None else [text]), "A cat ."]
    if text is not None:
        assert [(p.first, p.last, p.entity) for p in found[0].phrases] == phrases
    odd = load(download).phrase_counts().get("sentences of another form")
    assert odd == (None if text else Counted(1, ("1_aa.jpg, sentence 1",)))


def test_boxes_outside_the_picture_and_without_area(download: Path):
    annotate(
        download,
        sources.entity_object([8], (0, -4, 45, 10)),  # cut to the upper half
        sources.entity_object([8], (31, 1, 40, 20)),  # right of the picture
        sources.entity_object([9], (10, 5, 9, 20)),  # ends before it begins
        sources.entity_object([9], (10, 5, 10, 5)),  # one pixel
    )
    *_, dog, toys = described(download, "1_aa.jpg")[0].phrases
    assert dog.boxes == ((0.0, 0.0, 0.5, 1.0),)
    assert toys.boxes == ((pytest.approx(4 / 20), pytest.approx(9 / 30), 5 / 20, 10 / 30),)
    counts = load(download).phrase_counts()
    assert counts["boxes cut at the edge of the picture"] == Counted(1, ("1_aa.jpg, entity 8",))
    assert counts["boxes of no area in the picture"] == Counted(
        2, ("1_aa.jpg, entity 8", "1_aa.jpg, entity 9")
    )


def test_images_and_annotations_without_the_other(download: Path):
    (download / "Annotations" / "1.xml").unlink()
    (download / "Sentences" / "2.txt").unlink()
    annotate(download, key="77")
    for split, names in sources.FLICKR8K.items():
        examples = load(download, split)
        found = dict(zip(examples.ids, examples.descriptions(), strict=True))
        assert {name for name, of_image in found.items() if not of_image} == set(names[1:3])
        counts = examples.phrase_counts()
        assert counts["images without annotations"].count == 2
        # Said once, of all splits together: pictures 3 to 5 are of the training split only.
        alone = counts.get("annotations without an image")
        assert alone == (Counted(1, ("77",)) if split == "train" else None)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
    "<annotation><size><width>&b;</width></size></annotation>"
)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "no element found"),
        (b"<annotation>", "no element found"),
        (b"\xff\xfe\x00", ""),
        (BOMB.encode(), "it has a document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "it has a document type"),
        (b"<annotation/>", "no size/height"),
        (sources.entity_file(size=(0, 20)).encode(), "a size of 0 x 20 pixels"),
        (sources.entity_file(size=("x", 20)).encode(), "could not convert string to float: 'x'"),
        (sources.entity_file(size=("nan", 20)).encode(), "size/width is nan"),
        (
            sources.entity_file("<object><bndbox><xmin>1</xmin></bndbox></object>").encode(),
            "no ymin",
        ),
        (sources.entity_file(sources.entity_object([8], (1, "inf", 2, 3))).encode(), "ymin is inf"),
        (b"<a>" * 100_000 + b"</a>" * 100_000, "no size/height"),
    ],
)
def test_xml_that_cannot_be_used(download: Path, content, reason):
    (download / "Annotations" / "1.xml").write_bytes(content)
    assert described(download, "1_aa.jpg") == ()
    assert len(described(download, "2_aa.jpg")) == 5
    found = load(download).phrase_counts()["unreadable XML"]
    assert found.count == 1 and found.names[0].startswith("1.xml (") and reason in found.names[0]


def test_sentences_that_are_no_text(download: Path):
    (download / "Sentences" / "1.txt").write_bytes(b"A dog \xff .")
    assert described(download, "1_aa.jpg") == ()
    assert load(download).phrase_counts()["unreadable sentences"].names[0].startswith("1.txt ('utf")


def test_large_members_of_an_archive_are_not_expanded(download: Path):
    (download / "Annotations" / "1.xml").write_bytes(b" " * 2**21)
    pack(download, "annotations.zip")
    assert described(download, "1_aa.jpg") == ()
    found = load(download).phrase_counts()["unreadable XML"]
    assert found == Counted(1, ("1.xml (2,097,152 bytes are too many)",))


def test_a_damaged_archive_is_an_error(download: Path):
    pack(download, "annotations.zip")
    whole = (download / "annotations.zip").read_bytes()
    (download / "annotations.zip").write_bytes(whole[: len(whole) // 2])
    examples = load(download)  # a run that does not ask is not disturbed
    with pytest.raises(UserError, match="annotations.zip: not a readable zip .*; get it again"):
        examples.descriptions()


def test_a_damaged_list_of_sentences_is_an_error(download: Path):
    (download / "UNRELATED_CAPTIONS").write_bytes(b"1 2\n\xff 3\n")
    with pytest.raises(UserError, match="download: UNRELATED_CAPTIONS is damaged .*; get it again"):
        load(download).descriptions()


@pytest.mark.parametrize("packed", [False, True])
def test_sentences_about_something_else_are_left_out(download: Path, packed):
    (download / "UNRELATED_CAPTIONS").write_text(
        "# format: <imageID> <sentence number>\n1 2\n3 5 \n"
    )
    if packed:
        pack(download, "annotations.zip")
    assert [d.text[:9] for d in described(download, "1_aa.jpg")] == [
        f"Picture {k}" for k in (0, 2, 3, 4)
    ]
    assert [d.text[:9] for d in described(download, "3_aa.jpg")] == [
        f"Picture {k}" for k in (0, 1, 2, 3)
    ]
    counted = load(download).phrase_counts()["sentences unrelated to their image"]
    assert (counted.count, set(counted.names)) == (
        2,
        {"1_aa.jpg, sentence 2", "3_aa.jpg, sentence 5"},
    )


def test_a_data_set_of_karpathys_splits_has_them_too(tmp_path: Path):
    folder = tmp_path / "flickr30k"
    sources.flickr30k(folder)
    (folder / "Annotations").mkdir(), (folder / "Sentences").mkdir()
    annotate(folder, sources.entity_object([8], (4, 6, 15, 10)), key="b")
    say(folder, "[/EN#8/animals A dog number 1] .", key="b")
    annotate(folder, key="e")  # of the validation split
    annotate(folder, key="z")
    data = tmp_path / "data"
    examples = load_images("karpathy", "train", data_dir=data, manual_dir=folder)
    found = dict(zip(examples.ids, examples.descriptions(), strict=True))
    phrase = Phrase(0, 3, "8", ("animals",), (DOG,))
    assert found == {
        "a.jpg": (),
        "b.jpg": (Description("A dog number 1 .", (phrase,), 0),),
        "c.jpg": (),
        "d.jpg": (),
    }
    assert examples.phrase_counts() == {
        "images without annotations": Counted(3, tuple(n for n in examples.ids if n != "b.jpg")),
        "annotations without an image": Counted(1, ("z",)),
    }


def test_the_annotations_of_flickr8k(shared: Path):
    place = find_entities(shared / "flickr8k")
    if place is None:
        pytest.skip(f"{shared}/flickr8k/flickr30k_entities.zip is absent")
    texts = zip_members(shared / "flickr8k" / "Flickr8k_text.zip")
    captions = read_captions(texts["Flickr8k.token.txt"]().decode(), "captions")
    index = [(name, tuple(captions[name])) for name in texts[SPLITS["test"]]().decode().split()]
    described = place.describe(Images(index, example=lambda number: pytest.fail("reads an image")))
    found = described.descriptions
    sentences = [description for of_image in found for description in of_image]
    phrases = [phrase for sentence in sentences for phrase in sentence.phrases]
    assert (len(found), len(sentences), len(phrases)) == (1000, 5000, 15657)
    assert sum(bool(phrase.boxes) for phrase in phrases) == 13063
    assert sum(sentence.caption >= 0 for sentence in sentences) == 4837
    assert {reason: counted.count for reason, counted in described.counts.items()} == {
        "phrases without a box": 1725,
        "phrases that are not annotated": 869,
        "sentences that equal no caption": 163,
    }
    sides = [side for phrase in phrases for box in phrase.boxes for side in box]
    assert (min(sides), max(sides)) == (0.0, 1.0)  # no box was cut, so none lies outside
    for of_image, (_, of_caption) in zip(found, index, strict=True):
        for description in of_image:
            if description.caption >= 0:
                words = of_caption[description.caption].lower().rstrip(" .").split()
                assert description.text.lower().rstrip(" .").split() == words
