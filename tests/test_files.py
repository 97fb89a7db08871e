from pathlib import Path

import pytest

from show_attend_tell import files
from show_attend_tell.files import replacing, stands_in, start_of, user_path, write_text


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
