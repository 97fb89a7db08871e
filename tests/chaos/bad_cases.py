"""The table of bad inputs: what is wrong, the command, and what its message must name.

`{bad}` is a fresh folder that `make` fills, `{root}` a world with a trained run (`world.make`).
"""

import io
import json
import os
import shutil
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

Make = Callable[[Path, Path], object]  # of the bad folder and the world


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
      about: what is wrong.
      words: of the command line.
      names: what the message must hold: a file or a setting.
      make: makes files.
      unprivileged: whether it needs a user who may not read everything.
    """

    about: str
    words: tuple[str, ...]
    names: str
    make: Make = lambda bad, root: None
    unprivileged: bool = False
    stdin: bytes = b""


def cases() -> list[Case]:
    """All bad inputs."""
    return [
        *_arguments(),
        *_experiments(),
        *_overrides(),
        *_pictures(),
        *_runs(),
        *_reports(),
        *_tables(),
        *_sources(),
        *_weights(),
        *_outputs(),
    ]


def _write(name: str, content: bytes | str) -> Make:
    data = content.encode() if isinstance(content, str) else content

    def make(bad: Path, root: Path) -> None:
        (bad / name).parent.mkdir(parents=True, exist_ok=True)
        (bad / name).write_bytes(data)

    return make


def _folder(name: str) -> Make:
    return lambda bad, root: (bad / name).mkdir(parents=True)


def _unreadable(name: str, content: bytes = b"x") -> Make:
    def make(bad: Path, root: Path) -> None:
        _write(name, content)(bad, root)
        (bad / name).chmod(0)

    return make


# The command line itself.
RUN = ("--workdir", "{root}/run")
TINY = ("--config", "{root}/tiny.py")
NEW = ("--workdir", "{bad}/run")


def _arguments() -> Iterator[Case]:
    for words, names in [
        ((), "VERB"),
        (("trian",), "trian"),
        (("train",), "--config"),
        (("train", *TINY), "--workdir"),
        (("train", *TINY, *NEW, "--epochs=3"), "--epochs"),
        (("train", *TINY, *NEW, "stray"), "stray"),
        (("train", *TINY, *NEW, "--processes", "two"), "--processes"),
        (("train", *TINY, *NEW, "--processes", "2"), "--coordinator"),
        (("train", *TINY, *NEW, "--process", "-1", "--processes", "2", "--coordinator", "x"), "x"),
        (("evaluate",), "--workdir"),
        (("evaluate", *RUN, "--pretrained", "flickr8k-soft"), "--pretrained"),
        (("evaluate", "--pretrained", "flickr9k"), "flickr9k"),
        (("evaluate", *RUN, "--beam", "many"), "--beam"),
        (("evaluate", *RUN, "--beam", "0"), "beam"),
        (("evaluate", *RUN, "--beam", "-3"), "beam"),
        (("evaluate", *RUN, "--length-penalty", "nan"), "length_penalty"),
        (("evaluate", *RUN, "--length-penalty", "-inf"), "length_penalty"),
        (("evaluate", *RUN, "--context", ""), "context"),
        (("evaluate", *RUN, "--split", ""), "split"),
        (("evaluate", *RUN, "--split", "../val"), "../val"),
        (("evaluate", *RUN, "--split", "val\x1b[2J"), "val"),
        (("attend", *RUN, "--num", "-1"), "--num"),
        (("attend", *RUN, "--num", "1e3"), "--num"),
        (("compare",), "RUN"),
        (("compare", "{root}/run", "--split", "tset"), "tset"),
        (("compare", "{root}/run", "--split", "val", "--pictures", "-1"), "--pictures"),
        (("compare", "{root}/run", "{root}/run", "--split", "val"), "run"),
        (("compare", "{root}/run", "--config.seed=1"), "--config.seed"),
        (("export", *RUN, "--out", "{bad}/o", "--weights", "worst"), "--weights"),
        (("export", "--out", "{bad}/o"), "--workdir"),
        (("publish", "{root}/run"), "--out"),
        (("explore", "{root}/run", "--num", "0"), "--num"),
        (("explore", "{root}/run", "--port", "99999"), "99999"),
        (("explore", "{root}/run", "--port", "-1"), "-1"),
        (("explore", "{root}/run", "--host", "nowhere.invalid"), "nowhere.invalid"),
        (("explore", "{root}/run", "--split", "tets", "--export", "{bad}/x.html"), "tets"),
        (("sweep",), "NAME"),
        (("sweep", "{root}/tiny.py", "--seeds", ""), "--seeds"),
        (("sweep", "{root}/tiny.py", "--seeds", "1,,2"), "--seeds"),
        (("sweep", "{root}/tiny.py", "--seeds", "1.5"), "--seeds"),
        (("sweep", "{root}/tiny.py", "--seeds", "1,1", *NEW), "--seeds"),
        (("sweep", "{root}/tiny.py", "--jobs", "0", *NEW), "--jobs"),
        (("sweep", "{root}/tiny.py", "--jobs", "10000", *NEW), "--jobs"),
        (("sweep", "{root}/tiny.py", "--hours", "-1", *NEW), "--hours"),
        (("sweep", "{root}/tiny.py", "--cluster", "moon", *NEW), "moon"),
        (("sweep", "{root}/tiny.py", "--split", "vla", *NEW), "vla"),
        (("sweep", "{root}/tiny.py", "--set", "kind", *NEW), "kind"),
        (("sweep", "{root}/tiny.py", "--set", "=1", *NEW), "--set"),
        (("sweep", "{root}/tiny.py", "--set", "attention.knid=soft", *NEW), "attention.kind"),
        (("sweep", "{root}/tiny.py", "--set", "attention.kind=soft,,hard", *NEW), "attention.kind"),
        (("sweep", "{root}/tiny.py", "--pictures", "-2", *NEW), "--pictures"),
        (("sweep", "{root}/tiny.py", "{root}/tiny.py", *NEW), "tiny.py"),
        (("gradient-variance", *RUN, "--batches", "0"), "--batches"),
        (("gradient-variance", *RUN, "--samples", "1"), "--samples"),
        (("gradient-variance", *RUN, "--batches", "9"), "--batches"),
        (("translate", *RUN, "a sentence"), "run"),
        (("tables", "{bad}/none"), "none"),
        (("tables", "{root}/tiny.py"), "tiny.py"),
        (("tables", "{root}", "--records", "{bad}/none"), "none"),
        (("config", "--config", "nope"), "nope"),
        (("inspect", "--config", ""), "--config"),
    ]:
        yield Case("arguments", words, names)


# Experiment files.
def _experiments() -> Iterator[Case]:
    start = "from ml_collections import ConfigDict\n"

    def returns(text: str) -> str:
        return f"{start}def get_config():\n    return {text}\n"

    def config(text: str) -> str:
        return returns(f"ConfigDict({text})")

    good = '"data": {"name": "folder"}, "encoder": {"name": "small"}'
    for about, content, names in [
        ("an empty experiment", "", "is empty"),
        ("a binary experiment", b"\x00\x01\x02", "binary"),
        ("an experiment in Latin-1", b"x = '\xe9'\n", "e.py"),
        ("a syntax error", "def get_config(:\n", "line 1"),
        ("an error while loading", "x = 1\n1 / 0\n", "line 2"),
        ("a missing module", "import nonesuch\n", "nonesuch"),
        ("an exit", "import sys\nsys.exit(0)\n", "e.py"),
        ("endless recursion", "def f():\n    f()\nf()\n", "recursion"),
        ("no get_config", "x = 1\n", "get_config"),
        ("get_config is a number", "get_config = 3\n", "get_config"),
        ("get_config takes two", f"{start}def get_config(a, b):\n    return 1\n", "get_config"),
        ("get_config fails", returns("{}['a']"), "line 3"),
        ("get_config returns a dict", returns("{'seed': 1}"), "ConfigDict"),
        ("get_config returns None", returns("None"), "ConfigDict"),
        ("an empty config", config("{}"), "config.data.name"),
        ("data is a number", config('{"data": 5}'), "config.data"),
        ("data is a list", config('{"data": [1]}'), "config.data"),
        ("a data set's name is a number", config('{"data": {"name": 1}}'), "config.data.name"),
        ("an unknown data set", config('{"data": {"name": "flickr9k"}}'), "flickr8k"),
        ("an unknown group", config(f'{{{good}, "trian": {{"epochs": 1.0}}}}'), "config.tr"),
        ("an unknown key", config(f'{{{good}, "train": {{"epoch": 1.0}}}}'), "train.epochs"),
        ("a group is text", config(f'{{{good}, "train": "long"}}'), "config.train"),
        ("a group is empty text", config(f'{{{good}, "train": ""}}'), "config.train"),
        ("a seed is text", config(f'{{{good}, "seed": "one"}}'), "config.seed"),
        ("a seed is negative", config(f'{{{good}, "seed": -1}}'), "config.seed"),
        ("a seed is huge", config(f'{{{good}, "seed": 2**70}}'), "config.seed"),
        ("a number is text", config(f'{{{good}, "train": {{"epochs": "3"}}}}'), "train.epochs"),
        ("a number is a list", config(f'{{{good}, "train": {{"epochs": [3]}}}}'), "train.epochs"),
        ("a number is None", config(f'{{{good}, "train": {{"epochs": None}}}}'), "train.epochs"),
        ("a flag is text", config(f'{{{good}, "decoder": {{"tied": "no"}}}}'), "decoder.tied"),
        ("text is a number", config(f'{{{good}, "attention": {{"kind": 3}}}}'), "attention.kind"),
        (
            "a setting is a group",
            config(f'{{{good}, "train": {{"epochs": {{"a": 1}}}}}}'),
            "epochs",
        ),
    ]:
        make = _write("e.py", content)
        yield Case(about, ("train", "--config", "{bad}/e.py", *NEW), names, make)
    broken = _write("e.py", "def get_config(:\n")
    yield Case("a syntax error", ("prepare", "--config", "{bad}/e.py"), "e.py", broken)
    yield Case("a syntax error", ("config", "--config", "{bad}/e.py"), "e.py", broken)
    yield Case("a syntax error", ("inspect", "--config", "{bad}/e.py"), "e.py", broken)
    yield Case("a syntax error", ("sweep", "{bad}/e.py", *NEW), "e.py", broken)
    for about, reference, names in [
        ("a missing experiment", "{bad}/none.py", "none.py"),
        ("a folder as an experiment", "{bad}", "{bad}"),
        ("an unknown variant", "shapes:sfot", "sfot"),
        ("control characters", "{bad}/\x07\x1b[31mred\n.py", "red"),
        ("a name that is too long", "x" * 5000, "--config"),
        ("half a character", "caf\udce9.py", "caf"),
    ]:
        yield Case(about, ("train", "--config", reference, *NEW), names)
    yield Case(
        *("an unreadable experiment", ("train", "--config", "{bad}/e.py", *NEW), "e.py"),
        *(_unreadable("e.py"), True),
    )


def _overrides() -> Iterator[Case]:
    for override, names in [
        ("train.epochs=0", "train.epochs"),
        ("train.epochs=-1", "train.epochs"),
        ("train.epochs=nan", "train.epochs"),
        ("train.epochs=inf", "train.epochs"),
        ("train.epochs=many", "train.epochs"),
        ("train.epochs=", "train.epochs"),
        ("train.batch_size=0", "train.batch_size"),
        ("train.batch_size=1.5", "train.batch_size"),
        ("train.batch_size=100000", "train.batch_size"),
        ("train.buckets=0", "train.buckets"),
        ("train.rows=-1", "train.rows"),
        ("train.log_every=0", "train.log_every"),
        ("train.checkpoint_every=0", "train.checkpoint_every"),
        ("train.patience=-1", "train.patience"),
        ("train.metric=CIDER", "CIDEr"),
        ("train.init_from={bad}/none", "none"),
        ("train.init_from={root}/tiny.py", "tiny.py"),
        ("train.init_weights=first", "train.init_weights"),
        ("decoder.hidden=0", "decoder.hidden"),
        ("decoder.hidden=-5", "decoder.hidden"),
        ("decoder.dropout=1.5", "decoder.dropout"),
        ("decoder.dropout=nan", "decoder.dropout"),
        ("decoder.dtype=float16", "decoder.dtype"),
        ("attention.kind=sfot", "attention.kind"),
        ("attention.units=0", "attention.units"),
        ("attention.score=dot", "attention.score"),
        ("encoder.name=vgg16", "vgg19"),
        ("encoder.name=", "encoder.name"),
        ("encoder.image_size=7", "encoder.image_size"),
        ("encoder.image_size=-8", "encoder.image_size"),
        ("encoder.features=3", "encoder.features"),
        ("encoder.trainable_from=top", "trainable_from"),
        ("encoder.weights={bad}/none.pth", "none.pth"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate"),
        ("optimizer.warmup_steps=-1", "optimizer.warmup_steps"),
        ("decode.beam=0", "decode.beam"),
        ("decode.max_length=0", "decode.max_length"),
        ("decode.batch_size=0", "decode.batch_size"),
        ("loss.label_smoothing=1", "loss.label_smoothing"),
        ("data.name=multi30k", "data.name"),
        ("data.name=nothing", "data.name"),
        ("data.limit=-1", "data.limit"),
        ("data.min_count=-1", "data.min_count"),
        ("data.max_length=0", "data.max_length"),
        ("data.holdout=1", "data.holdout"),
        ("data.holdout=0.5", "data.holdout"),
        ("data.crops=-1", "data.crops"),
        ("data.random_crop=2", "data.random_crop"),
        ("data.repo=a/b", "data.repo"),
        ("data.manual_dir={bad}/none", "none"),
        ("data.manual_dir={root}/tiny.py", "tiny.py"),
        ("data.dir={root}/tiny.py", "tiny.py"),
        ("data.dir=/proc/none", "/proc/none"),
        ("seed=one", "seed"),
        ("seed=-1", "seed"),
        ("seeed=1", "config.seed"),
        ("train=3", "config.train"),
        ("train.epochs.more=3", "train.epochs"),
        ("=3", "config."),
        ("train.\x1b[1m=3", "config.train"),
    ]:
        words = ("train", *TINY, *NEW, f"--config.{override}")
        yield Case(f"--config.{override}", words, names)
    yield Case(
        "an override without a value", ("train", *TINY, *NEW, "--config.seed"), "config.seed"
    )
    yield Case("the run's data set", ("evaluate", *RUN, "--config.data.name=coco"), "coco")
    yield Case(
        "a key of a run", ("caption", *RUN, "x.png", "--config.dekode.beam=1"), "decode.beam"
    )
    yield Case("another size", ("evaluate", *RUN, "--config.decoder.hidden=17"), "run/best")


# Pictures.
def png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; it has no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        made += struct.pack(">I", len(content)) + kind + content
        made += struct.pack(">I", zlib.crc32(kind + content))
    return made


def encoded(kind: str, size: int = 40) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((size, size), 90).convert("RGB").save(file, kind)
    return file.getvalue()


def _pictures() -> Iterator[Case]:
    for about, name, content in [
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
    ]:
        make = _write(name, content)
        yield Case(about, ("caption", *RUN, f"{{bad}}/{name}"), name[:1], make)
        if about in ("an empty file", "half a PNG"):
            yield Case(about, ("attend", *RUN, f"{{bad}}/{name}"), name, make)
    for about, argument, names in [
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
    ]:
        yield Case(about, ("caption", *RUN, argument), names)
    yield Case("bad standard input", ("caption", *RUN, "-"), "standard input", stdin=b"GIF89a")

    def loop(bad: Path, root: Path) -> None:
        (bad / "loop.jpg").symlink_to(bad / "loop.jpg")

    def socket_file(bad: Path, root: Path) -> None:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(bad / "s.jpg"))

    yield Case("a circular link", ("caption", *RUN, "{bad}/loop.jpg"), "loop.jpg", loop)
    yield Case("a socket", ("caption", *RUN, "{bad}/s.jpg"), "s.jpg", socket_file)
    yield Case(
        *("an unreadable picture", ("caption", *RUN, "{bad}/a.jpg"), "a.jpg"),
        *(_unreadable("a.jpg"), True),
    )


# Runs.
def _damaged(name: str, content: bytes | str | None, source: str = "run") -> Make:
    """A copy of the world's run with another content of a file; None: a folder in its place."""

    def make(bad: Path, root: Path) -> None:
        shutil.copytree(root / source, bad / "run")
        for path in sorted((bad / "run").glob(name)) or [bad / "run" / name]:
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            if content is None:
                path.mkdir()
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def _without(name: str, source: str = "run") -> Make:
    def make(bad: Path, root: Path) -> None:
        shutil.copytree(root / source, bad / "run")
        for path in (bad / "run").glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def _cut(name: str, source: str = "run") -> Make:
    """A copy of the world's run in which some files have only their first half."""

    def make(bad: Path, root: Path) -> None:
        shutil.copytree(root / source, bad / "run")
        for path in (bad / "run").glob(name):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return make


BAD_RUN = ("--workdir", "{bad}/run")
DEEP = "[" * 100_000


def _runs() -> Iterator[Case]:
    evaluate = ("evaluate", *BAD_RUN, "--split", "val")
    for about, make, names in [
        ("no such run", lambda bad, root: None, "run"),
        ("an empty folder", _folder("run"), "config.json"),
        ("a file as a run", _write("run", "x"), "run"),
        ("an empty config", _damaged("config.json", ""), "config.json"),
        ("a config that is a list", _damaged("config.json", "[]"), "config.json"),
        ("a config that is a number", _damaged("config.json", "3"), "config.json"),
        ("a config that is null", _damaged("config.json", "null"), "config.json"),
        ("a config in Latin-1", _damaged("config.json", b'{"\xe9": 1}'), "config.json"),
        ("a binary config", _damaged("config.json", b"\0\xff\x01"), "config.json"),
        ("a deep config", _damaged("config.json", DEEP), "config.json"),
        ("a folder as a config", _damaged("config.json", None), "config.json"),
        ("half a config", _cut("config.json"), "config.json"),
        (
            "an unknown group",
            _damaged("config.json", '{"data": {"name": "folder"}, "x": {"y": 1}}'),
            "config.json",
        ),
        ("data is a list", _damaged("config.json", '{"data": []}'), "config.json"),
        ("a name is a number", _damaged("config.json", '{"data": {"name": 3}}'), "config.json"),
        (
            "a name is a list",
            _damaged("config.json", '{"data": {"name": ["folder"]}}'),
            "config.json",
        ),
        (
            "a huge number",
            _damaged("config.json", '{"data": {"name": "folder"}, "seed": 1e999}'),
            "config.json",
        ),
        ("many digits", _damaged("config.json", '{"seed": ' + "9" * 5000 + "}"), "config.json"),
        ("no vocabulary", _without("vocabulary.json"), "vocabulary.json"),
        ("an empty vocabulary", _damaged("vocabulary.json", ""), "vocabulary.json"),
        ("a vocabulary that is a list", _damaged("vocabulary.json", "[]"), "vocabulary.json"),
        ("a vocabulary without words", _damaged("vocabulary.json", "{}"), "vocabulary.json"),
        (
            "a vocabulary of numbers",
            _damaged("vocabulary.json", '{"min_count": 1, "words": [1], "counts": [1]}'),
            "vocabulary.json",
        ),
        (
            "a tokenizer that is a list",
            _damaged(
                "vocabulary.json", '{"tokenizer": [], "min_count": 1, "words": [], "counts": []}'
            ),
            "vocabulary.json",
        ),
        (
            "a model that is no model",
            _damaged("vocabulary.json", '{"tokenizer": "sentencepiece", "model": "AAAA"}'),
            "vocabulary.json",
        ),
        ("a deep vocabulary", _damaged("vocabulary.json", DEEP), "vocabulary.json"),
        ("a folder as a vocabulary", _damaged("vocabulary.json", None), "vocabulary.json"),
        (
            "another vocabulary",
            _damaged("vocabulary.json", '{"min_count": 1, "words": ["a"], "counts": [1]}'),
            "run",
        ),
        ("damaged centres", _damaged("centres.json", "{}"), "centres.json"),
        ("centres that are a list", _damaged("centres.json", "[1]"), "centres.json"),
        ("centres in Latin-1", _damaged("centres.json", b"\xe9"), "centres.json"),
        ("deep centres", _damaged("centres.json", DEEP), "centres.json"),
        ("a folder as centres", _damaged("centres.json", None), "centres.json"),
        ("centres of text", _damaged("centres.json", '{"shift": "far"}'), "centres.json"),
        ("no weights", _without("best"), "best"),
        ("an empty folder of weights", _without("best/*"), "best"),
        ("a file as weights", _damaged("best", "x"), "best"),
        ("damaged weights", _cut("best/*/**/*"), "best"),
        ("weights of nothing", _without("best/*/*"), "best"),
    ]:
        yield Case(about, evaluate, names, make)
    for about, make, names in [
        ("empty weights", _damaged("weights.safetensors", "", "exported"), "weights.safetensors"),
        ("half of the weights", _cut("weights.safetensors", "exported"), "weights.safetensors"),
        (
            "a web page as weights",
            _damaged("weights.safetensors", "<html>", "exported"),
            "a web page",
        ),
        (
            "a folder as weights",
            _damaged("weights.safetensors", None, "exported"),
            "weights.safetensors",
        ),
        (
            "weights of nothing",
            _damaged("weights.safetensors", struct.pack("<Q", 2) + b"{}", "exported"),
            "weights.safetensors",
        ),
        (
            "a huge header",
            _damaged("weights.safetensors", struct.pack("<Q", 2**60) + b"{}", "exported"),
            "weights.safetensors",
        ),
        (
            "a step that is text",
            _damaged("weights.safetensors", _safe({"__metadata__": {"step": "ten"}}), "exported"),
            "weights.safetensors",
        ),
    ]:
        yield Case(about, ("caption", *BAD_RUN, "{root}/pictures/p00.png"), names, make)
    yield Case(
        "a run without an end",
        ("export", *BAD_RUN, "--out", "{bad}/o", "--weights", "last"),
        "last",
        _without("last"),
    )
    yield Case(
        "an unreadable config", evaluate, "config.json", _unreadable("run/config.json"), True
    )
    yield Case(
        "checkpoints cut short",
        ("train", *TINY, *BAD_RUN),
        "checkpoints",
        _cut("checkpoints/*/**/*"),
    )
    yield Case("another run's folder", ("train", *TINY, *RUN, "--config.seed=7"), "seed")
    yield Case(
        "a file as a folder of runs", ("train", *TINY, "--workdir", "{root}/tiny.py"), "tiny.py"
    )
    yield Case(
        "a folder that is not UTF-8", ("train", *TINY, "--workdir", "{bad}/caf\udce9"), "caf"
    )
    yield Case("nothing to explore", ("explore", "{bad}/none", "--export", "{bad}/x.html"), "none")
    yield Case("a folder of nothing", ("explore", "{bad}", "--export", "{bad}/x.html"), "{bad}")


def _safe(header: dict) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


# What compare and publish read.
def _reports() -> Iterator[Case]:
    compare = ("compare", "{bad}/run", "--split", "val", "--out", "{bad}/page")
    publish = ("publish", "{bad}/run", "--out", "{bad}/records")
    for about, name, content in [
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
    ]:
        named = name.split("/")[-1].lstrip("*.")
        yield Case(about, compare, named, _damaged(name, content))
        if name != "attention/val/*.npz" and about.split()[0] in ("empty", "binary", "a", "deep"):
            yield Case(f"{about}, to publish", publish, named, _damaged(name, content))
    yield Case("no run to compare", ("compare", "{bad}/none"), "none")
    yield Case("a file to compare", ("compare", "{root}/tiny.py"), "tiny.py")
    yield Case("nothing to publish", ("publish", "{bad}/none", "--out", "{bad}/o"), "none")
    yield Case("a run that nobody evaluated", compare, "evaluate", _without("*.scores.json"))


# Folders of pictures with a table.
HEAD = "file_name,caption,split\n"


def _own(files: dict[str, bytes | str], pictures: bool = True) -> Make:
    def make(bad: Path, root: Path) -> None:
        folder = bad / "own"
        folder.mkdir()
        if pictures:
            for path in (root / "pictures").glob("*.png"):
                os.link(path, folder / path.name)
        for name, content in files.items():
            _write(f"own/{name}", content)(bad, root)

    return make


def _tables() -> Iterator[Case]:
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
        ("a null in a table", {"metadata.csv": HEAD + rows + "p\0.png,a,train\n"}, "own"),
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
        yield Case(about, words("prepare"), names, _own(files))
        if about in ("no table", "an unknown split", "deep JSON", "no validation"):
            yield Case(about, words("train"), names, _own(files))
        if about in ("no table", "a binary table", "images that are not there"):
            yield Case(about, words("inspect"), names, _own(files))
    empty = {f"p{k:02}.png": b"" for k in range(11)} | {"metadata.csv": HEAD + rows}
    yield Case("empty pictures", words("prepare"), "own", _own(empty, pictures=False))
    yield Case("a folder as a table", words("prepare"), "own", _folder("own/metadata.csv"))
    yield Case("a file as a folder", words("prepare"), "own", _write("own", "x"))
    yield Case(
        *("an unreadable table", words("prepare"), "metadata.csv"),
        *(_unreadable("own/metadata.csv"), True),
    )


# Other sources of pictures and sentences.
def _zip(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _tar(**members: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _sources() -> Iterator[Case]:
    def words(name: str, experiment: str = "{root}/tiny.py", place: str = "own") -> tuple[str, ...]:
        changes = (f"--config.data.manual_dir={{bad}}/{place}", "--config.data.dir={bad}/data")
        return ("prepare", "--config", experiment, f"--config.data.name={name}", *changes)

    for name, experiment in [
        ("flickr8k", "flickr8k"), ("coco", "coco"), ("karpathy", "flickr30k"),
        ("multi30k", "multi30k"), ("webdataset", "flickr8k"), ("hub", "flickr8k"),
    ]:  # fmt: skip
        yield Case(
            "no folder", words(name, experiment), "own" if name != "hub" else "config.data.repo"
        )
        if name != "hub":
            yield Case("an empty folder", words(name, experiment), "own", _folder("own"))
    for about, content in [
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
    ]:
        make = _write("own/dataset_flickr30k.json", content)
        yield Case(
            f"karpathy: {about}", words("karpathy", "flickr30k"), "dataset_flickr30k.json", make
        )
    for about, name, content in [
        ("an empty shard", "a.tar", b""),
        ("a shard that is text", "a.tar", b"x" * 2000),
        ("a compressed shard", "a.tar.gz", b"\x1f\x8b"),
        ("a shard without captions", "a.tar", _tar(a__jpg=encoded("JPEG"))),
        ("a shard of bad JSON", "a.tar", _tar(a__jpg=encoded("JPEG"), a__json=b"{")),
        ("a shard of deep JSON", "a.tar", _tar(a__jpg=encoded("JPEG"), a__json=DEEP.encode())),
        ("a shard of bad pictures", "a.tar", _tar(a__jpg=b"x", a__txt=b"a dog")),
        ("half a shard", "a.tar", _tar(a__jpg=encoded("JPEG"), a__txt=b"a dog")[:700]),
    ]:
        make = _write(f"own/{name}", content)
        yield Case(f"webdataset: {about}", words("webdataset", "flickr8k"), "own", make)
    yield Case(
        "too many shards", words("webdataset", "flickr8k", "a-{{0..99999999}}.tar"), "shards"
    )
    for about, content in [
        ("empty", b""),
        ("half", _zip(a=b"x" * 100)[:60]),
        ("a page", b"<html>"),
    ]:
        make = _write("own/annotations_trainval2017.zip", content)
        yield Case(f"coco: {about} zip", words("coco", "coco"), "own", make)
    captions = "own/annotations/captions_train2017.json"
    for about, content in [
        ("empty", ""),
        ("a list", "[]"),
        ("deep", DEEP),
        ("no ids", '{"images": [{}], "annotations": []}'),
    ]:

        def make(bad: Path, root: Path, content: str = content) -> None:
            _write(captions, content)(bad, root)
            (bad / "own/train2017").mkdir()

        yield Case(
            f"coco: {about} captions", words("coco", "coco"), "captions_train2017.json", make
        )
    for about, content in [("a file in Latin-1", b"caf\xe9\n"), ("an empty file", b"")]:

        def sentences(bad: Path, root: Path, content: bytes = content) -> None:
            for split in ("train", "val", "test_2016_flickr"):
                for language in ("en", "de"):
                    _write(f"own/{split}.{language}", content)(bad, root)

        yield Case(f"multi30k: {about}", words("multi30k", "multi30k"), "own", sentences)


# Weights of an encoder.
def _weights() -> Iterator[Case]:
    def words(name: str) -> tuple[str, ...]:
        changes = (
            "--config.encoder.name=resnet50",
            "--config.encoder.image_size=64",
            f"--config.encoder.weights={name}",
        )
        return ("train", *TINY, *NEW, *changes)

    for about, content in [
        ("empty weights", b""),
        ("weights that are text", b"not weights at all"),
        ("a web page as weights", b"<!doctype html><html>"),
        ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:1"),
        ("a pickle that calls", b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R."),
        ("a zip of nothing", _zip()),
        ("a zip of other things", _zip(a=b"x")),
        ("half a zip", _zip(a=b"x" * 500)[:300]),
        ("a safetensors header", struct.pack("<Q", 10) + b"{}        "),
        ("a safetensors header of 2^60 bytes", struct.pack("<Q", 2**60) + b"{}"),
        ("zeros", b"\0" * 4096),
    ]:
        yield Case(about, words("{bad}/w.pth"), "w.pth", _write("w.pth", content))
    yield Case("a folder as weights", words("{bad}/w.pth"), "w.pth", _folder("w.pth"))
    yield Case("unreadable weights", words("{bad}/w.pth"), "w.pth", _unreadable("w.pth"), True)
    yield Case("no weights", words(""), "config.encoder.weights")


# Where results go.
def _outputs() -> Iterator[Case]:
    picture = "{root}/pictures/p00.png"
    occupied = _write("out", "x")
    for verb, words in {
        "caption": ("caption", *RUN, picture),
        "attend": ("attend", *RUN, "--split", "val"),
        "compare": ("compare", "{root}/run", "--split", "val"),
        "export": ("export", *RUN),
        "publish": ("publish", "{root}/run"),
        "inspect": ("inspect", *TINY),
    }.items():
        yield Case(f"{verb} into a file", (*words, "--out", "{bad}/out"), "out", occupied)
        yield Case(f"{verb} below a file", (*words, "--out", "{bad}/out/a"), "out", occupied)
        yield Case(f"{verb} into /proc", (*words, "--out", "/proc/none/a"), "/proc/none")
    yield Case("export into a run", ("export", *RUN, "--out", "{root}/run"), "run")
    yield Case("publish into a run", ("publish", "{root}/run", "--out", "{root}"), "run")
    explore = ("explore", "{root}/run", "--split", "val", "--num", "1", "--export")
    yield Case("explore into a folder", (*explore, "{bad}"), "{bad}")
    yield Case("explore into a missing folder", (*explore, "/proc/none/x.html"), "/proc/none")
    yield Case("train below a file", ("train", *TINY, "--workdir", "{bad}/out/a"), "out", occupied)
    yield Case("train into /proc", ("train", *TINY, "--workdir", "/proc/none/a"), "/proc/none")
    yield Case(
        "sweep below a file",
        ("sweep", "{root}/tiny.py", "--workdir", "{bad}/out/a"),
        "out",
        occupied,
    )
    yield Case(
        "a name that is too long", ("train", *TINY, "--workdir", "{bad}/" + "x" * 300), "xxx"
    )
