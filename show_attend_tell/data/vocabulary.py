"""The words, or pieces of words, that a model reads and writes, and their ids.

A `Vocabulary` counts whole words in the training texts; `Subwords` learns pieces of words from
them. Both have the same four special ids, and next the tokens of their languages if these are
several (see `tokens`). `build_vocabulary` makes either, `load` reads either.

Symbol: V tokens of a vocabulary, specials included.
"""

import base64
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from show_attend_tell import files
from show_attend_tell.data import ptb_tokenizer, splitting
from show_attend_tell.errors import UserError
from show_attend_tell.files import parse_json
from show_attend_tell.tokens import BOS, EOS, PAD, SPECIALS, UNK, language_token, starts_of

WORD_BEGINS = "\u2581"  # in a piece of a word: a word begins here


def split_words(text: str) -> list[str]:
    """Words and punctuation marks as written; hyphens and apostrophes stay in words.

    So do the vowel signs and accents that are characters of their own, as in Hindi.
    """
    return _words("" if text.isascii() else _marks()).findall(text.replace(WORD_BEGINS, " "))


@cache
def _words(marks: str) -> re.Pattern[str]:
    letter = rf"[\w{marks}]"
    return re.compile(rf"{letter}+(?:[-'’]{letter}+)*|[^\w\s]")


@cache
def _marks() -> str:
    """Unicode's combining marks and joiners, for a class of a regular expression."""
    marks = [c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c)[0] == "M"]
    return "".join(marks) + "\u200c\u200d"


TOKENIZERS = {
    "ptb": ptb_tokenizer.tokenize,
    "words": split_words,
    "13a": splitting.tokenize,
}


def join(tokens: Iterable[str]) -> str:
    """The text of words, or of pieces of words."""
    tokens = list(tokens)
    if any(WORD_BEGINS in token for token in tokens):
        return "".join(tokens).replace(WORD_BEGINS, " ").strip()
    return splitting.joined(tokens)


def whole_words(tokens: Sequence[str]) -> list[tuple[int, str]]:
    """The words that tokens spell, each with the number of the last token of it.

    Tokens that are words stay as they are. Of pieces of words, those that end a word and those that
    only punctuate are words of their own.
    """
    if not any(WORD_BEGINS in token for token in tokens):
        return list(enumerate(tokens))
    found: list[tuple[int, str]] = []
    goes_on = False
    for number, token in enumerate(tokens):
        spelt = token.replace(WORD_BEGINS, "")
        part = token not in SPECIALS and any(map(str.isalnum, spelt))
        if part and goes_on and not token.startswith(WORD_BEGINS):
            spelt = found.pop()[1] + spelt
        goes_on = part or token == WORD_BEGINS
        found.append((number, spelt))
    return found


@dataclass(frozen=True)
class Vocabulary:
    """V words with ids 0 .. V-1, the first four of which are `<pad> <bos> <eos> <unk>`.

    Count words in the training split only. Xu et al. keep the 10,000 most frequent words; here a
    word can also need a minimum count. Other words become `<unk>` in the targets, but never in the
    references that captions are scored against.

    Attributes:
      words: the words of ids 4 .. V-1, the tokens of languages first, then most frequent first,
        equal counts in alphabetical order.
      counts: how often each of them occurs in the counted texts; `min_count` for a language.
      min_count: smallest count of a kept word.
      tokenizer: splits a text into words, see `settings.ImageData`.
      languages: between which the texts are divided, if there are several.
    """

    words: tuple[str, ...]
    counts: tuple[int, ...]
    min_count: int
    tokenizer: str = "ptb"
    languages: tuple[str, ...] = ()

    @classmethod
    def from_captions(
        cls,
        tokenized: Iterable[Sequence[str]],
        min_count: int,
        tokenizer: str = "ptb",
        vocabulary_size: int = 0,
        languages: tuple[str, ...] = (),
    ) -> "Vocabulary":
        """Counts the words of tokenized captions.

        Skips tokens that read like a special, such as "<unk>", which would have two ids.

        Args:
          tokenized: the words of each caption.
          min_count: occurrences that a word needs to be kept.
          tokenizer: one of `TOKENIZERS`, which split the captions.
          vocabulary_size: number of words to keep, the most frequent ones; 0 keeps all.
          languages: of the captions, if there are several.
        """
        counter = Counter(token for tokens in tokenized for token in tokens)
        tokens = [(language_token(language), min_count) for language in languages]
        never = {*SPECIALS, *dict(tokens)}
        kept = [(w, n) for w, n in counter.items() if n >= min_count and w not in never]
        kept.sort(key=lambda pair: (-pair[1], pair[0]))
        kept = tokens + kept[: vocabulary_size or None]
        words, counts = tuple(w for w, _ in kept), tuple(n for _, n in kept)
        return cls(words, counts, min_count, tokenizer, languages)

    def __len__(self) -> int:
        return len(SPECIALS) + len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        first = len(self.languages)  # a text holds no token of a language
        return {w: i for i, w in enumerate(self.words[first:], start=len(SPECIALS) + first)}

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Ids of the tokens, `<unk>` for those not kept. Adds neither `<bos>` nor `<eos>`."""
        return [self._ids.get(token, UNK) for token in tokens]

    def encode_text(self, text: str) -> list[int]:
        """Ids of the words of a text. Adds neither `<bos>` nor `<eos>`."""
        return self.encode(TOKENIZERS[self.tokenizer](text))

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Words up to the first `<eos>`, without `<pad>` and `<bos>`.

        Raises:
          IndexError: an id is outside 0 .. V-1.
        """
        said = _said(ids, len(self), "word")
        return [(SPECIALS[i] if i < len(SPECIALS) else self.words[i - len(SPECIALS)]) for i in said]

    def save(self, path: Path) -> None:
        """Writes the vocabulary as JSON; the file is replaced as a whole."""
        content = {"min_count": self.min_count, "words": self.words, "counts": self.counts}
        if self.tokenizer != "ptb":
            content["tokenizer"] = self.tokenizer
        if self.languages:
            content["languages"] = self.languages
        files.write_text(path, json.dumps(content, ensure_ascii=False))

    @classmethod
    def from_content(cls, path: Path, content: dict[str, Any]) -> "Vocabulary":
        """The vocabulary that `save` wrote.

        Args:
          path: of the file, for error messages.
          content: of the file.

        Raises:
          UserError: it is not a vocabulary.
        """
        tokenizer, languages = content.pop("tokenizer", "ptb"), _languages(path, content)
        if not isinstance(tokenizer, str) or tokenizer not in TOKENIZERS:
            raise _not_a_vocabulary(path, f"tokenizer {tokenizer!r} is not known")
        if set(content) != {"min_count", "words", "counts"}:
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
        if words[: len(languages)] != list(map(language_token, languages)):
            raise _not_a_vocabulary(path, "its words do not begin with its languages")
        return cls(tuple(words), tuple(counts), min_count, tokenizer, languages)


class Subwords:
    """V pieces of words, learnt by sentencepiece (byte-pair encoding, Sennrich et al. 2016).

    Joined pieces are the text as it was written, so decoding needs no other step. Ids 0 to 3 are
    the specials, as in `Vocabulary`.
    """

    tokenizer = "sentencepiece"

    def __init__(self, model: bytes, languages: tuple[str, ...] = ()):
        """Takes a serialized sentencepiece model, and the languages of its texts if several.

        Raises:
          RuntimeError: it is not a sentencepiece model.
          ValueError: it has other special ids.
        """
        import sentencepiece

        self._model, self.languages = model, languages
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        names = (*SPECIALS, *map(language_token, languages))
        found = [self._processor.piece_to_id(name) for name in names]
        if found != list(range(len(names))):
            raise ValueError(f"its special ids are {found}")

    @classmethod
    def from_texts(
        cls, texts: Iterable[str], size: int, languages: tuple[str, ...] = ()
    ) -> "Subwords":
        """Learns at most `size` pieces from texts; the same texts give the same pieces.

        Of several `languages`, the tokens are among the pieces.

        Raises:
          UserError: the texts cannot be written with so few pieces.
        """
        import sentencepiece

        written = io.BytesIO()
        specials: dict[str, Any] = {}
        for number, name in enumerate(SPECIALS):
            kind = name.strip("<>")
            specials |= {f"{kind}_id": number, f"{kind}_piece": name}
        if languages:
            specials["control_symbols"] = list(map(language_token, languages))
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=written,
                vocab_size=size,
                model_type="bpe",
                character_coverage=1.0,
                normalization_rule_name="identity",  # so that texts come back as written
                max_sentence_length=2**20,  # bytes; longer texts would be left out
                hard_vocab_limit=False,
                num_threads=1,
                minloglevel=2,
                **specials,
            )
        except RuntimeError as error:
            raise UserError(
                f"config.data.subwords is {size}: sentencepiece cannot write the training "
                f"texts with so few pieces ({' '.join(str(error).split())[-120:]})"
            ) from error
        return cls(written.getvalue(), languages)

    def __len__(self) -> int:
        return len(self._processor)

    @property
    def words(self) -> tuple[str, ...]:
        """The pieces of ids 4 .. V-1."""
        ids = range(len(SPECIALS), len(self))
        return tuple(self._processor.id_to_piece(i) for i in ids)

    def encode_text(self, text: str) -> list[int]:
        """Ids of the pieces of a text. Adds neither `bos` nor `eos`."""
        return self._processor.encode(text)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Pieces up to the first `<eos>`, without `<pad>` and `<bos>`.

        Raises:
          IndexError: an id is outside 0 .. V-1.
        """
        pieces = [self._processor.id_to_piece(i) for i in _said(ids, len(self), "piece")]
        if pieces and not pieces[0].startswith(WORD_BEGINS):  # a text begins with a word
            pieces[0] = WORD_BEGINS + pieces[0]
        return pieces

    def save(self, path: Path) -> None:
        """Writes the pieces as JSON; the file is replaced as a whole."""
        model = base64.b64encode(self._model).decode()
        content: dict[str, Any] = {"tokenizer": self.tokenizer, "model": model}
        if self.languages:
            content["languages"] = self.languages
        files.write_text(path, json.dumps(content))

    @classmethod
    def from_content(cls, path: Path, content: dict[str, Any]) -> "Subwords":
        """The pieces that `save` wrote.

        Args:
          path: of the file, for error messages.
          content: of the file.

        Raises:
          UserError: it does not hold a sentencepiece model.
        """
        try:
            model = base64.b64decode(content["model"], validate=True)
            return cls(model, _languages(path, content))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _not_a_vocabulary(path, "its sentencepiece model is damaged") from error


AnyVocabulary = Vocabulary | Subwords


def _said(ids: Iterable[int], size: int, noun: str) -> Iterator[int]:
    """The ids up to the first `<eos>`, without `<pad>` and `<bos>`.

    Raises:
      IndexError: an id is outside 0 .. size - 1; the message calls it a `noun` id.
    """
    for i in ids:
        if not 0 <= i < size:
            raise IndexError(f"{noun} id {i} is not in 0..{size - 1}")
        if i == EOS:
            return
        if i not in (PAD, BOS):
            yield i


def start_of(vocabulary: AnyVocabulary, language: str) -> int:
    """The id that a caption in a language begins with.

    Raises:
      UserError: the vocabulary has no such language.
    """
    if not vocabulary.languages:
        return BOS
    if language not in vocabulary.languages:
        known = ", ".join(vocabulary.languages)
        raise UserError(f"the model does not speak {language!r}; choose one of {known}")
    return starts_of(vocabulary.languages)[vocabulary.languages.index(language)]


def encode_captions(
    captions: Iterable[Sequence[str]], vocabulary: AnyVocabulary
) -> list[list[list[int]]]:
    """The ids of each caption of each example, `<eos>` included."""
    ids_of = cache(vocabulary.encode_text)  # most copies of an image share their captions
    return [[[*ids_of(c), EOS] for c in of_one] for of_one in captions]


def build_vocabulary(
    texts: Iterable[str],
    *,
    kind: str,
    min_count: int,
    size: int,
    subwords: int,
    languages: tuple[str, ...] = (),
) -> AnyVocabulary:
    """The vocabulary of training texts.

    Args:
      texts: of the training split.
      kind: "subwords", or a tokenizer of words, one of `TOKENIZERS`.
      min_count: occurrences that a word needs, >= 1; unused for subwords.
      size: most frequent words to keep, 0 for all; unused for subwords.
      subwords: largest number of pieces, >= 1; unused for words.
      languages: of the texts, if they are several.

    Raises:
      UserError: the texts cannot be written with so few pieces, or no word occurs often enough.
    """
    if kind == "subwords":
        return Subwords.from_texts(texts, subwords, languages)
    tokenized = map(cache(TOKENIZERS[kind]), texts)  # many captions occur more than once
    vocabulary = Vocabulary.from_captions(tokenized, min_count, kind, size, languages)
    if len(vocabulary.words) == len(languages):
        raise UserError(
            f"config.data.min_count is {min_count}, but no word of the training captions occurs so "
            "often; lower it"
        )
    return vocabulary


def load(path: Path) -> AnyVocabulary:
    """Reads a vocabulary that `save` wrote, of words or of pieces.

    Raises:
      UserError: the file is missing or is not a vocabulary.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the vocabulary ({error.strerror}); training writes it"
        ) from error
    except ValueError as error:
        raise _not_a_vocabulary(path, "it is not JSON") from error
    if not isinstance(content, dict):
        raise _not_a_vocabulary(path, "it is not a JSON object")
    kind = Subwords if content.get("tokenizer") == Subwords.tokenizer else Vocabulary
    return kind.from_content(path, content)


def _languages(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """Takes the languages out of the content of a file."""
    languages = content.pop("languages", [])
    if not isinstance(languages, list) or not all(isinstance(name, str) for name in languages):
        raise _not_a_vocabulary(path, "languages is not a list of names")
    return tuple(languages)


def _not_a_vocabulary(path: Path, why: str) -> UserError:
    return UserError(f"{path}: not a vocabulary, {why}; restore the file or train again")
