"""Data without a validation split: said at once, and a share of train in its place."""

import json
from pathlib import Path

import pytest
import sources

from show_attend_tell.data.examples import ImageSource
from show_attend_tell.data.holdout import held_out
from show_attend_tell.data.load import load_images
from show_attend_tell.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images; eight are for training, two for test."""
    folder = tmp_path / "own"
    sources.own(folder)
    rows = [
        {"file_name": f"{i}.jpg", "text": f"A dog {i}", "split": "train" if i < 8 else "test"}
        | {"objects": {"bbox": [[0, 0, 5, 5]], "words": [f"dog {i}"]}}
        for i in range(10)
    ]
    (folder / "metadata.csv").unlink()
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def load(folder: Path, split: str, holdout: float = 0.0, **options) -> ImageSource:
    places = {"data_dir": folder.parent / "data", "manual_dir": folder}
    return load_images("folder", split, holdout=holdout, **places, **options)


def test_no_validation_split_is_said_before_anything_is_built(folder: Path, logged):
    with pytest.raises(
        UserError,
        match=r"own/metadata.jsonl: has no split 'val', only train, test; give some images that "
        r"split, or hold a share of train out with --config.data.holdout=0.1",
    ):
        load(folder, "val")
    assert not list(folder.parent.glob("data/**/*.array_record*"))
    logged()
    load(folder, "train")
    assert "metadata.jsonl: has no split 'val', only train, test; to train, give" in logged()
    load(folder, "train", 0.3)
    assert logged() == ""


def test_a_share_of_train_is_held_out(folder: Path):
    whole = load(folder, "train")
    train, val = load(folder, "train", 0.3, mirrored=True), load(folder, "val", 0.3)
    assert len(val) >= 1 and train.stored + len(val) == 8
    assert sorted(train.ids[: train.stored] + val.ids) == sorted(whole.ids)
    assert (train.split, val.split) == ("train", "val")
    assert set(val.splits) == {"train", "val", "test"}
    for source in (train, val):
        for i in range(len(source)):
            example = source[i]
            number = source.ids[i][0]
            assert example.image_id == source.ids[i]
            assert source.captions()[i] == example.captions == (f"A dog {number}",)
            assert source.descriptions()[i][0].text == f"A dog {number}"
    prints = [whole.fingerprint, train.fingerprint, val.fingerprint]
    prints.append(load(folder, "val", 0.9).fingerprint)
    assert all(a != b for i, a in enumerate(prints) for b in prints[:i])
    assert len(load(folder, "test", 0.3)) == 2
    assert load(folder, "val", 0.9, limit=2).ids == load(folder, "val", 0.9).ids[:2]


def test_nothing_is_held_out_of_data_with_a_validation_split(tmp_path: Path):
    sources.own(tmp_path / "own")
    for split in ("train", "val"):
        with pytest.raises(UserError, match="metadata.csv: has a split 'val', so nothing is held"):
            load(tmp_path / "own", split, 0.1)


def test_restval_stays_in_training(tmp_path: Path):
    sources.flickr30k(tmp_path / "raw")
    splits = {"train": list("abcd"), "restval": list("ef"), "test": ["g"]}
    splits = {split: [f"{name}.jpg" for name in names] for split, names in splits.items()}
    (tmp_path / "raw" / "dataset_flickr30k.json").write_text(json.dumps(sources.karpathy(splits)))
    options = {"data_dir": tmp_path / "data", "manual_dir": tmp_path / "raw", "holdout": 0.25}
    train = load_images("karpathy", "train", restval=True, **options)
    val = load_images("karpathy", "val", restval=True, **options)
    assert sorted(train.ids + val.ids) == [f"{name}.jpg" for name in "abcdef"]
    assert set(val.ids) < set(splits["train"])
    assert [example.image_id for example in train] == train.ids


def test_who_is_held_out():
    names = [f"{i}.jpg" for i in range(1000)]
    held = held_out(names, 0.1)
    assert 70 < len(held) < 130 and held == sorted(held)
    few = held_out(names[:500], 0.1)
    assert few == [i for i in held if i < 500]  # others came, and nothing moved
    assert held_out([], 0.1) == held_out(names[:1], 0.9) == []
    for share in (1e-9, 1 - 1e-9):
        assert len(held_out(names[:3], share)) == (1 if share < 0.5 else 2)
