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

from show_attend_tell.data import index as indexes
from show_attend_tell.data import scenes
from show_attend_tell.data.builders import common, reversal, shapes
from show_attend_tell.data.examples import Box, Example
from show_attend_tell.data.load import load_images, load_pairs
from show_attend_tell.errors import UserError


@pytest.fixture(autouse=True)
def few_shapes(monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": 60, "val": 10, "test": 12})


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SPLITS", {"train": 60, "val": 10, "test": 12})
        load_images("shapes", "val", data_dir=folder)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_split_is_read_at_random(built: Path):
    train = load_images("shapes", "train", data_dir=built)
    assert (train.name, train.split, len(train)) == ("shapes", "train", 60)
    assert sorted(train.ids) == [f"train-{i:05}" for i in range(60)]
    assert train[41].image_id == train.ids[41]
    assert [example.image_id for example in train] == train.ids
    assert train[7].image.startswith(b"\x89PNG")
    assert len(load_images("shapes", "test", data_dir=built)) == 12
    for index in (60, -1):
        with pytest.raises(IndexError):
            train[index]


def test_a_limit_takes_the_first_examples(built: Path):
    train = load_images("shapes", "train", data_dir=built)
    few = load_images("shapes", "train", data_dir=built, limit=7)
    assert [few[i] for i in range(len(few))] == [train[i] for i in range(7)]
    assert few.ids == train.ids[:7]
    assert len(load_images("shapes", "val", data_dir=built, limit=99)) == 10


def test_examples_survive_pickling(built: Path):
    val = load_images("shapes", "val", data_dir=built)
    copy = pickle.loads(pickle.dumps(val))
    assert list(copy) == list(val)
    assert (copy.ids, copy.fingerprint) == (val.ids, val.fingerprint)


def test_building_again_gives_the_same_in_the_same_order(
    built: Path, tmp_path: Path, capfd, logged
):
    first = load_images("shapes", "train", data_dir=built)
    capfd.readouterr(), logged()
    again = load_images("shapes", "train", data_dir=tmp_path)
    building = f"building data set shapes in {tmp_path}"
    assert logged() == f"{building}\n"
    # TFDS's bars and notices are silenced.
    out, err = capfd.readouterr()
    assert out == ""
    others = {line for line in err.splitlines() if line and not line.startswith("WARNING")}
    assert others <= {building}  # which is there if an earlier test ran a verb in this process
    assert list(again) == list(first) and again.fingerprint == first.fingerprint
    load_images("shapes", "val", data_dir=tmp_path)
    assert (capfd.readouterr().out, logged()) == ("", "")


def test_the_fingerprint_distinguishes_contents(built: Path, tmp_path: Path, monkeypatch):
    first = load_images("shapes", "train", data_dir=built)
    prints = [
        load_images("shapes", "val", data_dir=built).fingerprint,
        load_images("shapes", "train", data_dir=built, limit=59).fingerprint,
    ]
    # The same names and count with other pixels, as in another copy of a download.
    monkeypatch.setattr(scenes, "COLOURS", {"red": (200, 0, 0), "grey": (99, 99, 99)})
    other = load_images("shapes", "train", data_dir=tmp_path)
    assert other.ids == first.ids
    for different in (*prints, other.fingerprint):
        assert different != first.fingerprint
    # It is the key of feature caches, so it must not change.
    assert list(first.fingerprint) == ["name", "version", "split", "images", "ids", "bytes"]
    assert first.fingerprint["ids"] == "3bc95d415ad9"


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("shape", "train", "no data set of images 'shape'; the nearest is 'shapes'"),
        ("flicker8k", "train", "no data set of images 'flicker8k'; the nearest is 'flickr8k'"),
        (
            "multi30k",
            "train",
            "no data set of images 'multi30k'; .* of shapes, flickr",
        ),
        ("shapes", "valid", "no split 'valid'; the nearest is 'val'"),
        ("shapes", "dev", "no split 'dev'; the nearest is .* of train, val, test"),
    ],
)
def test_unknown_names(tmp_path: Path, name, split, message):
    with pytest.raises(UserError, match=message):
        load_images(name, split, data_dir=tmp_path)
    assert files(tmp_path) == []


def test_images_are_not_opened_as_pairs(tmp_path: Path):
    with pytest.raises(UserError, match="no data set of sentences 'shapes'; .* of multi30k, rev"):
        load_pairs("shapes", "train", data_dir=tmp_path)
    with pytest.raises(UserError, match="no split 'valid'"):
        load_pairs("reversal", "valid", data_dir=tmp_path)


def test_a_killed_build_leaves_nothing_that_would_be_read(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from show_attend_tell.data.load import load_images;"
        "from show_attend_tell.data.builders import shapes;"
        "shapes.SPLITS = {'train': 40, 'val': 10**6, 'test': 1};"
        "load_images('shapes', 'train', data_dir=Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        # The first split is on disk, and the second is being written.
        while not list(tmp_path.rglob("shapes-train.array_record*")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert any("incomplete" in name for name in files(tmp_path))

    assert len(load_images("shapes", "train", data_dir=tmp_path)) == 60
    assert not any("incomplete" in name for name in files(tmp_path))


def test_a_full_disk(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": 300, "val": 1, "test": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=f"{tmp_path}: data set shapes cannot be built there"):
            load_images("shapes", "train", data_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any("record" in name for name in files(tmp_path))
    assert len(load_images("shapes", "train", data_dir=tmp_path)) == 300


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"choose another folder with --config\.data\.dir"):
        load_images("shapes", "train", data_dir=tmp_path / "file")


@pytest.mark.parametrize("name", ["dataset_info.json", "shapes-train.array_record-00000-of-00001"])
@pytest.mark.parametrize("damage", ["removed", "cut", "changed"])
def test_damaged_files(tmp_path: Path, name, damage):
    load_images("shapes", "train", data_dir=tmp_path)
    (path,) = tmp_path.rglob(name)
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:200] + b"\x00" * 200 + content[400:])
    with pytest.raises(UserError, match=f"{tmp_path}/shapes.*: cannot be read .*move this"):
        load_images("shapes", "train", data_dir=tmp_path)


def test_damage_found_while_reading_an_example_is_reported_then(tmp_path: Path):
    train = load_images("shapes", "train", data_dir=tmp_path)
    (path,) = tmp_path.rglob("shapes-train.array_record-00000-of-00001")
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\x00" * 20_000 + content[20_200:])
    with pytest.raises(UserError, match=f"{tmp_path}/shapes.*: cannot be read .*move this"):
        list(train)


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_damaged_pairs(tmp_path: Path, monkeypatch, damage):
    monkeypatch.setattr(reversal, "SPLITS", {"train": 40, "val": 3, "test": 3})
    load_pairs("reversal", "train", data_dir=tmp_path)
    (path,) = tmp_path.rglob("reversal-train.array_record*")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:300])
    else:
        path.unlink()
    with pytest.raises(UserError, match=f"{tmp_path}/reversal.*: cannot be read .*move this"):
        load_pairs("reversal", "train", data_dir=tmp_path)


class Bug(Exception):
    """An exception that no code catches on purpose."""


@pytest.mark.parametrize("error", [Bug, RuntimeError, RecursionError, KeyError])
def test_a_bug_in_a_builder_is_not_reported_as_a_full_disk(tmp_path: Path, monkeypatch, error):
    def render_scene(rng):
        raise error("a bug")

    monkeypatch.setattr(shapes, "render_scene", render_scene)
    with pytest.raises(error, match="a bug"):
        load_images("shapes", "train", data_dir=tmp_path)


def test_a_bug_in_reading_is_not_reported_as_damage(built: Path, tmp_path: Path, monkeypatch):
    def read(record):
        raise Bug

    train = load_images("shapes", "train", data_dir=built)
    monkeypatch.setattr(train, "_read", read)
    with pytest.raises(Bug):
        train[0]
    monkeypatch.setattr(common, "read_example", read)
    with pytest.raises(Bug):  # while the index is made
        load_images("shapes", "train", data_dir=tmp_path)
    monkeypatch.setattr(reversal, "SPLITS", {"train": 40, "val": 3, "test": 3})
    monkeypatch.setattr(reversal, "read_pair", read)
    with pytest.raises(Bug):
        load_pairs("reversal", "train", data_dir=tmp_path)


def count_reads(monkeypatch) -> list[int]:
    """The numbers of the records that are read from now on."""
    from tensorflow_datasets.core.data_sources.array_record import ArrayRecordDataSource

    reads, read = [], ArrayRecordDataSource.__getitem__

    def counting(self, index):
        reads.append(index)
        return read(self, index)

    monkeypatch.setattr(ArrayRecordDataSource, "__getitem__", counting)
    return reads


def test_images_are_read_only_on_demand(built: Path, monkeypatch):
    reads = count_reads(monkeypatch)
    load_images("shapes", "train", data_dir=built)
    reads.clear()
    train = load_images("shapes", "train", data_dir=built, mirrored=True, crops=1)
    captions = train.captions()
    assert len(train.ids) == len(captions) == 180 and reads == []
    assert train[61].captions == captions[61] and reads == [1]


def test_a_data_set_without_an_index_gets_one(tmp_path: Path, monkeypatch, logged):
    first = load_images("shapes", "val", data_dir=tmp_path)
    (index,) = tmp_path.rglob("index-val.jsonl")
    written = index.read_bytes()
    reads = count_reads(monkeypatch)
    monkeypatch.setattr(indexes, "MANY", 10)
    logged()
    for content in (
        None,
        b"",
        written[:-30],
        written.replace(b"circle", b"square"),  # its hash is in the first line
        written.replace(b'"of": [["shapes-val', b'"of": [["shapes-train'),
    ):
        index.unlink()
        if content is not None:
            index.write_bytes(content)
        again = load_images("shapes", "val", data_dir=tmp_path)
        assert reads == list(range(10)) and index.read_bytes() == written
        assert (again.ids, again.captions()) == (first.ids, first.captions())
        assert again.fingerprint == first.fingerprint
        assert logged() == "shapes val: reading the captions of 10 images\n"
        reads.clear()


@pytest.mark.parametrize("name", ["replacing", "locked"])
def test_an_index_that_cannot_be_saved_is_not_needed(tmp_path: Path, monkeypatch, name):
    first = load_images("shapes", "val", data_dir=tmp_path)
    (index,) = tmp_path.rglob("index-val.jsonl")
    index.unlink()

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(indexes.files, name, full)
    assert load_images("shapes", "val", data_dir=tmp_path).ids == first.ids


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
    plain = load_images("shapes", "train", data_dir=built, limit=3)
    both = load_images("shapes", "train", data_dir=built, limit=3, mirrored=True)
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
    with pytest.raises(ValueError, match="cannot be cropped again"):
        crops[0].crop(1)


def test_cropped_copies_follow_the_others(built: Path):
    plain = load_images("shapes", "train", data_dir=built, limit=3)
    every = load_images("shapes", "train", data_dir=built, limit=3, mirrored=True, crops=2)
    assert len(every) == 12 and every.stored == 3
    assert [every[i].image_id for i in range(12)] == every.ids
    assert every[3] == plain[0].mirror()
    assert every[7] == plain[1].crop(1)
    assert every[10] == plain[1].crop(2).mirror()
    # What was cached with fewer copies comes first.
    two = load_images("shapes", "train", data_dir=built, limit=3, mirrored=True)
    assert every.ids[:6] == two.ids and every.fingerprint != two.fingerprint
