"""The folder of what was made for this machine."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from show_attend_tell import machine


@pytest.mark.parametrize(
    ("kept", "folder"),
    [
        (None, "own"),
        ("own/jax", "own"),
        ("gs://bucket/jax", "own"),
        ("shared/jax", "shared/jax/show_attend_tell_machine"),
    ],
)
def test_files_of_the_machine_lie_in_a_folder_of_their_own(kept, folder, tmp_path, monkeypatch):
    inside = lambda name: str(tmp_path / name)  # noqa: E731
    kept = kept if kept is None or "://" in kept else inside(kept)
    jax = SimpleNamespace(config=SimpleNamespace(jax_compilation_cache_dir=kept))
    monkeypatch.setattr(machine, "jax", jax)
    monkeypatch.setattr(machine.platformdirs, "user_cache_dir", lambda _: inside("own"))
    assert machine.cache_folder() == Path(inside(folder))
