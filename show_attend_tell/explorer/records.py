"""The explorer's view of attention records, which needs neither a model nor a data set.

A record holds a caption and its maps, but no probabilities of words: the view leaves out what
rests on them.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import entr

from show_attend_tell.data.images import Picture, picture_size
from show_attend_tell.data.vocabulary import join
from show_attend_tell.explorer.answers import (
    Grid,
    NamedBox,
    PictureFacts,
    Reading,
    RunFacts,
    Session,
    Step,
)
from show_attend_tell.explorer.offline import compact, content, described
from show_attend_tell.explorer.page import one_file
from show_attend_tell.inference.attention_record import MEASURED, AttentionRecord


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """What runs said of an image or a sentence.

    Attributes:
      records: by the names of the runs.
      picture: the image; None for a sentence.
    """

    records: Mapping[str, AttentionRecord]
    picture: Picture | None = None


def view(runs: Sequence[RunFacts], recorded: Sequence[Recorded]) -> str:
    """A page with captions and maps of several runs.

    Args:
      runs: the runs.
      recorded: each with a record of every run.

    Raises:
      UserError: a picture is damaged.
    """
    pictures: dict[str, Any] = {}
    readings: dict[str, dict[str, Any]] = {}
    for number, one in enumerate(recorded):
        if one.picture is None:
            key = _text(one, readings)
        else:
            key = f"picture-{number}"
            pictures[key] = described(_facts(key, one, one.picture), one.picture)
        readings[key] = {run.name: compact(_reading(run, one.records[run.name])) for run in runs}
    session = Session(runs=list(runs), examples=[], split=None, live=False)
    return one_file(content(session, pictures, readings, {}))


def _text(recorded: Recorded, others: Iterable[str]) -> str:
    """What the page calls a sentence: its text, and its id if another reads the same."""
    first = next(iter(recorded.records.values()))
    text = join(first.source)
    return f"{text} ({first.image_id})" if text in others else text


def _facts(key: str, recorded: Recorded, picture: Picture) -> PictureFacts:
    height, width = picture_size(picture)
    boxes = dict.fromkeys(
        (box.label, (box.ymin, box.xmin, box.ymax, box.xmax))
        for record in recorded.records.values()
        for box in record.boxes
    )
    return PictureFacts(
        id=key,
        name=next(iter(recorded.records.values())).image_id,
        width=width,
        height=height,
        boxes=[NamedBox(label=label, sides=sides) for label, sides in boxes],
        origin="split",
    )


def _reading(run: RunFacts, record: AttentionRecord) -> Reading:
    return Reading(
        run=run.name,
        text=record.text,
        steps=[_step(run, record, t) for t in range(len(record.tokens))],
        log_prob=record.log_prob,
        score=record.score,
        finished=record.finished,
        context=record.context,
        hard=record.context in ("argmax", "sample"),
        grid=Grid(
            rows=record.row_centres.tolist(),
            columns=record.column_centres.tolist(),
            measured=record.centres == MEASURED,
        ),
        source=list(record.source),
        cut=False,
        seconds=0,
    )


def _step(run: RunFacts, record: AttentionRecord, t: int) -> Step:
    prior = record.alpha[t].astype(np.float64)
    null = max(0.0, 1.0 - float(prior.sum())) if run.null_place else 0.0
    return Step(
        word=record.tokens[t],
        log_p=None,
        top=[],
        beta=float(record.beta[t]),
        location=int(record.location[t]),
        gaze=None,
        prior=prior.tolist(),
        null=null,
        entropy=float(entr(prior).sum() + entr(null)),
        posterior=None,
    )
