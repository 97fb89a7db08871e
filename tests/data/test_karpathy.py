"""The splits of Karpathy and Li over a folder of images, on small files in their format."""

import json
from pathlib import Path

import pytest
import sources

from show_attend_tell.data.examples import ImageSource
from show_attend_tell.data.load import load_images
from show_attend_tell.errors import UserError

SPLITS = {
    "train": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
    "val": ["e.jpg", "f.jpg"],
    "test": ["g.jpg", "h.jpg"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One JSON file, and the images in two folders below it."""
    sources.flickr30k(tmp_path / "flickr30k")
    return tmp_path / "flickr30k"


def write(folder: Path, content: object) -> None:
    (folder / "dataset_flickr30k.json").write_text(json.dumps(content))


def load(folder: Path, split: str = "train", **options) -> ImageSource:
    data = folder.parent / "data"
    return load_images("karpathy", split, data_dir=data, manual_dir=folder, **options)


def test_images_anywhere_below_the_folder(folder: Path, logged):
    for split, names in SPLITS.items():
        assert sorted(load(folder, split).ids) == names
    examples = {example.image_id: example for example in load(folder)}
    assert examples["b.jpg"].image == sources.picture(ord("b"))
    assert examples["b.jpg"].captions == ("A dog number 1 .", "The train dog runs .")
    assert examples["b.jpg"].boxes == ()
    assert logged().count("\n") == 1  # it is built once


def test_another_file_is_another_data_set(folder: Path):
    first = load(folder)
    write(
        folder,
        sources.karpathy(SPLITS | {"train": ["a.jpg", "b.jpg"], "restval": ["c.jpg", "d.jpg"]}),
    )
    assert len(load(folder)) == 2 and len(load(folder, restval=True)) == 4
    write(folder, sources.karpathy(SPLITS))
    for path in folder.rglob("*.jpg"):
        path.unlink()
    assert load(folder).fingerprint == first.fingerprint


def test_filepath_distinguishes_images_with_the_same_name(folder: Path, logged):
    (folder / "images" / "held out" / "a.jpg").write_bytes(sources.picture(1))
    assert len(load(folder)) == 3
    assert "it is in several folders (1: a.jpg (near: images/held out/a.jpg, " in logged()
    write(folder, sources.karpathy(SPLITS, filepath="held out", cocoid=3))
    assert len(load(folder)) == 4
    images = {example.image_id: example.image for example in load(folder)}
    assert images["a.jpg"] == sources.picture(1)


def test_one_file_is_one_image(folder: Path, logged):
    names = {"train": ["one/1.jpg", "one/2.jpg"], "val": ["two/1.jpg", "two/3.jpg"]}
    for path in (p for p in folder.rglob("*.jpg")):
        path.unlink()
    for name in (*names["train"], "two/3.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(sources.picture(ord(name[4])))
    write(folder, sources.karpathy(names))
    assert sorted(load(folder).ids) == names["train"]
    assert load(folder, "val").ids == ["two/3.jpg"]
    assert "two/1.jpg" in logged()


def test_its_own_english_captions_come_first(folder: Path):
    further = folder.parent / "further"
    further.mkdir()
    (further / "train_images.txt").write_text("a.jpg\n")
    for language in ("en", "de"):
        (further / f"train.1.{language}").write_text(f"Other {language} .\n")
    found = load(folder, languages=("de", "en"), captions_dir=further)
    captions = dict(zip(found.ids, found.captions(), strict=True))
    assert captions["a.jpg"][0] == "Other de ." and "Other en ." not in captions["a.jpg"]
    assert len(captions) == 4


def test_unusable_images_are_left_out_and_counted(folder: Path, logged):
    content = sources.karpathy(SPLITS)
    content["images"][1]["sentences"] = sources.sentences(" ", "")
    write(folder, content)
    (folder / "images" / "held out" / "e.jpg").unlink()
    assert sorted(load(folder).ids) == ["a.jpg", "c.jpg", "d.jpg"]
    out = logged()
    assert "karpathy train: 1 of 4 images skipped: it has no caption (1: b.jpg)\n" in out
    assert "karpathy val: 1 of 2 images skipped: it is not there (1: e.jpg)\n" in out
    (metadata,) = folder.parent.glob("data/**/metadata.json")
    assert json.loads(metadata.read_text()) == {
        "unusable_images": {"b.jpg": "it has no caption", "e.jpg": "it is not there"}
    }


def test_a_split_without_images_is_an_error(folder: Path):
    for name in SPLITS["val"]:
        (folder / "images" / "held out" / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"flickr30k: 2 of 2 images of split 'val' .*; put good"):
        load(folder)
    assert not list(folder.parent.glob("data/**/*.array_record*"))


def test_splits_and_sentences_in_other_words(folder: Path):
    splits = {"Train": SPLITS["train"], "dev": ["e.jpg"], "valid": ["f.jpg"], "Test": ["g.jpg"]}
    content = sources.karpathy(splits)
    content["images"][0]["sentences"] = [{"tokens": ["a", "red", "dog"]}, {"raw": "A dog ."}]
    write(folder, content)
    assert [sorted(load(folder, split).ids) for split in ("train", "val", "test")] == [
        SPLITS["train"],
        ["e.jpg", "f.jpg"],
        ["g.jpg"],
    ]
    captions = {example.image_id: example.captions for example in load(folder)}
    assert captions["a.jpg"] == ("a red dog", "A dog .")


def test_a_name_cannot_escape_the_folder(folder: Path, logged):
    (folder.parent / "secret.jpg").write_bytes(sources.picture(0))
    splits = SPLITS | {"train": ["a.jpg", "b.jpg", "../secret.jpg"]}
    write(folder, sources.karpathy(splits))
    assert len(load(folder)) == 2
    assert "it is not in the folder (1: ../secret.jpg)" in logged()


def test_names_that_differ_a_little_and_links(folder: Path, logged):
    held_out = folder / "images" / "held out"
    held_out.rename(folder.parent / "elsewhere")
    held_out.symlink_to(folder.parent / "elsewhere")
    training = folder / "images" / "training"
    (training / "b.jpg").rename(training / "b.jfif")
    (training / "d.jpg").rename(training / "d.TIF")  # a JPEG all the same
    content = sources.karpathy(
        {
            "train": ["training/a.jpg", "b.jfif", r"images\training\c.JPG", "d.tif"],
            "val": [str(held_out / "e.jpg"), "f"],
            "test": ["g.jpg", "h.png"],
        }
    )
    write(folder, content)
    train = {example.image_id: example.image for example in load(folder)}
    assert train == {
        image["filename"]: sources.picture(ord(key))
        for image, key in zip(content["images"], "abcd", strict=False)
    }
    assert len(load(folder, "val")) == 2 and load(folder, "test").ids == ["g.jpg"]
    out = logged()
    assert "karpathy: 5 names were taken for files that are called a little differently: " in out
    assert "it is not there (1: h.png (near: images/held out/h.jpg))" in out


@pytest.mark.parametrize(
    "content, message",
    [
        ("[", r"flickr30k.json: not a readable JSON file .*; get it again"),
        ([], "flickr30k.json: has no list of images"),
        ({"images": []}, "flickr30k.json: has no list of images"),
        ({"images": ["a.jpg"]}, r"flickr30k.json, image 1: not in the form"),
        ({"images": [{"file_name": "a.jpg"}]}, r"image 1: not in the form .* \(filename\); get"),
        (
            {"images": [{"filename": "a", "split": "val", "sentences": [{"tokens": "a"}]}]},
            r"image 1: not in the form .* \(tokens\)",
        ),
        ({"images": [{"filename": 1, "split": "val", "sentences": []}]}, r"not .* \(filename\)"),
        (
            sources.karpathy({"all": ["a.jpg"]}),
            r"image 1 \(a.jpg\): split 'all' is not known; choose one of train, .*test.*, restval",
        ),
        (sources.karpathy({"train": ["a.jpg", "a.jpg"]}), "image 2: a.jpg comes twice; remove"),
    ],
)
def test_malformed_files(folder: Path, content, message):
    write(folder, content)
    if content == "[":
        (folder / "dataset_flickr30k.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_the_remedy_for_what_is_missing(folder: Path):
    with pytest.raises(
        UserError, match="karpathy: no folder to build it from is set; set --config"
    ):
        load_images("karpathy", "train", data_dir=folder)
    with pytest.raises(UserError, match="absent: no such folder; set --config.data.manual_dir"):
        load(folder / "absent")
    write(folder, sources.karpathy({"train": ["a.jpg"]}))
    with pytest.raises(UserError, match="flickr30k.json: has no split 'val', only train; give"):
        load(folder, "val")
    (folder / "dataset_coco.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"one .json file, has dataset_coco.json, dataset_flickr30k"
    ):
        load(folder)
