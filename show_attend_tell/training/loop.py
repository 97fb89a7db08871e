"""The training loop, the same for all experiments. It knows neither data nor objective."""

import dataclasses
import math
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

from show_attend_tell import devices
from show_attend_tell.data.batches import Batches
from show_attend_tell.errors import UserError
from show_attend_tell.runs.checkpoint import Checkpoints, fits_half
from show_attend_tell.runs.metrics_log import MetricWriter
from show_attend_tell.settings import Train
from show_attend_tell.training.display import Display
from show_attend_tell.training.step import Step, TrainState, eval_params
from show_attend_tell.training.validation import Validation, worded

# Steps after which processes ask each other at the latest whether one was told to stop.
ASKED_EVERY = 50


@dataclass
class Progression:
    """How far a run has come; checkpoints record this beside the arrays.

    Attributes:
      input_position: position in the batches.
      best_score, best_step: of validation; None and 0 before there are weights to keep.
      stale: validations since the best one.
      seconds: spent training, validation included, over all parts of the run.
      tokens: tokens trained on, without padding.
      finished: whether the run is over.
      best_loss: mean training loss before the best validation, in nats a token; None if unknown.
      losses, loss_tokens: sum of the finite losses since the last validation, weighted by tokens,
        and their tokens.
    """

    input_position: dict[str, Any]
    best_score: float | None = None
    best_step: int = 0
    stale: int = 0
    seconds: float = 0.0
    tokens: float = 0.0
    finished: bool = False
    # Records of earlier versions lack these.
    best_loss: float | None = None
    losses: float = 0.0
    loss_tokens: float = 0.0

    def totals(self) -> dict[str, Any]:
        """What run.json keeps."""
        names = ("finished", "seconds", "tokens", "best_step")
        return {name: getattr(self, name) for name in names}

    def add(self, step: Mapping[str, float]) -> None:
        """Takes in a training step's metrics."""
        self.tokens += step["tokens"]
        if math.isfinite(step["loss"]):
            self.losses += step["tokens"] * step["loss"]
            self.loss_tokens += step["tokens"]

    def note(self, step: int, score: float, usable: bool) -> bool:
        """Takes in a validation; returns whether its weights are the best so far.

        Of equal scores the earlier one stays the best, unless the training loss has fallen since.

        Args:
          step, score: of the validation.
          usable: whether its weights are finite and can be exported. Others are never the best.
        """
        loss = self.losses / self.loss_tokens if self.loss_tokens else None
        self.losses = self.loss_tokens = 0.0
        before = self.best_score
        higher = before is None or not math.isfinite(before) or score > before
        higher &= usable and math.isfinite(score)
        self.stale = 0 if higher else self.stale + 1
        fallen = loss is not None and self.best_loss is not None and loss < self.best_loss
        if not higher and not (usable and score == before and fallen):
            return False
        self.best_score, self.best_step, self.best_loss = score, step, loss
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
        stop = _Stop(min(self.settings.log_every, ASKED_EVERY))
        # Pending writes finish first, even if a step fails.
        display = Display(self.console, self.total_steps, first_step)
        with closing(self.checkpoints), closing(self.best), display, stop:
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
                    self.progression.add(meter.add(*pending))
                    display.advance(step - 1, meter.status)
                pending = (step, metrics, waited)
                stopped = stop.agreed(step)
                if self._pauses(step) or stopped:
                    self.progression.add(meter.add(*pending))
                    display.advance(step, meter.status)
                    pending = None
                    self._pause(step, state, writer, meter, display)
                    # A stop may also be requested while the state is saved.
                    if self.progression.finished or stopped or stop.agreed(step):
                        break
        return state

    def _ends_epoch(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0 or step == self.total_steps

    def _pauses(self, step: int) -> bool:
        """Whether to validate or save after this step."""
        return self._ends_epoch(step) or step % self.settings.checkpoint_every == 0

    def _pause(
        self, step: int, state: TrainState, writer: MetricWriter, meter: "_Meter", display: Display
    ) -> None:
        """Validates at the end of an epoch, and saves a checkpoint."""
        if self._ends_epoch(step):
            watched, scores = self._validate(step, state, writer)
            display.validated(step, meter.status, watched, scores)
            meter.restart()
        else:
            display.saved(step, meter.status)
        patience = self.settings.patience
        exhausted = bool(patience) and self.progression.stale >= patience
        self.progression.finished = step == self.total_steps or exhausted
        self._save(state)

    def _validate(self, step: int, state: TrainState, writer: MetricWriter) -> tuple[str, str]:
        """Scores the weights and keeps the best; words the watched score, and all of them."""
        weights = eval_params(state, self.settings.init_share)
        metric = self.settings.metric
        scores = self.validation.score(weights, step)
        kept = devices.fetch(weights)
        usable = fits_half(kept)
        is_best = self.progression.note(step, scores[metric], usable)
        spent = {"seconds": self._elapsed(), "tokens": self.progression.tokens}
        best = {"best_step": self.progression.best_step}
        writer.write(step, scores | spent | best, kind="val")
        if is_best:
            self.best.save(step, kept, {"step": step, "metric": metric, "score": scores[metric]})
        mark = " (best)" if is_best else ""
        if not usable:
            mark = " (weights beyond half precision's range: not kept)"
        return worded(scores, metric, only=True), worded(scores, metric) + mark

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

    def add(self, step: int, metrics: Mapping[str, Array], waited: float) -> dict[str, float]:
        """Takes in a step's metrics; returns them as numbers."""
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
        return row

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
        # With sampled places the loss has terms that only its gradient needs: it may be negative.
        nll = f" (nll {scalars['nll']:.3f})" if "advantage" in scalars and "nll" in scalars else ""
        self.status = f"loss {scalars['loss']:.3f}{nll}  {tokens / seconds:,.0f} tokens/s"
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
