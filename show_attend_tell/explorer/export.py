"""The explorer in one HTML file: pictures, captions, maps and forced gazes, computed beforehand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from show_attend_tell import files
from show_attend_tell.errors import UserError
from show_attend_tell.explorer.explorer import Explorer
from show_attend_tell.explorer.offline import content, described
from show_attend_tell.explorer.page import one_file

LARGEST = 50_000_000  # bytes of a file


def export(explorer: Explorer, path: Path, ids: Sequence[str]) -> int:
    """Writes the explorer with some of its pictures to one file.

    Args:
      explorer: with at least one run over pictures.
      path: of the file.
      ids: of the pictures.

    Returns:
      The size of the file in bytes.

    Raises:
      UserError: no run captions pictures, or the file would be larger than `LARGEST`.
    """
    respondents = [r for r in explorer.respondents.values() if not r.reads_words]
    if not respondents:
        raise UserError("an export shows pictures, and no run captions any; name one that does")
    readings: dict[str, dict[str, Any]] = {}
    gazes: dict[str, dict[str, Any]] = {}
    pictures: dict[str, Any] = {}
    size = 0
    for number, key in enumerate(ids, 1):
        kept = explorer.pictures[key]
        pictures[key] = described(kept.facts, kept.picture)
        readings[key], gazes[key] = {}, {}
        for respondent in respondents:
            name = respondent.name
            readings[key][name], gazes[key][name] = respondent.for_file(key, kept.picture)
        size += len(str(pictures[key])) + len(str(readings[key])) + len(str(gazes[key]))
        if size > LARGEST:
            raise UserError(
                f"{path}: would be over {LARGEST // 1_000_000} MB after {number} of {len(ids)} "
                "pictures; name fewer with --num"
            )
    table = None if explorer.browsing is None else explorer.browsing.table()
    html = one_file(content(explorer.session, pictures, readings, gazes, table))
    files.write_text(path, html)
    return len(html.encode())
