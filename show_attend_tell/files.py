"""Paths as users write them, atomic writes of files, locks, and names as people spell them."""

import contextlib
import fcntl
import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from show_attend_tell.errors import UserError

_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp", re.DOTALL)  # of `temporary`; the number is a process's

_cleared: set[Path] = set()  # folders that this process has cleared of what killed ones left


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
def replacing(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Opens a file that replaces `path` once it is complete and, with `sync`, on disk.

    If writing fails, nothing of the new file remains, and an old file stays. What a killed process
    left in the folder goes when this process first writes there.
    """
    if path.parent not in _cleared:
        _cleared.add(path.parent)
        remove_stale(path.parent)
    written = temporary(path)
    try:
        with _own(written) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            os.replace(written, path)  # while it is locked: an unlocked one is anybody's to remove
    except BaseException as error:
        with contextlib.suppress(OSError):
            written.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(written)):
            error.filename = str(path)  # what the caller calls the file
            del error.filename2  # None would be shown
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the system that names no file, as of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _own(path: Path) -> BinaryIO:
    """Opens an empty temporary file and locks it.

    Until it is locked, another process may take it for that of a killed one and remove it.
    """
    while True:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        file = os.fdopen(number, "wb")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(number)):
                file.truncate()
                return file
        file.close()


def temporary(path: Path) -> Path:
    """Where this process writes what is to become `path`; `remove_stale` knows the name."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_stale(folder: Path) -> None:
    """Removes the temporary files of killed processes from a folder.

    A file stays while its process lives, which holds the file's lock, here or on another machine.
    The number in its name says nothing: containers number their processes alike. Files that cannot
    be removed stay, too.
    """
    try:
        found = [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]
    except OSError:
        return
    for path in found:
        with contextlib.suppress(OSError):  # locked, not ours to remove, or another was faster
            _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    """Removes a temporary file.

    Raises:
      OSError: its process lives, or it cannot be removed.
    """
    # Not through a link, and a pipe must not block.
    number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(number)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Admits one process at a time. The lock ends with its process: a killed one blocks nobody.

    A file system without locks admits all.
    """
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.warning("%s: waiting for the process that holds it", path)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            logging.warning("%s: no lock (%s); start one process at a time", path, error.strerror)
        yield


@contextmanager
def held(path: Path, busy: str) -> Iterator[bool]:
    """Admits one process, and refuses others at once; see `locked`.

    Yields whether no other process can be inside. A file system without locks admits all.

    Args:
      path: of the lock.
      busy: what to say if another process is inside.

    Raises:
      UserError: another process is inside.
    """
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        except OSError:
            yield False
        else:
            yield True


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically.

    A half of a surrogate pair, which UTF-8 lacks, is written as an escape that JSON reads back.
    """
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def parse_json(content: str | bytes) -> Any:
    """The content of a JSON text, which may come from anybody.

    Raises:
      ValueError: it is not JSON, is not UTF-8, or nests too deep for the parser.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def within(content: Any, *names: str) -> Any:
    """What lies there in nested JSON objects; None if it is absent, or no object where one was."""
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def listed(content: Any, name: str) -> list[Any]:
    """The list of that name in a JSON object; empty if there is none."""
    found = within(content, name)
    return found if isinstance(found, list) else []


def read_json(path: Path, remedy: str = "get it again") -> Any:
    """The content of a JSON file.

    Args:
      path: of the file.
      remedy: what to do if it is none.

    Raises:
      UserError: it cannot be read, or is not JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        instead = stands_in(start_of(path))
        why = f"it is {instead}" if instead else f"not a readable JSON file ({error}); {remedy}"
        raise UserError(f"{path}: {why}") from error


def read_text(path: Path) -> str:
    """The content of a text file; see `decoded`.

    Raises:
      UserError: it cannot be read; or as `decoded`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    return decoded(content, path)


def decoded(content: bytes, path: Path) -> str:
    """The text that a file holds: UTF-16 if it begins with a byte-order mark, else UTF-8.

    Raises:
      UserError: it is neither.
    """
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error


def check_name(path: Path) -> None:
    """Rejects the path of a folder that libraries in other languages cannot open.

    Raises:
      UserError: it is not UTF-8.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{path}: its name is not UTF-8, and checkpoints and records need that; rename the "
            "folder, or choose another"
        ) from None


def check_target(path: Path) -> None:
    """Rejects the path of a file to be written; of use before anything is computed for it.

    Raises:
      UserError: it is a folder, or there is no folder to hold it.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder; name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"{path}: its folder is not there; make it first")


def same_letters(path: Path) -> Path:
    """The file whose name consists of the same letters, whether accents are part of them or not.

    Unicode has two forms for many letters (NFC, NFD). They look alike, and file systems differ in
    which they keep. `path` itself if it exists, or if no or several such files do.
    """
    if str(path).isascii() or os.path.lexists(path) or path == path.parent:
        return path
    folder = same_letters(path.parent)
    try:
        found = _by_letters(folder, folder.stat().st_mtime_ns)
    except OSError:
        return path
    names = found.get(unicodedata.normalize("NFC", path.name), ())
    return folder / names[0] if len(names) == 1 else path


@lru_cache(maxsize=64)
def _by_letters(folder: Path, changed: int) -> dict[str, list[str]]:
    """The names in a folder by their composed form; `changed` is the folder's time of change."""
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        names.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return names
