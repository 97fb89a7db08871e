"""Which file a name means: in tables, and on the command line."""

import os
from pathlib import Path

import pytest

from show_attend_tell.data.picture_names import (
    ABSENT,
    FOLDERS,
    OUTSIDE,
    REMOTE,
    SEVERAL,
    PictureNames,
    named_pictures,
    pictures_below,
)

FILES = ("a.jpg", "B.JPG", "c.JPEG", "two.png", "two.jpg", "below/d.tif", "below/é.jfif", "v1.5")
NEAR = "below/harbour 12.jpg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of empty files, beside another one."""
    for name in (
        *(f"own/{name}" for name in (*FILES, NEAR)),
        "other/secret.jpg",
        "other/far/e.jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "own"


@pytest.mark.parametrize(
    "given, name",
    [
        ("a.jpg", "a.jpg"),
        ("v1.5", "v1.5"),
        ("a.JPG", "a.jpg"),
        ("a", "a.jpg"),
        ("a.jpeg", "a.jpg"),
        ("B.jpg", "B.JPG"),
        ("c.jpg", "c.JPEG"),
        ("two.png", "two.png"),
        ("two.PNG", "two.png"),
        (r"below\d.tif", "below/d.tif"),
        (r".\below\d.TIFF", "below/d.tif"),
        ("below//../a.jpg", "a.jpg"),
        ("below/é.jfif", "below/é.jfif"),
        ("below/e\u0301.jfif", "below/é.jfif"),
    ],
)
def test_names_that_can_mean_one_file_only(folder: Path, given, name):
    names = PictureNames(folder)
    match = names.find(given)
    assert (match.name, match.path) == (name, folder / name)
    assert names.taken == ({} if given == name else {given: name})
    absolute = names.find(f"{folder}/{given}")
    assert absolute.name == name


@pytest.mark.parametrize(
    "given, why, near",
    [
        ("two", SEVERAL, "two.jpg, two.png"),
        ("two.gif", ABSENT, "two.png"),
        ("a.png", ABSENT, "a.jpg"),
        ("A.jpg", ABSENT, "a.jpg"),
        ("d.tif", ABSENT, "below/d.tif"),
        ("above/d.tif", ABSENT, "below/d.tif"),
        ("below/a.jpg", ABSENT, "a.jpg"),
        ("nothing.jpg", ABSENT, ""),
        ("below/harbuor 12.jpg", ABSENT, "below/harbour 12.jpg"),
        ("harbour 13.jpg", ABSENT, ""),
        ("", ABSENT, ""),
        ("a\0.jpg", ABSENT, "a.jpg"),
        ("\ud83d.jpg", ABSENT, ""),
        ("../own/a.jpg", OUTSIDE, "a.jpg"),
        ("../other/secret.jpg", OUTSIDE, ""),
        (r"..\other\secret.jpg", OUTSIDE, ""),
        ("below/../../other/secret.jpg", OUTSIDE, ""),
        ("..", OUTSIDE, ""),
        ("/etc/passwd", OUTSIDE, ""),
        (r"C:\pictures\a.jpg", OUTSIDE, "a.jpg"),
        ("https:/example.org/a.jpg", REMOTE, ""),
    ],
)
def test_the_other_names_are_refused_and_near_ones_said(folder: Path, given, why, near):
    match = PictureNames(folder).find(given)
    assert (match.path, match.name, match.why) == (None, given, why)
    if given not in ("two.gif", "a\0.jpg"):
        assert match.near == near


def test_an_absolute_path_beside_the_folder_is_outside(folder: Path):
    secret = folder.parent / "other" / "secret.jpg"
    for find in (PictureNames(folder).find, PictureNames(folder).find_below):
        assert find(str(secret)).why == OUTSIDE
        assert find("../other/secret.jpg").why == OUTSIDE


@pytest.mark.parametrize(
    "given, place, name",
    [
        ("d.tif", "", "below/d.tif"),
        ("d.TIF", "", "below/d.tif"),
        ("é", "", "below/é.jfif"),
        ("below/d.tif", "", "below/d.tif"),
        ("train2014/d.tif", "", "below/d.tif"),
        (r"below\d.tif", "", "below/d.tif"),
        ("x/a.jpg", "", "a.jpg"),
        ("same.jpg", "right", "in/right/same.jpg"),
        ("right/same.jpg", "", "in/right/same.jpg"),
        ("right/same.JPG", "left", "in/right/same.jpg"),
        ("in/left/same.jpg", "right", "in/left/same.jpg"),
    ],
)
def test_files_in_whatever_folder(folder: Path, given, place, name):
    for side in ("left", "right"):
        (folder / "in" / side).mkdir(parents=True)
        (folder / "in" / side / "same.jpg").touch()
    names = PictureNames(folder)
    assert names.find_below(given, place).name == name
    for unclear in ("same.jpg", "same"):
        match = names.find_below(unclear)
        assert (match.path, match.why) == (None, FOLDERS)
        assert match.near == "in/left/same.jpg, in/right/same.jpg"


def test_links_in_the_folder_are_followed(folder: Path, tmp_path: Path):
    other = tmp_path / "other"
    (folder / "link.jpg").symlink_to(other / "secret.jpg")
    (folder / "all").symlink_to(other)
    (folder / "round.jpg").symlink_to("round.jpg")
    (folder / "gone.jpg").symlink_to("nothing.jpg")
    (tmp_path / "apart.jpg").touch()
    (folder / "up").symlink_to(tmp_path)  # holds the folder itself
    (other / "back").symlink_to(folder)
    names = PictureNames(folder)
    for name in ("link.jpg", "all/secret.jpg", "all/far/e.jpg"):
        assert names.find(name).path == folder / name
    assert names.find("all/far/E.jpg").near == "all/far/e.jpg"
    assert names.find_below("e.jpg").name == "all/far/e.jpg"
    assert names.find_below("secret.jpg").name == "all/secret.jpg"
    # Two links to one file are one file.
    (folder / "below" / "link.jpg").symlink_to(other / "secret.jpg")
    assert PictureNames(folder).find_below("link.jpg").path is not None
    for name in ("round.jpg", "gone.jpg"):
        assert names.find(name).why == "it is a link that leads nowhere"
    found = list(pictures_below(folder))
    assert sum(name.endswith("/e.jpg") for name in found) == 1
    assert not any(name.startswith("up/") for name in found)
    # The folder itself may be a link, and absolute paths may lead through it or past it.
    (tmp_path / "way").symlink_to(folder)
    for way, root in ((tmp_path / "way", folder), (folder, tmp_path / "way")):
        assert PictureNames(way).find(f"{root}/below/d.tif").path == way / "below" / "d.tif"


def shown(folder: Path, *arguments: str) -> list[str]:
    given = named_pictures(str(folder / argument) for argument in arguments)
    assert not given.wrong
    return [path.relative_to(folder).as_posix() for path in given.paths]


def test_arguments_name_files_folders_and_patterns(folder: Path, logged, monkeypatch):
    (folder / "._a.jpg").touch()  # some systems leave these
    (folder / "d.jpg").mkdir()
    (folder / "[1].jpg").touch()
    assert shown(folder, "") == ["B.JPG", "[1].jpg", "a.jpg", "c.JPEG", "two.jpg", "two.png"]
    assert f'6 pictures; those of folders below it are named by "{folder}/**/*"' in logged()
    assert shown(folder, "*.jpg") == ["[1].jpg", "a.jpg", "two.jpg"]
    assert shown(folder, "**/*")[-1] == "two.png" and "below/é.jfif" in shown(folder, "**/*")
    assert shown(folder, "two.png", "two.*", "[1].jpg") == ["two.png", "two.jpg", "[1].jpg"]
    assert shown(folder, "below/d.tif") == ["below/d.tif"]
    assert logged() == ""
    assert shown(folder, "a", r"below\é.jfif") == ["a.jpg", "below/é.jfif"]
    assert f"{folder}/a: taken as a.jpg\n" in logged()
    monkeypatch.setenv("HOME", str(folder))
    assert named_pictures(["~/*.png"]).paths == [folder / "two.png"]


def test_arguments_that_name_no_picture(folder: Path):
    (folder / "empty").mkdir()
    for argument, message in [
        ("empty", "empty: a folder without pictures (.jpg, .jpeg, "),
        ("below/*.tif", "below/*.tif: fits no file with a suffix of .jpg, "),
        ("*.gif", "*.gif: fits no file; check the pattern"),
        ("none.jpg", "none.jpg: no such file; check the path"),
        ("no/where.jpg", "where.jpg: no such file; check the path"),
        ("A.png", "A.png: no such file; check the path"),
        ("a.png", "a.png: no such file; there is a.jpg"),
        ("two", "two: no such file; there is two.jpg and two.png"),
    ]:
        given = named_pictures([os.path.join(folder, argument), str(folder / "a.jpg")])
        assert given.paths == [folder / "a.jpg"], argument
        assert len(given.wrong) == 1 and message in given.wrong[0], given.wrong
    [wrong] = named_pictures(["https://example.org/a.jpg"]).wrong
    assert wrong.startswith("https://example.org/a.jpg: a URL; fetch it first (curl -O URL)")
