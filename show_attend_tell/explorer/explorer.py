"""All that an explorer knows: its runs, its pictures, the split that it shows."""

import io
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from show_attend_tell.data.examples import Example, ExampleSource
from show_attend_tell.data.scenes import render_scene
from show_attend_tell.errors import UserError
from show_attend_tell.explorer.answers import (
    CaptionQuestion,
    Gaze,
    GazeQuestion,
    Reading,
    Session,
)
from show_attend_tell.explorer.browsing import Browsing
from show_attend_tell.explorer.pictures import Pictures
from show_attend_tell.explorer.respondent import Respondent, Seen
from show_attend_tell.explorer.turns import Turns
from show_attend_tell.inference.run import Run

EXAMPLES = 6  # generated pictures to begin with
SOURCES = 12  # source sentences to begin with

_log = logging.getLogger(__name__)


class Unknown(LookupError):
    """A run or a picture that is not there; the message is for the asker."""


@dataclass(frozen=True, eq=False)
class Explorer:
    """What the server and an export ask. Make one with `open_explorer`.

    Attributes:
      respondents: its runs, by name.
      pictures: those that can be asked about.
      browsing: the table of the split; None without one.
      session: what it was started with.
      turns: whose turn it is to compute.
    """

    respondents: dict[str, Respondent]
    pictures: Pictures
    browsing: Browsing | None
    session: Session
    turns: Turns

    def caption(self, question: CaptionQuestion) -> Reading:
        """Answers a question.

        Raises:
          Unknown: the run or the picture is not there.
          UserError: the question makes no sense for that run.
        """
        respondent = self._respondent(question.run)
        with self.turns.person():
            seen = self._see(respondent, question)
            return respondent.caption(
                seen, question.steps, beam=question.beam, context=question.context
            )

    def gaze(self, question: GazeQuestion) -> Gaze:
        """Answers a question; errors as for `caption`."""
        respondent = self._respondent(question.run)
        with self.turns.person():
            seen = self._see(respondent, question)
            return respondent.gaze(seen, question.steps, question.word, question.context)

    def words(self, run: str, begins: str) -> list[str]:
        """A run's words that begin with `begins`; raises `Unknown`."""
        return self._respondent(run).begins(begins)

    def warm_up(self) -> None:
        """Asks every run once, so that nothing compiles while a person waits."""
        for respondent in self.respondents.values():
            try:
                with self.turns.background():
                    if respondent.reads_words:
                        seen = respondent.see_text("warm up")
                    else:
                        facts = self.pictures.examples[0]
                        seen = respondent.see_picture(facts.id, self.pictures[facts.id].picture)
                    respondent.caption(seen)
                with self.turns.background():
                    respondent.caption(seen, beam=1)
                    respondent.gaze(seen, ())
            except UserError as error:
                _log.warning("%s: %s", respondent.name, error)

    def start(self) -> None:
        """Starts what runs in the background."""

        def work() -> None:
            self.warm_up()
            if self.browsing is not None:
                self.browsing.start()

        threading.Thread(target=work, name="warm-up", daemon=True).start()

    def stop(self) -> None:
        """Stops the work in the background."""
        if self.browsing is not None:
            self.browsing.stop()

    def _respondent(self, name: str) -> Respondent:
        if name not in self.respondents:
            raise Unknown(f"no run {name!r}; known: {', '.join(self.respondents) or 'none'}")
        return self.respondents[name]

    def _see(self, respondent: Respondent, question: CaptionQuestion | GazeQuestion) -> Seen:
        if (question.picture is None) == (question.text is None):
            raise UserError("name a picture or give a text: exactly one of the two")
        if question.text is not None:
            return respondent.see_text(question.text)
        assert question.picture is not None
        try:
            kept = self.pictures[question.picture]
        except KeyError:
            raise Unknown(f"no picture {question.picture!r}; send it again") from None
        return respondent.see_picture(question.picture, kept.picture, question.masks)


def _speakers(runs: Mapping[str, Run]) -> dict[str, Run]:
    """The runs, each of several languages once in every language."""
    found = {}
    for name, run in runs.items():
        for language in run.task.languages:
            found[f"{name} ({language})"] = run.speaking(language)
        if not run.task.languages:
            found[name] = run
    return found


def open_explorer(
    runs: Mapping[str, Run],
    *,
    split: str = "test",
    count: int = 200,
    live: bool = False,
) -> Explorer:
    """Makes an explorer of runs.

    Args:
      runs: by name.
      split: to browse, of the first run that captions pictures.
      count: pictures of it to caption.
      live: whether there are training runs to watch.
    """
    respondents = {name: Respondent(name, run) for name, run in _speakers(runs).items()}
    over_images = [r for r in respondents.values() if not r.reads_words]
    examples, hint = (None, "") if not over_images else _split(over_images[0], split)
    learnt = sorted({respondent.run.settings.data.name for respondent in over_images})
    if len(learnt) > 1:
        which = f"the pictures to browse are those of {over_images[0].name}"
        hint = f"The runs were trained on different data ({', '.join(learnt)}); {which}. {hint}"
    pictures, turns = Pictures(_examples(), examples), Turns()
    browsing = None
    if examples is not None:
        ids = pictures.split[:count]
        browsing = Browsing(split, pictures, ids, over_images, turns.background)
    session = Session(
        runs=[respondent.facts() for respondent in respondents.values()],
        examples=pictures.examples,
        split=None if browsing is None else split,
        hint=hint,
        sentences=_sentences(list(respondents.values()), split),
        live=live,
    )
    return Explorer(respondents, pictures, browsing, session, turns)


def _split(respondent: Respondent, split: str) -> tuple[ExampleSource[Example] | None, str]:
    """The split of a run's data; None, with what to do, if the data are not at hand."""
    task = respondent.run.task
    try:
        examples = task.load(split)
        return task.pictures(examples), ""
    except UserError as error:
        return None, str(error)


def _sentences(respondents: Sequence[Respondent], split: str) -> list[str]:
    """Source sentences to begin with."""
    for respondent in respondents:
        if respondent.reads_words:
            task = respondent.run.task
            try:
                examples = task.load(split)
            except UserError as error:
                _log.warning("%s: %s", respondent.name, error)
                continue
            count = min(SOURCES, len(examples))
            return [task.subject(examples[i]).text for i in range(count)]
    return []


def _examples() -> dict[str, bytes]:
    """Generated pictures, which everybody has."""
    made = {}
    for seed in range(EXAMPLES):
        pixels, caption, _ = render_scene(np.random.default_rng(seed))
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        made[caption] = file.getvalue()
    return made
