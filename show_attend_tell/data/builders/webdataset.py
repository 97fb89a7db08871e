"""Tar shards in the form known as webdataset: `KEY.jpg` with `KEY.txt` or `KEY.json` behind it."""

import logging
import re
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from show_attend_tell.data.builders.common import MAX_MEMBER_BYTES
from show_attend_tell.data.builders.gathered import Gathered, Item, ends_digest, split_of
from show_attend_tell.data.picture_names import SUFFIXES
from show_attend_tell.errors import UserError
from show_attend_tell.files import parse_json
from show_attend_tell.printable import first_few

CAPTION_KEYS = ("caption", "captions", "text", "texts")  # in a .json member
MAX_SHARDS = 1_000_000  # that a pattern may name

_log = logging.getLogger(__name__)

# Offset and size in bytes of each member of an example, by suffix.
Members = dict[str, tuple[int, int]]


class Webdataset(Gathered):
    """Images with captions in tar shards, as img2dataset and the library webdataset write them.

    Get: shards on a local disk, not compressed. Each example has an image (`.jpg`, `.png`, ...) and
    captions: `.txt`, one a line, or else `.json` with the key `caption` (or `captions`, `text`).

    `data.manual_dir` is a folder, a single shard, or a pattern with braces:

        ./launch.sh train --config flickr8k:soft --workdir runs/shards \\
            --config.data.name=webdataset --config.data.manual_dir='FOLDER/train-{0000..0012}.tar'

    Shards named after splits, such as `train-0000.tar` and `val-0000.tar`, or in folders of such
    names, belong to these. Otherwise a tenth of the images each are for val and test, chosen by the
    hashes of their keys.

    Nothing is extracted: names in a shard lead nowhere, and links and other special members are not
    followed.

    Load: `load_images("webdataset", "train", data_dir=Path(...), manual_dir=Path(...))`.

    Version 1.0.0. Citation: that of the images.
    """

    FORM = "shards"
    MAX_UNUSABLE = 0.05  # of images from the web
    REMEDY = (
        "set --config.data.manual_dir to a folder of .tar files, to one of them, or to a pattern "
        "such as 'FOLDER/train-{0000..0012}.tar'"
    )

    def place(self) -> Path:
        return self._shards()[0].parent

    def digest(self) -> str:
        return ends_digest(self._shards())

    def items(self) -> Iterator[Item]:
        shards = self._shards()
        splits = map(split_of, shards)
        # Programs that write each split to its own folder begin with 00000.tar in all of them.
        twice = len({shard.stem for shard in shards}) < len(shards)
        without = []
        for shard, split in zip(shards, splits, strict=True):
            for key, members in read_shard(shard).items():
                image = next((members[s] for s in SUFFIXES if s in members), None)
                name = f"{shard.parent.name}/{shard.stem}/{key}" if twice else f"{shard.stem}/{key}"
                if image is not None:
                    read = partial(_read, shard, *image)
                    yield Item(name, _captions(shard, key, members), read, split, key)
                elif any(suffix.endswith((".txt", ".json")) for suffix in members):
                    without.append(name)
        if without:
            _log.warning(
                "%s: %d examples have no picture in a known format (%s) and are left out; "
                "a key ends at the first dot: %s",
                *(self.place(), len(without), ", ".join(SUFFIXES), first_few(without)),
            )

    def _shards(self) -> list[Path]:
        where = self._manual_dir
        if where is None:
            raise UserError(f"{self.name}: no folder to build it from is set; {self.REMEDY}")
        if where.is_dir():
            shards, below = sorted(where.glob("*.tar")), sorted(where.glob("*/*.tar"))
            if shards and below:
                raise UserError(
                    f"{where}: has shards such as {shards[0].name}, and others in folders such as "
                    f"{below[0].parent.name}; move one kind away"
                )
            shards = shards or below
            if not shards and [*where.glob("*.tar.*")]:
                raise UserError(f"{where}: has compressed shards only; unpack them to .tar")
        else:
            shards = [Path(name) for name in expand(str(where))]
        missing = [shard for shard in shards if not shard.is_file()]
        if missing or not shards:
            raise UserError(f"{missing[0] if missing else where}: no such shard; {self.REMEDY}")
        return shards


def expand(pattern: str) -> list[str]:
    """The names that a pattern such as `a-{00..12}.tar` or `{train,val}.tar` stands for.

    Raises:
      UserError: it stands for more than `MAX_SHARDS` names.
    """
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not match:
        return [pattern]
    first, last, listed = match.groups()
    if listed is None:
        if abs(int(last) - int(first)) >= MAX_SHARDS:
            raise UserError(f"{pattern}: over {MAX_SHARDS:,} shards; name a folder instead")
        numbers = range(int(first), int(last) + 1)
        parts = [f"{number:0{len(first)}}" for number in numbers]
    else:
        parts = listed.split(",")
    rests = expand(pattern[match.end() :])
    return [pattern[: match.start()] + part + rest for part in parts for rest in rests]


def read_shard(path: Path) -> dict[str, Members]:
    """Where the members of each example lie in a shard, by key.

    A member's name up to the first dot of its last part is the key.

    Raises:
      UserError: it is not a readable tar file, or has a member twice.
    """
    examples: dict[str, Members] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                file = PurePosixPath(member.name)
                key, dot, suffix = file.name.partition(".")
                if not member.isreg() or member.issparse() or not key or not dot:
                    continue
                folders = (part for part in file.parts[:-1] if part not in ("/", ".."))
                of_key = examples.setdefault(str(PurePosixPath(*folders, key)), {})
                suffix = f".{suffix.lower()}"
                if suffix in of_key:
                    raise UserError(f"{path}: {member.name} comes twice; write the shard again")
                of_key[suffix] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: not a readable tar file ({error}); get it again") from error
    return examples


def _read(path: Path, offset: int, size: int) -> bytes:
    if size > MAX_MEMBER_BYTES:
        raise ValueError(f"{size:,} bytes are too many")
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise EOFError("the shard is cut short")
    return content


def _captions(shard: Path, key: str, members: Members) -> list[str]:
    """The captions of an example; none where it has no usable ones."""
    try:
        if ".txt" in members:
            return _read(shard, *members[".txt"]).decode("utf-8-sig").splitlines()
        content = parse_json(_read(shard, *members[".json"])) if ".json" in members else {}
        return texts_of(content, CAPTION_KEYS)
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise UserError(
            f"{shard}: the captions of {key} cannot be read ({error}); get the shard again"
        ) from error


def texts_of(content: Any, keys: tuple[str, ...]) -> list[str]:
    """The texts under the first of some keys; also of a list of texts or of such objects."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, list | tuple):
        return [text for part in content for text in texts_of(part, keys)]
    if isinstance(content, dict):
        found = next((content[key] for key in keys if content.get(key)), None)
        return [] if found is None else texts_of(found, keys)
    return []
