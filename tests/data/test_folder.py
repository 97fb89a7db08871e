"""A folder of a user's images: its table, and what may be wrong with either."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import sources
from PIL import Image

from show_attend_tell.data.builders import common
from show_attend_tell.data.builders import folder as builder
from show_attend_tell.data.builders.folder import assign
from show_attend_tell.data.builders.tables import Table
from show_attend_tell.data.examples import Example, ImageSource
from show_attend_tell.data.images import read_image
from show_attend_tell.data.load import load_images
from show_attend_tell.errors import UserError

NAMES = [f"{i}.jpg" for i in range(10)]
CSV = "file_name,caption\n" + "".join(f'{name},"A dog, number {name[0]} ."\n' for name in NAMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images, and a table with one caption each."""
    sources.own(tmp_path / "own")
    return tmp_path / "own"


def load(folder: Path, split: str = "train") -> ImageSource:
    data = folder.parent / "data"
    return load_images("folder", split, data_dir=data, manual_dir=folder)


def everything(folder: Path) -> dict[str, Example]:
    return {e.image_id: e for split in ("train", "val", "test") for e in load(folder, split)}


def test_ten_images_and_a_table(folder: Path, logged):
    assert [len(load(folder, split)) for split in ("train", "val", "test")] == [7, 2, 1]
    examples = everything(folder)
    assert sorted(examples) == NAMES
    assert examples["3.jpg"].captions == ("A dog, number 3 .",)
    assert examples["3.jpg"].image == sources.picture(3)
    drawn = "no splits; drawn by a hash of each image: 7 train, 2 val, 1 test"
    lines = logged().splitlines()
    assert len(lines) == 2 and lines[1] == f"folder: {drawn}"  # it is built once
    assert load(folder).drawn == drawn


def test_an_edited_folder_is_built_anew_and_an_unchanged_one_is_not(folder: Path, logged):
    first = load(folder)
    fingerprints = [first.fingerprint]
    (folder / "metadata.csv").write_text(CSV.replace("dog", "cat"))
    fingerprints.append(load(folder).fingerprint)
    (folder / "4.jpg").write_bytes(sources.picture(99, size=(31, 20)))
    fingerprints.append(load(folder).fingerprint)
    (folder / load(folder).ids[0]).unlink()
    fingerprints.append(load(folder).fingerprint)
    assert logged().count("building data set folder") == 4
    for i, one in enumerate(fingerprints):
        assert one not in fingerprints[:i]
    load(folder)
    assert "building" not in logged()


def test_a_tables_name_says_the_split(folder: Path, logged):
    assert len(load(folder)) < len(NAMES)
    (folder / "metadata.csv").rename(folder / "train.csv")
    assert len(load(folder)) > 6 and "building" in logged()
    (folder / "train.csv").rename(folder / "test.csv")
    with pytest.raises(UserError, match="has no split 'train'"):
        load(folder)


def test_a_copied_folder_is_the_same_data_set(folder: Path, logged, monkeypatch):
    first = load(folder)
    assert logged().count("building") == 1
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copy)
    for path in copy.iterdir():
        os.utime(path, (1, 1))
    monkeypatch.chdir(folder.parent)
    for name in (copy, Path("copy"), Path("./own/")):
        assert load_images("folder", "train", data_dir=folder.parent / "data", manual_dir=name)
        again = load(copy)
        assert (again.fingerprint, list(again)) == (first.fingerprint, list(first))
    assert logged() == ""


def test_a_data_set_of_an_earlier_version_stays_valid(folder: Path, logged, monkeypatch):
    rows = dict.fromkeys(NAMES, builder.Row(None, [], []))
    by_time = builder.digests(folder, [Table(folder / "metadata.csv")], rows)[1]
    with monkeypatch.context() as patch:
        patch.setattr(builder, "digests", lambda *given: (by_time, by_time))
        old = load(folder)
    assert logged().count("building") == 1 and old.fingerprint["config"] == by_time
    assert load(folder).fingerprint == old.fingerprint and logged() == ""
    os.utime(folder / "4.jpg", (1, 1))  # it no longer says that this is its source
    assert load(folder).fingerprint["config"] != by_time
    assert logged().count("building") == 1


def test_json_lines(folder: Path):
    (folder / "metadata.csv").unlink()
    (folder / "below").mkdir()
    (folder / "0.jpg").rename(folder / "below" / "0.jpg")
    rows = [
        {"file_name": "./below/0.jpg", "captions": ["A dog .", "Grün ."], "split": "train"},
        {"file_name": "1.jpg", "caption": "One .", "split": "train"},
        {"file_name": "1.jpg", "text": "Again one .", "split": "train"},
        {"file_name": "2.jpg", "text": "Two .", "split": "validation"},
        {"file_name": "3.jpg", "text": "Three .", "split": "test"},
    ]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "metadata.jsonl").write_text(f"{lines}\n\n")
    captions = {name: example.captions for name, example in everything(folder).items()}
    assert captions == {
        "below/0.jpg": ("A dog .", "Grün ."),
        "1.jpg": ("One .", "Again one ."),
        "2.jpg": ("Two .",),
        "3.jpg": ("Three .",),
    }
    assert sorted(load(folder).ids) == ["1.jpg", "below/0.jpg"]
    assert load(folder, "val").ids == ["2.jpg"]


def test_images_without_a_row_are_reported(folder: Path, logged):
    (folder / "metadata.csv").write_text("\n".join(CSV.splitlines()[:6]) + "\n")
    load(folder)
    assert (
        "folder: 5 images have no row in metadata.csv and are left out: 5.jpg, 6.jpg, 7.jpg, ...\n"
    ) in logged()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_in_utf_8_and_utf_16_are_read(folder: Path, encoding):
    (folder / "metadata.csv").write_bytes(CSV.replace("dog", "Löwe").encode(encoding))
    assert everything(folder)["2.jpg"].captions == ("A Löwe, number 2 .",)


def test_another_encoding_is_an_error(folder: Path):
    text = CSV.replace("number 2", "Löwe")
    (folder / "metadata.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="metadata.csv, line 4: not UTF-8; save the file as UTF-8"):
        load(folder)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def flat(value: int, mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (12, 8), (value,) * 3).convert(mode)


def test_all_kinds_of_images_become_readable(folder: Path):
    grey16 = Image.fromarray(np.full((8, 12), 128 * 257, np.uint16))
    kinds = {
        "0.jpg": encoded(flat(128, "CMYK"), "JPEG"),
        "1.png": encoded(grey16, "PNG"),
        "2.gif": encoded(flat(128), "GIF", save_all=True, append_images=[flat(0), flat(255)]),
        "3.webp": encoded(flat(128), "WEBP", lossless=True),
        "4.bmp": encoded(flat(128), "BMP"),
        "5.png": encoded(flat(128), "PNG"),
        "6.jpg": encoded(flat(128, "L"), "JPEG"),
    }
    rows = "".join(f"{name},A picture .,train\n" for name in kinds)
    rows += "7.jpg,A picture .,val\n8.jpg,A picture .,test\n"
    (folder / "metadata.csv").write_text("file_name,caption,split\n" + rows)
    for name, content in kinds.items():
        (folder / name).write_bytes(content)
    stored = {example.image_id: example.image for example in load(folder)}
    assert sorted(stored) == list(kinds)
    for name, image in stored.items():
        with Image.open(io.BytesIO(image)) as opened:
            assert opened.format in ("JPEG", "PNG") and opened.mode in ("RGB", "L")
            assert opened.size == (12, 8)
        assert np.abs(read_image(image, 4).astype(int) - 128).max() <= 3, name
    for name in ("5.png", "6.jpg"):
        assert stored[name] == kinds[name]


def test_unusable_images_are_counted_by_reason(folder: Path, logged):
    rows = [
        f"{i}.jpg,A dog .,{'train' if i < 8 else 'val' if i == 8 else 'test'}" for i in range(10)
    ]
    rows[2] = "2.jpg,,train"
    rows += ["absent.jpg,A dog .,train", "gone.jpg,A dog .,train"]
    (folder / "metadata.csv").write_text("file_name,caption,split\n" + "\n".join(rows) + "\n")
    (folder / "0.jpg").write_bytes(b"")
    assert len(load(folder)) == 6
    out = logged()
    assert "folder train: 4 of 10 images skipped: " in out
    assert "not an image of a known format; save it as JPEG or PNG (1: 0.jpg)" in out
    assert "it has no caption (1: 2.jpg)" in out
    assert "it is not there (2: absent.jpg, gone.jpg)" in out
    (metadata,) = folder.parent.glob("data/**/metadata.json")
    assert set(json.loads(metadata.read_text())["unusable_images"]) == {
        "0.jpg",
        "2.jpg",
        "absent.jpg",
        "gone.jpg",
    }


def test_captions_without_a_word_are_left_out_and_counted(folder: Path, logged):
    rows = [f"{i}.jpg,A dog .,{'train' if i < 6 else 'val'}" for i in range(10)]
    rows[2] = "2.jpg,🐶 …,train"
    rows += ["0.jpg,🐶,train", "1.jpg,☀ (?),train", "3.jpg,2 犬,train"]
    (folder / "metadata.csv").write_text("file_name,caption,split\n" + "\n".join(rows))
    examples = {example.image_id: example.captions for example in load(folder)}
    assert examples == {f"{i}.jpg": ("A dog .",) for i in (0, 1, 4, 5)} | {
        "3.jpg": ("A dog .", "2 犬")
    }
    out = logged()
    assert "folder train: 2 captions without a word left out\n" in out
    assert "1 of 6 images skipped: no caption of it has a word (1: 2.jpg)" in out


def test_a_split_without_a_word_is_refused(folder: Path, monkeypatch):
    rows = [
        f"{i}.jpg,{'A dog .' if i < 6 else '...?'},{'train' if i < 6 else 'val'}\n"
        for i in range(8)
    ]
    (folder / "metadata.csv").write_text("file_name,caption,split\n" + "".join(rows))
    with pytest.raises(
        UserError, match="metadata.csv: 2 of 2 images of split 'val' cannot be .*word"
    ):
        load(folder, "val")
    # An earlier version built such data.
    monkeypatch.setattr(common, "has_word", lambda text: True)
    assert len(load(folder)) == 6
    with pytest.raises(UserError, match="csv: no caption of split 'val' has a word; correct the"):
        load(folder, "val")


def test_no_image_left_is_an_error(folder: Path):
    for name in NAMES:
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match="cannot be used: not an image of .*; fix the images, or"):
        load(folder)
    assert not list(folder.parent.glob("data/**/*.array_record*"))


def test_names_stay_inside_the_folder(folder: Path, logged):
    secret = folder.parent / "secret.jpg"
    secret.write_bytes(sources.picture(99))
    names = ["../secret.jpg", str(secret), r"..\secret.jpg", f"../own/{NAMES[0]}"]
    rows = "".join(f"{name},A secret .,train\n" for name in names)
    rows += "".join(f"{name},A dog .,train\n" for name in NAMES[:6])
    rows += "7.jpg,A dog .,val\n8.jpg,A dog .,test\n"
    (folder / "metadata.csv").write_text("file_name,caption,split\n" + rows)
    assert sorted(load(folder).ids) == NAMES[:6]
    assert "it is not in the folder (4: ../secret.jpg, " in logged()


def test_names_that_differ_a_little_and_links(folder: Path, logged):
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    for k in (6, 7, 8):
        (folder / f"{k}.jpg").rename(elsewhere / f"{k}.jpg")
    (folder / "6.jpg").symlink_to(elsewhere / "6.jpg")
    (folder / "more").symlink_to(elsewhere)
    (folder / "9.jpg").rename(folder / "nine.JFIF")
    names = ["0", "1.JPG", str(folder / "2.jpg"), r".\3.jpg", "6.jpg", "more/7.jpg", "nine.jfif"]
    lines = [{"file_name": name, "text": "A dog .", "split": "train"} for name in names]
    lines += [{"file_name": "1.jpg", "text": "A dog runs .", "split": "train"}]
    lines[0]["objects"] = {"bbox": [[3, 4, 6, 5]], "words": ["dog"]}
    lines += [{"file_name": "4.jpeg", "text": "A dog .", "split": "val"}]
    lines += [
        {"file_name": name, "text": "A dog .", "split": "test"} for name in ("5.jpg", "8.png")
    ]
    (folder / "metadata.csv").unlink()
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    train = load(folder)
    assert sorted(train.ids) == [
        *("0.jpg", "1.jpg", "2.jpg", "3.jpg", "6.jpg", "more/7.jpg", "nine.JFIF")
    ]
    examples = {example.image_id: example for example in train}
    assert examples["1.jpg"].captions == ("A dog .", "A dog runs .")
    assert examples["6.jpg"].image == sources.picture(6)
    assert [len(phrases) for phrases in train.descriptions()] == [
        int(name == "0.jpg") for name in train.ids
    ]
    out = logged()
    assert "folder: 6 names were taken for files that are called a little differently: 0 as" in out
    assert out.count("a little differently") == 1
    assert "1 images have no row in metadata.jsonl and are left out: more/8.jpg\n" in out
    assert (
        "folder test: 1 of 2 images skipped: it is not there (1: 8.png (near: more/8.jpg))" in out
    )
    (metadata,) = folder.parent.glob("data/**/metadata.json")
    assert json.loads(metadata.read_text())["unusable_images"] == {"8.png": "it is not there"}


def test_one_file_under_two_names_is_in_one_split(folder: Path):
    table = "file_name,caption,split\n1.jpg,A dog .,train\n1.JPG,A dog .,val\n"
    (folder / "metadata.csv").write_text(table)
    with pytest.raises(UserError, match="1.jpg is in split train, and as 1.JPG in val; choose"):
        load(folder)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("metadata.csv", "", "must name the columns file_name and caption, .* names none; fix"),
        ("metadata.csv", "id,caption\na.jpg,A dog .\n", "but names id, caption; fix it"),
        ("metadata.csv", "id;caption\na.jpg;A dog .\n", "names id, caption; fix it"),
        ("metadata.csv", "file_name;caption\na.jpg;A; b\n", "2: more than 2 .* with ';'"),
        ("metadata.tsv", "file_name,caption\na.jpg,A dog .\n", "names file_name,caption; fix"),
        ("metadata.csv", "file_name\na.jpg\n", "but names file_name; fix it"),
        (
            "metadata.csv",
            "file_name,caption,caption\na.jpg,A dog .,A cat .\n",
            "has 2 columns 'caption'; give them different names, such as caption_1 and caption_2",
        ),
        ("metadata.csv", "file_name,caption\n", "metadata.csv: no image in it; write a line for"),
        ("metadata.csv", "file_name,caption\n,A dog .\n", "line 2: no file_name; name the image"),
        ("metadata.csv", "file_name,caption\na.jpg,A dog, too .\n", "line 2: more than 2 columns"),
        ("metadata.csv", "file_name,caption\na.jpg\n", "line 2: fewer than 2 columns; put quotes"),
        ("metadata.csv", 'file_name,caption\na.jpg,"A" dog\n', "line 2: not readable as CSV"),
        (
            "metadata.csv",
            "file_name,caption,split\na.jpg,A dog .,all\n",
            "line 2: split 'all' is not known; choose one of train, training, val, valid, valida",
        ),
        (
            "metadata.csv",
            "file_name,caption,split\na.jpg,A dog .,val\na.jpg,A cat .,train\n",
            "line 3: a.jpg is in split train here but in val above; choose one",
        ),
        (
            "metadata.csv",
            "file_name,caption,split\na.jpg,A dog .,val\nb.jpg,A cat .,\n",
            "some images have a split, others none; give all one, or none",
        ),
        ("metadata.jsonl", '{"file_name": "a.jpg"', "metadata.jsonl, line 1: not JSON"),
        ("metadata.jsonl", "[1]\n", r"metadata.jsonl, entry 1: not an object \{...\}"),
        ("metadata.jsonl", "1\n", r"metadata.jsonl, line 1: not an object \{...\}"),
        ("metadata.json", '[{"file_name": "a.jpg"}', "metadata.json: not a JSON list"),
        ("metadata.json", '{\n"a.jpg": "A dog ."}', "line 1: not JSON .*; write one object"),
        ("train.csv", "file_name,caption,split\na.jpg,A .,val\n", "'val' in a table for train"),
        ("metadata.jsonl", '{"caption": "A dog ."}', "line 1: no file_name; name the image"),
        ("metadata.jsonl", '{"file_name": "a.jpg", "text": 3}', "a caption is not text; write"),
        (
            "metadata.jsonl",
            '{"file_name": "a.jpg", "split": ["val"]}',
            r"split \['val'\] is not kn",
        ),
    ],
)
def test_malformed_tables(folder: Path, name, content, message):
    (folder / "metadata.csv").unlink()
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_the_remedy_for_what_is_missing(folder: Path):
    with pytest.raises(UserError, match="folder: no folder to build it from is set; set --config"):
        load_images("folder", "train", data_dir=folder)
    with pytest.raises(UserError, match="absent: no such folder; set --config.data.manual_dir"):
        load(folder / "absent")
    (folder / "metadata.jsonl").write_text("")
    with pytest.raises(UserError, match="holds metadata.csv and metadata.jsonl; keep one"):
        load(folder)
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("\n".join(CSV.splitlines()[:3]) + "\n")
    with pytest.raises(UserError, match="metadata.csv: has no split 'val', only train; give"):
        load(folder, "val")
    (folder / "metadata.csv").unlink()
    with pytest.raises(UserError, match="has no table of captions such as metadata.csv"):
        load(folder)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 50, 1000])
def test_splits_are_drawn_by_name(count: int):
    rows = {f"{i}.jpg": builder.Row(None, ["A dog ."], [""]) for i in range(count)}
    splits = assign(rows)
    assert sorted(name for names in splits.values() for name in names) == sorted(rows)
    held = [len(splits.get(split, [])) for split in ("val", "test")]
    least, most = (0, 0) if count < 3 else (max(1, count // 20), max(2, count // 5))
    assert least <= min(held) <= max(held) <= most
    again = assign(dict(reversed(rows.items())))
    assert {split: set(names) for split, names in again.items()} == {
        split: set(names) for split, names in splits.items()
    }


def test_an_image_keeps_its_split_when_others_come():
    rows = {f"{i}.jpg": builder.Row(None, ["A dog ."], [""]) for i in range(200)}
    few, many = assign(dict([*rows.items()][:100])), assign(rows)
    for split, names in few.items():
        assert set(names) <= set(many[split])
