"""The words a decoder can say, counted on the training captions, and their ids."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from show_attend_tell import files
from show_attend_tell.errors import UserError

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class Vocabulary:
    """V words with ids 0 .. V-1, of which the first four are `<pad> <bos> <eos> <unk>`.

    Count it on the training split alone. The paper keeps the 10,000 most frequent words; here the
    threshold is a minimum count, and rarer words become `<unk>` in the targets (never in the
    references that a caption is scored against).

    Attributes:
        words: the words of ids 4 .. V-1, most frequent first, equal counts in alphabetical order.
        counts: how often each of them occurs in the captions counted.
        min_count: the smallest count a word was kept at.
    """

    words: tuple[str, ...]
    counts: tuple[int, ...]
    min_count: int

    pad: ClassVar[int] = 0
    bos: ClassVar[int] = 1
    eos: ClassVar[int] = 2
    unk: ClassVar[int] = 3

    @classmethod
    def from_captions(cls, tokenized: Iterable[Sequence[str]], min_count: int) -> "Vocabulary":
        """Keeps the words that occur at least `min_count` times in the tokenized captions.

        A token that reads like a special ("<unk>") is not counted: it would have two ids.
        """
        counter = Counter(token for tokens in tokenized for token in tokens)
        kept = [(w, n) for w, n in counter.items() if n >= min_count and w not in SPECIALS]
        kept.sort(key=lambda pair: (-pair[1], pair[0]))
        return cls(tuple(w for w, _ in kept), tuple(n for _, n in kept), min_count)

    def __len__(self) -> int:
        return len(SPECIALS) + len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words, start=len(SPECIALS))}

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Ids of the tokens, `unk` for those not kept. Adds neither `bos` nor `eos`."""
        return [self._ids.get(token, self.unk) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Words up to the first `eos`, without `pad` and `bos`; `unk` reads "<unk>".

        Raises:
            IndexError: for an id outside 0 .. V-1.
        """
        tokens = []
        for i in ids:
            if not 0 <= i < len(self):
                raise IndexError(f"word id {i} is not in 0..{len(self) - 1}")
            if i == self.eos:
                break
            if i not in (self.pad, self.bos):
                tokens.append(SPECIALS[i] if i < len(SPECIALS) else self.words[i - len(SPECIALS)])
        return tokens

    def save(self, path: Path) -> None:
        """Writes the vocabulary as JSON; a reader sees the old file or the new one, never half."""
        content = {"min_count": self.min_count, "words": self.words, "counts": self.counts}
        files.write_text(path, json.dumps(content, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads what `save` wrote.

        Raises:
            UserError: where the file is missing or is not a vocabulary.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"{path}: cannot read the vocabulary ({error.strerror}); training writes it"
            ) from error
        except ValueError as error:
            raise _not_a_vocabulary(path, "it is not JSON") from error
        if not isinstance(content, dict) or set(content) != {"min_count", "words", "counts"}:
            raise _not_a_vocabulary(path, "it needs exactly min_count, words and counts")
        words, counts, min_count = content["words"], content["counts"], content["min_count"]
        if type(min_count) is not int:
            raise _not_a_vocabulary(path, "min_count is not a whole number")
        if not isinstance(words, list) or not all(isinstance(w, str) and w for w in words):
            raise _not_a_vocabulary(path, "words is not a list of words")
        if len(set(words)) != len(words) or set(words) & set(SPECIALS):
            raise _not_a_vocabulary(path, "a word occurs twice")
        if not isinstance(counts, list) or len(counts) != len(words):
            raise _not_a_vocabulary(path, "counts does not match words")
        if not all(type(n) is int and n >= min_count for n in counts):
            raise _not_a_vocabulary(path, "a count is not a whole number of at least min_count")
        return cls(tuple(words), tuple(counts), min_count)


def _not_a_vocabulary(path: Path, why: str) -> UserError:
    return UserError(f"{path}: not a vocabulary, {why}; restore the file or train again")
