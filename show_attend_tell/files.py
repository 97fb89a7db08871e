"""Paths as users write them, atomic writes of files, and locks between processes."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def user_path(text: str | Path) -> Path:
    """A path as a user wrote it: on the command line, in a config or in a notebook.

    `~` and `~NAME` are home folders. A shell replaces them only where they begin a word, which in
    `--workdir=~/runs` they do not. A folder that is really called `~` is `./~`.
    """
    return Path(os.path.expanduser(text))


def start_of(path: Path, size: int = 512) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


def stands_in(start: bytes) -> str:
    """What a download left in place of a file, and the remedy; empty if it left neither of these.

    Args:
      start: the first bytes of the file, 200 or more where it has them.
    """
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs.github.com/"):
        return (
            "a Git LFS pointer, not the file itself: run `git lfs pull` in its repository, or "
            "download the file from its page"
        )
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            "a web page, not the file itself: the download led to a page such as an error or a "
            "login; open the address in a browser and save the file"
        )
    return ""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that replaces `path` once it is complete and synced to disk.

    If writing fails, nothing of the new file remains, and an old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Admits one process at a time. The lock ends with its process: a killed one blocks nobody."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.warning("%s: waiting for the process that holds it", path)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with replacing(path) as file:
        file.write(text.encode())
