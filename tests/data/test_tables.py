"""Tables of captions as people write them."""

import json
from pathlib import Path

import pytest
import sources

from show_attend_tell.data.builders.folder import read_objects, read_rows
from show_attend_tell.data.builders.tables import find_tables
from show_attend_tell.data.load import load_images
from show_attend_tell.errors import UserError


def rows(folder: Path, files: dict[str, str]) -> dict:
    """What is read of a folder that gets these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    found = read_rows(folder, find_tables(folder))
    return {name: (row.split, row.captions) for name, row in found.items()}


TWO = {"a.jpg": (None, ["A dog , too ."]), "b.jpg": (None, ["A cat ."])}


@pytest.mark.parametrize(
    "name, text",
    [
        ("metadata.csv", "file_name;caption\na.jpg;A dog , too .\nb.jpg;A cat .\n"),
        ("metadata.csv", "file_name\tcaption\na.jpg\tA dog , too .\nb.jpg\tA cat .\n"),
        ("metadata.tsv", "File Name\tText\na.jpg\tA dog , too .\nb.jpg\tA cat .\n"),
        ("Metadata.CSV", 'File_Name,Description\na.jpg,"A dog , too ."\nb.jpg,A cat .\n'),
        ("metadata.csv", 'filename,comment,id\na.jpg,"A dog , too .",1\nb.jpg,A cat .,2\n'),
        (
            "metadata.csv",
            "\nimage;caption;;\na.jpg;A dog , too .;;\n;;;\nb.jpg;A cat .;;",
        ),
        ("metadata.csv", 'image_name,comment,caption\na.jpg,ok,"A dog , too ."\nb.jpg,,A cat .\n'),
        ("captions.txt", 'image,caption\na.jpg,"A dog , too ."\nb.jpg,A cat .\n'),
        (
            "results.csv",
            "image_name| comment_number| comment\na.jpg| 0| A dog , too .\nb.jpg| 4   A cat .\n",
        ),
        (
            "metadata.json",
            '[{"image": "a.jpg", "text": "A dog , too ."},\n{"image": "b.jpg", "text": "A cat ."}]',
        ),
        (
            "metadata.jsonl",
            '[{"file": "a.jpg", "text": "A dog , too ."}, {"file": "b.jpg", "text": "A cat ."}]',
        ),
        (
            "metadata.json",
            '{"file": "a.jpg", "text": "A dog , too ."}\n{"file": "b.jpg", "text": "A cat ."}\n',
        ),
    ],
)
def test_separators_and_names_of_columns(tmp_path: Path, name, text):
    assert rows(tmp_path, {name: text}) == TWO


def test_marks_in_kaggle_s_captions(tmp_path: Path):
    text = 'image_name| comment_number| comment\na.jpg| 0| "A" | b " .\na.jpg| 1| Dogs .\n'
    assert rows(tmp_path, {"results.csv": text}) == {"a.jpg": (None, ['"A" | b " .', "Dogs ."])}


def test_numbered_captions(tmp_path: Path, logged):
    text = "filename,caption_0,caption_1,Caption 2\na.jpg,One,Two,Three\nb.jpg,One, ,\n"
    assert rows(tmp_path, {"metadata.csv": text}) == {
        "a.jpg": (None, ["One", "Two", "Three"]),
        "b.jpg": (None, ["One"]),
    }
    assert "metadata.csv: 1 blank captions skipped\n" in logged()


@pytest.mark.parametrize(
    "split, word",
    [
        ("train", "Training"),
        ("val", "dev"),
        ("val", "valid"),
        ("val", "VALIDATION"),
        ("test", " Test "),
    ],
)
def test_splits_in_other_words(tmp_path: Path, split, word):
    text = f"file_name,caption,Split\na.jpg,A dog .,{word}\n"
    assert rows(tmp_path, {"metadata.csv": text}) == {"a.jpg": (split, ["A dog ."])}


LINE = "file_name,caption\n{}.jpg,A dog .\n"


@pytest.mark.parametrize(
    "names, below",
    [
        (("train.csv", "dev.csv", "test.csv"), ("", "", "")),
        (("captions_train.csv", "Val.metadata.csv", "testing.csv"), ("", "", "")),
        (
            ("train/metadata.csv", "validation/metadata.csv", "test/metadata.csv"),
            ("train/", "validation/", "test/"),
        ),
    ],
)
def test_a_table_for_each_split(tmp_path: Path, names, below):
    found = rows(tmp_path, {name: LINE.format(i) for i, name in enumerate(names)})
    splits = ("train", "val", "test")
    assert found == {f"{below[i]}{i}.jpg": (splits[i], ["A dog ."]) for i in range(3)}


def test_tables_that_contradict_each_other(tmp_path: Path):
    with pytest.raises(UserError, match="holds dev.csv and val.csv for split val; keep one"):
        rows(tmp_path, {"val.csv": LINE.format(1), "dev.csv": LINE.format(2)})
    (tmp_path / "dev.csv").unlink()
    with pytest.raises(UserError, match="val.csv: 1.jpg is in another table, too; remove one"):
        rows(tmp_path, {"train.csv": LINE.format(1)})


def test_images_in_the_one_folder_below(tmp_path: Path):
    files = {"captions.txt": LINE.format("a"), "Images/a.jpg": "", "other/b.jpg": ""}
    assert list(rows(tmp_path, files)) == ["Images/a.jpg"]
    assert list(rows(tmp_path, {"other/a.jpg": ""})) == ["a.jpg"]  # which of the two?
    assert list(rows(tmp_path, {"a.jpg": ""})) == ["a.jpg"]


def test_objects_of_several_tables(tmp_path: Path):
    objects = {"bbox": [[0, 0, 2, 2]], "category": ["dog"]}
    line = json.dumps({"file_name": "a.jpg", "text": "A dog .", "objects": objects})
    rows(tmp_path, {f"{split}/metadata.jsonl": line for split in ("train", "val")})
    found = read_objects(tmp_path, find_tables(tmp_path))
    assert list(found) == ["train/a.jpg", "val/a.jpg"]


def test_kaggle_s_folder_becomes_a_data_set(tmp_path: Path):
    sources.own(tmp_path / "own")
    images = tmp_path / "own" / "Images"
    images.mkdir()
    for path in tmp_path.glob("own/*.jpg"):
        path.rename(images / path.name)
    (tmp_path / "own" / "metadata.csv").rename(tmp_path / "own" / "captions.txt")
    options = {"data_dir": tmp_path / "data", "manual_dir": tmp_path / "own"}
    ids = [
        i for split in ("train", "val", "test") for i in load_images("folder", split, **options).ids
    ]
    assert sorted(ids) == [f"Images/{i}.jpg" for i in range(10)]
