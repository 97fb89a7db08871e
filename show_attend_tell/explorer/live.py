"""Training runs, watched while they write: their curves, state and latest captions.

`Watch` only reads files, which other processes may be writing. If one is missing, damaged or
half-written, the answer lacks that part and nothing else. Names that a browser sends are looked up
among the runs that were found, and never joined to a path.
"""

import asyncio
import json
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, ValidationError, model_validator

from show_attend_tell.data.vocabulary import join
from show_attend_tell.errors import UserError
from show_attend_tell.explorer.run_files import (
    CONFIG,
    METRICS,
    MetricsReader,
    Record,
    find_runs,
    plain_text,
    read_json,
    written,
)
from show_attend_tell.tokens import EOS_WORD

RUN, LATEST_CAPTIONS = "run.json", "latest_captions.json"
TRAIN_CURVES = ("loss", "gradient_norm", "tokens_per_second")
NO_SCORES = ("step", "seconds", "tokens", "best_step")  # what a validation writes besides scores
POINTS = 600  # of a curve in a snapshot: about as many as a screen shows
MOST_RUNS = 200
HEARTBEAT = 15.0  # seconds; browsers and proxies drop a silent connection
QUIET = 300.0  # seconds of silence after which a run no longer counts as running
_WALK = 5.0  # seconds between two walks through the folders


# What the interface answers.

Text = Annotated[str, AfterValidator(plain_text)]


class Curves(BaseModel):
    """Figures of a run by step; parallel lists."""

    step: list[int] = []
    values: dict[str, list[float | None]] = Field({}, description="by name; null: not finite")


class LiveRun(BaseModel):
    """A run and how far it has come."""

    name: str
    state: Literal["running", "finished", "stopped"] = Field(
        description="stopped: it said so, or has not written for a long time"
    )
    step: int
    total_steps: int | None = Field(description="null: unknown before the first validation")
    metric: str | None = Field(description="the validation score that picks the best weights")
    best_step: int | None = Field(description="the step with the best such score so far")
    written: float | None = Field(description="when it last wrote, as POSIX time")
    captions_written: float | None = Field(description="the same for its latest captions")
    message: str = Field("", description="what could not be read")


class LiveCurves(BaseModel):
    """A run with all points of its curves, or with the new ones."""

    run: LiveRun
    whole: bool = Field(description="whether the points replace all earlier ones")
    train: Curves
    validation: Curves


class Live(BaseModel):
    """All runs."""

    now: float = Field(description="the server's time, as POSIX time")
    runs: list[LiveCurves]
    message: str = ""


class LiveChange(Live):
    """What is new since the last event."""

    gone: list[str] = Field(description="names of runs that are no longer there")


class LatestCaption(BaseModel):
    """A caption of validation and its attention."""

    id: Text = Field(description="of the example")
    words: list[Text] = Field(description="(T)")
    alpha: list[list[FiniteFloat]] = Field(description="(T, L)")
    beta: list[FiniteFloat] = Field(description="(T)")
    grid: tuple[int, int] = Field(description="rows and columns of the L places")
    source: list[Text] = Field([], description="tokens of the source sentence; empty for a picture")
    picture: str | None = Field(None, description="id of the picture, where it is at hand")
    text: str = Field("", description="the words as one writes them")

    @model_validator(mode="after")
    def _fits(self) -> "LatestCaption":
        places = self.grid[0] * self.grid[1]
        if not len(self.words) == len(self.alpha) == len(self.beta):
            raise ValueError("one row of weights and one gate per word")
        if any(len(row) != places for row in self.alpha):
            raise ValueError("one weight per place")
        return self


class LatestCaptions(BaseModel):
    """The first captions of a run's newest validation."""

    run: str = ""
    step: int
    captions: list[LatestCaption] = Field(max_length=64)
    gate: bool = Field(True, description="whether the run's steps have a gate β")


# How they are found.

# The id of a picture, for an example's id and the fingerprint of its split.
PictureOf = Callable[[str, Mapping[str, Any]], str | None]


@dataclass
class _Known:
    """What a listener knows of a run."""

    reading: int
    train: int
    validation: int
    run: LiveRun


class _Watched:
    """A run in a folder, as far as it has been written."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        self.metrics = MetricsReader(folder / METRICS)
        self._config: dict[str, Any] = {}
        self._record: dict[str, Any] = {}
        self.gate = True
        # By name: when the file was last written, as of the last look.
        self._read_at: dict[str, float | None] = {}

    def refresh(self, now: float) -> None:
        """Reads what is new."""
        self.metrics.read()
        if self._changed(CONFIG):
            config = read_json(self.folder / CONFIG)
            train = config.get("train") if isinstance(config, dict) else None
            self._config = train if isinstance(train, dict) else {}
            self.gate = _has_gate(config)
        if self._changed(RUN):
            record = read_json(self.folder / RUN)
            self._record = record if isinstance(record, dict) else {}
        self.run = self._state(self._record, now)

    @property
    def validated(self) -> dict[str, Any]:
        """The fingerprint of its validation split, as it recorded it; empty: unknown."""
        data = self._record.get("data")
        found = data.get("val") if isinstance(data, dict) else None
        return found if isinstance(found, dict) else {}

    def news(self, known: _Known | None) -> LiveCurves:
        """All curves, thinned, for a newcomer; for others the points that they do not know."""
        train, validation = (self.metrics.records[kind] for kind in ("train", "val"))
        if known is None or known.reading != self.metrics.reading:
            whole, train, validation = True, _thinned(train), _thinned(validation)
        else:
            whole, train = False, train[known.train :]
            validation = validation[known.validation :]
        scores = {name for record in validation for name in record if name not in NO_SCORES}
        return LiveCurves(
            run=self.run,
            whole=whole,
            train=_curves(train, TRAIN_CURVES),
            validation=_curves(validation, sorted(scores)),
        )

    def known(self) -> _Known:
        """What a listener knows once it has heard everything."""
        train, validation = (len(self.metrics.records[kind]) for kind in ("train", "val"))
        return _Known(self.metrics.reading, train, validation, self.run)

    def _changed(self, name: str) -> bool:
        at = written(self.folder / name)
        changed = at != self._read_at.get(name)
        self._read_at[name] = at
        return changed

    def _state(self, record: Mapping[str, Any], now: float) -> LiveRun:
        train, validation = (self.metrics.records[kind] for kind in ("train", "val"))
        step = int(
            max((records[-1]["step"] for records in (train, validation) if records), default=0)
        )
        names = (METRICS, RUN, CONFIG, LATEST_CAPTIONS, "checkpoints", "best", "last")
        times = {name: written(self.folder / name) for name in names}
        last = max((at for at in times.values() if at is not None), default=None)
        # A run that ends or stops notes how long it took; if resumed, it rewrites its metrics.
        ended = "seconds" in record and (times[RUN] or 0.0) >= (times[METRICS] or 0.0)
        if record.get("finished") is True:
            state = "finished"
        elif ended or last is None or now - last > self._patience():
            state = "stopped"
        else:
            state = "running"
        metric = self._config.get("metric")
        metric = plain_text(metric) if isinstance(metric, str) else None
        total = step if state == "finished" else self._total_steps()
        damaged = self.metrics.damaged
        return LiveRun(
            name=self.name,
            state=state,
            step=step,
            total_steps=total,
            metric=metric,
            best_step=_best_step(validation, metric),
            written=last,
            captions_written=times[LATEST_CAPTIONS],
            message=f"damaged lines left out: {damaged}" if damaged else "",
        )

    def _total_steps(self) -> int | None:
        """Epochs times the steps of the first one, at whose end is the first validation."""
        epochs, validation = self._config.get("epochs"), self.metrics.records["val"]
        if not isinstance(epochs, int | float) or not 0 < epochs < 1e9 or not validation:
            return None
        return math.ceil(max(1.0, epochs) * validation[0]["step"])

    def _patience(self) -> float:
        """Seconds of silence that are normal: more for a run whose lines are far apart."""
        train, validation = self.metrics.records["train"], self.metrics.records["val"]
        if len(train) < 2 or not validation or not validation[-1]["step"]:
            return QUIET
        per_step = validation[-1].get("seconds", 0.0) / validation[-1]["step"]
        spacing = train[-1]["step"] - train[-2]["step"]
        normal = 5 * per_step * spacing
        return max(QUIET, normal) if math.isfinite(normal) else QUIET


class Watch:
    """The runs in some folders, as far as they have been written."""

    def __init__(self, paths: Sequence[Path], *, interval: float = 1.0):
        """Watches folders that are runs or hold runs. They need not exist yet.

        Args:
          paths: the folders.
          interval: seconds between two looks at the files.
        """
        self._roots, self._interval = [Path(path).absolute() for path in paths], interval
        self._runs: dict[str, _Watched] = {}
        self._names: dict[Path, str] = {}  # a run keeps its name while others come and go
        self._looked = self._walked = -math.inf
        self._left_out, self._closed = 0, False
        self._lock = threading.Lock()  # several browsers, each with a thread of its own

    def snapshot(self) -> Live:
        """All runs, each with at most `POINTS` points of each curve."""
        return self._snapshot({})

    def captions(
        self, name: str, picture_of: PictureOf = lambda name, data: None
    ) -> LatestCaptions:
        """The captions of a run's newest validation.

        Args:
          name: of the run, as `snapshot` spells it.
          picture_of: gives the picture's id for an example's id and the fingerprint of its split,
            empty if unknown; None: it is not at hand.

        Raises:
          UserError: there is no such run, or it has no captions that can be read.
        """
        with self._lock:
            self._refresh()
            run = self._runs.get(name)
        if run is None:
            raise UserError(f"{name[:200]}: no such run is being watched")
        content = read_json(run.folder / LATEST_CAPTIONS)
        if content is None:
            raise UserError(f"{name}: no captions yet; the run's next validation writes them")
        try:
            latest = LatestCaptions.model_validate(content)
        except ValidationError as error:
            raise UserError(f"{name}: {LATEST_CAPTIONS} is damaged") from error
        latest.run, latest.gate = name, run.gate
        for caption in latest.captions:
            caption.picture = picture_of(caption.id, run.validated)
            caption.text = join(word for word in caption.words if word != EOS_WORD)
        return latest

    async def events(self, gone: Callable[[], Awaitable[bool]] | None = None) -> AsyncIterator[str]:
        """Server-sent events: a `snapshot` with a `Live`, then `change`s with a `LiveChange` each.

        They end when the listener is `gone`, after `close`, or when the generator is closed.
        """
        known: dict[str, _Known] = {}
        snapshot = await asyncio.to_thread(self._snapshot, known)
        yield f"retry: 2000\n{_event('snapshot', snapshot)}"
        said = time.monotonic()
        while not self._closed:
            await asyncio.sleep(self._interval)
            if gone is not None and await gone():
                return
            change = await asyncio.to_thread(self._change, known)
            if change is not None:
                yield _event("change", change)
            elif time.monotonic() - said >= HEARTBEAT:
                yield ": still here\n\n"
            else:
                continue
            said = time.monotonic()

    def close(self) -> None:
        """Ends all streams of events within an interval, so that a server can shut down."""
        self._closed = True

    def _snapshot(self, known: dict[str, _Known]) -> Live:
        with self._lock:
            self._refresh()
            known.update({name: run.known() for name, run in self._runs.items()})
            runs = [run.news(None) for run in self._runs.values()]
            return Live(now=time.time(), runs=runs, message=self._message())

    def _change(self, known: dict[str, _Known]) -> LiveChange | None:
        """What a listener does not know; None: it knows all. Updates `known`."""
        with self._lock:
            self._refresh()
            now = {name: run.known() for name, run in self._runs.items()}
            runs = [
                run.news(known.get(n)) for n, run in self._runs.items() if now[n] != known.get(n)
            ]
            gone = [name for name in known if name not in now]
            message = self._message()
        known.clear()
        known.update(now)
        if not runs and not gone:
            return None
        return LiveChange(now=time.time(), runs=runs, gone=gone, message=message)

    def _message(self) -> str:
        if not self._left_out:
            return ""
        return f"{self._left_out} more runs are not shown; name the folders of fewer runs"

    def _refresh(self) -> None:
        """Looks at the files, unless it has just done so for another browser."""
        clock = time.monotonic()
        if clock - self._walked >= _WALK:
            self._find()
            self._walked = clock
        elif clock - self._looked < self._interval / 2:
            return
        self._looked = clock
        now = time.time()
        for name, run in list(self._runs.items()):
            # A folder on the path may have become a link that leads elsewhere.
            if not run.folder.is_dir() or os.path.realpath(run.folder) != str(run.folder):
                del self._runs[name]
            else:
                run.refresh(now)

    def _find(self) -> None:
        found: dict[str, Path] = {}
        for root in self._roots:
            resolved = Path(os.path.realpath(root))
            for folder in find_runs(resolved):
                name = self._names.get(folder) or self._name(root, resolved, folder)
                self._names[folder] = name
                found[name] = folder
        kept = sorted(found)[:MOST_RUNS]
        self._left_out = len(found) - len(kept)
        self._runs = {name: self._runs.get(name) or _Watched(name, found[name]) for name in kept}

    def _name(self, root: Path, resolved: Path, folder: Path) -> str:
        """A name that no other run has: the path below `root`, if need be with the root's name."""
        below = folder.relative_to(resolved).as_posix()
        short = root.name if below == "." else below
        tries = chain([short, f"{root.name}/{short}"], (f"{short} ({n})" for n in count(2)))
        # Names are bytes on disk. One that is not valid text must not break an answer.
        texts = (plain_text(os.fsencode(name)) for name in tries)
        taken = set(self._names.values())
        return next(text for text in texts if text not in taken)


def _thinned(records: list[Record]) -> list[Record]:
    """At most `POINTS` of the records, evenly spaced, the last included."""
    if len(records) <= POINTS:
        return records
    last = len(records) - 1
    return [records[round(i * last / (POINTS - 1))] for i in range(POINTS)]


def _curves(records: Sequence[Record], names: Sequence[str]) -> Curves:
    values = {name: [_figure(record.get(name)) for record in records] for name in names}
    return Curves(
        step=[int(record["step"]) for record in records], values=values if records else {}
    )


def _figure(value: float | None) -> float | None:
    """Five digits are more than a screen shows; JSON has no NaN."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def _best_step(validation: Sequence[Record], metric: str | None) -> int | None:
    """The step whose weights a run keeps: as it says, or by the scores for earlier versions."""
    recorded = validation[-1].get("best_step", math.nan) if validation else math.nan
    if math.isfinite(recorded):
        return int(recorded) or None
    scores = [
        (r[metric], r["step"])
        for r in validation
        if metric and math.isfinite(r.get(metric, math.nan))
    ]
    return int(max(scores)[1]) if scores else None


def _event(kind: str, content: BaseModel) -> str:
    return f"event: {kind}\ndata: {json.dumps(content.model_dump(), separators=(',', ':'))}\n\n"


def _has_gate(config: object) -> bool:
    """Whether steps of a run have a gate; where its config does not say, they may."""
    decoder = config.get("decoder") if isinstance(config, dict) else None
    return not isinstance(decoder, dict) or decoder.get("gate") is not False
