"""The table of a split: every run's captions of its pictures, made in the background."""

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from statistics import fmean

import numpy as np

from show_attend_tell.data.splitting import tokenize
from show_attend_tell.evaluation.boxes import Places
from show_attend_tell.evaluation.mentions import mentions_in_caption
from show_attend_tell.evaluation.pointing import measure
from show_attend_tell.explorer.answers import Reading, Row, RunSummary, Table
from show_attend_tell.explorer.pictures import Kept, Pictures
from show_attend_tell.explorer.respondent import Respondent
from show_attend_tell.tokens import EOS_WORD

_log = logging.getLogger(__name__)

AT_ONCE = 4  # pictures in a batch: a person who asks meanwhile waits for at most one batch


class Browsing:
    """A table that fills itself.

    Args:
      name: of the split.
      pictures: the store, which has all of `ids`.
      ids: of the pictures to caption, in the order of the table.
      respondents: the runs that caption pictures.
      turn: gives the context to enter for each batch, so that people's questions come first.
    """

    def __init__(
        self,
        name: str,
        pictures: Pictures,
        ids: Sequence[str],
        respondents: Sequence[Respondent],
        turn: Callable[[], AbstractContextManager[None]],
    ):
        self._name, self._pictures = name, pictures
        self._respondents, self._turn = respondents, turn
        languages = dict.fromkeys(respondent.language for respondent in respondents)
        self._speakers = [[r for r in respondents if r.language == one] for one in languages]
        self.ids = list(ids)
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._rows: dict[str, Row] = {}
        self._message = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="browsing")
        self._begun: list[Future[None]] = []

    def start(self) -> None:
        """Begins to fill the table."""
        self._begun.append(self._thread.submit(self._fill))
        self._begun[0].add_done_callback(self._report)

    def stop(self) -> None:
        """Stops after the current batch."""
        self._stopped.set()
        futures.wait(self._begun, timeout=30)

    def wait(self) -> None:
        """Waits until the table is full, or cannot be filled."""
        self._thread.shutdown()

    def table(self) -> Table:
        """The rows so far."""
        with self._lock:
            rows = list(self._rows.values())
            ready = sum(len(row.runs) == len(self._respondents) for row in rows)
            return Table(
                split=self._name,
                total=len(self.ids),
                ready=ready,
                message=self._message,
                rows=rows,
            )

    def _fill(self) -> None:
        self._caption_all()
        if not self._stopped.is_set():
            self._score()

    def _report(self, done: Future[None]) -> None:
        """Says why the table is not finished; nobody else hears of it."""
        if error := done.exception():
            _log.error("The table of %s is not finished.", self._name, exc_info=error)
            with self._lock:
                self._message = f"Stopped: {error}"

    def _caption_all(self) -> None:
        for begin in range(0, len(self.ids), AT_ONCE):
            chunk = self.ids[begin : begin + AT_ONCE]
            kept = [self._pictures[key] for key in chunk]
            for respondent in self._respondents:
                if self._stopped.is_set():
                    return
                with self._turn():
                    seen = [
                        respondent.see_picture(key, one.picture)
                        for key, one in zip(chunk, kept, strict=True)
                    ]
                    # Repeat the last to fill the batch: another size would be compiled anew.
                    filled = [*seen, *[seen[-1]] * (AT_ONCE - len(seen))]
                    readings = respondent.captions(filled)
                for key, one, reading in zip(chunk, kept, readings, strict=False):
                    self._add(key, one, summarise(one, reading))

    def _add(self, key: str, kept: Kept, found: tuple[str, RunSummary]) -> None:
        name, summary = found
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                facts = kept.facts
                row = Row(
                    picture=key,
                    name=facts.name,
                    references=facts.references,
                    runs={},
                    disagreement=None,
                )
            runs = row.runs | {name: summary}
            spoken = (
                [runs[r.name].caption for r in of_one if r.name in runs]
                for of_one in self._speakers
            )
            apart = disagreement(spoken)
            # A new row, never a changed one: the old one may be on its way to a browser.
            self._rows[key] = row.model_copy(update={"runs": runs, "disagreement": apart})

    def _score(self) -> None:
        """Adds scores: CIDEr needs all references of the split.

        The references are in the language of the first run, and so are the scored captions.
        """
        from show_attend_tell.evaluation.scoring import SCORERS  # imports all of sacrebleu

        for respondent in self._speakers[0]:
            name = respondent.name
            hypotheses = {key: row.runs[name].caption for key, row in self._rows.items()}
            references = {key: row.references for key, row in self._rows.items()}
            if self._stopped.is_set() or not all(references.values()):
                return
            scorer = SCORERS[respondent.run.task.scorer]
            found = scorer.score(references, hypotheses, meteor=False)
            with self._lock:
                for k, key in enumerate(references):
                    row = self._rows[key]
                    scores = {metric: float(of[k]) for metric, of in found.per_image.items()}
                    summary = row.runs[name].model_copy(update={"scores": scores})
                    runs = row.runs | {name: summary}
                    self._rows[key] = row.model_copy(update={"runs": runs})


def summarise(kept: Kept, reading: Reading) -> tuple[str, RunSummary]:
    """A run's name, and its caption of a picture with a few figures."""
    words = [step for step in reading.steps if step.word != EOS_WORD]
    pointing, in_box = None, None
    named = mentions_in_caption([step.word for step in words], kept.mentions)
    if named:
        places = Places(np.array(reading.grid.rows), np.array(reading.grid.columns))
        maps = np.array([words[step].prior for step, _ in named])
        figures = measure([mention for _, mention in named], places, maps)
        pointing = float(figures["prior"]["pointing"].mean())
        in_box = float(figures["prior"]["in_box"].mean())
    return reading.run, RunSummary(
        caption=reading.text,
        entropy=fmean(step.entropy for step in words) if words else 0.0,
        pointing=pointing,
        in_box=in_box,
        scores={},
    )


def disagreement(captions: Iterable[Sequence[str]]) -> float | None:
    """1 - the mean Jaccard index of two captions' words; None for fewer than two captions.

    Args:
      captions: those of each language. Two languages share few words whatever captions say, so
        only captions in one language are compared.
    """
    words = [[set(tokenize(caption)) for caption in of_one] for of_one in captions]
    pairs = [pair for of_one in words for pair in itertools.combinations(of_one, 2)]
    if not pairs:
        return None
    return 1 - fmean(len(a & b) / max(1, len(a | b)) for a, b in pairs)
