"""Tar shards as img2dataset and webdataset write them: small stand-ins, built and read back."""

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import sources
from sources import ids_of, load, splits_of

from show_attend_tell.data.builders import webdataset
from show_attend_tell.errors import UserError


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)


def test_tar_shards(tmp_path: Path, logged: Callable[[], str]):
    folder = tmp_path / "raw"
    for number in range(2):
        members = {}
        for i in range(5):
            members[f"../{i:03}.jpg"] = sources.picture(5 * number + i)
            form = {".txt": b"a dog\na cat\n"} if i % 2 else {".json": b'{"caption": "a dog"}'}
            members |= {f"../{i:03}{suffix}": content for suffix, content in form.items()}
        shard(folder / f"part-{number:04}.tar", members)
    found = splits_of("webdataset", folder, tmp_path)
    assert ids_of(found) == [f"part-{n:04}/{i:03}" for n in range(2) for i in range(5)]
    captions = {e.image_id: (e.captions, e.image) for part in found.values() for e in part}
    assert captions["part-0001/003"] == (("a dog", "a cat"), sources.picture(8))
    assert captions["part-0000/002"] == (("a dog",), sources.picture(2))
    assert "no splits; drawn by a hash" in logged()
    pattern = splits_of("webdataset", folder / "part-{0000..0001}.tar", tmp_path)
    assert pattern["train"].fingerprint == found["train"].fingerprint
    with pytest.raises(UserError, match="part-0002.tar: no such shard"):
        load("webdataset", folder / "part-{0001..0002}.tar", tmp_path)
    (folder / "part-0000.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match="part-0000.tar: not a readable tar file"):
        load("webdataset", folder, tmp_path)


def test_nothing_of_a_shard_is_lost_unsaid(tmp_path: Path, logged: Callable[[], str]):
    folder = tmp_path / "raw"
    image, text = sources.picture(0), b"a dog"
    members = {f"{i}.jpg": image for i in range(60)} | {f"{i}.txt": text for i in range(60)}
    dotted = {"a.0.jpg": image, "a.0.txt": text, "b.tif": image, "b.txt": text}
    shard(folder / "1.tar", members | dotted)
    assert len(ids_of(found := splits_of("webdataset", folder, tmp_path))) == 60
    assert re.search("2 examples have no picture in a known format .*: 1/a, 1/b\n", logged())
    # Images keep their splits when shards come or go.
    shard(folder / "0.tar", {name.replace(".", "x.", 1): c for name, c in members.items()})
    more = splits_of("webdataset", folder, tmp_path)
    for split, part in found.items():
        assert set(part.ids) == {i for i in more[split].ids if i.startswith("1/")}
    (folder / "val").mkdir()
    (folder / "0.tar").rename(folder / "val" / "0.tar")
    with pytest.raises(UserError, match=r"has shards such as 1.tar, and others in folders .* val;"):
        load("webdataset", folder, tmp_path)
    (folder / "val" / "0.tar").unlink()
    for content, message in (
        (
            {"a.jpg": image, "a.json": b"[" * 900 + b'"a dog"' + b"]" * 900},
            "captions of a cannot be",
        ),
        ({"./a.txt": text, "a.txt": text}, "a.txt comes twice; write the shard again"),
    ):
        shard(folder / "1.tar", content)
        with pytest.raises(UserError, match=message):
            load("webdataset", folder, tmp_path)


def test_shards_of_each_split_are_numbered_from_zero(tmp_path: Path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for number, split in enumerate(("train", "val", "test")):
        members = {"000.jpg": sources.picture(number), "000.txt": b"a dog"}
        shard(folder / split / "00000.tar", members)
    found = splits_of("webdataset", folder, tmp_path)
    assert ids_of(found) == [f"{split}/00000/000" for split in ("test", "train", "val")]
    # The folders' names decide: after a change of theirs it is another data set.
    for old, new in (("test", "spare"), ("val", "test"), ("spare", "val")):
        (folder / old).rename(folder / new)
    [example] = splits_of("webdataset", folder, tmp_path)["test"]
    assert example.image == sources.picture(1)


def test_patterns_of_shards():
    assert webdataset.expand("a-{08..10}-{x,y}.tar") == [
        f"a-{n}-{letter}.tar" for n in ("08", "09", "10") for letter in "xy"
    ]
    assert webdataset.expand("{train,val}") == ["train", "val"]
    with pytest.raises(UserError, match="over 1,000,000 shards"):
        webdataset.expand("{0..9999999999}")
