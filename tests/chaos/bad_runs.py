"""Bad pictures, runs, records and weights."""

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from bad_files import (
    BAD_RUN,
    DEEP,
    NEW,
    RUN,
    TINY,
    Case,
    cut,
    damaged,
    encoded,
    folder_at,
    png,
    unreadable,
    without,
    write,
    zipped,
)

PICTURES = [
    ("an empty file", "a.jpg", b""),
    ("text", "a.jpg", b"not a picture\n"),
    ("a web page", "a.jpg", b"<!DOCTYPE html><html></html>"),
    ("a Git LFS pointer", "a.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:1"),
    ("half a JPEG", "a.jpg", encoded("JPEG")[:300]),
    ("a JPEG's beginning", "a.jpg", encoded("JPEG")[:3]),
    ("half a PNG", "a.png", encoded("PNG")[:200]),
    ("half a WebP", "a.webp", encoded("WEBP")[:100]),
    ("half a GIF", "a.gif", encoded("GIF")[:30]),
    ("half a BMP", "a.bmp", encoded("BMP")[:60]),
    ("a TIFF", "a.tif", encoded("TIFF")),
    ("an SVG", "a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ("a PNG of no pixels", "a.png", png(0, 0)),
    ("a PNG of a billion pixels", "a.png", png(40_000, 40_000)),
    ("a PNG without pixels", "a.png", png(8, 8)),
    (
        "a BMP of negative size",
        "a.bmp",
        b"BM" + struct.pack("<IHHIIiiHHI", 54, 0, 0, 54, 40, -5, -5, 1, 24, 0) + b"\0" * 20,
    ),
    ("a zip", "a.jpg", b"PK\x03\x04" + b"\0" * 40),
    ("zeros", "a.jpg", b"\0" * 1000),
    ("control characters in a name", "a\x1b[31m\n.jpg", b"x"),
]

PICTURES_MORE = [
    ("a missing picture", "{bad}/none.jpg", "none.jpg"),
    ("a folder without pictures", "{bad}", "{bad}"),
    ("a pattern of nothing", "{bad}/*.jpg", "*.jpg"),
    ("an address", "https://a.org/b.jpg", "https://a.org/b.jpg"),
    ("an empty name", "", "''"),
    ("a name that is too long", "x" * 300, "xxx"),
    ("below a file", "{root}/tiny.py/a.jpg", "tiny.py"),
    ("a device", "/dev/null", "/dev/null"),
    ("half a character", "caf\udce9.jpg", "caf"),
    ("standard input is empty", "-", "standard input"),
]


def pictures() -> Iterator[Case]:
    """Bad inputs of one kind."""
    for about, name, content in PICTURES:
        make = write(name, content)
        yield Case(about, ("caption", *RUN, f"{{bad}}/{name}"), name[:1], make)
        if about in ("an empty file", "half a PNG"):
            yield Case(about, ("attend", *RUN, f"{{bad}}/{name}"), name, make)
    for about, argument, names in PICTURES_MORE:
        yield Case(about, ("caption", *RUN, argument), names)
    yield Case("bad standard input", ("caption", *RUN, "-"), "standard-input", stdin=b"GIF89a")

    def loop(bad: Path, root: Path) -> None:
        (bad / "loop.jpg").symlink_to(bad / "loop.jpg")

    def socket_file(bad: Path, root: Path) -> None:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(bad / "s.jpg"))

    yield Case("a circular link", ("caption", *RUN, "{bad}/loop.jpg"), "loop.jpg", loop)
    yield Case("a socket", ("caption", *RUN, "{bad}/s.jpg"), "s.jpg", socket_file)
    yield Case(
        *("an unreadable picture", ("caption", *RUN, "{bad}/a.jpg"), "a.jpg"),
        *(unreadable("a.jpg"), True),
    )


def _safe(header: dict) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


RUNS = [
    ("no such run", lambda bad, root: None, "run"),
    ("an empty folder", folder_at("run"), "config.json"),
    ("a file as a run", write("run", "x"), "run"),
    ("an empty config", damaged("config.json", ""), "config.json"),
    ("a config that is a list", damaged("config.json", "[]"), "config.json"),
    ("a config that is a number", damaged("config.json", "3"), "config.json"),
    ("a config that is null", damaged("config.json", "null"), "config.json"),
    ("a config in Latin-1", damaged("config.json", b'{"\xe9": 1}'), "config.json"),
    ("a binary config", damaged("config.json", b"\0\xff\x01"), "config.json"),
    ("a deep config", damaged("config.json", DEEP), "config.json"),
    ("a folder as a config", damaged("config.json", None), "config.json"),
    ("half a config", cut("config.json"), "config.json"),
    (
        "an unknown group",
        damaged("config.json", '{"data": {"name": "folder"}, "x": {"y": 1}}'),
        "config.json",
    ),
    ("data is a list", damaged("config.json", '{"data": []}'), "config.json"),
    (
        "an empty unknown group",
        damaged("config.json", '{"data": {"name": "folder"}, "x": {}}'),
        "x",
    ),
    ("a name is a number", damaged("config.json", '{"data": {"name": 3}}'), "config.json"),
    (
        "a name is a list",
        damaged("config.json", '{"data": {"name": ["folder"]}}'),
        "config.json",
    ),
    (
        "a huge number",
        damaged("config.json", '{"data": {"name": "folder"}, "seed": 1e999}'),
        "config.json",
    ),
    ("many digits", damaged("config.json", '{"seed": ' + "9" * 5000 + "}"), "config.json"),
    ("no vocabulary", without("vocabulary.json"), "vocabulary.json"),
    ("an empty vocabulary", damaged("vocabulary.json", ""), "vocabulary.json"),
    ("a vocabulary that is a list", damaged("vocabulary.json", "[]"), "vocabulary.json"),
    ("a vocabulary without words", damaged("vocabulary.json", "{}"), "vocabulary.json"),
    (
        "a vocabulary of numbers",
        damaged("vocabulary.json", '{"min_count": 1, "words": [1], "counts": [1]}'),
        "vocabulary.json",
    ),
    (
        "a tokenizer that is a list",
        damaged("vocabulary.json", '{"tokenizer": [], "min_count": 1, "words": [], "counts": []}'),
        "vocabulary.json",
    ),
    (
        "a model that is no model",
        damaged("vocabulary.json", '{"tokenizer": "sentencepiece", "model": "AAAA"}'),
        "vocabulary.json",
    ),
    ("a deep vocabulary", damaged("vocabulary.json", DEEP), "vocabulary.json"),
    ("a folder as a vocabulary", damaged("vocabulary.json", None), "vocabulary.json"),
    (
        "another vocabulary",
        damaged("vocabulary.json", '{"min_count": 1, "words": ["a"], "counts": [1]}'),
        "run",
    ),
    ("damaged centres", damaged("centres.json", "{}"), "centres.json"),
    ("centres that are a list", damaged("centres.json", "[1]"), "centres.json"),
    ("centres in Latin-1", damaged("centres.json", b"\xe9"), "centres.json"),
    ("deep centres", damaged("centres.json", DEEP), "centres.json"),
    ("a folder as centres", damaged("centres.json", None), "centres.json"),
    ("centres of text", damaged("centres.json", '{"shift": "far"}'), "centres.json"),
    ("no weights", without("best"), "best"),
    ("an empty folder of weights", without("best/*"), "best"),
    ("a file as weights", damaged("best", "x"), "best"),
    ("damaged weights", cut("best/*/**/*"), "best"),
    ("weights of nothing", without("best/*/*"), "best"),
]

RUNS_MORE = [
    ("empty weights", damaged("weights.safetensors", "", "exported"), "weights.safetensors"),
    ("half of the weights", cut("weights.safetensors", "exported"), "weights.safetensors"),
    (
        "a web page as weights",
        damaged("weights.safetensors", "<html>", "exported"),
        "a web page",
    ),
    (
        "a folder as weights",
        damaged("weights.safetensors", None, "exported"),
        "weights.safetensors",
    ),
    (
        "weights of nothing",
        damaged("weights.safetensors", struct.pack("<Q", 2) + b"{}", "exported"),
        "weights.safetensors",
    ),
    (
        "a huge header",
        damaged("weights.safetensors", struct.pack("<Q", 2**60) + b"{}", "exported"),
        "weights.safetensors",
    ),
    (
        "a step that is text",
        damaged("weights.safetensors", _safe({"__metadata__": {"step": "ten"}}), "exported"),
        "weights.safetensors",
    ),
]


def runs() -> Iterator[Case]:
    """Bad inputs of one kind."""
    evaluate = ("evaluate", *BAD_RUN, "--split", "val")
    for about, make, names in RUNS:
        yield Case(about, evaluate, names, make)
    for about, make, names in RUNS_MORE:
        yield Case(about, ("caption", *BAD_RUN, "{root}/pictures/p00.png"), names, make)
    yield Case(
        "a run without an end",
        ("export", *BAD_RUN, "--out", "{bad}/o", "--weights", "last"),
        "last",
        without("last"),
    )
    yield Case("an unreadable config", evaluate, "config.json", unreadable("run/config.json"), True)
    yield Case(
        "checkpoints cut short",
        ("train", *TINY, *BAD_RUN),
        "checkpoints",
        cut("checkpoints/*/**/*"),
    )
    yield Case("another run's folder", ("train", *TINY, *RUN, "--config.seed=7"), "seed")
    yield Case(
        "a file as a folder of runs", ("train", *TINY, "--workdir", "{root}/tiny.py"), "tiny.py"
    )
    yield Case(
        "a folder that is not UTF-8", ("train", *TINY, "--workdir", "{bad}/caf\udce9"), "caf"
    )
    yield Case("nothing to explore", ("explore", "{bad}/none", "--export", "{bad}/x.html"), "none")
    yield Case(
        "a folder of nothing", ("explore", "{bad}", "--export", "{bad}/x.html"), "an export shows"
    )


REPORTS = [
    ("empty scores", "*.scores.json", ""),
    ("scores that are a list", "*.scores.json", "[]"),
    ("scores of nothing", "*.scores.json", "{}"),
    ("binary scores", "*.scores.json", b"\0\xff"),
    ("deep scores", "*.scores.json", DEEP),
    ("scores that are text", "*.scores.json", '{"scores": "high", "split": "val"}'),
    ("a folder as scores", "*.scores.json", None),
    ("empty captions", "*.captions.json", ""),
    ("captions that are an object", "*.captions.json", "{}"),
    ("captions that are numbers", "*.captions.json", "[1, 2]"),
    ("deep captions", "*.captions.json", DEEP),
    ("captions of other images", "*.captions.json", '[{"image_id": "x", "caption": "y"}]'),
    ("empty statistics", "attention/val/statistics.json", ""),
    ("statistics that are a list", "attention/val/statistics.json", "[]"),
    ("statistics of nothing", "attention/val/statistics.json", "{}"),
    ("a folder as statistics", "attention/val/statistics.json", None),
    ("a metric's line is a list", "metrics.jsonl", "[1]\n"),
    ("metrics without a step", "metrics.jsonl", "{}\n"),
    ("binary metrics", "metrics.jsonl", b"\xff\0\n"),
    ("a folder as metrics", "metrics.jsonl", None),
    ("deep metrics", "metrics.jsonl", DEEP),
    ("a map that is no archive", "attention/val/*.npz", "x"),
    ("a record that is a list", "run.json", "[]"),
    ("a deep record", "run.json", DEEP),
    ("a folder as a record", "run.json", None),
]


PUBLISHED = ("empty", "binary", "deep")  # damage that `publish` sees


def reports() -> Iterator[Case]:
    """Bad inputs of one kind."""
    compare = ("compare", "{bad}/run", "--split", "val", "--out", "{bad}/page")
    publish = ("publish", "{bad}/run", "--out", "{bad}/records")
    for about, name, content in REPORTS:
        named = name.split("/")[-1].lstrip("*.")
        if about == "captions of other images":
            named = "scores.json"  # the two do not fit
        yield Case(about, compare, named, damaged(name, content))
        if content is None or (about.split()[0] in PUBLISHED and name != "metrics.jsonl"):
            yield Case(f"{about}, to publish", publish, named, damaged(name, content))
    yield Case("no run to compare", ("compare", "{bad}/none"), "none")
    yield Case("a file to compare", ("compare", "{root}/tiny.py"), "tiny.py")
    yield Case("nothing to publish", ("publish", "{bad}/none", "--out", "{bad}/o"), "none")
    yield Case("a run that nobody evaluated", compare, "evaluate", without("*.scores.json"))


WEIGHTS = [
    ("empty weights", b""),
    ("weights that are text", b"not weights at all"),
    ("a web page as weights", b"<!doctype html><html>"),
    ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:1"),
    ("a pickle that calls", b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R."),
    ("a zip of nothing", zipped()),
    ("a zip of other things", zipped(a=b"x")),
    ("half a zip", zipped(a=b"x" * 500)[:300]),
    ("a safetensors header", struct.pack("<Q", 10) + b"{}        "),
    ("a safetensors header of 2^60 bytes", struct.pack("<Q", 2**60) + b"{}"),
    ("zeros", b"\0" * 4096),
]


def weights() -> Iterator[Case]:
    """Bad inputs of one kind."""

    def words(name: str) -> tuple[str, ...]:
        changes = (
            "--config.encoder.name=resnet50",
            "--config.encoder.image_size=64",
            "--config.encoder.features=64",
            f"--config.encoder.weights={name}",
        )
        return ("train", *TINY, *NEW, *changes)

    for about, content in WEIGHTS:
        yield Case(about, words("{bad}/w.pth"), "w.pth", write("w.pth", content))
    yield Case("a folder as weights", words("{bad}/w.pth"), "w.pth", folder_at("w.pth"))
    yield Case("unreadable weights", words("{bad}/w.pth"), "w.pth", unreadable("w.pth"), True)
    yield Case("weights of the hub", words(""), "the weights timm/resnet50")
