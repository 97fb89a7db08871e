import io
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from show_attend_tell.data import row_cache as features
from show_attend_tell.data.images import WHOLE, read_image
from show_attend_tell.data.row_cache import Rows, annotation_cache, image_cache
from show_attend_tell.errors import UserError
from show_attend_tell.models.encoders.base import Encoder

SIZE = 16


@dataclass
class Examples:
    """Images of one colour each; `reads` is the order in which they were asked for."""

    count: int
    broken: int = -1
    kill_at: int = -1
    reads: list = field(default_factory=list)
    fingerprint: dict = field(
        default_factory=lambda: {"name": "colours", "split": "train", "version": "1.0.0"}
    )

    @property
    def ids(self):
        return [f"image{i}" for i in range(self.count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        if index == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.broken:
            return SimpleNamespace(image=b"not an image", window=WHOLE, mirrored=False)
        encoded = io.BytesIO()
        Image.new("RGB", (20, 10), (index, 2 * index, 255 - index)).save(encoded, "PNG")
        return SimpleNamespace(image=encoded.getvalue(), window=WHOLE, mirrored=False)


class Means(Encoder):
    """Mean colour of the four quarters of an image, times a weight."""

    def __init__(self, weight=0.5):
        self.image_size, self.grid, self.features = SIZE, (2, 2), 3
        self.centres = (0.25, 0.75)
        self.weight = nnx.Param(jnp.float32(weight))

    def __call__(self, images):
        TRACED.append(images.shape)
        quarters = images.astype(jnp.float32).reshape(-1, 2, SIZE // 2, 2, SIZE // 2, 3)
        return self.weight[...] * quarters.mean(axis=(2, 4)).reshape(-1, 4, 3)

    def fingerprint(self):
        return {"name": "means", "weights": str(self.weight[...]), "image_size": SIZE}


TRACED = []


def expected(count, weight=0.5):
    colours = np.array([(i, 2 * i, 255 - i) for i in range(count)])
    return np.repeat((weight * colours).astype(np.float16)[:, None], 4, axis=1)


def annotations(examples, folder, **change):
    encoder = change.pop("encoder", Means())
    return annotation_cache(examples, encoder, folder, batch_size=4).load(progress=False)


def only_folder(cache):
    [folder] = cache.iterdir()
    return folder


def test_annotations_are_the_encoders_in_half_precision(tmp_path):
    found = annotations(Examples(10), tmp_path)
    assert found.dtype == np.float16 and found.shape == (10, 4, 3)
    np.testing.assert_array_equal(found[:], expected(10))


def test_last_batch_and_next_split_compile_nothing_new(tmp_path):
    TRACED.clear()
    for count in (10, 5):
        annotation_cache(Examples(count), Means(), tmp_path, batch_size=3).load(progress=False)
    assert TRACED == [(3, SIZE, SIZE, 3)]


def test_second_call_reads_no_image(tmp_path):
    first = annotations(Examples(10), tmp_path)[:]
    again = Examples(10)
    np.testing.assert_array_equal(annotations(again, tmp_path)[:], first)
    assert again.reads == []


def test_manifest_says_what_the_cache_holds(tmp_path):
    annotations(Examples(3), tmp_path)
    folder = only_folder(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["encoder"] == {"name": "means", "weights": "0.5", "image_size": SIZE}
    assert manifest["data"]["split"] == "train"
    assert manifest["image_ids"] == ["image0", "image1", "image2"]
    assert manifest["shape"] == [3, 4, 3] and manifest["dtype"] == "float16"
    assert folder.name.startswith("colours-train-means-16-")
    names = {"rows-0000000.npy", "manifest.json", "lock", "lock-0000000"}
    assert {f.name for f in folder.iterdir()} == names


def test_other_weights_data_or_images_are_another_cache(tmp_path):
    annotations(Examples(5), tmp_path)
    np.testing.assert_array_equal(
        annotations(Examples(5), tmp_path, encoder=Means(0.25))[:], expected(5, 0.25)
    )
    later = Examples(5)
    later.fingerprint["version"] = "1.0.1"
    annotations(later, tmp_path)
    assert len(later.reads) == 5
    np.testing.assert_array_equal(annotations(Examples(6), tmp_path)[:], expected(6))
    assert len(list(tmp_path.iterdir())) == 4


def test_images_are_cached_as_they_are_read(tmp_path):
    examples = Examples(5)
    found = image_cache(examples, 8, tmp_path).load(progress=False)
    assert found.shape == (5, 8, 8, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[:][3], read_image(examples[3].image, 8))
    again = Examples(5)
    image_cache(again, 8, tmp_path).load(progress=False)
    assert again.reads == []


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b[:90], lambda b: b"", lambda b: b + b"x"],
    ids=["last byte", "header", "empty", "longer"],
)
def test_truncated_or_longer_cache_is_never_read(tmp_path, caplog, damage):
    annotations(Examples(10), tmp_path)
    path = only_folder(tmp_path) / "rows-0000000.npy"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        found = annotations(Examples(10), tmp_path)
    np.testing.assert_array_equal(found[:], expected(10))
    assert "rows-0000000.npy" in caplog.text


def test_cache_of_another_shape_or_manifest_is_never_read(tmp_path):
    annotations(Examples(10), tmp_path)
    folder = only_folder(tmp_path)
    np.save(folder / "rows-0000000.npy", np.zeros((9, 4, 3), np.float16))
    np.testing.assert_array_equal(annotations(Examples(10), tmp_path)[:], expected(10))
    np.save(folder / "rows-0000000.npy", np.zeros((10, 4, 3), np.float16))
    (folder / "manifest.json").write_text("{}")
    np.testing.assert_array_equal(annotations(Examples(10), tmp_path)[:], expected(10))


def test_unreadable_image_is_named_and_the_rest_is_kept(tmp_path):
    with pytest.raises(UserError, match="image9 of colours-train") as raised:
        annotations(Examples(20, broken=9), tmp_path)
    assert "\n" not in str(raised.value)
    folder = only_folder(tmp_path)
    assert not (folder / "rows-0000000.npy").exists()
    rows = json.loads((folder / "progress-0000000.json").read_text())["rows"]
    assert rows == 4  # the second whole batch before it was still on the device
    mended = Examples(20)
    np.testing.assert_array_equal(annotations(mended, tmp_path)[:], expected(20))
    assert min(mended.reads) == rows


@pytest.mark.parametrize("lost", ["progress", "rows", "manifest"])
def test_doubtful_rest_of_an_attempt_is_computed_again(tmp_path, lost):
    with pytest.raises(UserError):
        annotations(Examples(20, broken=19), tmp_path)
    folder = only_folder(tmp_path)
    if lost == "progress":
        (folder / "progress-0000000.json").write_text('{"rows"')
    elif lost == "rows":
        os.truncate(folder / "partial-0000000.npy", 200)
    else:
        (folder / "manifest.json").unlink()
    mended = Examples(20)
    np.testing.assert_array_equal(annotations(mended, tmp_path)[:], expected(20))
    assert min(mended.reads) == 0


def test_killed_extraction_is_resumed(tmp_path):
    killed = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    folder = only_folder(tmp_path)
    assert (folder / "partial-0000000.npy").exists() and not (folder / "rows-0000000.npy").exists()
    resumed = Examples(60)
    np.testing.assert_array_equal(annotations(resumed, tmp_path)[:], expected(60))
    # Decoding is a few batches ahead of what is written; the image that killed was number 40.
    assert 0 < min(resumed.reads) < 40


def test_two_at_once_compute_it_once(tmp_path):
    examples = Examples(10)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: annotations(examples, tmp_path), range(2)))
    np.testing.assert_array_equal(found[0][:], expected(10))
    np.testing.assert_array_equal(found[1][:], expected(10))
    assert sorted(examples.reads) == list(range(10))


@pytest.mark.parametrize("weight", [np.nan, np.inf, 1e6])
def test_values_beyond_half_precision_are_an_error(tmp_path, weight):
    with pytest.raises(UserError, match="image0: the encoder's output is not finite"):
        annotations(Examples(6), tmp_path, encoder=Means(weight))


def test_too_small_a_disk_is_seen_before_work_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    examples = Examples(2_000)
    with pytest.raises(UserError, match=r"needs 2 MB and 1 MB are free") as raised:
        image_cache(examples, 16, tmp_path).load(progress=False)
    assert str(tmp_path) in str(raised.value) and examples.reads == []
    assert annotations(Examples(5), tmp_path).shape == (5, 4, 3)


def test_failing_write_is_one_line_and_can_be_resumed(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot keep the feature cache") as raised:
            image_cache(Examples(200), 16, tmp_path).load(progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)
    resumed = Examples(200)
    found = image_cache(resumed, 16, tmp_path).load(progress=False)
    np.testing.assert_array_equal(found[:][:, 0, 0, 0], np.arange(200))
    assert min(resumed.reads) == 128  # two blocks of 64 images of 768 bytes fitted


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        annotations(Examples(3), tmp_path / "file" / "cache")


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 8)


def test_a_large_array_lies_in_several_files(tmp_path, small_shards):
    found = annotations(Examples(20), tmp_path)
    folder = only_folder(tmp_path)
    sizes = {p.name: len(np.load(p)) for p in sorted(folder.glob("*.npy"))}
    assert sizes == {"rows-0000000.npy": 8, "rows-0000008.npy": 8, "rows-0000016.npy": 4}
    assert (found.shape, found.ndim, len(found), found.dtype) == ((20, 4, 3), 3, 20, np.float16)
    for rows in (np.array([19, 0, 8, 7, 7]), slice(6, 18, 5), np.array([], int)):
        np.testing.assert_array_equal(found[rows], expected(20)[rows])
    again = Examples(20)
    annotations(again, tmp_path)
    assert again.reads == []


def test_rows_are_copies_and_files_are_read_only(tmp_path):
    found = annotations(Examples(6), tmp_path)
    found[np.array([1])][:] = 7.0
    np.testing.assert_array_equal(found[:], expected(6))
    parts = [np.arange(6).reshape(3, 2), np.arange(6, 8).reshape(1, 2)]
    np.testing.assert_array_equal(Rows(parts)[np.array([3, 0])], [[6, 7], [0, 1]])


def test_a_lost_file_alone_is_computed_again(tmp_path, small_shards):
    annotations(Examples(20), tmp_path)
    (only_folder(tmp_path) / "rows-0000008.npy").unlink()
    again = Examples(20)
    assert annotation_cache(again, Means(), tmp_path).finished() == 12
    np.testing.assert_array_equal(annotations(again, tmp_path)[:], expected(20))
    assert sorted(again.reads) == list(range(8, 16))


def test_files_of_another_array_are_not_taken_for_its_own(tmp_path, small_shards):
    annotations(Examples(20), tmp_path)
    folder = only_folder(tmp_path)
    np.save(folder / "rows-0000016.npy", np.zeros((4, 4, 3), np.float16))
    (folder / "manifest.json").write_text("{}")
    np.testing.assert_array_equal(annotations(Examples(20), tmp_path)[:], expected(20))


def test_processes_of_a_job_begin_with_files_of_their_own(tmp_path, small_shards, monkeypatch):
    monkeypatch.setattr(features.jax, "process_count", lambda: 2)
    monkeypatch.setattr(features.jax, "process_index", lambda: 1)
    examples = Examples(24)
    np.testing.assert_array_equal(annotations(examples, tmp_path)[:], expected(24))
    firsts = list(dict.fromkeys(read // 8 for read in examples.reads))
    assert firsts == [1, 0, 2]


def test_a_cache_says_its_size_and_what_is_done(tmp_path, small_shards):
    cache = annotation_cache(Examples(20, broken=13), Means(), tmp_path, batch_size=4)
    assert (cache.size, cache.finished()) == (20 * 4 * 3 * 2, 0)
    with pytest.raises(UserError):
        cache.load(progress=False)
    assert cache.finished() == 8  # the second file's first batch was still on the device


def test_progress_shows_images_and_rate(tmp_path, capsys):
    annotation_cache(Examples(6), Means(), tmp_path, batch_size=4).load(progress=True)
    assert "6/6" in capsys.readouterr().out


if __name__ == "__main__":
    features.SYNC_SECONDS = 0.0
    annotations(Examples(60, kill_at=40), Path(sys.argv[1]))


def test_a_mirrored_image_is_read_the_other_way_round(tmp_path):
    class Pair(Examples):
        def __getitem__(self, index):
            encoded = io.BytesIO()
            Image.fromarray(np.arange(SIZE * SIZE * 3, dtype=np.uint8).reshape(SIZE, SIZE, 3)).save(
                encoded, "PNG"
            )
            return SimpleNamespace(image=encoded.getvalue(), window=WHOLE, mirrored=index == 1)

    plain, mirrored = image_cache(Pair(2), SIZE, tmp_path).load(progress=False)[:]
    np.testing.assert_array_equal(plain[:, ::-1], mirrored)
    assert not np.array_equal(plain, mirrored)
