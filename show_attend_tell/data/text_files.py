"""Text files of one sentence a line."""

import gzip
import unicodedata
import zlib
from pathlib import Path

from show_attend_tell.errors import UserError


def one_line(text: str) -> str:
    """A sentence with single spaces between words, each letter with its marks one character."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def names_in(text: str) -> list[str]:
    """The names of files in a list, one a line, each once; a name may have spaces."""
    return list(dict.fromkeys(filter(None, map(str.strip, text.splitlines()))))


def read_content(path: Path) -> bytes:
    """The content of a text file, unpacked if it is called `.gz`.

    Raises:
      UserError: it cannot be read.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); get the file again") from error


def read_lines(path: Path, *, blank: bool = False) -> list[str]:
    """The sentences of a text file, one a line, see `one_line`.

    Args:
      path: of the file, packed if it is called `.gz`.
      blank: whether a line may be empty.

    Raises:
      UserError: it cannot be read, is not UTF-8, has an empty line that it must not have, or has no
        sentence; the message names the line.
    """
    lines = read_content(path).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    sentences = []
    for number, line in enumerate(lines, 1):
        try:
            sentence = one_line(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not UTF-8 ({error.reason}); convert the file to UTF-8"
            ) from error
        if not sentence and not blank:
            raise UserError(
                f"{path}, line {number}: empty; remove the line here and in its translation"
            )
        sentences.append(sentence)
    if not any(sentences):
        raise UserError(f"{path}: no sentence in it; get the file again")
    return sentences
