"""The first captions of each validation, drawn for trackers.

A tracker away from this machine gets no part of the data set unless the user says so: many data
sets, such as Flickr8k, may not be passed on. The maps then lie over white, and the words of a
source sentence are numbers.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image

from show_attend_tell.data.base_task import Task
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.images import SIDE, read_picture
from show_attend_tell.data.subject import Subject
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.inference.attention_record import AttentionRecord
from show_attend_tell.inference.captioning import Caption, attention_record
from show_attend_tell.models.encoders import Encoder
from show_attend_tell.reports.attention_pictures import alignment_picture, attention_picture
from show_attend_tell.runs.metrics_log import MetricWriter
from show_attend_tell.runs.tracking import Picture
from show_attend_tell.settings import Settings

DRAWN = 4  # captions of a validation; drawing one takes about half a second


class TrackedCaptions:
    """Hands the first captions of each validation to a run's trackers."""

    def __init__(
        self,
        writer: MetricWriter,
        task: Task,
        encoder: Encoder,
        source_vocabulary: AnyVocabulary | None,
        examples: ExampleSource,
        settings: Settings,
    ):
        """All of the run; `examples` are those of the validation split."""
        self._writer, self._task, self._encoder = writer, task, encoder
        self._source_vocabulary = source_vocabulary
        self._decoding, self._normalised = settings.decode, settings.attention.normalised
        self._subjects = [task.subject(examples[i]) for i in range(min(DRAWN, len(examples)))]

    def write(self, step: int, captions: Sequence[Caption]) -> None:
        """Hands on the first captions, made after `step` steps; others draw them."""
        self._writer.captions(step, partial(self._draw, captions[:DRAWN]))

    def _draw(self, captions: Sequence[Caption], photographs: bool) -> list[Picture]:
        """Draws captions, with or without what the data set contains.

        Leaves out what cannot be drawn: a picture that has become unreadable, weights that are NaN.
        """
        drawn = []
        for subject, caption in zip(self._subjects, captions, strict=False):
            try:
                image = self._image(subject, caption, photographs)
            except (UserError, ValueError):
                continue
            drawn.append(Picture(subject.name, caption.text, image))
        return drawn

    def _image(self, subject: Subject, caption: Caption, photographs: bool) -> Image.Image:
        count = caption.alpha.shape[1]
        places = self._task.places(subject, count, self._encoder, self._source_vocabulary)
        record = attention_record(subject.name, places, caption, self._decoding, self._normalised)
        if not photographs:
            record = _without_data(record)
        if subject.picture is None:
            return alignment_picture(record)
        picture = read_picture(subject.picture, SIDE)
        return attention_picture(picture if photographs else np.full_like(picture, 255), record)


def _without_data(record: AttentionRecord) -> AttentionRecord:
    """A record without boxes and source words; these become their numbers, from 1."""
    numbers = tuple(str(i) for i in range(1, len(record.source) + 1))
    return dataclasses.replace(record, boxes=(), source=numbers)
