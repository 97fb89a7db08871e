"""The store of pictures."""

import io

import numpy as np
import pytest
import tiny
from PIL import Image

from show_attend_tell.data.images import jpeg
from show_attend_tell.errors import UserError
from show_attend_tell.explorer import pictures as module
from show_attend_tell.explorer.pictures import Pictures, encoded


def png(colour=(10, 200, 30), size=(30, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def test_a_picture_has_one_id_whoever_brings_it():
    first, second = Pictures({}), Pictures({})
    one, two = first.add("a.png", png()), second.add("b.png", png())
    assert one.id == two.id and (one.name, two.name) == ("a.png", "b.png")
    assert first.add("c.png", png((1, 2, 3))).id != one.id
    assert first[one.id].picture == png()


def test_the_oldest_upload_goes_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(module, "UPLOADS_KEPT", 2)
    store = Pictures({"an example": png()})
    ids = [store.add("x", png((i, i, i))).id for i in range(3)]
    with pytest.raises(KeyError):
        store[ids[0]]
    assert store[ids[1]] and store[ids[2]]
    assert [facts.name for facts in store.examples] == ["an example"]  # which stay


def test_the_splits_pictures_are_found_by_id_and_by_name(explorer, trained):
    scenes, store = trained[1], explorer.pictures
    assert len(store.split) == 8
    assert [store[key].facts.name for key in store.split] == scenes.ids
    assert store.id_of(scenes.ids[3], scenes.fingerprint) == store.split[3]
    assert store.id_of("nothing", scenes.fingerprint) is None


def test_pictures_of_other_data_have_other_ids_though_the_names_are_the_same():
    first, again, other = (Pictures({}, tiny.Scenes(2, seed)) for seed in (0, 0, 1))
    assert first.split == again.split and not {*first.split} & {*other.split}
    assert other[other.split[0]].picture != first[first.split[0]].picture


def test_what_cameras_write_is_left_out():
    file = io.BytesIO()
    image = Image.new("RGB", (40, 20), (1, 2, 3))
    exif = image.getexif()
    exif[0x0112], exif[0x010F] = 6, "secret camera"
    image.save(file, "JPEG", exif=exif)
    shown = jpeg(file.getvalue(), 1024)
    assert b"secret" not in shown and Image.open(io.BytesIO(shown)).size == (20, 40)


def test_pictures_of_all_kinds_become_files(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    assert encoded(path) == encoded(png()) == png()
    pixels = np.full((4, 6, 3), 7, np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(encoded(pixels)))) == pixels).all()
    with pytest.raises(UserError, match="missing.png"):
        encoded(tmp_path / "missing.png")
