"""Which file a name means: names as tables spell them, and as people type them.

A name is taken where only one file can be meant, though its separators, the letter case of its
suffix or the composition of its accents differ, or the suffix is left out. Anything else is an
error that says which near name exists.

Links that lie in a folder are followed: its owner made them. A name that leads out of the folder
by itself, as an absolute path or by "..", is refused: names come with tables from elsewhere.
"""

import difflib
import glob
import logging
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from show_attend_tell.data.images import is_url
from show_attend_tell.errors import UserError
from show_attend_tell.files import user_path
from show_attend_tell.printable import first_few, printable

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")  # of image files
# Formats that are not read. Such a file is found by its name, so that a message can say what it is.
UNREAD = (".tif", ".tiff", ".heic", ".heif", ".avif")
JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")  # suffixes of one format

ABSENT, OUTSIDE = "it is not there", "it is not in the folder"
SEVERAL, FOLDERS = "several files could be meant", "it is in several folders"
REMOTE = "it is a URL; fetch it first"
GUESSES = 3  # names for which the most similar one is searched; messages show no more

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Match:
    """What a name means.

    Attributes:
      path: the file; None if there is none.
      name: its path from the folder, with "/"; as given if there is none.
      why: there is none.
      near: a name that exists, if one is near.
    """

    path: Path | None
    name: str
    why: str = ""
    near: str = ""


def pictures_below(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[str]:
    """Paths from a folder, with "/", of the files in it and below it with one of these suffixes.

    Links are followed, but each folder is visited once, and none that contains `folder`.
    """
    home, seen = os.path.realpath(folder), set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        above = real != home and Path(home).is_relative_to(real)
        if real in seen or above:
            folders.clear()
            continue
        seen.add(real)
        # Real folders first: their files then have the names that they have there.
        folders.sort(key=lambda name: (os.path.islink(os.path.join(place, name)), name))
        inside = Path(place).relative_to(folder)
        for name in sorted(names):
            if name.lower().endswith(suffixes):
                yield (inside / name).as_posix()


class PictureNames:
    """The files of a folder, found by the names that a table gives them.

    Attributes:
      taken: names that differ from their file's, and that file's path from the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.taken: dict[str, str] = {}

    @cached_property
    def _names(self) -> "_Names":
        return _Names(pictures_below(self.folder, SUFFIXES + UNREAD))

    def find(self, given: str) -> Match:
        """The file at a path from the folder, or at an absolute one in it."""
        name = inside(self.folder, given)
        if name is None:
            return self._missing(given)
        if os.path.isfile(self.folder / name):
            return self._take(given, [name])
        return self._take(given, self._names.alike(name))

    def find_below(self, given: str, place: str = "") -> Match:
        """The file of that name in whatever folder.

        Args:
          given: a file's name. Folders before it, and `place`, matter only if several have it.
          place: the name of the folder that it is in.
        """
        name = inside(self.folder, given)
        if name is None:
            return self._missing(given)
        if "/" in name and os.path.isfile(self.folder / name):
            return self._take(given, [name])
        base, parts = posixpath.basename(name), PurePosixPath(name).parent.parts
        found = self._names.called(base) or [
            other for like in self._names.alike_below(base) for other in self._names.called(like)
        ]
        if len(found) > 1:
            parts = parts or PurePosixPath(place.replace("\\", "/")).parts[-1:]
            ending = [n for n in found if PurePosixPath(n).parent.parts[-len(parts) :] == parts]
            found = ending if parts else found
        return self._take(given, found, below=True)

    def report(self, whose: str) -> None:
        """Says, once, which names were taken for files whose names differ."""
        if self.taken:
            pairs = [printable(f"{given} as {name}") for given, name in self.taken.items()]
            _log.info(
                "%s: %d names were taken for files that are called a little differently: %s",
                *(whose, len(pairs), first_few(pairs)),
            )
            self.taken.clear()

    def _take(self, given: str, names: Sequence[str], *, below: bool = False) -> Match:
        paths = {os.path.realpath(self.folder / name): name for name in reversed(names)}
        if not paths:
            return self._missing(given)
        if len(paths) > 1:
            near = ", ".join(sorted(paths.values())[:2])
            return Match(None, given, FOLDERS if below else SEVERAL, near)
        [name] = paths.values()
        if not os.path.isfile(self.folder / name):
            return Match(None, given, "it is a link that leads nowhere")
        if given != (posixpath.basename(name) if below and "/" not in given else name):
            self.taken[given] = name
        return Match(self.folder / name, name)

    def _missing(self, given: str) -> Match:
        if is_url(given):
            return Match(None, given, REMOTE)
        name = inside(self.folder, given)
        base = posixpath.basename((name or given).replace("\\", "/"))
        why = OUTSIDE if name is None else ABSENT
        return Match(None, given, why, self._names.near(name or base))


def inside(folder: Path, given: str) -> str | None:
    """A name as a path from the folder, with "/"; None if it leads out of it.

    Args:
      folder: that a table lies in.
      given: a path from the folder, or an absolute one. Backslashes separate folders, unless there
        is a file with such a name.
    """
    name = given
    if "\\" in name and not os.path.isfile(folder / name):
        name = name.replace("\\", "/")
    if re.match(r"[A-Za-z]:/", name):  # of Windows
        return None
    if posixpath.isabs(name):
        try:
            path = Path(posixpath.normpath(name))
            ways = (path, path.parent.resolve() / path.name)
            roots = (Path(os.path.abspath(folder)), folder.resolve())
        except (OSError, RuntimeError, ValueError):  # circular links, a zero byte, half a surrogate
            return None
        found = [p.relative_to(root) for p in ways for root in roots if p.is_relative_to(root)]
        return found[0].as_posix() if found else None
    name = posixpath.normpath(name)
    return None if name == ".." or name.startswith("../") else name


class _Names:
    """Names of files, to look up one that is spelt a little differently."""

    def __init__(self, names: Iterable[str]):
        self._by_stem: dict[str, list[str]] = {}
        self._by_folded: dict[str, list[str]] = {}
        self._by_base: dict[str, list[str]] = {}
        self._guessed = 0
        for name in names:
            self._by_stem.setdefault(_split(name)[0], []).append(name)
            self._by_folded.setdefault(_folded(name), []).append(name)
            self._by_base.setdefault(posixpath.basename(name), []).append(name)

    @cached_property
    def _bases(self) -> "_Names":
        return _Names(self._by_base)

    def called(self, base: str) -> list[str]:
        """The files with exactly this name, in whatever folder."""
        return self._by_base.get(base, [])

    def alike(self, name: str) -> list[str]:
        """The files that can be meant: of the same stem, and of the same format if one is named."""
        stem, suffix = _split(name)
        found = self._by_stem.get(stem, [])
        return [other for other in found if not suffix or _split(other)[1] == suffix]

    def alike_below(self, base: str) -> list[str]:
        """The names without folders of those that can be meant, in whatever folder."""
        return self._bases.alike(base)

    def near(self, name: str) -> str:
        """A near name; empty if there is none."""
        base = posixpath.basename(name)
        stem = _split(base)[0]
        found = (
            self._by_stem.get(_split(name)[0])
            or self._by_folded.get(_folded(name))
            or self.called(base)
            or self._bases._by_stem.get(stem)
        )
        if not found and self._guessed < GUESSES:
            self._guessed += 1
            # Pictures are often numbered: another number is another picture.
            stems = {_split(b)[0]: b for b in self._by_base if _digits(b) == _digits(base)}
            found = [stems[s] for s in difflib.get_close_matches(stem, stems, n=1, cutoff=0.75)]
        return self._by_base.get(found[0], found)[0] if found else ""


def _split(name: str) -> tuple[str, str]:
    """Stem and suffix as they are compared. What is no suffix of pictures belongs to the stem."""
    stem, suffix = posixpath.splitext(name)
    suffix = suffix.lower()
    if suffix not in SUFFIXES + UNREAD:
        stem, suffix = name, ""
    same = ".jpg" if suffix in JPEG else ".tif" if suffix == ".tiff" else suffix
    return unicodedata.normalize("NFC", stem), same


def _digits(name: str) -> str:
    return re.sub(r"\D", "", name)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


@dataclass
class Given:
    """What arguments of a command name.

    Attributes:
      paths: of pictures, each once; those of a folder or a pattern in the order of their names.
      wrong: what is wrong with other arguments.
    """

    paths: list[Path] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def named_pictures(arguments: Iterable[str]) -> Given:
    """The pictures that arguments name: files, folders, and patterns such as "photos/*.jpg".

    Of a folder, the pictures directly in it are meant. Hidden files are not.
    """
    given = Given()
    for argument in arguments:
        try:
            given.paths += _named(argument)
        except UserError as error:
            given.wrong.append(str(error))
    given.paths = list(dict.fromkeys(given.paths))
    return given


def _named(argument: str) -> list[Path]:
    if not argument:
        raise UserError("'': an empty name; name an image file or a folder")
    home = argument == "~" or argument.startswith("~/")  # quoted: the shell has left it as it is
    path = user_path(argument) if home else Path(argument)
    if os.path.isdir(path):
        return _in_folder(path)
    if os.path.lexists(path):
        return [path]
    if is_url(argument):
        raise UserError(f"{argument}: a URL; fetch it first (curl -O URL), and name the file")
    if glob.has_magic(argument):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        files = [one for one in found if one.is_file()]
        pictures = [one for one in files if one.name.lower().endswith(SUFFIXES)]
        if pictures:
            return pictures
        why = f"fits no file with a suffix of {', '.join(SUFFIXES)}" if files else "fits no file"
        raise UserError(f"{argument}: {why}; check the pattern, and keep it in quotes")
    return [_beside(path)]


def _in_folder(folder: Path) -> list[Path]:
    try:
        there = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); check the folder") from error
    seen = [path for path in there if not path.name.startswith(".")]
    found = [p for p in seen if p.name.lower().endswith(SUFFIXES) and p.is_file()]
    deeper = f'those of folders below it are named by "{folder}/**/*"'
    if not found:
        raise UserError(f"{folder}: a folder without pictures ({', '.join(SUFFIXES)}); {deeper}")
    folders = any(path.is_dir() for path in seen)
    unread = sum(path.suffix.lower() in UNREAD for path in seen)
    _log.info(
        "%s: %d pictures%s%s",
        *(folder, len(found), f"; {deeper}" if folders else ""),
        f"; {unread} in formats that are not read ({', '.join(UNREAD)})" if unread else "",
    )
    return found


def _beside(path: Path) -> Path:
    """The file that is meant by the path of one that is not there.

    Raises:
      UserError: none or several may be meant.
    """
    if "\\" in str(path) and os.path.isfile(str(path).replace("\\", "/")):
        path = Path(str(path).replace("\\", "/"))
        _log.info("%s: with / in place of backslashes", path)
        return path
    try:
        names = _Names(sorted(one.name for one in path.parent.iterdir() if one.is_file()))
    except (OSError, ValueError):
        names = _Names([])
    found, near = names.alike(path.name), names.near(path.name)
    if len(found) == 1:
        _log.info("%s: taken as %s", path, found[0])
        return path.with_name(found[0])
    hint = f"; there is {' and '.join(found[:2]) or near}" if near else "; check the path"
    raise UserError(f"{path}: no such file{hint}")
