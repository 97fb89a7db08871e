"""Files of captions and references: every format, ids by other names, and clear lines otherwise."""

import json
import os
from pathlib import Path

import pytest

from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.caption_files import match, read_captions, read_references

COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 8, "caption": "A cat."},
        {"id": 2, "image_id": 7, "caption": "A dog."},
        {"id": 3, "image_id": 8, "caption": "One cat."},
    ],
}
KARPATHY = {
    "images": [
        {"filename": f"{name}.jpg", "split": split, "sentences": [{"raw": text}], **ids}
        for name, split, text, ids in [
            ("a", "test", "A dog.", {"imgid": 0, "cocoid": 7}),
            ("b", "test", "A cat.", {"imgid": 1}),
            ("c", "val", "A cow.", {"imgid": 2}),
        ]
    ]
}


@pytest.fixture
def file(tmp_path):
    """Writes a file: text as it is, other content as JSON."""

    def write(name, content):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def said(**captions):
    return [{"image_id": name, "caption": text} for name, text in captions.items()]


def test_images_of_coco_are_known_by_number_or_by_file(file):
    references = read_references([file("r.json", COCO)])
    by_number = read_captions(
        file("n.json", [{"image_id": 7, "caption": "dog"}, *said(**{"8": "cat"})])
    )
    by_file = read_captions(file("f.json", said(**{"b.jpg": "b", "a.jpg": "a"})))
    found = match([by_number, by_file], references)
    assert found.references == {"7": ["A dog."], "8": ["A cat.", "One cat."]}
    assert [list(of.items()) for of in found.captions] == [
        [("8", "cat"), ("7", "dog")],
        [("8", "b"), ("7", "a")],
    ]  # in the order of the references
    assert found.left_out == 0


def test_a_file_name_of_two_images_names_neither(file):
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "a.jpg"}]
    references = read_references([file("r.json", COCO | {"images": images})])
    by_number = read_captions(file("n.json", said(**{"7": "dog", "8": "cat"})))
    assert match([by_number], references).captions == [{"8": "cat", "7": "dog"}]
    by_file = read_captions(file("f.json", said(**{"a.jpg": "a", "b.jpg": "b"})))
    with pytest.raises(
        UserError, match=r"a.jpg is the file_name of several images of .*\(7, 8\); na"
    ):
        match([by_file], references, allow_missing=True)


def test_a_split_of_karpathys_file(file):
    path = file("dataset_x.json", KARPATHY)
    captions = read_captions(file("c.json", [{"image_id": 7, "caption": "x"}, *said(**{"1": "y"})]))
    found = match([captions], read_references([path]))
    assert found.references == {"a.jpg": ["A dog."], "b.jpg": ["A cat."]}
    assert found.captions == [{"a.jpg": "x", "b.jpg": "y"}]
    assert read_references([path], "val").texts == {"c.jpg": ["A cow."]}
    with pytest.raises(UserError, match=r"--split train: .*x.json has test, val; choose"):
        read_references([path], "train")


def test_captions_of_flickr8k(file):
    path = file("t.txt", "a b.jpg#0\tA dog .\na b.jpg#1\tDogs .\nc.jpg#0\tA cat .\n")
    assert read_references([path]).texts == {"a b.jpg": ["A dog .", "Dogs ."], "c.jpg": ["A cat ."]}


def test_lines(file):
    captions = read_captions(file("c.txt", "a dog\r\n\na [cat]\tsleeps\n"))
    several = [file("r0.txt", "A dog.\nA cow.\nA cat."), file("r1.txt", "Dog\n\nCat\n")]
    found = match([captions], read_references(several))
    assert found.captions == [{"1": "a dog", "2": "", "3": "a [cat]\tsleeps"}]
    assert found.references == {"1": ["A dog.", "Dog"], "2": ["A cow."], "3": ["A cat.", "Cat"]}
    tabs = read_references([file("r.tsv", "A dog.\tDog\t\nA cow.\nA cat. \t Cat\n")])
    assert list(tabs.texts.values()) == list(found.references.values())


def test_json_is_known_without_its_suffix(file):
    captions = read_captions(
        file("results", '\ufeff [ \n{"image_id": 1, "caption": "\\ud800a dog"}]')
    )
    assert captions.texts == {"1": "a dog"} and not captions.lines


@pytest.mark.parametrize("references", [COCO, KARPATHY, "a.jpg#0\tA dog .\n", "A dog.\nA cow.\n"])
@pytest.mark.parametrize("captions", [said(**{"7": "x"}), "a dog\na cow\n"])
def test_a_pipe_is_read_once(file, captions, references):
    def through_pipe(path):
        read, write = os.pipe()
        with os.fdopen(write, "wb") as pipe:
            pipe.write(path.read_bytes())
        pipes.append(read)
        return Path(f"/dev/fd/{read}")

    pipes = []
    paths = [file("c", captions), file("r", references)]
    wanted = read_captions(paths[0]).texts, read_references([paths[1]]).texts
    first, second = map(through_pipe, paths)
    assert (read_captions(first).texts, read_references([second]).texts) == wanted
    for pipe in pipes:
        os.close(pipe)


def test_missing_images_are_named_or_left_out(file):
    references = read_references([file("r.json", COCO)])
    both = read_captions(file("both.json", said(**{"7": "x", "8": "y"})))
    some = read_captions(file("some.json", said(**{"7": "z", "9": "y"})))
    with pytest.raises(
        UserError, match=r"some.json: 1 of 2 images have no references in .*r.json \(9\)"
    ):
        match([both, some], references)
    one = read_captions(file("one.json", said(**{"7": "z"})))
    with pytest.raises(
        UserError, match=r"one.json: no captions for 1 of 2 images .*\(8\); .*--allow"
    ):
        match([one], references)
    found = match([both, some], references, allow_missing=True)
    assert found.captions == [{"7": "x"}, {"7": "z"}] and found.left_out == 2
    none = read_captions(file("none.json", said(**{str(k): "z" for k in range(10, 15)})))
    with pytest.raises(UserError, match=r"no image in common \(10, 11, 12, ... and 8, 7\); give"):
        match([none], references, allow_missing=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", [], "c.json: holds no captions; captions must be"),
        ("c.json", {"a": "b"}, r"c.json: not a COCO results file \(no list\); captions must be"),
        ("c.json", "[{", r"c.json: not a COCO results file \(Expecting"),
        ("c.json", [{"image_id": 1}], "entry 1: lacks image_id or caption"),
        ("c.json", [{"image_id": 1, "caption": ["a"]}], "entry 1: its caption is not a string"),
        ("c.json", [{"image_id": 1.5, "caption": "a"}], "entry 1: its id is neither"),
        ("c.json", said(**{"1": "a"}) * 2, r"names an image twice \(1\)"),
        ("c.txt", "", "c.txt: empty; give"),
        ("c.txt", " \n\n", "c.txt: no line has a word; give"),
        ("c.txt", "version https://git-lfs.github.com/spec/v1", "run `git lfs pull`"),
    ],
)
def test_bad_captions(file, name, content, message):
    with pytest.raises(UserError, match=message):
        read_captions(file(name, content))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"r.json": said(**{"1": "a"})}, r"not COCO's annotations \(no annotations\); references"),
        ({"r.json": {"annotations": []}}, "r.json: holds no references"),
        ({"r.json": {"annotations": [{"image_id": 1}]}}, "annotation 1: lacks image_id or caption"),
        ({"r.json": COCO | {"images": [{"id": 1}, {"id": 1}]}}, "image 2: 1 comes twice"),
        ({"r.json": COCO | {"images": [5]}}, "not COCO's annotations"),
        ({"r.json": {"images": [{"sentences": 5}]}}, "r.json, image 1: not in the form of"),
        ({"r.json": COCO, "s.json": COCO}, "r.json: references by image must be in one file"),
        ({"r.txt": "a\n\t\nb\n"}, "r.txt, line 2: no reference; add one"),
        ({"r.txt": "a\nb\n", "s.txt": "a\n"}, "s.txt: 1 lines, but .*r.txt has 2"),
        ({"r.txt": "a\n", "s.txt": ""}, "s.txt: empty"),
    ],
)
def test_bad_references(file, contents, message):
    paths = [file(name, content) for name, content in contents.items()]
    with pytest.raises(UserError, match=message):
        read_references(paths)


def test_what_does_not_belong_together(file, tmp_path):
    lines, coco = file("c.txt", "a\nb\n"), file("r.json", COCO)
    with pytest.raises(UserError, match="c.txt has lines, .*r.json has image ids; give both"):
        match([read_captions(lines)], read_references([coco]))
    with pytest.raises(UserError, match="c.txt: 2 lines, but .*r.txt has 3; line by line"):
        match([read_captions(lines)], read_references([file("r.txt", "a\nb\nc\n")]))
    with pytest.raises(UserError, match="--split val: .*c.txt has no splits; leave --split out"):
        read_references([lines], "val")
    twice = file("c.json", said(**{"a.jpg": "x", "b.jpg": "y", "7": "z"}))
    with pytest.raises(UserError, match="names an image twice, in different ways"):
        match([read_captions(twice)], read_references([coco]))
    with pytest.raises(UserError, match="none.txt: cannot be read .*; check the path"):
        read_captions(tmp_path / "none.txt")
