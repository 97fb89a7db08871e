"""The training loop, the same for all experiments. It knows neither data nor objective."""

import dataclasses
import signal
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from show_attend_tell import devices
from show_attend_tell.data.batches import Batches
from show_attend_tell.errors import UserError
from show_attend_tell.runs.checkpoint import Checkpoints
from show_attend_tell.runs.metrics_log import MetricWriter
from show_attend_tell.settings import Train
from show_attend_tell.training.step import Step, TrainState, eval_params
from show_attend_tell.training.validation import SHOWN, Validation


@dataclass
class Progression:
    """How far a run has come; checkpoints record this beside the arrays.

    Attributes:
      input_position: position in the batches.
      best_score, best_step: of validation.
      stale: validations since the best one.
      seconds: spent training, validation included, over all parts of the run.
      tokens: tokens trained on, without padding.
      finished: whether the run is over.
    """

    input_position: dict[str, Any]
    best_score: float | None = None
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    tokens: float = 0.0
    finished: bool = False

    def totals(self) -> dict[str, Any]:
        """What run.json keeps."""
        names = ("finished", "seconds", "tokens", "best_step")
        return {name: getattr(self, name) for name in names}

    def note(self, step: int, score: float) -> bool:
        """Takes in a validation; returns whether it is at least as good as the best so far.

        Among equal scores, the weights that trained longer are kept.
        """
        before = self.best_score
        self.stale = 0 if before is None or score > before else self.stale + 1
        if before is not None and not score >= before:  # nor is a score that is no number
            return False
        self.best_score, self.best_step = score, step
        return True


@dataclass(eq=False)
class Loop:
    """Steps, validations and checkpoints of a run.

    Attributes:
      settings: `config.train`.
      folder: of the run.
      console: where progress is shown.
      total_steps, steps_per_epoch: of the whole run.
      train_step: from `step.make_train_step`.
      validation: scores weights.
      batches: endless, in a fixed order.
      checkpoints, best: checkpoints of the whole state, and of the best weights.
      progression: updated in place.
    """

    settings: Train
    folder: Path
    console: Console
    total_steps: int
    steps_per_epoch: int
    train_step: Step
    validation: Validation
    batches: Batches
    checkpoints: Checkpoints
    best: Checkpoints
    progression: Progression

    def __post_init__(self):
        self._clock = time.monotonic()

    def run(self, state: TrainState, first_step: int, writer: MetricWriter) -> TrainState:
        """Trains from `first_step` to the end, or to a signal; returns the state.

        Raises:
          UserError: `max_skipped` consecutive steps were not finite, or nothing can be written.
        """
        stop = _Stop(self.settings.log_every)
        # Pending writes finish first, even if a step fails.
        with closing(self.checkpoints), closing(self.best), _bar(self.console) as bar, stop:
            task = bar.add_task("training", total=self.total_steps, completed=first_step, status="")
            meter = _Meter(writer, self.settings, self.folder)
            pending = None
            for step in range(first_step + 1, self.total_steps + 1):
                waited = time.perf_counter()
                batch = next(self.batches)
                waited = time.perf_counter() - waited
                state, metrics = self.train_step(state, devices.shard_batch(batch))
                # The previous step's metrics are fetched while this one runs: the device never
                # waits.
                if pending is not None:
                    self.progression.tokens += meter.add(*pending)
                    bar.update(task, completed=step - 1, status=meter.status)
                pending = (step, metrics, waited)
                stopped = stop.agreed(step)
                if self._pauses(step) or stopped:
                    self.progression.tokens += meter.add(*pending)
                    bar.update(task, completed=step, status=meter.status)
                    pending = None
                    self._pause(step, state, writer, meter)
                    # A stop may also be requested while the state is saved.
                    if self.progression.finished or stopped or stop.agreed(step):
                        break
        writer.close()
        return state

    def _ends_epoch(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0 or step == self.total_steps

    def _pauses(self, step: int) -> bool:
        """Whether to validate or save after this step."""
        return self._ends_epoch(step) or step % self.settings.checkpoint_every == 0

    def _pause(self, step: int, state: TrainState, writer: MetricWriter, meter: "_Meter") -> None:
        """Validates at the end of an epoch, and saves a checkpoint."""
        if self._ends_epoch(step):
            self._validate(step, state, writer)
            meter.restart()
        if not self.console.is_terminal:  # a log has no progress bar
            self.console.print(f"step {step} of {self.total_steps}  {meter.status}")
        patience = self.settings.patience
        exhausted = bool(patience) and self.progression.stale >= patience
        self.progression.finished = step == self.total_steps or exhausted
        self._save(state)

    def _validate(self, step: int, state: TrainState, writer: MetricWriter) -> None:
        weights = eval_params(state, self.settings.init_share)
        scores = self.validation.score(weights, step)
        score = scores[self.settings.metric]
        spent = {"seconds": self._elapsed(), "tokens": self.progression.tokens}
        writer.write(step, scores | spent, kind="val")
        is_best = self.progression.note(step, score)
        if is_best:
            record = {"step": step, "metric": self.settings.metric, "score": score}
            self.best.save(step, devices.fetch(weights), record)
        shown = ", ".join(f"{name} {scores[name]:.3f}" for name in SHOWN if name in scores)
        self.console.print(f"step {step}, validation: {shown}{' (best)' if is_best else ''}")

    def _save(self, state: TrainState) -> None:
        self._elapsed()
        self.progression.input_position = self.batches.get_state()
        self.best.wait()  # a checkpoint that names a best step must not be on disk before it
        # A copy: Orbax writes while the next step overwrites the donated buffers.
        arrays = devices.fetch(state)
        self.checkpoints.save(int(state.step), arrays, dataclasses.asdict(self.progression))

    def _elapsed(self) -> float:
        now = time.monotonic()
        self.progression.seconds += now - self._clock
        self._clock = now
        return self.progression.seconds


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
    )


class _Meter:
    """Averages metrics over some steps, writes them and words the progress bar's status."""

    def __init__(self, writer: MetricWriter, settings: Train, folder: Path):
        self._writer, self._settings, self._folder = writer, settings, folder
        self.status = ""
        self.restart()

    def restart(self) -> None:
        """Starts a new average, so that time spent elsewhere does not count."""
        self._rows: list[dict[str, float]] = []
        self._start = time.perf_counter()

    def add(self, step: int, metrics: Mapping[str, Array], waited: float) -> float:
        """Takes in a step's metrics; returns its number of tokens without padding."""
        row = {k: float(v) for k, v in jax.device_get(metrics).items()} | {"waited": waited}
        self._rows.append(row)
        if row["skipped_in_a_row"] >= self._settings.max_skipped:
            raise UserError(
                f"{self._folder}: {self._settings.max_skipped} consecutive steps up to step {step} "
                "had a non-finite loss or gradient; lower optimizer.learning_rate or "
                "optimizer.clip_norm: the last good checkpoint is kept"
            )
        if step % self._settings.log_every == 0:
            self._write(step, row)
        return row["tokens"]

    def _write(self, step: int, row: Mapping[str, float]) -> None:
        seconds = time.perf_counter() - self._start
        tokens = sum(r["tokens"] for r in self._rows)
        good = [r for r in self._rows if np.isfinite(r["loss"])] or self._rows
        weights = [r["tokens"] for r in good]
        scalars = {
            name: float(np.average([r[name] for r in good], weights=weights))
            for name in row
            if name not in ("tokens", "skipped", "skipped_in_a_row", "waited")
        }
        scalars["tokens_per_second"] = tokens / seconds
        scalars["data_wait_share"] = sum(r["waited"] for r in self._rows) / seconds
        scalars["skipped"] = row["skipped"]
        self._writer.write(step, scalars, kind="train")
        self.status = f"loss {scalars['loss']:.3f}  {tokens / seconds:,.0f} tokens/s"
        self.restart()


class _Stop:
    """Notes a SIGINT or SIGTERM instead of dying; a second one kills."""

    def __init__(self, every: int):
        self._requested, self._every = False, every

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step, the same in all processes.

        Several processes ask each other only every few steps.
        """
        if jax.process_count() > 1 and step % self._every:
            return False
        return devices.any_process(self._requested)

    def __enter__(self) -> "_Stop":
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            # Only the main thread can set handlers; in others a run cannot be interrupted.
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:
                break
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        for number, handler in self._before.items():
            signal.signal(number, handler)
