"""What a page that has no server answers from."""

import base64
from collections.abc import Iterable
from typing import Any

from show_attend_tell.data.images import SIDE, Picture, jpeg
from show_attend_tell.explorer.answers import PictureFacts, Reading, Session, Table, WordChance
from show_attend_tell.explorer.pictures import THUMBNAIL

_DIGITS = 4  # of probabilities and weights


def content(
    session: Session,
    pictures: dict[str, Any],
    readings: dict[str, dict[str, Any]],
    gazes: dict[str, dict[str, Any]],
    table: Table | None = None,
) -> dict[str, Any]:
    """What the page answers from, where there is no server.

    Args:
      session: what it was made with.
      pictures: each as `described`, by id.
      readings: of each run, by the picture's id or the sentence's text.
      gazes: the words of every place, likewise; without any, the page forces no gaze.
      table: of the split, if there is one.
    """
    shown = [PictureFacts.model_validate(picture["facts"]) for picture in pictures.values()]
    sentences = [text for text in readings if text not in pictures]
    held = {"examples": shown, "sentences": sentences}
    session = session.model_copy(update=held | {"offline": True, "live": False, "hint": ""})
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


def described(facts: PictureFacts, picture: Picture) -> dict[str, Any]:
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
