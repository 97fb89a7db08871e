"""The explorer's view of captions, as a notebook shows it below a cell."""

from collections.abc import Sequence
from hashlib import sha256

from show_attend_tell.data.images import Picture, picture_size
from show_attend_tell.explorer.answers import PictureFacts, Session
from show_attend_tell.explorer.offline import content, described
from show_attend_tell.explorer.page import one_file
from show_attend_tell.explorer.pictures import encoded
from show_attend_tell.explorer.records import Recorded
from show_attend_tell.explorer.records import view as view_of_records
from show_attend_tell.explorer.respondent import Respondent
from show_attend_tell.inference.attention_record import AttentionRecord
from show_attend_tell.inference.run import Run


def view(
    run: Run,
    names: Sequence[str],
    pictures: Sequence[Picture],
    records: Sequence[AttentionRecord],
) -> str:
    """A page with pictures, their captions and maps, and what each place would have said.

    Args:
      run: that made the captions.
      names, pictures: what was captioned.
      records: the captions; they are shown as they are, not made anew.
    """
    respondent = Respondent(run.workdir.name or "model", run)
    files = [encoded(picture) for picture in pictures]
    if run.settings.attention.null_place and any(one.context == "sample" for one in records):
        # Probabilities rest on which steps drew the null place, which records do not say.
        recorded = zip(records, files, strict=True)
        parts = [Recorded({respondent.name: one}, file) for one, file in recorded]
        return view_of_records([respondent.facts()], parts)
    shown, readings, gazes = {}, {}, {}
    for number, (name, content_of, record) in enumerate(zip(names, files, records, strict=True)):
        key = f"picture-{number}-{sha256(content_of).hexdigest()[:12]}"
        height, width = picture_size(content_of)
        facts = PictureFacts(id=key, name=name, width=width, height=height, origin="upload")
        shown[key] = described(facts, content_of)
        reading, cells = respondent.for_file(key, content_of, record)
        readings[key], gazes[key] = {respondent.name: reading}, {respondent.name: cells}
    session = Session(
        runs=[respondent.facts()],
        examples=[],  # `content` lists the shown pictures
        split=None,
        live=False,
        offline=True,
    )
    return one_file(content(session, shown, readings, gazes))
