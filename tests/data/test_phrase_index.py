"""What is kept of phrases beside a built data set, and when it is made again."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import sources

from show_attend_tell.data import entities
from show_attend_tell.data import index as indexes
from show_attend_tell.data.builders import reversal, shapes
from show_attend_tell.data.copies import draw_crop
from show_attend_tell.data.examples import ImageSource
from show_attend_tell.data.load import load_images, load_pairs
from show_attend_tell.data.phrases import Counted
from show_attend_tell.data.scenes import SHAPES
from show_attend_tell.errors import UserError


@pytest.fixture
def download(tmp_path: Path) -> Path:
    sources.flickr8k(tmp_path / "download")
    sources.entities(tmp_path / "download")
    return tmp_path / "download"


def load(download: Path, split: str = "val", *, there: bool = True, **options) -> ImageSource:
    data, manual_dir = download.parent / "data", download if there else None
    return load_images("flickr8k", split, data_dir=data, manual_dir=manual_dir, **options)


def kept(download: Path, split: str = "val") -> Path:
    return download.parent / "data" / "flickr8k" / "1.0.0" / f"phrases-{split}.jsonl"


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The ids whose annotation files are read from now on."""
    read, ids = entities.read_boxes, []

    def reading(xml, name, counts):
        ids.append(name)
        return read(xml, name, counts)

    monkeypatch.setattr(entities, "read_boxes", reading)
    return ids


def test_annotations_are_read_when_asked_for_and_once(download: Path, reads):
    before = load(download)
    fingerprint = before.fingerprint
    assert reads == [] and not kept(download).exists()
    found = before.descriptions()
    assert sorted(reads) == sources.FLICKR8K["val"] and kept(download).exists()
    again = load(download)
    assert (again.descriptions(), again.phrase_counts()) == (found, before.phrase_counts())
    assert len(reads) == 3
    assert again.fingerprint == fingerprint
    assert not kept(download, "train").exists()
    kept(download).unlink()
    assert before.descriptions() == found and not kept(download).exists()  # it has them by now


def test_the_first_line_says_what_it_was_made_from(download: Path):
    load(download).descriptions()
    head, *lines = kept(download).read_text().splitlines()
    of = json.loads(head)["of"]
    stats = [file.stat() for file in (download / "Annotations").iterdir()]
    newest = max(stat.st_mtime_ns for stat in stats)
    assert of["annotations"][0] == [
        "Annotations, 6 files", sum(stat.st_size for stat in stats), newest
    ]  # fmt: skip
    assert of["annotations"][1][0] == "Sentences, 6 files"
    assert of["records"][0][0] == "flickr8k-val.array_record-00000-of-00001"
    assert len(lines) == 1 + 3  # the counts, and a line for each image


def test_they_may_come_after_the_build_and_go_again(download: Path, reads):
    shutil.move(download / "Annotations", download.parent)
    assert load(download).descriptions() == [()] * 3 and not kept(download).exists()
    shutil.move(download.parent / "Annotations", download)
    found = load(download)
    assert all(len(of_image) == 5 for of_image in found.descriptions())
    del reads[:]
    for there in (True, False):  # without the annotations, then without the folder
        shutil.rmtree(download / "Annotations", ignore_errors=True)
        alone = load(download, there=there)
        assert alone.descriptions() == found.descriptions()
        assert alone.phrase_counts() == found.phrase_counts()
    assert reads == []
    assert load(download, "test", there=False).descriptions() == [()] * 3


def test_they_stay_with_a_copied_data_set(download: Path):
    found = load(download).descriptions()
    for path in kept(download).parent.iterdir():
        os.utime(path, (1, 1))
    assert load(download, there=False).descriptions() == found
    (records,) = kept(download).parent.glob("flickr8k-val.array_record*")
    line = kept(download).read_bytes()
    size = str(records.stat().st_size).encode()
    kept(download).write_bytes(line.replace(size, size + b"0", 1))  # of other records
    assert load(download, there=False).descriptions() == [()] * 3


@pytest.mark.parametrize("change", ["edited", "touched", "one more", "archive", "records"])
def test_other_annotations_are_read_anew(download: Path, reads, change):
    load(download).descriptions()
    written = kept(download).read_bytes()
    path = download / "Annotations" / "1.xml"
    if change == "edited":
        stat = path.stat()
        path.write_text(path.read_text().replace("<xmin>4<", "<xmin>10<"))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "touched":
        os.utime(path, (2**32, 2**32))
    elif change == "one more":
        shutil.copy(path, download / "Annotations" / "99.xml")
    elif change == "archive":
        shutil.rmtree(download / "Sentences")
        shutil.make_archive(str(download / "annotations"), "zip", download, "Annotations")
    else:
        (records,) = kept(download).parent.glob("flickr8k-val.array_record*")
        os.utime(records, (1, 1))
    del reads[:]
    found = load(download).descriptions()
    assert len(reads) == (0 if change == "archive" else 3)
    if change == "archive":  # which has no sentences
        assert found == [()] * 3
    if change == "edited":
        (description,) = {d[0] for d in found if d[0].phrases[2].boxes[0][1] != 3 / 30}
        assert description.phrases[2].boxes[0][1] == 9 / 30
    assert kept(download).read_bytes() != written


@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "format"])
def test_a_damaged_file_is_made_again_or_reported(download: Path, damage, logged):
    found = load(download).descriptions()
    written = kept(download).read_bytes()
    bad = {
        "empty": b"",
        "cut": written[:-30],
        "changed": written.replace(b"toys", b"boys"),  # its hash is in the first line
        "format": written.replace(b'{"of": {"format": 2', b'{"of": {"format": 0'),
    }[damage]
    kept(download).write_bytes(bad)
    logged()
    assert load(download, there=False).descriptions() == [()] * 3
    assert "phrases-val.jsonl: unusable; with its annotations in config.data.manual" in logged()
    assert load(download).descriptions() == found
    assert kept(download).read_bytes() == written and logged() == ""


def test_a_file_of_the_first_format_suffices_where_annotations_are_gone(download: Path, logged):
    found = load(download).descriptions()
    written = kept(download).read_bytes()
    kept(download).write_bytes(written.replace(b'{"of": {"format": 2', b'{"of": {"format": 1'))
    logged()
    assert load(download, there=False).descriptions() == found and logged() == ""
    assert load(download).descriptions() == found
    assert kept(download).read_bytes() == written


@pytest.mark.parametrize("name", ["replacing", "locked"])
def test_a_folder_that_cannot_be_written_to_only_warns(download: Path, monkeypatch, name, logged):
    found = load(download).descriptions()
    load(download, "train"), load(download, "test")  # their captions' indices are there
    kept(download).unlink()
    logged()

    def full(path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(indexes.files, name, full)
    assert load(download).descriptions() == found
    assert "phrases-val.jsonl: cannot be kept (Read-only file system)" in logged()
    assert not kept(download).exists()


def test_copies_and_limits(download: Path):
    plain = load(download, "train")
    found = plain.descriptions()
    few = load(download, "train", limit=2, mirrored=True, crops=2)
    assert len(few) == 8
    crops = [[draw_crop(name, number) for name in few.ids[:2]] for number in (1, 2)]
    assert few.descriptions() == [
        *found[:2],
        *(tuple(d.mirror() for d in of_image) for of_image in found[:2]),
        *(tuple(d.crop(crops[0][i]) for d in found[i]) for i in range(2)),
        *(tuple(d.crop(crops[1][i]).mirror() for d in found[i]) for i in range(2)),
    ]
    assert few.phrase_counts() == plain.phrase_counts()


def test_copies_are_those_of_the_examples(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": 12, "val": 2, "test": 2})
    examples = load_images("shapes", "train", data_dir=tmp_path, mirrored=True, crops=2)
    found = examples.descriptions()
    assert len(found) == len(examples) == 48
    lost = 0
    for example, (description,) in zip(examples, found, strict=True):
        assert (description.text, description.caption) == (example.captions[0], 0)
        boxes = {p.first: p.boxes for p in description.phrases if p.boxes}
        assert boxes == {box.word_index: (box.sides,) for box in example.boxes}
        lost += len(description.phrases) - len(boxes)
        for phrase in description.phrases:
            assert (phrase.last, phrase.entity) == (phrase.first, str(phrase.first))
            assert phrase.kinds == ("object",)
            assert example.captions[0].split()[phrase.first] in SHAPES
    assert [len(d.phrases) for (d,) in found[:12]] == [len(e.boxes) for e in list(examples)[:12]]
    assert examples.phrase_counts() == {}


def test_sources_can_be_pickled(download: Path):
    examples = pickle.loads(pickle.dumps(load(download, mirrored=True)))
    assert examples.descriptions() == load(download, mirrored=True).descriptions()
    assert pickle.loads(pickle.dumps(examples)).descriptions() == examples.descriptions()


def test_splits_that_train_together(tmp_path: Path):
    folder = tmp_path / "own"
    folder.mkdir()
    splits = {"train": ["a.jpg"], "restval": ["b.jpg"], "val": ["c.jpg"], "test": ["d.jpg"]}
    for name in "abcd":
        (folder / f"{name}.jpg").write_bytes(sources.picture(0))
    (folder / "dataset.json").write_text(json.dumps(sources.karpathy(splits)))
    (folder / "Annotations").mkdir(), (folder / "Sentences").mkdir()
    for name in "ab":
        (folder / f"Annotations/{name}.xml").write_text(sources.entity_file())
        (folder / f"Sentences/{name}.txt").write_text(f"[/EN#1/other {name}]")
    options = {"data_dir": tmp_path / "data", "manual_dir": folder, "restval": True}
    both = load_images("karpathy", "train", **options)
    assert [[d.text for d in of_image] for of_image in both.descriptions()] == [["a"], ["b"]]
    assert both.phrase_counts()["phrases without a box"] == Counted(
        2, ("a.jpg, sentence 1: a", "b.jpg, sentence 1: b")
    )


def test_sentence_pairs_have_none(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(reversal, "SPLITS", {"train": 2, "val": 2, "test": 3})
    pairs = load_pairs("reversal", "test", data_dir=tmp_path)
    assert pairs.descriptions() == [(), (), ()] and pairs.phrase_counts() == {}


def test_a_folder_that_changed_meanwhile_is_reported(tmp_path: Path):
    folder = tmp_path / "own"
    sources.own(folder)
    examples = load_images("folder", "train", data_dir=tmp_path / "data", manual_dir=folder)
    (folder / "4.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="own: has changed since the data were opened; start again"):
        examples.descriptions()
