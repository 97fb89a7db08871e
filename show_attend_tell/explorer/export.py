"""The explorer in one HTML file: pictures, captions, maps and forced gazes, computed beforehand."""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from show_attend_tell import files
from show_attend_tell.errors import UserError
from show_attend_tell.explorer.answers import PictureFacts, Reading, Session, Table, WordChance
from show_attend_tell.explorer.explorer import Explorer
from show_attend_tell.explorer.page import one_file
from show_attend_tell.explorer.pictures import THUMBNAIL, jpeg

LARGEST = 50_000_000  # bytes of a file
SIDE = 512  # pixels of an exported picture
_DIGITS = 4  # of exported probabilities and weights


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
            seen = respondent.see_picture(key, kept.picture)
            reading = respondent.caption(seen)
            readings[key][respondent.name] = compact(reading)
            gazes[key][respondent.name] = compact_cells(respondent.gazes_of(seen, reading))
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


def content(
    session: Session,
    pictures: dict[str, Any],
    readings: dict[str, dict[str, Any]],
    gazes: dict[str, dict[str, Any]],
    table: Table | None = None,
) -> dict[str, Any]:
    """What the page answers from, where there is no server."""
    shown = [PictureFacts.model_validate(picture["facts"]) for picture in pictures.values()]
    session = session.model_copy(
        update={"examples": shown, "offline": True, "live": False, "hint": "", "sentences": []}
    )
    rows = None
    if table is not None:
        kept = [row for row in table.rows if row.picture in pictures]
        found = {"rows": kept, "total": len(kept), "ready": len(kept)}
        rows = table.model_copy(update=found).model_dump()
    return {
        "session": session.model_dump(),
        "pictures": pictures,
        "readings": readings,
        "gazes": gazes,
        "table": rows,
    }


def described(facts: PictureFacts, picture: bytes) -> dict[str, Any]:
    """A picture in a page."""
    return {
        "facts": facts.model_dump(),
        "image": _data_uri(jpeg(picture, SIDE)),
        "thumbnail": _data_uri(jpeg(picture, THUMBNAIL)),
    }


def compact(reading: Reading) -> dict[str, Any]:
    """A reading with weights of a few digits."""
    made = reading.model_dump()
    for step in made["steps"]:
        for name in ("prior", "posterior"):
            step[name] = None if step[name] is None else [round(x, _DIGITS) for x in step[name]]
    return made


def compact_cells(steps: Iterable[Iterable[Iterable[WordChance]]]) -> list[Any]:
    """The likeliest words of every step and place, with probabilities of a few digits."""
    return [
        [[{"word": c.word, "p": round(c.p, _DIGITS)} for c in cell] for cell in cells]
        for cells in steps
    ]


def _data_uri(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
