"""Bad files for the tables of bad inputs."""

import io
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

Make = Callable[[Path, Path], object]  # of the bad folder and the world
RUN = ("--workdir", "{root}/run")
TINY = ("--config", "{root}/tiny.py")
NEW = ("--workdir", "{bad}/run")
BAD_RUN = ("--workdir", "{bad}/run")
DEEP = "[" * 100_000


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


def write(name: str, content: bytes | str) -> Make:
    data = content.encode() if isinstance(content, str) else content

    def make(bad: Path, root: Path) -> None:
        (bad / name).parent.mkdir(parents=True, exist_ok=True)
        (bad / name).write_bytes(data)

    return make


def folder_at(name: str) -> Make:
    return lambda bad, root: (bad / name).mkdir(parents=True)


def unreadable(name: str, content: bytes = b"x") -> Make:
    def make(bad: Path, root: Path) -> None:
        write(name, content)(bad, root)
        (bad / name).chmod(0)

    return make


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


def damaged(name: str, content: bytes | str | None, source: str = "run") -> Make:
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


def without(name: str, source: str = "run") -> Make:
    def make(bad: Path, root: Path) -> None:
        shutil.copytree(root / source, bad / "run")
        for path in (bad / "run").glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def cut(name: str, source: str = "run") -> Make:
    """A copy of the world's run in which some files have only their first half."""

    def make(bad: Path, root: Path) -> None:
        shutil.copytree(root / source, bad / "run")
        for path in (bad / "run").glob(name):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return make


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(**members: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()
