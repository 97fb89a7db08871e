"""Checkpoints: what was saved comes back, and damage is reported."""

import errno
import os
import sys
import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.errors import UserError
from show_attend_tell.runs import checkpoint
from show_attend_tell.runs.checkpoint import Checkpoints, remove_unfinished


def arrays(value):
    return {"w": np.full((3, 2), value, np.float32), "n": np.array(int(value), np.int32)}


def saved(folder, *steps, keep=2):
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, arrays(step), {"position": {"next": step}})
    checkpoints.close()


def test_the_newest_comes_back_bit_for_bit(tmp_path):
    folder = tmp_path / "c"
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.restore(arrays(0)) is None
    checkpoints.close()
    saved(folder, 1, 2, 3)
    step, restored, record = Checkpoints(folder, keep=2).restore(arrays(0))
    assert (step, record) == (3, {"position": {"next": 3}})
    np.testing.assert_array_equal(restored["w"], arrays(3)["w"])
    assert restored["n"] == 3 and restored["n"].dtype == jnp.int32
    assert Checkpoints(folder, keep=2).steps() == [2, 3]


def cut(folder):
    """Truncates every file of a checkpoint, as a full disk or a broken copy would."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path):
    folder = tmp_path / "c"
    saved(folder, 1, 2)
    cut(folder / "2")
    told = []
    step, restored, _ = Checkpoints(folder, keep=2).restore(arrays(0), warn=told.append)
    assert step == 1 and restored["n"] == 1
    assert len(told) == 1 and str(folder / "2") in told[0]


def test_training_goes_on_past_a_damaged_one(tmp_path):
    folder = tmp_path / "c"
    saved(folder, 10, 20)
    cut(folder / "20")
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.restore(arrays(0), warn=lambda line: None)
    assert checkpoints.steps() == [10, 20]  # a reader takes nothing away
    checkpoints.save(15, arrays(15), {})
    checkpoints.save(20, arrays(21), {})
    checkpoints.close()
    again = Checkpoints(folder, keep=2)
    step, restored, _ = again.restore(arrays(0))
    assert (step, restored["n"], again.steps()) == (20, 21, [15, 20])


def test_training_that_begins_again_replaces_what_lies_ahead(tmp_path):
    folder = tmp_path / "c"
    saved(folder, 20)
    for step, value in ((15, 15), (15, 16)):
        checkpoints = Checkpoints(folder, keep=2)
        checkpoints.save(step, arrays(value), {})
        checkpoints.close()
        step, restored, _ = Checkpoints(folder, keep=2).restore(arrays(0))
        assert (step, restored["n"]) == (15, value)


def test_only_damaged_ones_is_an_error_that_names_the_folder(tmp_path):
    folder = tmp_path / "c"
    saved(folder, 1)
    cut(folder / "1")
    with pytest.raises(UserError, match=f"{folder}.*may be damaged.*another --workdir"):
        Checkpoints(folder, keep=2).restore(arrays(0), warn=lambda line: None)


def test_another_shape_is_rejected(tmp_path):
    folder = tmp_path / "c"
    saved(folder, 1)
    other = {"w": np.zeros((5, 2), np.float32), "n": np.array(0, np.int32)}
    with pytest.raises(UserError, match="another config"):
        Checkpoints(folder, keep=2).restore(other, warn=lambda line: None)


@pytest.mark.parametrize("damaged", ["2", "2/arrays/d"])
def test_an_earlier_versions_checkpoint_serves_where_a_newer_one_is_damaged(tmp_path, damaged):
    folder = tmp_path / "c"
    old = {"weights": np.full(3, 7.0, np.float32)}
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.save(1, old, {})
    checkpoints.save(2, arrays(2), {})
    checkpoints.close()
    again = Checkpoints(folder, keep=2)
    assert again.restore(arrays(0), old)[0] == 2
    cut(folder / damaged)
    told = []
    step, restored, _ = Checkpoints(folder, keep=2).restore(arrays(0), old, warn=told.append)
    assert step == 1 and restored["weights"][0] == 7
    assert len(told) == 1 and str(folder / "2") in told[0]


@pytest.mark.parametrize("name", ["lr [try]", "a**b?"])
def test_the_name_of_a_folder_is_no_pattern(tmp_path, name):
    saved(tmp_path / name / "c", 1)
    assert Checkpoints(tmp_path / name / "c", keep=2).restore(arrays(0))[0] == 1
    if name == "lr [try]":  # nor after it was renamed
        (tmp_path / name).rename(tmp_path / "[0-9]*")
        assert Checkpoints(tmp_path / "[0-9]*" / "c", keep=2).restore(arrays(0))[0] == 1


def test_an_unfinished_checkpoint_goes_when_nobody_writes_it(tmp_path):
    killed, live = (tmp_path / f"{n}.orbax-checkpoint-tmp" for n in (1, 2))
    for folder in (killed, live):
        (folder / "arrays").mkdir(parents=True)
    (live / "arrays" / "part").write_text("")
    before = time.time() - 7200
    for path in (killed / "arrays", killed, live / "arrays", live):
        os.utime(path, (before, before))
    remove_unfinished(tmp_path, alone=False)
    assert list(tmp_path.iterdir()) == [live]
    remove_unfinished(tmp_path, alone=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Error opening \"zarr\" driver: ... [os_error_code='28']"),
    ],
)
def test_a_full_disk_is_called_so(tmp_path, monkeypatch, error):
    def full(*_, **__):
        raise error

    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(UserError, match=r"written \(No space left on device\); see to room"):
        checkpoints.save(1, arrays(1), {})


def test_what_ends_after_an_error_is_not_shown(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: shown.append(found.exc_value))
    checkpoint._ignore_closed_loops.cache_clear()
    Checkpoints(tmp_path / "c", keep=2).close()
    other = RuntimeError("another error")
    for error in (RuntimeError("Event loop is closed"), other):
        sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert shown == [other]
    checkpoint._ignore_closed_loops.cache_clear()
