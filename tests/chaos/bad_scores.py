"""Bad captions and references for `score`."""

import json
from collections.abc import Iterator
from pathlib import Path

from bad_files import DEEP, Case, Make, folder_at, unreadable, write

GOOD = [{"image_id": k, "caption": "a dog"} for k in range(3)]
ANNOTATIONS = {"annotations": GOOD}
LINES = "a dog\na cat\na cow\n"

# Of captions, with good references of the same three images.
CAPTIONS = [
    ("no JSON", "c.json", "[{"),
    ("JSON of a number", "c.json", "5"),
    ("JSON of an object", "c.json", '{"captions": []}'),
    ("too deep", "c.json", DEEP),
    ("no captions", "c.json", "[]"),
    ("a list of strings", "c.json", '["a dog"]'),
    ("no ids", "c.json", '[{"caption": "a dog"}]'),
    ("a caption that is a number", "c.json", '[{"image_id": 1, "caption": 5}]'),
    ("a caption that is null", "c.json", '[{"image_id": 1, "caption": null}]'),
    ("an id that is a list", "c.json", '[{"image_id": [1], "caption": "a"}]'),
    ("an image twice", "c.json", json.dumps([*GOOD, GOOD[0]])),
    ("an image too few", "c.json", json.dumps(GOOD[:2])),
    ("an image too many", "c.json", json.dumps([*GOOD, {"image_id": "x\x1b[2J", "caption": "a"}])),
    ("other images", "c.json", json.dumps([{"image_id": "z", "caption": "a"}])),
    ("lines", "c.txt", LINES),
    ("an empty file", "c.json", b""),
    ("a web page", "c.json", b"<!DOCTYPE html><html></html>"),
    ("bytes", "c.txt", b"\xff\xfe\xfd"),
    ("Latin-1", "c.txt", b"caf\xe9\n"),
]
# Of references, with good captions of three images.
REFERENCES = [
    ("no JSON", "r.json", "{"),
    ("captions", "r.json", json.dumps(GOOD)),
    ("no annotations", "r.json", '{"annotations": {}}'),
    ("an annotation that is a list", "r.json", '{"annotations": [[1, "a"]]}'),
    ("annotations of nothing", "r.json", '{"annotations": []}'),
    ("no word", "r.json", json.dumps({"annotations": [dict(g, caption=".") for g in GOOD]})),
    ("images that are text", "r.json", json.dumps(ANNOTATIONS | {"images": "abc"})),
    ("an image twice", "r.json", json.dumps(ANNOTATIONS | {"images": [{"id": 1}, {"id": 1}]})),
    ("Karpathy's without a split", "r.json", '{"images": [{"filename": "a", "sentences": []}]}'),
    ("an empty file", "r.json", b""),
    ("lines", "r.txt", LINES),
]


def scores() -> Iterator[Case]:
    """Bad inputs of one kind."""
    good = (write("good.json", json.dumps(GOOD)), write("truth.json", json.dumps(ANNOTATIONS)))
    words = ("score", "{bad}/good.json", "--references", "{bad}/truth.json")

    def case(
        about: str, words: tuple[str, ...], names: str, *makes: Make, unprivileged: bool = False
    ) -> Case:
        def make(bad: Path, world: Path) -> None:
            for one in (*good, *makes):
                one(bad, world)

        return Case(about, words, names, make, unprivileged=unprivileged)

    for about, name, content in CAPTIONS:
        path = f"{{bad}}/{name}"
        yield case(f"captions: {about}", ("score", path, *words[2:]), name, write(name, content))
    for about, name, content in REFERENCES:
        path = f"{{bad}}/{name}"
        yield case(f"references: {about}", (*words[:3], path), name, write(name, content))
    yield case("no references", words[:2], "--references")
    yield case("no captions", ("score", *words[2:]), "CAPTIONS")
    yield case("an override", (*words, "--config.seed=1"), "--config.seed")
    yield case("an unknown task", (*words, "--task", "poetry"), "--task")
    yield case("a split of COCO's", (*words, "--split", "val"), "--split")
    yield case("SPICE of translations", (*words, "--task", "translation", "--spice"), "--spice")
    yield case("a file twice", (words[0], words[1], *words[1:]), "good.json")
    yield case("a missing file", ("score", "{bad}/none", *words[2:]), "none")
    yield case("a folder", ("score", "{bad}/f.json", *words[2:]), "f.json", folder_at("f.json"))
    yield case(
        *("an unreadable file", ("score", "{bad}/u.json", *words[2:]), "u.json"),
        *(unreadable("u.json"),),
        unprivileged=True,
    )
    yield case("scores into a folder", (*words, "--per-image", "{bad}"), "{bad}")
    yield case("scores into /proc", (*words, "--per-image", "/proc/none/a.csv"), "/proc/none")
    lines, fewer = write("l.txt", LINES), write("fewer.txt", "a dog\n")
    of_lines = ("score", "{bad}/l.txt", "--references")
    yield case("fewer lines", (*of_lines, "{bad}/fewer.txt"), "l.txt", lines, fewer)
    yield case(
        "one file of fewer lines",
        (*of_lines, "{bad}/l.txt", "{bad}/fewer.txt"),
        "fewer.txt",
        lines,
        fewer,
    )
    yield case(
        "a line without a reference",
        (*of_lines, "{bad}/b.txt"),
        "line 2",
        lines,
        write("b.txt", "a\n\nb\n"),
    )
    yield case("two files of JSON", (*words, "{bad}/good.json"), "truth.json")
