import errno
import fcntl
import json
import os
import unicodedata
from pathlib import Path

import pytest

from show_attend_tell import files
from show_attend_tell.errors import UserError
from show_attend_tell.files import (
    naming,
    parse_json,
    replacing,
    stands_in,
    start_of,
    temporary,
    user_path,
    write_text,
)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "scores.json"
    write_text(path, "größer")
    with pytest.raises(OSError), replacing(path) as file:
        file.write(b"half of")
        raise OSError("disk full")
    assert path.read_text(encoding="utf-8") == "größer"
    assert [p.name for p in tmp_path.iterdir()] == ["scores.json"]


def test_a_path_may_begin_with_a_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs/a") == tmp_path / "runs" / "a"
    assert user_path(Path("~")) == tmp_path
    for other in ("./~/runs", "runs/~a", "~nobody-has-this-name/a", "/a"):
        assert user_path(other) == Path(other)
    package = Path(files.__file__).parent.rglob("*.py")
    assert [p.name for p in package if "expanduser" in p.read_text()] == ["files.py"]


@pytest.mark.parametrize(
    "start, what",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a Git LFS pointer, not the"),
        (b"\xef\xbb\xbf\r\n <!DOCTYPE HTML>", "a web page, not the file itself"),
        (b"<HTML lang='en'>", "a web page, not the file itself"),
        (b'{"version": "https://git-lfs.github.com/"}', ""),
        (b"PK\x03\x04<html>", ""),
        (b"", ""),
    ],
)
def test_what_stands_in_for_a_file(tmp_path, start, what):
    (tmp_path / "file").write_bytes(start + b" " * 600)
    assert stands_in(start_of(tmp_path / "file")).startswith(what)
    assert bool(stands_in(start)) == bool(what)
    assert start_of(tmp_path / "absent") == b""


def test_text_that_is_no_utf_8_is_written_and_json_reads_it_back(tmp_path):
    path = tmp_path / "data.json"
    write_text(path, json.dumps({"name": "caf\udce9"}, ensure_ascii=False))
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "caf\udce9"}


NOBODY = 2**22 + 1  # larger than any process's number


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    left = tmp_path / f".config.json.{NOBODY}.tmp"
    numbered = tmp_path / f".config.json.{os.getpid()}.tmp"  # from another container
    new = tmp_path / f".new.{NOBODY}.tmp"
    others = [
        tmp_path / ".hidden.tmp",
        tmp_path / f"notes.{NOBODY}.tmp",
        tmp_path / f".locked.{NOBODY}.tmp",  # another machine writes it
    ]
    for path in (left, numbered, new, *others):
        path.write_text("" if path.name.startswith(".new") else "half")
    with others[-1].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_text(tmp_path / "run.json", "{}")
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "run.json"])


def test_a_folder_is_cleared_once_by_a_process(tmp_path):
    write_text(tmp_path / "a", "")
    left = tmp_path / f".b.{NOBODY}.tmp"
    left.write_text("half")
    write_text(tmp_path / "a", "")
    assert left.exists()
    files.remove_stale(tmp_path)
    assert not left.exists()


NFC, NFD = (unicodedata.normalize(form, "Caf\xe9 \xc5ngstr\xf6m.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("asked", "there"), [(NFC, NFD), (NFD, NFC)])
def test_a_name_means_the_file_of_the_same_letters(tmp_path, asked, there):
    folder = tmp_path / unicodedata.normalize("NFD", "\xe4")
    folder.mkdir()
    assert files.same_letters(tmp_path / "\xe4" / asked) == tmp_path / "\xe4" / asked  # none there
    (folder / there).write_text("")
    assert files.same_letters(tmp_path / "\xe4" / asked) == folder / there
    (folder / asked).write_text("")
    assert files.same_letters(folder / asked) == folder / asked


def test_a_folder_whose_name_is_no_utf_8_is_refused(tmp_path):
    files.check_name(tmp_path / "caf\xe9 [x]")
    with pytest.raises(UserError, match="is not UTF-8"):
        files.check_name(tmp_path / "caf\udce9" / "run")


def test_an_error_of_the_system_names_the_file_and_not_the_temporary_one(tmp_path):
    path = tmp_path / "scores.json"
    full = OSError(errno.ENOSPC, "full"), OSError(errno.ENOSPC, "full", str(temporary(path)))
    for error in full:
        with pytest.raises(OSError, match="scores.json") as raised, replacing(path):
            raise error
        assert raised.value.filename == str(path) and "None" not in str(raised.value)
    with pytest.raises(OSError) as raised, replacing(path):
        raise OSError(errno.ENOENT, "absent", "another")
    assert raised.value.filename == "another"


def test_an_error_that_names_no_file_can_be_given_one(tmp_path):
    for error, named in [
        (OSError(errno.ENOSPC, "full"), str(tmp_path)),
        (OSError(2, "a", "b"), "b"),
    ]:
        with pytest.raises(OSError) as raised, naming(tmp_path):
            raise error
        assert raised.value.filename == named


def test_json_that_nests_too_deep_is_no_json():
    assert parse_json(b'{"a": [1]}') == {"a": [1]}
    for content in ("[" * 100_000, '{"a":' * 100_000, "{", b"\xff"):
        with pytest.raises(ValueError):
            parse_json(content)


def test_a_file_system_without_locks_admits_all_to_what_is_locked(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with files.locked(tmp_path / "lock"):
        pass
    assert "No locks available" in caplog.text


def test_a_temporary_file_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    path, calls, flock = tmp_path / "a", [], fcntl.flock

    def late(*given):
        if not calls:
            temporary(path).unlink()  # as another process does in between
        calls.append(given)
        flock(*given)

    monkeypatch.setattr(files.fcntl, "flock", late)
    write_text(path, "content")
    assert path.read_text() == "content" and len(calls) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_temporary_file_is_locked_until_it_has_its_name(tmp_path, monkeypatch):
    replace = os.replace

    def late(*names):
        files.remove_stale(tmp_path)  # as another process does in between
        replace(*names)

    monkeypatch.setattr(files.os, "replace", late)
    write_text(tmp_path / "a", "content")
    assert (tmp_path / "a").read_text() == "content"
