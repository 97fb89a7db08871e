"""Names and captions that are no UTF-8, or spelt in another form of Unicode than on disk."""

import json
import os
import unicodedata

import pytest
from PIL import Image

from show_attend_tell.data.load import load_images
from show_attend_tell.data.picture_names import PictureNames

NFC, NFD = (unicodedata.normalize(form, "caf\xe9.png") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path):
    """A folder of images with a table; captions and names are odd."""
    folder = tmp_path / "my [b]pictures"
    folder.mkdir()
    for k, name in enumerate(["a.png", "b.png", NFD, "d\udce9.png"]):
        Image.new("RGB", (40, 40), (60 * k, 0, 0)).save(os.fsencode(folder / name), "PNG")
    rows = [
        ("a.png", "A dog \ud83d runs ."),
        ("b.png", "A [/b] cat ."),
        (NFC, "A cup ."),
        ("d\udce9.png", "A tree ."),
    ]
    lines = [json.dumps({"file_name": n, "text": t, "split": "train"}) for n, t in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_a_folder_with_odd_names_and_captions_is_built(tmp_path, folder, logged):
    train = load_images("folder", "train", data_dir=tmp_path / "[data]", manual_dir=folder)
    found = dict(zip(train.ids, train.captions(), strict=True))
    assert found == {
        "a.png": ("A dog runs .",),
        "b.png": ("A [/b] cat .",),
        NFD: ("A cup .",),
    }
    assert train.left_out == {"its name is not UTF-8: rename the file": ["d\udce9.png"]}
    told = logged()
    assert "rename the file (1: d\\xe9.png)" in told
    assert "captions of 1 images hold half a character" in told and "no row" not in told


@pytest.mark.parametrize("given, there", [(NFC, NFD), (NFD, NFC)])
def test_a_name_is_found_in_either_form(tmp_path, given, there):
    (tmp_path / there).write_bytes(b"composed")
    pictures = PictureNames(tmp_path)
    assert pictures.find(given).path.read_bytes() == b"composed"
    assert pictures.find_below(given).name == there
    assert pictures.find_below("no.png").path is None
