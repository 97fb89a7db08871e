"""METEOR's paraphrases: 5.3 million pairs of phrases, as an index that is read from disk.

pycocoevalcap ships the table as 62 MB of compressed text, which takes seconds to read. The first
use writes an index of it into the cache folder; later ones map that file into memory. The index
holds a hash of 64 bits for each phrase. All 2,616,378 phrases of the table have different ones.

Shapes: P pairs, Q phrases that have paraphrases, N bytes, W words or phrases, M numbers of a file.
"""

import functools
import gzip
import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from show_attend_tell import files, machine
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation import meteor_words

TABLE = meteor_words.FOLDER / "data" / "paraphrase-en.gz"
LONGEST = 7  # words of a phrase of the table

_FORMAT = 1  # of the index; changes with its contents
_CHUNK = 2**21  # bytes
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_NEWLINE, _SPACE = b"\n "


class Phrases(NamedTuple):
    """The phrases of one text that may have paraphrases in another.

    places: by a phrase's hash, its number of words and the words where it begins, in order.
    known: those in the table: first word, number of words, and the paraphrases' hashes as a set
      and in the table's order. In the order of first words, short phrases before long ones.
    hashes: the keys of `places`.
    """

    places: dict[int, tuple[int, list[int]]]
    known: list[tuple[int, int, frozenset[int], list[int]]]
    hashes: frozenset[int]


class Index(NamedTuple):
    """The paraphrases of each phrase: those of phrase i are right[starts[i]:starts[i + 1]]."""

    left: UInt64[np.ndarray, " Q"]  # sorted
    starts: UInt64[np.ndarray, " Q+1"]
    right: UInt64[np.ndarray, " P"]


def find(texts: Sequence[Sequence[str]]) -> list[Phrases]:
    """The phrases of texts, each given by its words, and the paraphrases of those phrases."""
    index = _index()
    found = [Phrases({}, [], frozenset()) for _ in texts]
    filled = [i for i, words in enumerate(texts) if words]
    if not filled:
        return found
    sizes = np.array([len(texts[i]) for i in filled])
    buffer = np.frombuffer("\n".join(" ".join(texts[i]) for i in filled).encode(), np.uint8)
    breaks = np.flatnonzero((buffer == _SPACE) | (buffer == _NEWLINE))
    starts, ends = np.append(0, breaks + 1), np.append(breaks, len(buffer))
    # Hashes of all phrases of 1 .. LONGEST words, with the first word's place in its text.
    owner = np.repeat(np.arange(len(filled)), sizes)
    place = np.arange(len(starts)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    columns = []
    for n in range(1, LONGEST + 1):
        begin = np.flatnonzero(place + n <= sizes[owner])
        hashes = _hashes(buffer, starts[begin], ends[begin + n - 1])
        columns.append((begin, np.full(len(begin), n), hashes))
    begin, count, hashes = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    order = np.argsort(begin, kind="stable")
    begin, count, hashes = begin[order], count[order], hashes[order]
    entry = np.searchsorted(index.left, hashes)
    entry[index.left[np.minimum(entry, len(index.left) - 1)] != hashes] = -1

    @functools.cache
    def paraphrases(i: int) -> tuple[frozenset[int], list[int]]:
        right = index.right[int(index.starts[i]) : int(index.starts[i + 1])].tolist()
        return frozenset(right), right

    rows = zip(
        *(c.tolist() for c in (owner[begin], place[begin], count, hashes, entry)), strict=True
    )
    for text, first, words, value, known in rows:
        phrases = found[filled[text]]
        phrases.places.setdefault(value, (words, []))[1].append(first)
        if known >= 0:
            phrases.known.append((first, words, *paraphrases(known)))
    return [one._replace(hashes=frozenset(one.places)) for one in found]


@functools.cache
def _powers(size: int) -> tuple[UInt64[np.ndarray, " N"], UInt64[np.ndarray, " N"]]:
    """The powers of the base and of its inverse, modulo 2^64."""
    both = []
    for base in (_BASE, pow(_BASE, -1, 2**64)):
        powers = np.full(size, base, np.uint64)
        powers[0] = 1
        both.append(np.multiply.accumulate(powers))
    return both[0], both[1]


def _hashes(
    buffer: UInt8[np.ndarray, " N"], starts: Int64[np.ndarray, " W"], ends: Int64[np.ndarray, " W"]
) -> UInt64[np.ndarray, " W"]:
    """Polynomial hashes of the bytes from each start to its end, modulo 2^64."""
    powers, inverses = _powers(2 ** max(10, len(buffer)).bit_length())
    sums = np.zeros(len(buffer) + 1, np.uint64)
    np.cumsum(buffer * powers[: len(buffer)], out=sums[1:])
    return (sums[ends] - sums[starts]) * inverses[starts]


@functools.cache
def _index() -> Index:
    """The index of the cache folder, which is written if it is not there."""
    try:
        size = TABLE.stat().st_size
    except OSError as error:
        raise UserError(f"METEOR needs {TABLE} ({error}): install pycocoevalcap again") from error
    path = machine.cache_folder() / f"meteor-{_FORMAT}-{size}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(path.with_suffix(".lock")):
            if not path.is_file():
                packed = _pack(_read_table())
                with files.replacing(path) as file:
                    np.save(file, packed)
        return _unpack(np.load(path, mmap_mode="r"))
    except OSError as error:
        logging.warning("METEOR's paraphrases are indexed again each time: %s", error)
        return _unpack(_pack(_read_table()))


def _pack(index: Index) -> UInt64[np.ndarray, " M"]:
    return np.concatenate([np.array([len(index.left)], np.uint64), *index])


def _unpack(packed: UInt64[np.ndarray, " M"]) -> Index:
    size = int(packed[0])
    return Index(packed[1 : 1 + size], packed[1 + size : 2 + 2 * size], packed[2 + 2 * size :])


def _read_table() -> Index:
    """The index of the table: lines of a probability, a phrase and its paraphrase, in turn."""
    logging.info("indexing METEOR's paraphrases, once on this machine")
    try:
        pairs = [_pairs(chunk) for chunk in _chunks(TABLE)]
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"METEOR cannot read {TABLE} ({error}): install pycocoevalcap again"
        ) from error
    left, right = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    order = np.argsort(left, kind="stable")  # a phrase's paraphrases keep the table's order
    phrases, starts = np.unique(left[order], return_index=True)
    return Index(phrases, np.append(starts, len(left)).astype(np.uint64), right[order])


def _chunks(path: Path) -> Iterator[bytes]:
    """The file's text in pieces of whole triples of lines."""
    rest = b""
    with gzip.open(path) as file:
        while chunk := file.read(_CHUNK):
            chunk = rest + chunk
            lines = np.flatnonzero(np.frombuffer(chunk, np.uint8) == _NEWLINE)
            last = len(lines) // 3 * 3
            end = int(lines[last - 1]) + 1 if last else 0
            rest = chunk[end:]
            yield chunk[:end]


def _pairs(chunk: bytes) -> tuple[UInt64[np.ndarray, " W"], UInt64[np.ndarray, " W"]]:
    buffer = np.frombuffer(chunk, np.uint8)
    ends = np.flatnonzero(buffer == _NEWLINE)
    starts = ends[:-1] + 1
    hashes = _hashes(
        buffer, np.append(starts[::3], starts[1::3]), np.append(ends[1::3], ends[2::3])
    )
    return hashes[: len(hashes) // 2], hashes[len(hashes) // 2 :]
