import dataclasses
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from show_attend_tell.data import load as datasets
from show_attend_tell.data.builders import shapes
from show_attend_tell.data.load import Box, Example
from show_attend_tell.errors import UserError


@pytest.fixture(autouse=True)
def few_shapes(monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": 60, "val": 10, "test": 12})


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SPLITS", {"train": 60, "val": 10, "test": 12})
        datasets.load("shapes", "val", data_dir=folder)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_split_is_read_at_random(built: Path):
    train = datasets.load("shapes", "train", data_dir=built)
    assert (train.name, train.split, len(train)) == ("shapes", "train", 60)
    assert sorted(train.ids) == [f"train-{i:05}" for i in range(60)]
    assert train[41].image_id == train.ids[41]
    assert [example.image_id for example in train] == train.ids
    assert train[7].image.startswith(b"\x89PNG")
    assert len(datasets.load("shapes", "test", data_dir=built)) == 12
    for index in (60, -1):
        with pytest.raises(IndexError):
            train[index]


def test_a_limit_takes_the_first_examples(built: Path):
    train = datasets.load("shapes", "train", data_dir=built)
    few = datasets.load("shapes", "train", data_dir=built, limit=7)
    assert [few[i] for i in range(len(few))] == [train[i] for i in range(7)]
    assert few.ids == train.ids[:7]
    assert len(datasets.load("shapes", "val", data_dir=built, limit=99)) == 10


def test_examples_survive_pickling(built: Path):
    val = datasets.load("shapes", "val", data_dir=built)
    copy = pickle.loads(pickle.dumps(val))
    assert list(copy) == list(val)
    assert (copy.ids, copy.fingerprint) == (val.ids, val.fingerprint)


def test_building_again_gives_the_same_in_the_same_order(built: Path, tmp_path: Path, capfd):
    first = datasets.load("shapes", "train", data_dir=built)
    capfd.readouterr()
    again = datasets.load("shapes", "train", data_dir=tmp_path)
    # TFDS's bars and notices are kept back: there is this line alone.
    out, err = capfd.readouterr()
    assert out == f"building data set shapes in {tmp_path}\n"
    assert not [line for line in err.splitlines() if line and not line.startswith("WARNING")]
    assert list(again) == list(first) and again.fingerprint == first.fingerprint
    datasets.load("shapes", "val", data_dir=tmp_path)
    assert capfd.readouterr().out == ""


def test_the_fingerprint_tells_contents_apart(built: Path, tmp_path: Path, monkeypatch):
    first = datasets.load("shapes", "train", data_dir=built)
    prints = [
        datasets.load("shapes", "val", data_dir=built).fingerprint,
        datasets.load("shapes", "train", data_dir=built, limit=59).fingerprint,
    ]
    # The same names and count with other pixels, as of another copy of a download.
    monkeypatch.setattr(shapes, "COLOURS", {"red": (200, 0, 0), "grey": (99, 99, 99)})
    other = datasets.load("shapes", "train", data_dir=tmp_path)
    assert other.ids == first.ids
    for different in (*prints, other.fingerprint):
        assert different != first.fingerprint
    # Caches of features are keyed by it: it stays what it was.
    assert list(first.fingerprint) == ["name", "version", "split", "images", "ids", "bytes"]
    assert first.fingerprint["ids"] == "3bc95d415ad9"


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("shape", "train", "data set 'shape' is not known; the nearest is 'shapes'"),
        ("flicker8k", "train", "data set 'flicker8k' is not known; the nearest is 'flickr8k'"),
        ("shapes", "valid", "split 'valid' is not known; the nearest is 'val'"),
        ("shapes", "dev", "split 'dev' is not known; the nearest is .* of train, val, test"),
    ],
)
def test_unknown_names(tmp_path: Path, name, split, message):
    with pytest.raises(UserError, match=message):
        datasets.load(name, split, data_dir=tmp_path)
    assert files(tmp_path) == []


def test_a_killed_build_leaves_nothing_that_is_read(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from show_attend_tell import datasets;"
        "from show_attend_tell.datasets import shapes;"
        "shapes.SPLITS = {'train': 40, 'val': 10**6, 'test': 1};"
        "datasets.load('shapes', 'train', data_dir=Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        # The first split is on disk, the second is under way.
        while not list(tmp_path.rglob("shapes-train.array_record*")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert any("incomplete" in name for name in files(tmp_path))

    assert len(datasets.load("shapes", "train", data_dir=tmp_path)) == 60
    assert not any("incomplete" in name for name in files(tmp_path))


def test_a_full_disk(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": 300, "val": 1, "test": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=f"{tmp_path}: data set shapes cannot be built there"):
            datasets.load("shapes", "train", data_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any("record" in name for name in files(tmp_path))
    assert len(datasets.load("shapes", "train", data_dir=tmp_path)) == 300


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"choose another folder with --config\.data\.dir"):
        datasets.load("shapes", "train", data_dir=tmp_path / "file")


@pytest.mark.parametrize("name", ["dataset_info.json", "shapes-train.array_record-00000-of-00001"])
@pytest.mark.parametrize("damage", ["removed", "cut", "changed"])
def test_damaged_files(tmp_path: Path, name, damage):
    datasets.load("shapes", "train", data_dir=tmp_path)
    (path,) = tmp_path.rglob(name)
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:200] + b"\x00" * 200 + content[400:])
    with pytest.raises(UserError, match=f"{tmp_path}/shapes.*: damaged .*; delete this folder"):
        datasets.load("shapes", "train", data_dir=tmp_path)


def count_reads(monkeypatch) -> list[int]:
    """The records that are read from now on, by number."""
    from tensorflow_datasets.core.data_sources.array_record import ArrayRecordDataSource

    reads, read = [], ArrayRecordDataSource.__getitem__

    def counting(self, index):
        reads.append(index)
        return read(self, index)

    monkeypatch.setattr(ArrayRecordDataSource, "__getitem__", counting)
    return reads


def test_images_are_read_only_when_they_are_asked_for(built: Path, monkeypatch):
    reads = count_reads(monkeypatch)
    datasets.load("shapes", "train", data_dir=built)
    reads.clear()
    train = datasets.load("shapes", "train", data_dir=built, mirrored=True, crops=1)
    captions = train.captions()
    assert len(train.ids) == len(captions) == 180 and reads == []
    assert train[61].captions == captions[61] and reads == [1]


def test_a_data_set_without_an_index_gets_one(tmp_path: Path, monkeypatch, capfd):
    first = datasets.load("shapes", "val", data_dir=tmp_path)
    (index,) = tmp_path.rglob("index-val.jsonl")
    written = index.read_bytes()
    reads = count_reads(monkeypatch)
    monkeypatch.setattr(datasets, "MANY", 10)
    capfd.readouterr()
    for content in (
        None,
        b"",
        written[:-30],
        written.replace(b"circle", b"square"),  # a hash of it stands in the first line
        written.replace(b'"of": [["shapes-val', b'"of": [["shapes-train'),
    ):
        index.unlink()
        if content is not None:
            index.write_bytes(content)
        again = datasets.load("shapes", "val", data_dir=tmp_path)
        assert reads == list(range(10)) and index.read_bytes() == written
        assert (again.ids, again.captions()) == (first.ids, first.captions())
        assert again.fingerprint == first.fingerprint
        told = capfd.readouterr().out
        assert told == "shapes val: reading the captions of 10 images\n"
        reads.clear()


@pytest.mark.parametrize("name", ["replacing", "locked"])
def test_an_index_that_cannot_be_kept_is_done_without(tmp_path: Path, monkeypatch, name):
    first = datasets.load("shapes", "val", data_dir=tmp_path)
    (index,) = tmp_path.rglob("index-val.jsonl")
    index.unlink()

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.files, name, full)
    assert datasets.load("shapes", "val", data_dir=tmp_path).ids == first.ids


def test_a_mirrored_example_swaps_sides():
    box = Box("circle", 1, 0.0, 0.625, 0.5, 0.75)
    example = Example(
        "a", b"", ("A circle left of a square .", "Right ! upright, leftover"), (box,)
    )
    mirrored = example.mirror()
    assert mirrored.captions == ("A circle right of a square .", "Left ! upright, leftover")
    assert mirrored.boxes == (Box("circle", 1, 0.0, 0.25, 0.5, 0.375),)
    assert mirrored.mirrored and mirrored.image_id == "a mirrored"
    assert dataclasses.replace(mirrored.mirror(), image_id="a") == example


def test_mirrored_copies_follow_the_originals(built: Path):
    plain = datasets.load("shapes", "train", data_dir=built, limit=3)
    both = datasets.load("shapes", "train", data_dir=built, limit=3, mirrored=True)
    assert len(both) == 6 and both.ids[:3] == plain.ids
    assert [both[i] for i in range(3)] == [plain[i] for i in range(3)]
    assert both[4] == plain[1].mirror() and both[4].image_id == both.ids[4]
    assert both.captions() == [example.captions for example in both]
    assert both.fingerprint != plain.fingerprint


def test_a_crop_keeps_the_captions_and_moves_the_boxes():
    boxes = (Box("circle", 1, 0.4, 0.5, 0.5, 0.7), Box("square", 3, 0.0, 0.0, 0.001, 0.001))
    example = Example("a", b"", ("A circle , a square .",), boxes)
    crops = [example.crop(number) for number in range(1, 200)]
    assert example.crop(1) == crops[0] != crops[1]
    windows = np.array([crop.window for crop in crops])
    sides = windows[:, 2:] - windows[:, :2]
    assert windows.min() >= 0 and windows.max() <= 1
    assert 0.75 <= sides.min() < 0.77 and 0.98 < sides.max() <= 1
    for crop in crops:
        ymin, xmin, ymax, xmax = crop.window
        box = crop.boxes[0]  # back in the picture's coordinates it is where it was
        assert [ymin + box.ymin * (ymax - ymin), xmin + box.xmin * (xmax - xmin)] == pytest.approx(
            [0.4, 0.5]
        )
        assert [ymin + box.ymax * (ymax - ymin), xmin + box.xmax * (xmax - xmin)] == pytest.approx(
            [0.5, 0.7]
        )
        assert len(crop.boxes) == (1 if ymin > 0.001 or xmin > 0.001 else 2)
        assert crop.captions == example.captions
    assert crops[0].mirror().window == crops[0].window and crops[0].mirror().mirrored
    with pytest.raises(ValueError, match="not cropped again"):
        crops[0].crop(1)


def test_cropped_copies_follow_the_others(built: Path):
    plain = datasets.load("shapes", "train", data_dir=built, limit=3)
    every = datasets.load("shapes", "train", data_dir=built, limit=3, mirrored=True, crops=2)
    assert len(every) == 12 and every.stored == 3
    assert [every[i].image_id for i in range(12)] == every.ids
    assert every[3] == plain[0].mirror()
    assert every[7] == plain[1].crop(1)
    assert every[10] == plain[1].crop(2).mirror()
    # What was cached of fewer copies stays first.
    two = datasets.load("shapes", "train", data_dir=built, limit=3, mirrored=True)
    assert every.ids[:6] == two.ids and every.fingerprint != two.fingerprint
