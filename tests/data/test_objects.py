"""Boxes in the table of a folder of a user's images."""

import io
import json
from pathlib import Path

import pytest
import sources
from PIL import Image

from show_attend_tell.data.examples import ImageSource
from show_attend_tell.data.load import load_images
from show_attend_tell.data.phrases import Counted, Description, Phrase
from show_attend_tell.errors import UserError


def write(folder: Path, *rows: dict | str) -> None:
    """A table for training, whose rows are of a.jpg, b.jpg, ...; images of 40 x 20 pixels."""
    folder.mkdir(exist_ok=True)
    lines = []
    for row, name in zip(rows, "abcdef", strict=False):
        (folder / f"{name}.jpg").write_bytes(sources.picture(ord(name), size=(40, 20)))
        lines.append({"file_name": f"{name}.jpg", "split": "train"} | row)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))


def load(folder: Path, **options) -> ImageSource:
    data = folder.parent / "data"
    return load_images("folder", "train", data_dir=data, manual_dir=folder, **options)


def described(folder: Path) -> dict[str, tuple[Description, ...]]:
    examples = load(folder)
    return dict(zip(examples.ids, examples.descriptions(), strict=True))


def test_boxes_belong_to_words_of_captions(tmp_path: Path):
    folder = tmp_path / "own"
    objects = {
        "bbox": [[10, 5, 20, 10], [0, 0, 40, 20], [30, 10, 10.0, 10]],
        "category": ["animal", "toy", "animal"],
        "words": ["The dog", "ball", "the  dog"],
    }
    captions = ["See the  dog, the dog and a ball.", "A ball", "Nothing"]
    write(folder, {"captions": captions, "objects": objects}, {"text": "The dog ."})
    dog = ((0.25, 0.25, 0.75, 0.75), (0.5, 0.75, 1.0, 1.0))
    whole = ((0.0, 0.0, 1.0, 1.0),)
    assert described(folder) == {
        "a.jpg": (
            Description(
                "See the dog, the dog and a ball.",
                (
                    Phrase(1, 2, "the dog", ("animal",), dog),
                    Phrase(3, 4, "the dog", ("animal",), dog),
                    Phrase(7, 7, "ball", ("toy",), whole),
                ),
                0,
            ),
            Description("A ball", (Phrase(1, 1, "ball", ("toy",), whole),), 1),
            Description("Nothing", (), 2),
        ),
        "b.jpg": (),
    }
    assert load(folder).phrase_counts() == {}
    assert all(example.boxes == () for example in load(folder))  # the records are as before


def test_words_are_found_however_they_are_typed(tmp_path: Path):
    folder = tmp_path / "own"
    words = ["the “red” bench", "café", "a man’s hat"]
    captions = ["“The 'red' bench” near a cafe\u0301", "A man's hat"]
    write(folder, {"captions": captions, "objects": {"bbox": [[0, 0, 9, 9]] * 3, "words": words}})
    first, second = described(folder)["a.jpg"]
    assert [(p.first, p.last) for p in first.phrases] == [(0, 2), (5, 5)]
    assert [(p.first, p.last) for p in second.phrases] == [(0, 2)]
    assert load(folder).phrase_counts() == {}


def test_without_words_the_category_is_what_captions_say(tmp_path: Path):
    folder = tmp_path / "own"
    box = [0, 0, 20, 20]
    write(
        folder,
        {"text": "A dog .", "objects": {"bbox": [box, box], "category": ["Dog", "cat"]}},
        {"text": "A cat .", "objects": {"bbox": [box], "categories": [7]}},
        {"text": "A cat .", "objects": {"bbox": [box]}},
        {"text": "A cat .", "objects": {"bbox": [box], "words": ["cat"]}},
        {"text": "A cat .", "objects": {"bbox": []}},
        {"text": "A cat .", "objects": None},
    )
    found = described(folder)
    half = ((0.0, 0.0, 1.0, 0.5),)
    assert found["a.jpg"] == (Description("A dog .", (Phrase(1, 1, "dog", ("Dog",), half),), 0),)
    assert found["b.jpg"] == found["c.jpg"] == (Description("A cat .", (), 0),)
    assert found["d.jpg"][0].phrases == (Phrase(1, 1, "cat", ("object",), half),)
    assert found["e.jpg"] == (Description("A cat .", (), 0),) and found["f.jpg"] == ()
    counts = load(folder).phrase_counts()
    assert counts.keys() == {"boxes whose words are in no caption"}
    counted = counts["boxes whose words are in no caption"]
    assert (counted.count, set(counted.names)) == (
        3,
        {"a.jpg, object 2: cat", "b.jpg, object 1: 7", "c.jpg, object 1: "},
    )


def test_what_is_wrong_with_boxes_is_counted(tmp_path: Path):
    folder = tmp_path / "own"
    boxes = [[-10, 10, 20, 100], [5, 5, 0, 5], [50, 0, 10, 10]]
    gone = {"file_name": "gone.jpg", "text": "A dog .", "objects": {"bbox": [[0, 0, 1, 1]]}}
    objects = {"bbox": boxes, "words": ["dog"] * 3}
    write(folder, {"text": "A dog .", "objects": objects}, {"text": "A cat ."}, gone)
    (phrase,) = described(folder)["a.jpg"][0].phrases
    assert phrase.boxes == ((0.5, 0.0, 1.0, 0.25),)
    assert load(folder).phrase_counts() == {
        "boxes cut at the edge of the picture": Counted(1, ("a.jpg, object 1",)),
        "boxes of no area in the picture": Counted(2, ("a.jpg, object 2", "a.jpg, object 3")),
        "annotations without an image": Counted(1, ("gone.jpg",)),
    }


def test_pixels_are_those_of_the_upright_picture(tmp_path: Path):
    folder = tmp_path / "own"
    write(folder, {"text": "A dog .", "objects": {"bbox": [[0, 0, 10, 10]], "words": ["dog"]}})
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a quarter turn: 40 x 20 as stored, 20 x 40 to the eye
    Image.new("RGB", (40, 20)).save(turned, "JPEG", exif=exif)
    (folder / "a.jpg").write_bytes(turned.getvalue())
    assert described(folder)["a.jpg"][0].phrases[0].boxes == ((0.0, 0.0, 0.25, 0.5),)


def test_they_are_kept_beside_the_records(tmp_path: Path):
    folder = tmp_path / "own"
    objects = {"bbox": [[0, 0, 10, 10]], "words": ["dog"]}
    write(folder, {"text": "A dog .", "objects": objects}, {"text": "A cat ."})
    found = described(folder)
    (path,) = tmp_path.glob("data/folder/*/*/phrases-train.jsonl")
    written = path.read_bytes()
    assert json.loads(written.splitlines()[0])["of"]["annotations"][0][0] == "metadata.jsonl"
    assert described(folder) == found and path.read_bytes() == written
    few = load(folder, mirrored=True, limit=1)
    assert [len(of_image) for of_image in few.descriptions()] == [len(found[few.ids[0]])] * 2


@pytest.mark.parametrize(
    "objects, what",
    [
        ([1], r"not \{...\}"),
        ({"category": ["dog"]}, "no list bbox"),
        ({"bbox": [[1, 2, 3]]}, r"\[1, 2, 3\] is no box"),
        ({"bbox": [[1, 2, 3, "4"]]}, r"\[1, 2, 3, \"4\"\] is no box"),
        ({"bbox": [[1, 2, 3, True]]}, r"\[1, 2, 3, true\] is no box"),
        ({"bbox": [7]}, "7 is no box"),
        ({"bbox": [[1, 2, 3, float("nan")]]}, r"\[1, 2, 3, NaN\] is not finite"),
        ({"bbox": [[1, 2, 3, 10**400]]}, "int too large to convert to float"),
        ({"bbox": [[1, 2, 3, 4]], "words": []}, "words is not a list of 1"),
        ({"bbox": [[1, 2, 3, 4]], "words": "dog"}, "words is not a list of 1"),
        ({"bbox": [[1, 2, 3, 4]], "category": ["a", "b"]}, "category is not a list of 1"),
        ({"bbox": [[1, 2, 3, 4]], "words": [None]}, "words holds neither text nor whole numbers"),
    ],
)
def test_malformed_objects(tmp_path: Path, objects, what):
    folder = tmp_path / "own"
    write(folder, {"text": "A cat ."}, {"text": "A dog .", "objects": objects})
    examples = load(folder)  # a run that does not ask for boxes is not disturbed
    with pytest.raises(UserError) as error:
        examples.descriptions()
    assert error.match(rf'metadata.jsonl, line 2: objects need "bbox", .* \({what}\); fix the line')
    assert "\n" not in str(error.value)
