"""COCO through TFDS's builder, on small archives with COCO's names and layout."""

import hashlib
import json
import pickle
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import sources
from sources import coco_name
from tensorflow_datasets.core.download import checksums, downloader

from show_attend_tell.data.examples import Box, ImageSource
from show_attend_tell.data.load import load_images
from show_attend_tell.errors import UserError


@pytest.fixture
def download(tmp_path: Path, monkeypatch) -> Path:
    """The four archives, and no network."""

    def send(*arguments, **options):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests.Session, "request", send)
    sources.coco(tmp_path / "download")
    return tmp_path / "download"


def load(archives: Path, split: str = "train", **options) -> ImageSource:
    folder = archives.parent / "data"
    return load_images("coco", split, data_dir=folder, manual_dir=archives, **options)


def rewrite(path: Path, change) -> None:
    """Changes an archive: `change` takes and returns a dict from names to contents."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in change(content).items():
            archive.writestr(name, value)


def test_the_archives_as_they_come(download: Path, logged):
    sizes = {split: len(load(download, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 4, "val": 2, "test": 2}
    assert logged() == f"building data set coco in {download.parent / 'data'}\n"
    val = load(download, "val")
    assert sorted(val.ids) == [coco_name(10, "val2014"), coco_name(11, "val2014")]
    example = val[val.ids.index(coco_name(11, "val2014"))]
    assert example.image == sources.picture(11, size=(40, 20))
    assert example.captions == ("A dog number 1 .", "The val dog runs .")
    assert example.boxes == (
        Box("dog", -1, 0.0, 0.0, 1.0, 0.25),
        Box("dog", -1, 0.0, 0.75, 1.0, 1.0),
    )
    # No extracted annotations are left behind.
    found = [path.name for path in download.parent.glob("data/**/*.json")]
    assert found and not [name for name in found if name.startswith(("inst", "dataset_coco"))]


def test_restval_joins_training(download: Path):
    train, both = load(download), load(download, restval=True)
    assert len(both) == 6 and both.split == "train" and both.ids[:4] == train.ids
    assert [example.image_id for example in both] == both.ids
    assert both.captions() == [example.captions for example in both]
    assert list(pickle.loads(pickle.dumps(both))) == list(both)
    assert both.fingerprint["split"] == "train+restval"
    assert both.fingerprint["bytes"] > train.fingerprint["bytes"]
    assert load(download, restval=True, limit=5).ids == both.ids[:5]
    assert load(download, "val", restval=True).ids == load(download, "val").ids


def without_image(content):
    return {name: value for name, value in content.items() if BAD not in name}


def with_cut_image(content):
    return content | {f"train2014/{BAD}": sources.picture(2)[:300]}


def without_boxes(content):
    file = "annotations/instances_train2014.json"
    value = json.loads(content[file])
    value["images"] = [image for image in value["images"] if image["file_name"] != BAD]
    return content | {file: json.dumps(value)}


def without_captions(content):
    value = json.loads(content["dataset_coco.json"])
    for image in value["images"]:
        image["sentences"] = [] if image["filename"] == BAD else image["sentences"]
    return content | {"dataset_coco.json": json.dumps(value)}


BAD = coco_name(2, "train2014")


@pytest.mark.parametrize(
    "archive, change, reason",
    [
        ("train2014.zip", without_image, "it is not there"),
        ("train2014.zip", with_cut_image, "damaged or cut short"),
        ("annotations_trainval2014.zip", without_boxes, "instances_*.json do not name it"),
        ("caption_datasets.zip", without_captions, "it has no caption"),
    ],
)
def test_one_unusable_image_is_left_out_and_reported(
    download: Path, archive, change, reason, logged
):
    rewrite(download / archive, change)
    assert len(load(download)) == 3
    out = logged()
    assert f"coco train: 1 of 4 images skipped: {reason}" in out and f"(1: {BAD})" in out
    (metadata,) = download.parent.glob("data/coco/2014/*/metadata.json")
    assert json.loads(metadata.read_text())["unusable_images"][BAD].startswith(reason)


def test_many_unusable_images_are_an_error(download: Path):
    rewrite(download / "train2014.zip", lambda content: dict(list(content.items())[:2]))
    with pytest.raises(UserError, match="2 of 4 images of split 'train' cannot be used: it is "):
        load(download)
    assert not [*download.parent.glob("data/coco/*/*.*.*")]


def test_paths_in_an_archive_cannot_escape(download: Path):
    for name in ("train2014.zip", "annotations_trainval2014.zip", "caption_datasets.zip"):
        with zipfile.ZipFile(download / name, "a") as archive:
            archive.writestr("../../evil.json", b"{}")
            archive.writestr(f"{download.parent}/absolute.json", b"{}")
    load(download)
    assert not [*download.parents[1].glob("*.json"), *download.parent.rglob("absolute.json")]
    assert not [*download.parent.rglob("evil.json")]


def test_missing_files_would_be_downloaded(download: Path, logged):
    (download / "val2014.zip").unlink()
    with pytest.raises(UserError, match=r"val2014\.zip: cannot be downloaded \(no network\); get"):
        load(download, download=True)
    assert "coco: downloading val2014.zip; if you have it: set" in logged()
    with pytest.raises(UserError, match="absent: no such folder; set --config.data.manual_dir"):
        load(download.parent / "absent")


def test_downloads_are_checked_by_their_hash(download: Path, monkeypatch):
    path = download / "val2014.zip"
    content = path.read_bytes()
    path.unlink()

    @contextmanager
    def serve(url, **options):
        response = requests.Response()
        response.url = url
        yield response, [content]

    monkeypatch.setattr(downloader, "_open_url", serve)
    with pytest.raises(UserError, match=r"val2014\.zip: cannot be downloaded \(.* wrong checksum"):
        load(download, download=True)
    urls = checksums.get_all_url_infos()
    (url,) = (url for url in urls if url.endswith("/val2014.zip"))
    known = checksums.UrlInfo(len(content), hashlib.sha256(content).hexdigest(), path.name)
    monkeypatch.setitem(urls, url, known)
    assert len(load(download, "val", download=True)) == 2


@pytest.mark.parametrize("name", ["train2014.zip", "caption_datasets.zip"])
def test_a_file_that_is_not_an_archive_is_an_error(download: Path, name):
    (download / name).write_bytes(b"not a zip")
    with pytest.raises(UserError, match=f"{name}: not a readable zip .*; get it again"):
        load(download)


@pytest.mark.parametrize(
    "archive, member, content, message",
    [
        ("caption_datasets.zip", "dataset_coco.json", "{}", r"dataset_coco.json: not COCO's \(Key"),
        ("caption_datasets.zip", "dataset_coco.json", "[", r"dataset_coco.json: not COCO's \(JSON"),
        ("caption_datasets.zip", "dataset_coco.json", None, "dataset_coco.json is not in it; get"),
        (
            "annotations_trainval2014.zip",
            "annotations/instances_train2014.json",
            '{"images": []}',
            r"instances_\*.json: not COCO's \(KeyError",
        ),
    ],
)
def test_other_annotations(download: Path, archive, member, content, message):
    def change(members):
        members.pop(member)
        return members if content is None else members | {member: content}

    rewrite(download / archive, change)
    with pytest.raises(UserError, match=message):
        load(download)
