import pytest

from show_attend_tell.files import replacing, write_text


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "scores.json"
    write_text(path, "größer")
    with pytest.raises(OSError), replacing(path) as file:
        file.write(b"half of")
        raise OSError("disk full")
    assert path.read_text(encoding="utf-8") == "größer"
    assert [p.name for p in tmp_path.iterdir()] == ["scores.json"]
