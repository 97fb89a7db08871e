"""CLIP's tokenizer: byte-level BPE over lower-cased words, with a model's own vocabulary.

Radford et al. 2021 (arXiv 2103.00020), section 2.4; byte pairs after Sennrich et al. 2016 (arXiv
1508.07909). A text is normalised (NFC, one space, lower case) and cut into words: runs of letters,
single digits, runs of other marks, and English contractions. Pairs of units merge within a word, in
the order in which the model learned them.
"""

import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from show_attend_tell.errors import UserError
from show_attend_tell.files import parse_json

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
FILES = ("tokenizer.json", "vocab.json", "merges.txt")  # the first, or both of the others
_CONTRACTIONS = ("s", "t", "re", "ve", "m", "ll", "d")  # after an apostrophe


class ClipTokenizer:
    """Turns texts into the ids of units.

    Attributes:
      begin, end: ids of the units before and after a text.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]):
        """Takes a model's units.

        Args:
          vocabulary: unit to id.
          merges: pairs of units, the first learned first.

        Raises:
          UserError: the vocabulary lacks the units around a text.
        """
        for unit in (BEGIN, END):
            if unit not in vocabulary:
                raise UserError(f"the vocabulary lacks {unit}; is it another model's than CLIP's?")
        self.begin, self.end = vocabulary[BEGIN], vocabulary[END]
        self._vocabulary = vocabulary
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._units = cache(self._merged)

    @classmethod
    def load(cls, folder: Path) -> "ClipTokenizer":
        """Reads `tokenizer.json`, or `vocab.json` and `merges.txt`.

        Raises:
          UserError: a file is missing or damaged, or it is no BPE.
        """
        whole, vocabulary, merges = (folder / name for name in FILES)
        try:
            if whole.is_file():
                model = parse_json(whole.read_text(encoding="utf-8"))["model"]
                return cls(model["vocab"], [_pair(line) for line in model["merges"]])
            lines = merges.read_text(encoding="utf-8").splitlines()
            found = parse_json(vocabulary.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{folder} has no tokenizer: put the model's {FILES[0]}, or {FILES[1]} and "
                f"{FILES[2]}, beside its weights"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the tokenizer in {folder} cannot be read ({error}): fetch it again"
            ) from error
        pairs = [line for line in lines if line and not line.startswith("#version")]
        return cls(found, [_pair(line) for line in pairs])

    def ids(self, text: str) -> list[int]:
        """Ids of a text's units, without those around it."""
        found = []
        for word in _words(text):
            units = self._units("".join(BYTES[byte] for byte in word.encode()))
            found += [self._vocabulary.get(unit, self.end) for unit in units]
        return found

    def encode(self, texts: Sequence[str], length: int) -> Int[np.ndarray, "B T"]:
        """Ids of texts, each with a begin and an end, filled up with ends; too long ones are cut.

        Args:
          texts: B of them.
          length: T, at least 2.
        """
        rows = np.full((len(texts), length), self.end, np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.begin, *self.ids(text)[: length - 2]]
            row[: len(ids)] = ids
        return rows

    def _merged(self, word: str) -> tuple[str, ...]:
        """The units of a word, given as one character a byte."""
        units = [*word[:-1], word[-1] + WORD_END]
        while len(units) > 1:
            pairs = [*itertools.pairwise(units)]
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            merged, i = [], 0
            while i < len(units):
                both = tuple(units[i : i + 2]) == best
                merged.append("".join(best) if both else units[i])
                i += 2 if both else 1
            units = merged
        return tuple(units)


def _pair(merge: Any) -> tuple[str, str]:
    """Two units, written as one text or as a list."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _kind(character: str) -> str:
    """Letter, number, space or other mark."""
    kind = unicodedata.category(character)[0]
    return kind if kind in "LN" else " " if character.isspace() else "."


def _words(text: str) -> Iterator[str]:
    # Letter by letter: Python's own treats a sigma by its neighbours.
    text = "".join(map(str.lower, unicodedata.normalize("NFC", text)))
    start = 0
    while start < len(text):
        kind, stop = _kind(text[start]), start + 1
        if text[start] == "'":
            after = next((c for c in _CONTRACTIONS if text.startswith(c, stop)), "")
            if after:
                yield "'" + after
                start = stop + len(after)
                continue
        while kind != "N" and stop < len(text) and _kind(text[stop]) == kind:
            stop += 1
        if kind != " ":
            yield text[start:stop]
        start = stop


def _visible_bytes() -> dict[int, str]:
    """A visible character for every byte, as byte-level BPE has it: many stand for themselves."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in own)
    moved = {byte: chr(256 + i) for i, byte in enumerate(others)}
    return {byte: chr(byte) for byte in own} | moved


BYTES = _visible_bytes()
