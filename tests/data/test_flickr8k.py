"""Flickr8k on a stand-in for the original download, with generated pictures."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import sources

from show_attend_tell.data import further_captions
from show_attend_tell.data.builders import common, flickr8k
from show_attend_tell.data.builders.common import zip_members
from show_attend_tell.data.builders.flickr8k import read_captions
from show_attend_tell.data.examples import ImageSource
from show_attend_tell.data.further_captions import by_picture, number_of
from show_attend_tell.data.in_languages import InLanguages
from show_attend_tell.data.load import load_images
from show_attend_tell.errors import UserError

NAMES = sources.FLICKR8K
GERMAN = [5528, 934, 929]  # official pictures of train, val and test with German descriptions


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Both archives extracted: `Flicker8k_Dataset/`, and text files beside it."""
    sources.flickr8k(tmp_path / "download")
    return tmp_path / "download"


def pack(download: Path) -> None:
    """Replaces the extracted files with the two archives, in the layout of the originals."""
    with zipfile.ZipFile(download / "Flickr8k_Dataset.zip", "w") as archive:
        for path in sorted(download.glob("Flicker8k_Dataset/*")):
            archive.write(path, f"Flicker8k_Dataset/{path.name}")
            archive.writestr(f"__MACOSX/Flicker8k_Dataset/._{path.name}", b"resource fork")
    with zipfile.ZipFile(download / "Flickr8k_text.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(download.glob("*.txt")):
            archive.write(path, path.name)
            path.unlink()
    shutil.rmtree(download / "Flicker8k_Dataset")


def load(download: Path, split: str = "train") -> ImageSource:
    return load_images("flickr8k", split, data_dir=download.parent / "data", manual_dir=download)


def content(split: ImageSource) -> dict:
    return {e.image_id: (e.image, e.captions, e.boxes) for e in split}


def expected(download: Path, split: str) -> dict:
    return {
        name: (
            (download / "Flicker8k_Dataset" / name).read_bytes(),
            tuple(sources.flickr8k_caption(name, k) for k in range(5)),
            (),
        )
        for name in NAMES[split]
    }


@pytest.mark.parametrize("layout", ["zips", "extracted", "nested", "text zip", "images zip"])
def test_zips_and_folders(download: Path, layout, logged):
    wanted = {split: expected(download, split) for split in NAMES}
    if layout == "nested":
        (download / "Flickr8k_Dataset").mkdir()
        (download / "Flicker8k_Dataset").rename(download / "Flickr8k_Dataset/Flicker8k_Dataset")
        (download / "Flickr8k_text").mkdir()
        for path in download.glob("*.txt"):
            path.rename(download / "Flickr8k_text" / path.name)
    elif layout != "extracted":
        shutil.copytree(download, download.parent / "extracted")
        pack(download)
        if layout == "text zip":
            (download / "Flickr8k_Dataset.zip").unlink()
            shutil.copytree(
                download.parent / "extracted/Flicker8k_Dataset", download / "Flickr8k_Dataset"
            )
        elif layout == "images zip":
            (download / "Flickr8k_text.zip").unlink()
            for path in download.parent.glob("extracted/*.txt"):
                shutil.copy(path, download)
    for split in NAMES:
        assert content(load(download, split)) == wanted[split]
    assert "5 captions name an image that is not there; skipped" in logged()
    (metadata,) = download.parent.glob("data/**/metadata.json")
    found = json.loads(metadata.read_text())
    assert (found["captions_without_image"], found["unusable_images"]) == (5, {})


def test_once_built_the_download_is_not_needed(download: Path):
    first = content(load(download, "val"))
    shutil.rmtree(download)
    data = download.parent / "data"
    assert content(load_images("flickr8k", "val", data_dir=data)) == first
    assert content(load(download, "val")) == first


def test_other_captions_make_a_data_set_beside_the_built_one(download: Path):
    first = content(load(download, "val"))
    pack(download)
    assert content(load(download, "val")) == first
    other = download.parent / "other"
    sources.flickr8k(other)
    path = other / "Flickr8k.token.txt"
    path.write_text(path.read_text().replace("dog", "cat"))
    texts = [text for _, captions, _ in content(load(other, "val")).values() for text in captions]
    assert texts and all("cat" in text for text in texts)
    assert content(pickle.loads(pickle.dumps(load(other, "val")))) == content(load(other, "val"))
    assert content(load(download, "val")) == first
    assert content(load_images("flickr8k", "val", data_dir=download.parent / "data")) == first


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", ["cut", "absent", "no captions"])
def test_one_unusable_image_is_left_out_and_named(download: Path, packed, damage, logged):
    path = download / "Flicker8k_Dataset" / "1_bb.jpg"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "absent":
        path.unlink()
    else:
        token = download / "Flickr8k.token.txt"
        lines = token.read_text().splitlines()
        token.write_text("\n".join(line for line in lines if not line.startswith("1_bb")))
    if packed:
        pack(download)
    assert sorted(load(download, "val").ids) == ["0_bb.jpg", "2_bb.jpg"]
    assert len(load(download, "train")) == 6
    out = logged()
    assert "flickr8k val: 1 of 3 images skipped: " in out and "(1: 1_bb.jpg)" in out
    (metadata,) = download.parent.glob("data/**/metadata.json")
    assert '"unusable_images": {"1_bb.jpg": "' in metadata.read_text()


def test_a_damaged_zip_member_is_left_out(download: Path, logged):
    pack(download)
    path = download / "Flickr8k_Dataset.zip"
    image = zipfile.ZipFile(path).read("Flicker8k_Dataset/1_bb.jpg")
    archive = path.read_bytes()
    assert archive.count(image) == 1
    path.write_bytes(archive.replace(image, image[::-1]))
    assert sorted(load(download, "val").ids) == ["0_bb.jpg", "2_bb.jpg"]
    assert "val: 1 of 3 images skipped: it cannot be read (Bad CRC-32" in logged()


def test_many_unusable_images_are_an_error(download: Path):
    for name in ("0_bb.jpg", "2_bb.jpg"):
        (download / "Flicker8k_Dataset" / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"Flicker8k_Dataset: 2 of 3 .* 2_bb\.jpg.*; get Flickr"):
        load(download)
    assert not list(download.parent.glob("data/flickr8k/*"))


def test_the_remedy_for_what_is_missing(download: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no folder to build it from is set; set --config.data.man"):
        load_images("flickr8k", "train", data_dir=tmp_path / "data")
    with pytest.raises(UserError, match="absent: no such folder; set --config.data.manual_dir"):
        load(tmp_path / "absent")
    (download / "Flickr_8k.devImages.txt").unlink()
    with pytest.raises(UserError, match="devImages.txt: not there; set --config.data.manual_dir"):
        load(download)
    pack(download)
    with pytest.raises(UserError, match="Flickr8k_text.zip/Flickr_8k.devImages.txt: not there"):
        load(download)
    (download / "Flickr8k_Dataset.zip").rename(download / "elsewhere")
    with pytest.raises(UserError, match="Flickr8k_Dataset.zip: not there; set --config.data.man"):
        load(download)
    (download / "Flickr8k_text.zip").unlink()
    with pytest.raises(UserError, match="Flickr8k_text.zip: not there; set --config.data.man"):
        load(download)


@pytest.mark.parametrize("name", ["Flickr8k_Dataset.zip", "Flickr8k_text.zip"])
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_zip_cut_short(download: Path, name, kept):
    pack(download)
    whole = (download / name).read_bytes()
    (download / name).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match=f"{name}: not a readable zip .*; get it again"):
        load(download)


def test_a_damaged_text_member(download: Path):
    pack(download)
    path = download / "Flickr8k_text.zip"
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("Flickr8k.token.txt")
    data = bytearray(path.read_bytes())
    start = member.header_offset + 30 + len(member.filename)
    data[start : start + 40] = bytes(b ^ 0x55 for b in data[start : start + 40])
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"Flickr8k\.token\.txt: damaged .*; get Flickr8k_text.zip"):
        load(download)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "Flickr8k.token.txt: holds no captions; get Flickr8k_text.zip again"),
        ("\n \n", "Flickr8k.token.txt: holds no captions"),
        (
            "1.jpg#0\tA dog .\n1.jpg A cat .\n",
            "token.txt, line 2: not NAME.jpg#K<TAB>caption; fix",
        ),
        ("1.jpg#0\t \n", "token.txt: holds no captions"),
        ("1.jpg#x\tA dog .\n", "token.txt, line 1: not NAME"),
        (b"1.jpg#0\tA dog \xff .\n", "token.txt: damaged"),
    ],
)
def test_bad_caption_files(download: Path, text, message):
    path = download / "Flickr8k.token.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        load(download)


def test_an_empty_split_list(download: Path):
    (download / "Flickr_8k.testImages.txt").write_text("\n")
    with pytest.raises(UserError, match="testImages.txt: names no image; get Flickr8k_text.zip"):
        load(download)


def test_a_name_in_two_lists_is_refused(download: Path):
    train = (download / "Flickr_8k.trainImages.txt").read_text().split()
    path = download / "Flickr_8k.testImages.txt"
    path.write_text(path.read_text() + f"{train[1]}\n")
    with pytest.raises(UserError, match=f"names {train[1]}, which is in split train already"):
        load(download)


def test_a_name_listed_twice_is_one_image(download: Path):
    path = download / "Flickr_8k.devImages.txt"
    path.write_text(path.read_text() * 2)
    assert len(load(download, "val")) == 3


def test_captions_keep_their_words():
    text = "a b.jpg#0\t A man 's #1 dog\t . \r\na b.jpg#1\tÜber .\n"
    assert read_captions(text, "f") == {"a b.jpg": ["A man 's #1 dog\t .", "Über ."]}
    assert read_captions("a.jpg#0\tShirt #1\n", "f") == {"a.jpg": ["Shirt #1"]}


def test_blank_captions_are_skipped_and_counted(logged):
    text = "a.jpg#0\tA dog .\n\na.jpg#1\t \na.jpg#2\nb.jpg#0\tA cat .\n"
    assert read_captions(text, "f") == {"a.jpg": ["A dog ."], "b.jpg": ["A cat ."]}
    assert logged() == "f: 2 blank captions skipped\n"


def test_paths_in_an_archive_cannot_escape(download: Path):
    pack(download)
    with zipfile.ZipFile(download / "Flickr8k_Dataset.zip", "a") as archive:
        archive.writestr("../../evil.jpg", sources.picture(0))
        archive.writestr(f"{download.parent}/absolute.jpg", sources.picture(0))
    load(download)
    assert not [*download.parents[1].rglob("evil.jpg"), *download.parent.rglob("absolute.jpg")]


def test_a_member_without_a_name_is_left_out(tmp_path):
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"a")
        archive.writestr("?", b"b")
    content = path.read_bytes()
    end = content.rindex(b"?")  # in the list of members, where a name ends at its first zero
    path.write_bytes(content[:end] + b"\0" + content[end + 1 :])
    assert [*zip_members(path)] == ["a.jpg"]


def test_a_zip_bomb_is_not_expanded(download: Path, monkeypatch, logged):
    monkeypatch.setattr(common, "MAX_MEMBER_BYTES", 10_000)
    image = download / "Flicker8k_Dataset" / "1_bb.jpg"
    image.write_bytes(image.read_bytes() + bytes(100_000))
    pack(download)
    assert len(load(download, "val")) == 2
    assert "bytes are too many" in logged()


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 50])
def test_the_official_splits(shared: Path, tmp_path: Path, logged, monkeypatch, every):
    """Of which some pictures stand for the others."""
    folder = shared / "flickr8k"
    read, listed = flickr8k._Source.text, {}

    def text(source, file):
        if file == flickr8k.CAPTIONS:
            return read(source, file)
        listed[file] = read(source, file).split()
        assert source.images.keys() >= set(listed[file])
        return "\n".join(listed[file][::every])

    monkeypatch.setattr(flickr8k._Source, "text", text)
    splits = {
        split: load_images("flickr8k", split, data_dir=tmp_path, manual_dir=folder)
        for split in ("train", "val", "test")
    }
    assert "5 captions name an image that is not there" in logged()
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 6000 // every,
        "val": 1000 // every,
        "test": 1000 // every,
    }
    assert sorted(map(len, listed.values())) == [1000, 1000, 6000]
    assert all(len(example.captions) == 5 for example in splits["test"])
    assert len(set().union(*listed.values())) == 8000
    assert len({name for examples in splits.values() for name in examples.ids}) == 8000 // every
    captions = further_captions.read_captions(shared / "multi30k" / "task2", "de")
    assert captions is not None
    found = [by_picture(captions, listed[flickr8k.SPLITS[split]]) for split in splits]
    assert [sum(map(bool, of_split)) for of_split in found] == GERMAN
    if every == 1:
        _german_follows_these_splits(shared, tmp_path, {k: of.ids for k, of in splits.items()})


def _german_follows_these_splits(shared: Path, data: Path, official: dict[str, list[str]]):
    """Multi30k trains on most of Flickr8k's test pictures; here none of them is in training."""
    for languages, counts in ((("de",), GERMAN), (("en", "de"), [6000, 1000, 1000])):
        found = {
            split: load_images(
                "flickr8k",
                split,
                data_dir=data,
                manual_dir=shared / "flickr8k",
                languages=languages,
                captions_dir=shared / "multi30k" / "task2",
            )
            for split in official
        }
        assert [len(examples) for examples in found.values()] == counts
        for split, examples in found.items():
            assert set(examples.ids) <= set(official[split])
        numbers = {split: set(map(number_of, of.ids)) for split, of in found.items()}
        assert not numbers["train"] & (numbers["test"] | numbers["val"])
        lacking = [of.lacking["de"] for of in found.values() if isinstance(of, InLanguages)]
        assert lacking == [6000 - GERMAN[0], 1000 - GERMAN[1], 1000 - GERMAN[2]]


def test_members_that_say_less_than_they_hold_are_not_expanded(tmp_path):
    path = tmp_path / "lies.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(10**6))
    path.write_bytes(path.read_bytes().replace((10**6).to_bytes(4, "little"), b"\x0a\0\0\0"))
    with pytest.raises(zipfile.BadZipFile):
        zip_members(path)["a.jpg"]()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.jpg", bytes(100))
    with pytest.raises(ValueError, match="its compression method is not supported"):
        zip_members(path)["a.jpg"]()
