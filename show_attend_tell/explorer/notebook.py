"""The explorer's view of captions, as a notebook shows it below a cell."""

from collections.abc import Sequence
from hashlib import sha256

from show_attend_tell.data.images import Picture, picture_size
from show_attend_tell.explorer.answers import PictureFacts, Session
from show_attend_tell.explorer.offline import content, described
from show_attend_tell.explorer.page import one_file
from show_attend_tell.explorer.pictures import encoded
from show_attend_tell.explorer.respondent import Respondent
from show_attend_tell.inference.run import Run


def view(run: Run, names: Sequence[str], pictures: Sequence[Picture]) -> str:
    """A page with pictures, their captions and maps, and what each place would have said."""
    respondent = Respondent(run.workdir.name or "model", run)
    shown, readings, gazes = {}, {}, {}
    for number, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        content_of = encoded(picture)
        key = f"picture-{number}-{sha256(content_of).hexdigest()[:12]}"
        height, width = picture_size(content_of)
        facts = PictureFacts(id=key, name=name, width=width, height=height, origin="upload")
        shown[key] = described(facts, content_of)
        reading, cells = respondent.for_file(key, content_of)
        readings[key], gazes[key] = {respondent.name: reading}, {respondent.name: cells}
    session = Session(
        runs=[respondent.facts()],
        examples=[],  # `content` lists the shown pictures
        split=None,
        live=False,
        offline=True,
    )
    return one_file(content(session, shown, readings, gazes))
