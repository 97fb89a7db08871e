"""Bad tables of captions, and other sources of data."""

import os
from collections.abc import Iterator
from pathlib import Path

from bad_files import (
    DEEP,
    NEW,
    TINY,
    Case,
    Make,
    encoded,
    folder_at,
    tarred,
    unreadable,
    write,
    zipped,
)

HEAD = "file_name,caption,split\n"


def _own(files: dict[str, bytes | str], pictures: bool = True) -> Make:
    def make(bad: Path, root: Path) -> None:
        folder = bad / "own"
        folder.mkdir()
        if pictures:
            for path in (root / "pictures").glob("*.png"):
                os.link(path, folder / path.name)
        for name, content in files.items():
            write(f"own/{name}", content)(bad, root)

    return make


def tables() -> Iterator[Case]:
    """Bad inputs of one kind."""

    def words(verb: str) -> tuple[str, ...]:
        places = ("--config.data.manual_dir={bad}/own", "--config.data.dir={bad}/data")
        out = NEW if verb == "train" else ("--out", "{bad}/sheet") if verb == "inspect" else ()
        return (verb, *TINY, *out, *places)

    rows = "".join(f"p{k:02}.png,a red dog,{'train' if k < 8 else 'val'}\n" for k in range(11))
    for about, files, names in [
        ("no table", {}, "metadata.csv"),
        ("an empty table", {"metadata.csv": ""}, "metadata.csv"),
        ("a header only", {"metadata.csv": HEAD}, "metadata.csv"),
        ("no column of captions", {"metadata.csv": "file_name,split\np00.png,train\n"}, "caption"),
        ("no column of files", {"metadata.csv": "caption,split\na dog,train\n"}, "file_name"),
        ("no header", {"metadata.csv": rows}, "metadata.csv"),
        (
            "a table in Latin-1",
            {"metadata.csv": (HEAD + rows).encode() + b"p01.png,caf\xe9,train\n"},
            "line 13",
        ),
        ("a binary table", {"metadata.csv": b"\0\x01\x02\xff\n"}, "metadata.csv"),
        ("nulls in a table", {"metadata.csv": HEAD + rows.replace("p0", "p\0")}, "own"),
        (
            "an open quotation mark",
            {"metadata.csv": HEAD + 'p00.png,"a dog,train\n'},
            "metadata.csv",
        ),
        ("too many columns", {"metadata.csv": HEAD + "p00.png,a,red,dog,train\n"}, "line 2"),
        ("too few columns", {"metadata.csv": HEAD + "p00.png\n"}, "line 2"),
        ("an unknown split", {"metadata.csv": HEAD + "p00.png,a dog,trian\n"}, "trian"),
        (
            "two splits of an image",
            {"metadata.csv": HEAD + rows + "p00.png,a dog,val\n"},
            "p00.png",
        ),
        ("some images with a split", {"metadata.csv": HEAD + rows + "p12.png,a dog,\n"}, "split"),
        ("no file names", {"metadata.csv": HEAD + ",a dog,train\n"}, "file_name"),
        ("names that lead outside", {"metadata.csv": HEAD + rows.replace("p0", "../../p0")}, "own"),
        ("absolute names", {"metadata.csv": HEAD + rows.replace("p0", "/etc/p0")}, "own"),
        ("images that are not there", {"metadata.csv": HEAD + rows.replace(".png", ".jpg")}, "own"),
        (
            "captions without words",
            {"metadata.csv": HEAD + rows.replace("a red dog", "...")},
            "word",
        ),
        ("no captions", {"metadata.csv": HEAD + rows.replace("a red dog", "")}, "caption"),
        ("a table for val only", {"metadata.csv": HEAD + "p00.png,a dog,val\n"}, "train"),
        (
            "no validation",
            {"metadata.csv": HEAD + "p00.png,a dog,train\np01.png,a cat,train\n"},
            "val",
        ),
        ("two tables", {"metadata.csv": HEAD + rows, "metadata.tsv": "x"}, "metadata.tsv"),
        ("JSON that is no JSON", {"metadata.jsonl": "{file_name: 1}\n"}, "line 1"),
        ("JSON lines of numbers", {"metadata.jsonl": "1\n2\n"}, "line 1"),
        ("a JSON object", {"metadata.json": '{"a": 1}'}, "metadata.json"),
        ("deep JSON", {"metadata.jsonl": DEEP}, "metadata.jsonl"),
        (
            "a deep line of JSON",
            {"metadata.jsonl": '{"file_name": ' + "[" * 100_000 + "\n"},
            "metadata.jsonl",
        ),
        (
            "a number of many digits",
            {"metadata.jsonl": '{"file_name": ' + "9" * 5000 + "}\n"},
            "metadata.jsonl",
        ),
        (
            "a file's name is a number",
            {"metadata.jsonl": '{"file_name": 1, "text": "a dog"}\n'},
            "line 1",
        ),
        (
            "a caption is a number",
            {"metadata.jsonl": '{"file_name": "p00.png", "text": 3}\n'},
            "line 1",
        ),
        (
            "a split is a list",
            {"metadata.jsonl": '{"file_name": "p00.png", "text": "a", "split": []}\n'},
            "line 1",
        ),
        (
            "a split is an object",
            {"metadata.jsonl": '{"file_name": "p00.png", "text": "a", "split": {"a": 1}}\n'},
            "line 1",
        ),
    ]:
        if about != "no validation":  # only training needs it
            yield Case(about, words("prepare"), names, _own(files))
        if about in ("no table", "an unknown split", "deep JSON", "no validation"):
            yield Case(about, words("train"), names, _own(files))
        if about in ("no table", "a binary table", "images that are not there"):
            yield Case(about, words("inspect"), names, _own(files))
    empty = {f"p{k:02}.png": b"" for k in range(11)} | {"metadata.csv": HEAD + rows}
    yield Case("empty pictures", words("prepare"), "own", _own(empty, pictures=False))
    yield Case("a folder as a table", words("prepare"), "own", folder_at("own/metadata.csv"))
    yield Case("a file as a folder", words("prepare"), "own", write("own", "x"))
    yield Case(
        *("an unreadable table", words("prepare"), "metadata.csv"),
        *(unreadable("own/metadata.csv"), True),
    )


SOURCES = [
    ("flickr8k", "flickr8k"),
    ("coco", "coco"),
    ("karpathy", "flickr30k"),
    ("multi30k", "multi30k"),
    ("webdataset", "flickr8k"),
    ("hub", "flickr8k"),
]

SOURCES_MORE = [
    ("an empty JSON file", ""),
    ("a list", "[]"),
    ("an object without images", "{}"),
    ("images that are numbers", '{"images": [1]}'),
    ("images of nothing", '{"dataset": "x", "images": []}'),
    (
        "sentences that are text",
        '{"images": [{"filename": "a.jpg", "split": "train", "sentences": "x"}]}',
    ),
    (
        "a name that is a number",
        '{"images": [{"filename": 1, "split": "train", "sentences": []}]}',
    ),
    ("deep JSON", DEEP),
    ("JSON of many digits", "9" * 5000),
]

SOURCES_MORE_MORE = [
    ("an empty shard", "a.tar", b""),
    ("a shard that is text", "a.tar", b"x" * 2000),
    ("a compressed shard", "a.tar.gz", b"\x1f\x8b"),
    ("a shard without captions", "a.tar", tarred(a__jpg=encoded("JPEG"))),
    ("a shard of bad JSON", "a.tar", tarred(a__jpg=encoded("JPEG"), a__json=b"{")),
    ("a shard of deep JSON", "a.tar", tarred(a__jpg=encoded("JPEG"), a__json=DEEP.encode())),
    ("a shard of bad pictures", "a.tar", tarred(a__jpg=b"x", a__txt=b"a dog")),
    ("half a shard", "a.tar", tarred(a__jpg=encoded("JPEG"), a__txt=b"a dog")[:700]),
]

SOURCES_MORE_MORE_MORE = [
    ("empty", b""),
    ("half", zipped(a=b"x" * 100)[:60]),
    ("a page", b"<html>"),
]

SOURCES_MORE_MORE_MORE_MORE = [
    ("empty", ""),
    ("a list", "[]"),
    ("deep", DEEP),
    ("no ids", '{"images": [{}], "annotations": []}'),
]


def sources() -> Iterator[Case]:
    """Bad inputs of one kind."""

    def words(name: str, experiment: str = "{root}/tiny.py", place: str = "own") -> tuple[str, ...]:
        changes = (f"--config.data.manual_dir={{bad}}/{place}", "--config.data.dir={bad}/data")
        return ("prepare", "--config", experiment, f"--config.data.name={name}", *changes)

    for name, experiment in SOURCES:
        yield Case(
            "no folder", words(name, experiment), "own" if name != "hub" else "config.data.repo"
        )
        if name != "hub":
            yield Case("an empty folder", words(name, experiment), "own", folder_at("own"))
    for about, content in SOURCES_MORE:
        make = write("own/dataset_flickr30k.json", content)
        yield Case(
            f"karpathy: {about}", words("karpathy", "flickr30k"), "dataset_flickr30k.json", make
        )
    for about, name, content in SOURCES_MORE_MORE:
        make = write(f"own/{name}", content)
        yield Case(f"webdataset: {about}", words("webdataset", "flickr8k"), "own", make)
    yield Case(
        "too many shards", words("webdataset", "flickr8k", "a-{{0..99999999}}.tar"), "shards"
    )
    for about, content in SOURCES_MORE_MORE_MORE:
        make = write("own/annotations_trainval2017.zip", content)
        yield Case(f"coco: {about} zip", words("coco", "coco"), "own", make)
    captions = "own/annotations/captions_train2017.json"
    for about, content in SOURCES_MORE_MORE_MORE_MORE:

        def make(bad: Path, root: Path, content: str = content) -> None:
            write(captions, content)(bad, root)
            (bad / "own/train2017").mkdir()

        yield Case(
            f"coco: {about} captions", words("coco", "coco"), "captions_train2017.json", make
        )
    for about, content in [("a file in Latin-1", b"caf\xe9\n"), ("an empty file", b"")]:

        def sentences(bad: Path, root: Path, content: bytes = content) -> None:
            for split in ("train", "val", "test_2016_flickr"):
                for language in ("en", "de"):
                    write(f"own/{split}.{language}", content)(bad, root)

        yield Case(f"multi30k: {about}", words("multi30k", "multi30k"), "own", sentences)


def languages() -> Iterator[Case]:
    """Captions in languages that are not there, or files beside the pictures that do not fit."""
    table = HEAD + "".join(
        f"p{k:02}.png,a red dog,{'train' if k < 8 else 'val'}\n" for k in range(11)
    )
    named = table.replace("caption", "language,caption").replace(",a red", ",en,a red")
    german = ("--config.data.languages=('de',)", "--config.data.vocabulary=13a")
    folder = (*german, "--config.data.captions_dir={bad}/own/german")
    lists = {"german/train_images.txt": "p00.png\np01.png\n"}
    for about, files, options, names in [
        ("a language that the table lacks", {"metadata.csv": named}, german, "'de'"),
        ("no folder of captions", {"metadata.csv": named}, folder, "german: no such folder"),
        ("no list of images", {"german/train.1.de": "Ein Hund\n"}, folder, "train_images.txt"),
        ("captions of other languages", lists | {"german/train.1.fr": "Un\nDeux\n"}, folder, "fr"),
        ("too few captions", lists | {"german/train.1.de": "Ein Hund\n"}, folder, "train.1.de"),
        (
            "captions of other pictures",
            {"german/train_images.txt": "q0.png\nq1.png\n", "german/train.1.de": "Ja\nNein\n"},
            folder,
            "q0.png",
        ),
        ("captions in Latin-1", lists | {"german/train.1.de": b"S\xfc\nB\n"}, folder, "train.1.de"),
        ("English words", {}, german[:1], "config.data.vocabulary"),
        ("a language that is no code", {}, ("--config.data.languages=('Deutsch',)",), "Deutsch"),
    ]:
        places = ("--config.data.manual_dir={bad}/own", "--config.data.dir={bad}/data")
        words = ("prepare", *TINY, *places, *options)
        yield Case(f"languages: {about}", words, names, _own({"metadata.csv": named} | files))
