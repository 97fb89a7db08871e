"""Runs' files that are read while someone else writes them."""

import json
import math
import os

import pytest

from show_attend_tell.explorer import run_files
from show_attend_tell.explorer.run_files import MetricsReader, find_runs, read_json


def line(step, kind="train", **numbers):
    return json.dumps({"step": step, "kind": kind, **numbers}) + "\n"


def steps(reader, kind="train"):
    reader.read()
    return [record["step"] for record in reader.records[kind]]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def append(path, text):
    with path.open("a") as file:
        file.write(text)


def test_only_what_is_new_is_read(path, monkeypatch):
    taken = []
    take = MetricsReader._take
    monkeypatch.setattr(MetricsReader, "_take", lambda r, line: [taken.append(line), take(r, line)])
    reader = MetricsReader(path)
    assert steps(reader) == []  # it need not exist yet
    path.write_text(line(1, loss=2.0) + line(1, "val", CIDEr=0.5))
    assert steps(reader) == steps(reader, "val") == [1]
    append(path, line(2, loss=1.0))
    assert steps(reader) == [1, 2] and steps(reader) == [1, 2]
    assert len(taken) == 3 and reader.reading == 0
    assert reader.records["train"][1]["loss"] == 1.0


def test_a_half_written_line_waits_for_its_end(path):
    whole = line(2, loss=1.5)
    path.write_text(line(1) + whole[:7])
    reader = MetricsReader(path)
    assert steps(reader) == [1]
    append(path, whole[7:-1])  # complete but for the end of the line
    assert steps(reader) == [1]
    append(path, whole[-1:])
    assert steps(reader) == [1, 2] and reader.damaged == 0


def test_a_file_that_shrank_is_read_again(path):
    path.write_text("".join(line(step, loss=step) for step in range(1, 9)))
    reader = MetricsReader(path)
    assert steps(reader) == [*range(1, 9)]
    path.write_text("".join(line(step, loss=-step) for step in range(1, 5)))
    assert steps(reader) == [1, 2, 3, 4]
    assert reader.records["train"][0]["loss"] == -1 and reader.reading == 1


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_shrank_and_grew_between_two_looks_is_read_again(path, replaced):
    path.write_text("".join(line(step, loss=0.5) for step in range(1, 5)))
    reader = MetricsReader(path)
    assert steps(reader) == [1, 2, 3, 4]
    text = "".join(line(step, loss=0.25) for step in range(1, 9))
    if replaced:  # as a resumed run does
        other = path.with_name("other")
        other.write_text(text)
        os.replace(other, path)
    else:
        path.write_text(text)
    assert steps(reader) == [*range(1, 9)]
    assert {record["loss"] for record in reader.records["train"]} == {0.25}


def test_a_replaced_file_is_read_again_even_if_it_ends_the_same(path):
    end = "".join(line(step) for step in range(2, 9))
    path.write_text(line(1, loss=1.5) + end)
    reader = MetricsReader(path)
    assert steps(reader) == [*range(1, 9)]
    other = path.with_name("other")
    other.write_text(line(1, loss=2.5) + end)
    os.replace(other, path)
    assert steps(reader) == [*range(1, 9)]
    assert reader.records["train"][0]["loss"] == 2.5


def test_lines_that_are_no_records_are_counted_and_left_out(path):
    odd = [
        *('{"step": 2, "ki', "[1, 2]", "null", '{"step": "x", "kind": "train"}', "[" * 100_000),
        *('{"step": -1, "kind": "val"}', '{"step": 1e400, "kind": "train"}', "\x00\x00\x00"),
    ]
    text = line(1, loss=math.nan, note="no number", big=10**400)
    path.write_text(text + "\n".join(odd) + "\n\n" + line(3, "profile", seconds=1) + line(4))
    reader = MetricsReader(path)
    assert steps(reader) == [1, 4] and reader.damaged == len(odd)
    assert all(math.isnan(reader.records["train"][0][name]) for name in ("loss", "note", "big"))


def test_bytes_that_are_no_text_cost_one_line(path):
    path.write_bytes(b'{"step": 1, "kind": "\xff\xfe"}\n' + line(2).encode())
    reader = MetricsReader(path)
    assert steps(reader) == [2] and reader.damaged == 1


def test_a_step_that_is_written_again_replaces_the_later_ones(path):
    path.write_text(line(1) + line(2) + line(3))
    reader = MetricsReader(path)
    assert steps(reader) == [1, 2, 3]
    append(path, line(2) + line(5))
    assert steps(reader) == [1, 2, 5] and reader.reading == 1


def test_a_large_file_is_read_in_blocks(path, monkeypatch):
    monkeypatch.setattr(run_files, "BLOCK", 100)
    path.write_text("".join(line(step) for step in range(1, 12)) + "x" * 300 + "\n" + line(12))
    reader = MetricsReader(path)
    seen = [len(steps(reader)) for _ in range(20)]
    assert 0 < seen[0] < 11 and sorted(seen) == seen
    assert reader.records["train"][-1]["step"] == 12


def test_what_is_known_stays_when_the_file_goes_away(path):
    path.write_text(line(1))
    reader = MetricsReader(path)
    assert steps(reader) == [1]
    path.unlink()
    assert steps(reader) == [1]
    path.mkdir()
    assert steps(reader) == [1]


def test_pipes_and_links_are_not_read(path, tmp_path):
    os.mkfifo(path)
    assert steps(MetricsReader(path)) == []  # a pipe would keep the reader waiting
    path.unlink()
    (tmp_path / "elsewhere").write_text(line(1))
    path.symlink_to(tmp_path / "elsewhere")
    assert steps(MetricsReader(path)) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_damaged_json_is_none(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    assert read_json(tmp_path / "run.json") is None


def test_large_json_is_none(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text("[1, 2, 3]")
    assert read_json(tmp_path / "run.json") == [1, 2, 3]
    monkeypatch.setattr(run_files, "LARGEST", 8)
    assert read_json(tmp_path / "run.json") is None


def make_run(folder, *files):
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text('{"train": {}, "data": {}}' if name == "config.json" else "")
    return folder


def test_runs_are_found_up_to_three_levels_below(tmp_path):
    root = tmp_path / "root"
    near = make_run(root / "a", "metrics.jsonl")
    far = make_run(root / "b" / "c" / "d", "config.json")
    make_run(root / "b" / "c" / "e" / "f", "metrics.jsonl")  # four
    make_run(root / "a" / "inner", "metrics.jsonl")  # a run holds no others
    make_run(root / ".hidden", "metrics.jsonl")
    make_run(root / "exported", "config.json", "weights.safetensors")
    other = make_run(root / "other")
    (other / "config.json").write_text('{"model_type": "of another program"}')
    outside = make_run(tmp_path / "outside", "metrics.jsonl")
    (root / "link").symlink_to(outside)
    (root / "circle").symlink_to(root)
    assert list(find_runs(root)) == [near, far]
    assert list(find_runs(near)) == [near]
    assert list(find_runs(root / "nowhere")) == []


def test_a_huge_folder_is_left_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(run_files, "FOLDERS", 3)
    for i in range(6):
        make_run(tmp_path / str(i) / "run", "metrics.jsonl")
    assert 0 < len(list(find_runs(tmp_path))) < 6
