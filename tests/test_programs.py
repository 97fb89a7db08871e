"""Programs that are kept on disk, in a folder of the test's own."""

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from show_attend_tell import files, programs

SECONDS = "jax_persistent_cache_min_compile_time_secs"
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


class Counted:
    """A jitted function that says how often it was traced."""

    def __init__(self):
        self.traced = 0

    def sums(self, rows):
        self.traced += 1
        return {"sums": rows.sum(1), "twice": 2 * rows}

    @property
    def jitted(self):
        return jax.jit(self.sums)


@pytest.fixture
def counted():
    return Counted()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "folder", lambda: tmp_path / "version")
    monkeypatch.setattr(programs, "_programs", {})
    return tmp_path / "version"


def start_again(monkeypatch):
    """As in another process: only files are left."""
    monkeypatch.setattr(programs, "_programs", {})


def test_a_program_is_compiled_once_for_each_name_and_shape(folder, counted):
    one = programs.compiled("sums", counted.jitted, ROWS)
    np.testing.assert_array_equal(one(ROWS)["sums"], [3, 12])
    like = jax.ShapeDtypeStruct(ROWS.shape, ROWS.dtype)
    assert programs.compiled("sums", counted.jitted, like) is one
    assert counted.traced == 1
    assert programs.compiled("other", counted.jitted, ROWS) is not one
    assert programs.compiled("sums", counted.jitted, ROWS[:1]) is not one
    assert programs.compiled("sums", counted.jitted, ROWS.astype(np.int32)) is not one
    assert counted.traced == 4


def test_another_process_reads_it_and_traces_nothing(folder, counted, monkeypatch):
    programs.compiled("sums", counted.jitted, ROWS)
    start_again(monkeypatch)
    found = programs.compiled("sums", counted.jitted, ROWS)(ROWS)
    assert counted.traced == 1
    np.testing.assert_array_equal(found["sums"], [3, 12])
    np.testing.assert_array_equal(found["twice"], 2 * ROWS)


def unlike_its_checksum(content):
    return bytes(32) + content[32:]


@pytest.mark.parametrize("damage", [lambda c: c[:-1], unlike_its_checksum, lambda c: b""])
def test_a_damaged_file_is_compiled_and_written_again(folder, counted, monkeypatch, damage):
    programs.compiled("sums", counted.jitted, ROWS)
    [path] = folder.iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    start_again(monkeypatch)
    found = programs.compiled("sums", counted.jitted, ROWS)(ROWS)
    np.testing.assert_array_equal(found["sums"], [3, 12])
    assert counted.traced == 2 and len(path.read_bytes()) > len(content) / 2


def test_jax_keeps_no_file_of_it(folder, counted, tmp_path):
    seen = []

    def probe(rows):
        seen.append(jax.config.values[SECONDS])  # while it is traced: as always
        return counted.sums(rows)

    before = jax.config.values[SECONDS]
    assert before < math.inf
    with programs._without_jax_files(), programs._without_jax_files():
        assert jax.config.values[SECONDS] == math.inf
    programs.compiled("sums", jax.jit(probe), ROWS)
    assert jax.config.values[SECONDS] == before == seen[0]


def test_threads_that_ask_for_the_same_program_share_it(folder, counted):
    start = threading.Barrier(4)

    def ask(_):
        start.wait()
        return programs.compiled("sums", counted.jitted, ROWS)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, range(4)))
    assert len(set(found)) == 1 and counted.traced == 1


def test_an_error_is_raised_each_time_and_not_kept(folder):
    def bad(rows):
        raise ValueError("not today")

    for _ in range(2):
        with pytest.raises(ValueError, match="not today"):
            programs.compiled("bad", jax.jit(bad), ROWS)
    assert not folder.exists()


def test_another_process_leaves_a_program_that_is_being_written(folder, counted, monkeypatch):
    replace = os.replace

    def late(*names):
        files.remove_stale(folder)  # as another process does in between
        replace(*names)

    monkeypatch.setattr(files.os, "replace", late)
    programs._write(folder / "a", jax.jit(lambda x: x).lower(1.0).compile())
    assert (folder / "a").is_file()


def test_a_full_disk_costs_only_the_file(folder, counted):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("in the way")
    assert programs.compiled("sums", counted.jitted, ROWS)(ROWS)["sums"].tolist() == [3, 12]


def test_programs_of_the_newest_versions_stay(tmp_path):
    for age, name in enumerate("abcd"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    programs._remove_others(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
