"""Arrays on disk: resumed, never stale, computed once. Here, rows hold their numbers."""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from show_attend_tell.data import row_cache
from show_attend_tell.data.row_cache import RowCache, Rows
from show_attend_tell.errors import UserError

ROOT = Path(__file__).parents[2]


class Numbers:
    """Computes rows filled with their numbers; `reads` has these, in order."""

    def __init__(self, count, *, broken=-1, kill_at=-1, block=4, row_shape=(2, 3)):
        self.count, self.broken, self.kill_at, self.block = count, broken, kill_at, block
        self.row_shape, self.reads = row_shape, []

    def produce(self, start, stop):
        for first in range(start, stop, self.block):
            numbers = range(first, min(first + self.block, stop))
            for number in numbers:
                self.reads.append(number)
                if number == self.kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                if number == self.broken:
                    raise UserError(f"row {number} is broken")
            yield expected(numbers.stop, self.row_shape)[first:]

    def cache(self, folder, **changes):
        arguments = {
            "key": {"encoder": "numbers", "data": {"version": "1.0.0"}},
            "ids": [f"number {i}" for i in range(self.count)],
            "row_shape": self.row_shape,
            "dtype": np.float16,
            "produce": self.produce,
        }
        return RowCache.keyed(folder, "numbers", **(arguments | changes))

    def load(self, folder, **changes):
        return self.cache(folder, **changes).load(progress=False)


def expected(count, row_shape=(2, 3)):
    numbers = np.arange(count, dtype=np.float16).reshape(-1, *(1 for _ in row_shape))
    return np.broadcast_to(numbers, (count, *row_shape))


def only_folder(cache):
    [folder] = cache.iterdir()
    return folder


def counted(folder):
    return json.loads((folder / "progress-0000000.json").read_text())["rows"]


def test_second_call_computes_nothing(tmp_path):
    first = Numbers(10).load(tmp_path)
    assert (first.dtype, first.shape) == (np.float16, (10, 2, 3))
    np.testing.assert_array_equal(first[:], expected(10))
    again = Numbers(10)
    np.testing.assert_array_equal(again.load(tmp_path)[:], expected(10))
    assert again.reads == []


def test_manifest_says_what_the_cache_holds(tmp_path):
    Numbers(3).load(tmp_path)
    folder = only_folder(tmp_path)
    assert json.loads((folder / "manifest.json").read_text()) == {
        "data": {"version": "1.0.0"},
        "dtype": "float16",
        "encoder": "numbers",
        "image_ids": ["number 0", "number 1", "number 2"],
        "shape": [3, 2, 3],
    }
    # Caches of earlier versions stay valid: the name is unchanged.
    assert folder.name == "numbers-e843a6a7015b"
    names = {"rows-0000000.npy", "manifest.json", "lock", "lock-0000000"}
    assert {f.name for f in folder.iterdir()} == names


def test_another_key_dtype_shape_or_id_is_another_cache(tmp_path):
    Numbers(5).load(tmp_path)
    Numbers(5).load(tmp_path, key={"encoder": "numbers", "data": {"version": "1.0.1"}})
    Numbers(5).load(tmp_path, ids=list("abcde"))
    Numbers(5, row_shape=(6,)).load(tmp_path)
    np.testing.assert_array_equal(Numbers(6).load(tmp_path)[:], expected(6))
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b[:90], lambda b: b"", lambda b: b + b"x"],
    ids=["last byte", "header", "empty", "longer"],
)
def test_truncated_or_longer_cache_is_never_read(tmp_path, caplog, damage):
    Numbers(10).load(tmp_path)
    path = only_folder(tmp_path) / "rows-0000000.npy"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        found = Numbers(10).load(tmp_path)
    np.testing.assert_array_equal(found[:], expected(10))
    assert "rows-0000000.npy" in caplog.text


def test_cache_of_another_shape_or_manifest_is_never_read(tmp_path):
    Numbers(10).load(tmp_path)
    folder = only_folder(tmp_path)
    np.save(folder / "rows-0000000.npy", np.zeros((9, 2, 3), np.float16))
    np.testing.assert_array_equal(Numbers(10).load(tmp_path)[:], expected(10))
    np.save(folder / "rows-0000000.npy", np.zeros((10, 2, 3), np.float16))
    (folder / "manifest.json").write_text("{}")
    np.testing.assert_array_equal(Numbers(10).load(tmp_path)[:], expected(10))


def test_an_error_keeps_the_rows_before_it(tmp_path):
    with pytest.raises(UserError, match="row 9 is broken"):
        Numbers(20, broken=9).load(tmp_path)
    folder = only_folder(tmp_path)
    assert not (folder / "rows-0000000.npy").exists()
    assert counted(folder) == 8
    mended = Numbers(20)
    np.testing.assert_array_equal(mended.load(tmp_path)[:], expected(20))
    assert mended.reads == list(range(8, 20))


@pytest.mark.parametrize("lost", ["progress", "rows", "manifest"])
def test_the_doubtful_rest_of_an_attempt_is_computed_again(tmp_path, lost):
    with pytest.raises(UserError):
        Numbers(20, broken=19).load(tmp_path)
    folder = only_folder(tmp_path)
    if lost == "progress":
        (folder / "progress-0000000.json").write_text('{"rows"')
    elif lost == "rows":
        path = folder / "partial-0000000.npy"
        os.truncate(path, path.stat().st_size - 1)
    else:
        (folder / "manifest.json").unlink()
    mended = Numbers(20)
    assert mended.cache(tmp_path).finished() == 0
    np.testing.assert_array_equal(mended.load(tmp_path)[:], expected(20))
    assert min(mended.reads) == 0


def test_killed_computation_is_resumed(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(tmp_path)]
    killed = subprocess.run(command, capture_output=True, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    folder = only_folder(tmp_path)
    assert (folder / "partial-0000000.npy").exists() and not (folder / "rows-0000000.npy").exists()
    resumed = Numbers(60)
    np.testing.assert_array_equal(resumed.load(tmp_path)[:], expected(60))
    assert min(resumed.reads) == 40


def fail_syncs(monkeypatch, after):
    """Makes all syncs of rows to disk fail except the first ones."""
    sync, calls = os.fsync, []

    def failing(number):
        if Path(os.readlink(f"/proc/self/fd/{number}")).name.startswith("partial"):
            calls.append(number)
            if len(calls) > after:
                raise OSError(5, "Input/output error")
        sync(number)

    monkeypatch.setattr(os, "fsync", failing)


def test_rows_that_did_not_reach_the_disk_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(row_cache, "SYNC_SECONDS", -1.0)  # after every block
    fail_syncs(monkeypatch, 1)
    with pytest.raises(UserError, match=r"cannot keep the feature cache \(Input/output error\)"):
        Numbers(20).load(tmp_path)
    assert counted(only_folder(tmp_path)) == 4


def test_an_old_count_does_not_vouch_for_new_rows(tmp_path, monkeypatch):
    with pytest.raises(UserError):
        Numbers(20, broken=9).load(tmp_path)
    (only_folder(tmp_path) / "partial-0000000.npy").unlink()
    fail_syncs(monkeypatch, 0)
    with pytest.raises(UserError):
        Numbers(20, broken=19).load(tmp_path)  # 16 rows are written, none safely
    assert Numbers(20).cache(tmp_path).finished() == 0


def test_two_at_once_compute_it_once(tmp_path):
    numbers = Numbers(10)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: numbers.load(tmp_path), range(2)))
    for rows in found:
        np.testing.assert_array_equal(rows[:], expected(10))
    assert sorted(numbers.reads) == list(range(10))


def test_rows_of_another_process_are_counted_once(tmp_path, monkeypatch):
    with pytest.raises(UserError):
        Numbers(20, broken=9).load(tmp_path)
    locked, updates = row_cache.files.locked, []

    @contextmanager
    def overtaken(path):
        monkeypatch.setattr(row_cache.files, "locked", locked)
        Numbers(20).load(tmp_path)
        with locked(path):
            yield

    monkeypatch.setattr(row_cache.files, "locked", overtaken)
    [shard] = Numbers(20).cache(tmp_path)._shards()
    np.testing.assert_array_equal(shard.made(updates.append), expected(20))
    assert updates == [12]


def test_rows_of_wrong_shape_or_number_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"rows float16\(2, 3\), not float16\(2, 4\)"):
        Numbers(5).load(tmp_path, row_shape=(2, 4))
    with pytest.raises(ValueError, match="not float32"):
        Numbers(5).load(tmp_path, dtype=np.float32)
    with pytest.raises(ValueError, match="4 rows were computed, not 5"):
        Numbers(5).load(tmp_path, produce=lambda start, stop: Numbers(5).produce(start, stop - 1))


def test_too_small_a_disk_is_noticed_before_work_starts(tmp_path, monkeypatch):
    free = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(row_cache.shutil, "disk_usage", lambda path: free)
    numbers = Numbers(2_000, row_shape=(500,))
    with pytest.raises(UserError, match=r"needs 2 MB and 1 MB are free") as raised:
        numbers.load(tmp_path)
    assert str(tmp_path) in str(raised.value) and numbers.reads == []
    assert Numbers(5).load(tmp_path).shape == (5, 2, 3)


def test_failing_write_is_one_line_and_can_be_resumed(tmp_path):
    def numbers():
        return Numbers(200, row_shape=(384,), block=64)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot keep the feature cache") as raised:
            numbers().load(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)
    resumed = numbers()
    np.testing.assert_array_equal(resumed.load(tmp_path)[:], expected(200, (384,)))
    assert min(resumed.reads) == 128  # two blocks of 64 rows of 768 bytes fitted


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        Numbers(3).load(tmp_path / "file" / "cache")


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(row_cache, "SHARD_ROWS", 8)


def test_a_large_array_lies_in_several_files(tmp_path, small_shards):
    found = Numbers(20).load(tmp_path)
    folder = only_folder(tmp_path)
    sizes = {p.name: len(np.load(p)) for p in sorted(folder.glob("*.npy"))}
    assert sizes == {"rows-0000000.npy": 8, "rows-0000008.npy": 8, "rows-0000016.npy": 4}
    assert (found.shape, found.ndim, len(found), found.dtype) == ((20, 2, 3), 3, 20, np.float16)
    for rows in (np.array([19, 0, 8, 7, 7]), slice(6, 18, 5), np.array([], int)):
        np.testing.assert_array_equal(found[rows], expected(20)[rows])
    again = Numbers(20)
    again.load(tmp_path)
    assert again.reads == []


def test_rows_are_copies_and_files_are_read_only(tmp_path):
    found = Numbers(6).load(tmp_path)
    found[np.array([1])][:] = 7.0
    np.testing.assert_array_equal(found[:], expected(6))
    parts = [np.arange(6).reshape(3, 2), np.arange(6, 8).reshape(1, 2)]
    np.testing.assert_array_equal(Rows(parts)[np.array([3, 0])], [[6, 7], [0, 1]])


@pytest.mark.parametrize("row", [-1, 4])
def test_rows_out_of_range_are_rejected(row):
    with pytest.raises(IndexError, match=f"{row} of 4"):
        Rows([np.zeros((3, 2)), np.zeros((1, 2))])[np.array([row])]


def test_only_a_lost_file_is_computed_again(tmp_path, small_shards):
    Numbers(20).load(tmp_path)
    (only_folder(tmp_path) / "rows-0000008.npy").unlink()
    again = Numbers(20)
    assert again.cache(tmp_path).finished() == 12
    np.testing.assert_array_equal(again.load(tmp_path)[:], expected(20))
    assert again.reads == list(range(8, 16))


def test_files_of_another_array_are_not_mistaken_for_its_own(tmp_path, small_shards):
    Numbers(20).load(tmp_path)
    folder = only_folder(tmp_path)
    np.save(folder / "rows-0000016.npy", np.zeros((4, 2, 3), np.float16))
    (folder / "manifest.json").write_text("{}")
    np.testing.assert_array_equal(Numbers(20).load(tmp_path)[:], expected(20))


def test_a_long_manifest_is_read_once(tmp_path, small_shards, monkeypatch):
    Numbers(80).load(tmp_path)
    read, reads = Path.read_text, []

    def reading(path, *arguments, **options):
        reads.append(path.name)
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", reading)
    Numbers(80).load(tmp_path)
    assert reads == ["manifest.json"]


def test_a_manifest_that_changes_is_read_again(tmp_path):
    cache = Numbers(6).cache(tmp_path)
    cache.load(progress=False)
    assert cache.is_described()
    (only_folder(tmp_path) / "manifest.json").write_text("{}")
    assert not cache.is_described()


def test_processes_of_a_job_begin_with_different_files(tmp_path, small_shards):
    numbers = Numbers(32)
    found = numbers.load(tmp_path, process=1, processes=2)
    np.testing.assert_array_equal(found[:], expected(32))
    firsts = list(dict.fromkeys(read // 8 for read in numbers.reads))
    assert firsts == [1, 3, 0, 2]


def test_a_cache_reports_its_size_and_progress(tmp_path, small_shards):
    cache = Numbers(20, broken=13).cache(tmp_path)
    assert (cache.size, cache.finished()) == (20 * 6 * 2, 0)
    with pytest.raises(UserError):
        cache.load(progress=False)
    assert cache.finished() == 12


@pytest.mark.parametrize("process, shown", [(0, True), (1, False)])
def test_progress_shows_images_and_rate(tmp_path, capsys, process, shown):
    with pytest.raises(UserError):
        Numbers(6, broken=5).load(tmp_path)
    Numbers(6).cache(tmp_path, process=process, processes=2).load(progress=True)
    assert ("6/6" in capsys.readouterr().err) == shown


if __name__ == "__main__":
    row_cache.SYNC_SECONDS = -1.0
    Numbers(60, kill_at=40).load(Path(sys.argv[1]))
