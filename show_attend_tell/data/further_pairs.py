"""Further pairs of sentences to train on, from files of the user's (`config.data.further_dir`).

    train.SOURCE, train.TARGET    one sentence a line; line by line translations of each other

Files may be packed, as `.gz`. They are meant for pairs that are not as good as the data set's own,
such as those of back-translation (Sennrich, Haddow and Birch 2016, arXiv:1511.06709): sentences of
the target language, and what a model of the other direction makes of them.
"""

import logging
from pathlib import Path

from show_attend_tell.data.examples import Pair
from show_attend_tell.data.multi30k_files import find_text
from show_attend_tell.data.text_files import read_lines
from show_attend_tell.errors import UserError

REMEDY = (
    "set --config.data.further_dir to the folder with train.SOURCE and train.TARGET, such as "
    "train.en and train.de"
)

_log = logging.getLogger(__name__)


def read_further(folder: Path, languages: tuple[str, str] | None) -> list[Pair]:
    """The pairs of a folder. One with an empty side is left out, and a line says how many were.

    Args:
      folder: of the two files.
      languages: to read and to write.

    Raises:
      UserError: the languages are not named, a file is missing or cannot be read, the two differ in
        length, or no pair is left.
    """
    if languages is None:
        raise UserError(
            "config.data.further_dir needs the names of the languages: set config.data.source and "
            ".target, such as en and de"
        )
    files = [find_text(folder, "train", language, REMEDY) for language in languages]
    source, target = (read_lines(path, blank=True) for path in files)
    if len(source) != len(target):
        raise UserError(
            f"{files[0]} has {len(source)} lines, {files[1]} has {len(target)}: they are not "
            "translations of each other line by line; make both again"
        )
    both = list(zip(source, target, strict=True))
    pairs = [Pair(f"further-{i:06}", *pair) for i, pair in enumerate(both, 1) if all(pair)]
    if not pairs:
        raise UserError(f"{files[0]}, {files[1]}: every pair has an empty line; make both again")
    if len(pairs) < len(both):
        _log.warning(
            "%s: %d of %d pairs have an empty line; left out",
            *(folder, len(both) - len(pairs), len(both)),
        )
    return pairs
