"""Data as people have them: small stand-ins of each form, built and read back."""

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import sources
from rich.console import Console
from sources import ids_of, load, splits_of

from show_attend_tell import config
from show_attend_tell.data.builders import gathered, hub, kaggle, stems
from show_attend_tell.data.builders.coco_own import read_captions
from show_attend_tell.data.builders.gathered import Item
from show_attend_tell.data.origin import Origin
from show_attend_tell.errors import UserError
from show_attend_tell.reports.data_sheet import inspect
from show_attend_tell.settings import ImageData

NAMES = [f"{i}_aa.jpg" for i in range(10)]


def pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate(names):
        (folder / name).write_bytes(sources.picture(seed))


def kaggle8k(folder: Path) -> Path:
    pictures(folder / "Images", NAMES)
    lines = [f'{name},"A dog , number {k} ."\n' for name in NAMES for k in range(2)]
    (folder / "captions.txt").write_text("image,caption\n" + "".join(lines))
    return folder


def test_flickr8k_of_kaggle(tmp_path: Path, logged: Callable[[], str]):
    folder = kaggle8k(tmp_path / "raw")
    found = splits_of("flickr8k", folder, tmp_path)
    assert ids_of(found) == NAMES and all(found.values())
    example = found["train"][0]
    assert example.captions == ("A dog , number 0 .", "A dog , number 1 .")
    assert example.image == sources.picture(NAMES.index(example.image_id))
    said = [line for line in logged().splitlines() if "drawn by a hash" in line]
    assert len(said) == 1 and "no splits; drawn by a hash of each image: " in said[0]
    assert found["val"].drawn in said[0]
    for list_name, names in (("train", NAMES[:6]), ("dev", NAMES[6:8]), ("test", NAMES[8:9])):
        (folder / f"Flickr_8k.{list_name}Images.txt").write_text("\n".join(names))
    listed = splits_of("flickr8k", folder, tmp_path)
    assert {s: sorted(part.ids) for s, part in listed.items()} == {
        "train": NAMES[:6],
        "val": NAMES[6:8],
        "test": NAMES[8:9],
    }
    assert listed["train"].drawn == "" and "1 images are in no list" in logged()
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        for path in [folder / "captions.txt", *(folder / "Images").iterdir()]:
            archive.write(path, path.relative_to(folder))
            path.unlink()
    zipped = splits_of("flickr8k", folder, tmp_path)  # the lists lie beside it
    assert {s: sorted(part.ids) for s, part in zipped.items()} == {
        s: sorted(part.ids) for s, part in listed.items()
    }
    (folder / "Flickr_8k.testImages.txt").write_text(NAMES[9])
    assert load("flickr8k", folder, tmp_path, "test").ids == [NAMES[9]]


def test_names_in_lists_may_have_spaces(tmp_path: Path):
    folder = kaggle8k(tmp_path / "raw")
    (folder / "Images" / NAMES[0]).rename(folder / "Images" / "a dog.jpg")
    table = folder / "captions.txt"
    table.write_text(table.read_text().replace(NAMES[0], "a dog.jpg"))
    (folder / "train.txt").write_text(f"a dog.jpg\r\n\n {NAMES[1]} \n")
    (folder / "val.txt").write_text(NAMES[2])
    assert sorted(load("flickr8k", folder, tmp_path).ids) == [NAMES[1], "a dog.jpg"]


def test_inspect_says_how_splits_were_drawn(tmp_path: Path):
    folder = kaggle8k(tmp_path / "raw")
    places = {"data.dir": str(tmp_path / "cache"), "data.manual_dir": str(folder)}
    settings = config.replaced(config.load_experiment("flickr8k"), places)
    out = io.StringIO()
    record = inspect(settings, tmp_path / "out", Console(file=out, width=200))
    assert [row["images"] for row in record["splits"]] == [7, 1, 2]
    drawn = "no splits; drawn by a hash of each image: 7 train, 1 val, 2 test"
    assert record["splits drawn"] == drawn and drawn in out.getvalue()


def test_flickr30k_of_kaggle_as_a_zip(tmp_path: Path):
    folder = tmp_path / "raw"
    folder.mkdir()
    lines = [f'{name}| {k}|  A "dog | cat" {k} .\n' for name in NAMES for k in range(2)]
    lines.append(f"{NAMES[0]}| 4   A dog runs .\n")  # as the real file has it
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        head = "image_name| comment_number| comment\n"
        archive.writestr("flickr30k_images/results.csv", head + "".join(lines))
        for seed, name in enumerate(NAMES):
            archive.writestr(f"flickr30k_images/flickr30k_images/{name}", sources.picture(seed))
    found = splits_of("karpathy", folder, tmp_path)
    assert ids_of(found) == NAMES and found["train"].fingerprint["config"].startswith("kaggle-")
    captions = {e.image_id: e.captions for part in found.values() for e in part}
    assert captions[NAMES[0]] == ('A "dog | cat" 0 .', 'A "dog | cat" 1 .', "A dog runs .")


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n", "its first line must name the columns file_name and caption"),
        ("image,caption\n", "holds no captions"),
        ("image,caption\na.jpg\n", "line 2: fewer than 2 columns"),
        ("image_name| comment_number| comment\na.jpg| A dog\n", "line 2: fewer than 3 columns"),
        ("a.jpg#0\tA dog .\na.jpg#1 A cat .\n", "line 2: not NAME.jpg#K<TAB>caption"),
    ],
)
def test_other_tables_are_refused(text, message):
    with pytest.raises(UserError, match=f"captions.txt.* {message}|captions.txt: {message}"):
        kaggle.read_table(text, "captions.txt")


def test_tables_in_their_variants():
    token = "a.jpg#0\tA dog .\na.jpg#1\tA cat .\n"
    assert kaggle.read_table(token, "t") == {"a.jpg": ["A dog .", "A cat ."]}
    three = 'image_name,comment_number,comment\na.jpg,0," one, two"\n\n'
    assert kaggle.read_table(three, "t") == {"a.jpg": [" one, two"]}


def coco_own(folder: Path, splits: dict[str, range]) -> Path:
    (folder / "annotations").mkdir(parents=True)
    for split, numbers in splits.items():
        (folder / split).mkdir()
        for number in numbers:
            (folder / split / f"{number:012}.jpg").write_bytes(sources.picture(number))
        content = {
            "images": [{"id": n, "file_name": f"{n:012}.jpg"} for n in numbers],
            "annotations": [
                {"id": 9 * n + k, "image_id": n, "caption": f"A dog  {k} .\n"}
                for n in numbers
                for k in range(2)
            ],
        }
        path = folder / "annotations" / f"captions_{split}.json"
        path.write_text(json.dumps(content))
    return folder


def test_coco_without_the_splits_of_karpathy(tmp_path: Path, logged: Callable[[], str]):
    folder = coco_own(tmp_path / "raw", {"train2017": range(6), "val2017": range(6, 14)})
    found = splits_of("coco", folder, tmp_path)
    assert sorted(found["train"].ids) == [f"{n:012}.jpg" for n in range(6)]
    assert ids_of(found) == [f"{n:012}.jpg" for n in range(14)]
    assert found["val"][0].captions == ("A dog 0 .", "A dog 1 .")
    # `coco:soft` asks for Karpathy and Li's further training images, which are not split off here.
    assert load("coco", folder, tmp_path, restval=True).ids == found["train"].ids
    assert "coco: no split test; half of val, drawn by a hash of each image: " in logged()
    (folder / "train2017").rename(tmp_path / "away")
    (folder / "val2017").rename(tmp_path / "away too")
    with pytest.raises(UserError, match=r"no images: train2017/ or val2017/ is not there; set"):
        load("coco", folder, tmp_path)


@pytest.mark.parametrize(
    ("caption", "found"), [("a dog", ["a dog"]), (None, [""]), (["a dog"], None)]
)
def test_a_caption_of_coco_is_text(tmp_path: Path, caption, found):
    content = {"images": [{"id": 1, "file_name": "a.jpg"}]}
    path = tmp_path / "captions_val2017.json"
    path.write_text(json.dumps(content | {"annotations": [{"image_id": 1, "caption": caption}]}))
    if found is not None:
        assert read_captions(path, "") == {"a.jpg": found}
        return
    with pytest.raises(UserError, match="a caption is .'a dog'., not text"):
        read_captions(path, "")


def test_images_decide_what_a_set_of_an_archive_is(tmp_path: Path):
    folder = coco_own(tmp_path / "raw", {"train2017": range(6), "val2017": range(6, 14)})
    with zipfile.ZipFile(folder / "annotations_trainval2017.zip", "w") as archive:
        for path in sorted((folder / "annotations").iterdir()):
            archive.write(path, f"annotations/{path.name}")
    shutil.rmtree(folder / "annotations")
    (folder / "train2017").rename(tmp_path / "away")
    assert {int(name[:12]) for name in load("coco", folder, tmp_path).ids} <= {*range(6, 14)}
    (folder / "val2017").rename(tmp_path / "away too")
    (tmp_path / "away").rename(folder / "train2017")
    assert {int(name[:12]) for name in load("coco", folder, tmp_path).ids} <= {*range(6)}
    assert load("coco", folder, tmp_path, languages=("en",)).captions()


def test_nothing_large_is_fetched_unasked(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("requests.Session.request", lambda *_, **__: pytest.fail("fetches"))
    with pytest.raises(UserError) as error:
        load("coco", None, tmp_path)
    for part in ("train2014.zip (13.51 GB)", "data.manual_dir", "data.download=True", "train2017/"):
        assert part in str(error.value)
    sources.coco(tmp_path / "raw")
    (tmp_path / "raw/val2014.zip").unlink()
    with pytest.raises(
        UserError, match=r"coco: needs val2014.zip \(6.65 GB\); put them into .*raw, or"
    ):
        load("coco", tmp_path / "raw", tmp_path)


def test_texts_beside_pictures(tmp_path: Path, logged: Callable[[], str]):
    folder = tmp_path / "raw"
    for split, names in (("train", NAMES[:5]), ("valid", NAMES[5:7]), ("test", NAMES[7:])):
        pictures(folder / split, names)
        for name in names:
            path = (folder / split / name).with_suffix(".txt")
            path.write_text(f"a dog {name[0]}\n\n a  cat \n")
    (folder / "test" / "9_aa.txt").unlink()
    found = splits_of("folder", folder, tmp_path)
    assert sorted(found["val"].ids) == [f"valid/{name}" for name in NAMES[5:7]]
    assert ids_of(found)[:2] == ["test/7_aa.jpg", "test/8_aa.jpg"] and found["val"].drawn == ""
    assert found["train"][0].captions[1] == "a cat" and len(found["train"][0].captions) == 2
    assert "1 images have no text beside them and are left out: 9_aa.jpg" in logged()
    (folder / "test/7_aa.txt").write_text("another")
    assert load("folder", folder, tmp_path, "test").captions() != found["test"].captions()
    pictures(folder / "extra", ["x.jpg"])
    (folder / "extra" / "x.txt").write_text("a dog")
    with pytest.raises(UserError, match=r"extra/x.jpg has no split, but others have"):
        load("folder", folder, tmp_path)
    shutil.rmtree(folder / "extra")
    (folder / "test/7_aa.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="7_aa.txt, line 1: not UTF-8"):
        load("folder", folder, tmp_path)
    # A table counts, wherever it may be, and not what else lies beside the pictures.
    (folder / "train" / "metadata.csv").write_text("file_name,caption\n0_aa.jpg,A dog .\n")
    assert load("folder", folder, tmp_path).captions() == [("A dog .",)]
    (folder / "train" / "metadata.csv").unlink()
    (folder / "captions.txt").write_text("image,caption\ntrain/0_aa.jpg,A cat .\n")
    assert not stems.holds_texts(Origin(manual_dir=folder))


def items(**counts: int) -> list[Item]:
    return [
        Item(f"{split}{i}", ["a dog"], bytes, None if split == "none" else split)
        for split, count in counts.items()
        for i in range(count)
    ]


def test_missing_splits_are_drawn_by_hash():
    parts, how = gathered.assign(items(none=200), "here")
    assert how == f"no splits; drawn by a hash of each image: {len(parts['train'])} train, " + (
        f"{len(parts['val'])} val, {len(parts['test'])} test"
    )
    assert all(10 <= len(parts[s]) <= 32 for s in ("val", "test"))
    fewer, _ = gathered.assign(items(none=150), "here")
    assert {i.name for i in fewer["val"]} <= {i.name for i in parts["val"]}
    parts, how = gathered.assign(items(train=60, val=20, test=7), "here")
    assert how == "" and [len(part) for part in parts.values()] == [60, 20, 7]
    parts, how = gathered.assign(items(train=3, val=40), "here")
    assert len(parts["train"]) == 3 and 10 <= len(parts["test"]) <= 30 and "half of val" in how
    parts, how = gathered.assign(items(train=60, test=7), "here")
    assert how == "" and {s: len(p) for s, p in parts.items()} == {"train": 60, "test": 7}
    parts, how = gathered.assign(items(val=3), "here")
    assert {s: len(p) for s, p in parts.items()} == {"train": 1, "val": 1, "test": 1}
    assert how.startswith("no splits but val; ")


def test_splits_that_contradict_are_refused():
    with pytest.raises(UserError, match="here: none0 has no split, but others have"):
        gathered.assign(items(train=2, none=1), "here")
    with pytest.raises(UserError, match="here: has the splits val, test but no train"):
        gathered.assign(items(val=2, test=1), "here")
    with pytest.raises(UserError, match="here: none0 comes twice"):
        gathered.assign(items(none=1) * 2, "here")


def test_train_and_restval_need_no_val():
    parts, how = gathered.assign(items(train=2, restval=1), "here")
    assert {split: len(part) for split, part in parts.items()} == {"train": 2, "restval": 1}
    assert how == ""


def test_splits_are_read_from_names():
    names = {"train-0001": "train", "my_dev": "val", "trainer": None, "val-train": None}
    assert {name: gathered.split_in(name) for name in names} == names


def test_settings_of_the_hub_are_refused_elsewhere():
    with pytest.raises(UserError, match="set config.data.name=hub"):
        ImageData(name="folder", repo="OWNER/NAME")


def parquet(path: Path, rows: list[dict]) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet as writer

    path.parent.mkdir(exist_ok=True)
    writer.write_table(arrow.Table.from_pylist(rows), path)


def rows_of(numbers: range, **fields) -> list[dict]:
    return [
        {"image": {"bytes": sources.picture(n), "path": f"{n}.jpg"}, "text": f"dog {k}"} | fields
        for n in numbers
        for k in range(2)
    ]


def test_parquet_files_through_the_library(tmp_path: Path, logged: Callable[[], str]):
    pytest.importorskip("datasets", reason="the library datasets is not installed")
    folder = tmp_path / "raw"
    parquet(folder / "train-00000-of-00001.parquet", rows_of(range(4)))
    parquet(folder / "validation.parquet", rows_of(range(4, 8)))
    found = splits_of("hub", None, tmp_path, repo=str(folder))
    assert len(found["train"]) == len(found["val"]) + len(found["test"]) == 4
    assert {e.captions for part in found.values() for e in part} == {("dog 0", "dog 1")}
    assert {e.image for e in found["train"]} == {sources.picture(n) for n in range(4)}
    assert "half of val, drawn by a hash" in logged()
    assert load("hub", folder, tmp_path).ids == found["train"].ids
    with pytest.raises(UserError, match="no column of images|no column nothing among image, text"):
        load("hub", folder, tmp_path, caption_column="nothing")


def test_a_column_says_the_split(tmp_path: Path):
    pytest.importorskip("datasets", reason="the library datasets is not installed")
    folder = tmp_path / "raw"
    rows = rows_of(range(3), split="train") + rows_of(range(3, 5), split="val")
    parquet(folder / "all.parquet", rows + rows_of(range(5, 6), split="test"))
    found = splits_of("hub", None, tmp_path, repo=str(folder))
    assert [len(part) for part in found.values()] == [3, 2, 1] and found["val"].drawn == ""


def test_a_column_says_the_split_by_class_labels(tmp_path: Path):
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed")
    label = datasets.ClassLabel(names=["test", "train", "dev"])
    kinds = {"image": datasets.Image(), "text": datasets.Value("string"), "split": label}
    rows = [row for n in range(6) for row in rows_of(range(n, n + 1), split=(1, 1, 1, 2, 2, 0)[n])]
    table = datasets.Dataset.from_list(rows, features=datasets.Features(kinds))
    (tmp_path / "raw").mkdir()
    table.to_parquet(tmp_path / "raw" / "all.parquet")
    found = splits_of("hub", None, tmp_path, repo=str(tmp_path / "raw"))
    assert [len(part) for part in found.values()] == [3, 2, 1] and found["val"].drawn == ""


def test_a_split_that_a_row_lacks_is_named(tmp_path: Path):
    pytest.importorskip("datasets", reason="the library datasets is not installed")
    folder = tmp_path / "raw"
    parquet(
        folder / "all.parquet", rows_of(range(1), split=None) + rows_of(range(1, 3), split="train")
    )
    with pytest.raises(UserError, match="has no split, but others have"):
        load("hub", None, tmp_path, repo=str(folder))


def test_columns_of_the_hub():
    def columns(row: dict, **named: str) -> dict:
        builder = object.__new__(hub.Hub)
        builder.origin = Origin(repo="OWNER/NAME", **named)
        return builder._columns(row)

    assert columns({"image": 0, "caption_0": 0, "caption_1": 0})["captions"] == [
        "caption_0",
        "caption_1",
    ]
    row = {"img": 0, "sentences": 0, "split": "val", "filename": "a"}
    expected = {"image": ["img"], "captions": ["sentences"], "name": ["filename"]}
    assert columns(row) == expected | {"split": ["split"]}
    assert columns({"a": 0, "b": 0}, image_column="b", caption_column="a")["image"] == ["b"]
    with pytest.raises(UserError, match="OWNER/NAME: no column of images and captions among a"):
        columns({"a": 0})
    sentences = [{"raw": "a dog"}, {"raw": "a cat"}]
    chosen = hub._chosen({"img": 0, "sentences": sentences}, columns({"img": 0, "sentences": 0}))
    assert chosen["captions"] == ["a dog", "a cat"]


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/hostname", "../a.jpg", "https://example.org/a.jpg"),
        "/etc/hostname::hf://datasets/OWNER/NAME/a.zip",
        "https://example.org/a.jpg::hf://datasets/OWNER/NAME/a.zip",
        "zip://a.jpg::/home/a.zip::hf://datasets/OWNER/NAME/a.zip",
        "hf://datasets/OWNER/NAMES/a.jpg",
        "hf://datasets/OTHER/NAME/a.jpg",
        "hf://datasets/OWNER/NAME/../../OTHER/NAME/a.jpg",
        "hf://OWNER/NAME/a.jpg",
    ],
)
def test_paths_in_a_table_of_the_hub_lead_nowhere(path):
    with pytest.raises(UserError, match="not encoded pictures"):
        hub._encoded({"bytes": None, "path": path}, "OWNER/NAME")


@pytest.mark.parametrize(
    ("repo", "path"),
    [
        ("OWNER/NAME", "hf://datasets/OWNER/NAME@0123/a.jpg"),
        ("OWNER/NAME@v1:small", "zip://a.jpg::hf://datasets/OWNER/NAME@0123/a.zip"),
        ("/folder/of/parquet", "hf://datasets/OWNER/NAME/a.jpg"),
    ],
)
def test_files_beside_a_table_of_the_hub_are_fetched(repo, path, monkeypatch):
    monkeypatch.setattr(hub, "_fetched", lambda path, repo: path.encode())
    assert hub._encoded({"bytes": None, "path": path}, repo) == path.encode()


def test_a_missing_library_is_one_clear_line(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the library datasets; pip .*EXTRA=datasets"):
        load("hub", None, tmp_path, repo="OWNER/NAME")
    with pytest.raises(UserError, match="hub: no data set is named; set --config.data.repo"):
        load("hub", None, tmp_path)
    assert stems.holds_texts(Origin()) is False
