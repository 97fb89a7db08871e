"""A training session: prepares data, model and state, then runs the loop.

`show_attend_tell.runs.folder` describes the files that a run writes.
"""

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float16
from rich.console import Console

from show_attend_tell import config, devices
from show_attend_tell.data.base_task import Task
from show_attend_tell.data.batches import Batches, train_batches
from show_attend_tell.data.task import task_of
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.boxes import Places
from show_attend_tell.models.captioner import all_weights, frozen_weights, trained_weights
from show_attend_tell.models.encoders import Encoder, ImageEncoder
from show_attend_tell.runs import number_format, packaged
from show_attend_tell.runs.build import (
    build_captioner,
    build_encoder,
    build_picture_encoder,
    make_objective,
)
from show_attend_tell.runs.checkpoint import Checkpoints
from show_attend_tell.runs.folder import CENTRES, RunFolder
from show_attend_tell.runs.inputs import make_augmentation
from show_attend_tell.runs.measuring import record_centres
from show_attend_tell.runs.metrics_log import MetricWriter
from show_attend_tell.runs.record import provenance
from show_attend_tell.runs.tracking import FOLDER, Tracker
from show_attend_tell.settings import Settings
from show_attend_tell.terminal import Terminal
from show_attend_tell.training import teachers, warm_start
from show_attend_tell.training.loop import Loop, Progression
from show_attend_tell.training.optimizer import make_optimizer
from show_attend_tell.training.run_data import RunData, load_data, total_steps
from show_attend_tell.training.step import (
    Step,
    TrainState,
    eval_params,
    from_legacy,
    initial_state,
    legacy_like,
    make_train_step,
)
from show_attend_tell.training.tracked_captions import TrackedCaptions
from show_attend_tell.training.validation import CaptionViewer, LatestCaptions, Validation

_OF_ORIGIN = ("init_from", "teachers", "splits_drawn")  # in run.json, of runs that have them


def train(
    settings: Settings,
    workdir: Path,
    *,
    console: Console | None = None,
    quiet: bool = False,
    trackers: Sequence[Tracker] = (),
) -> Progression:
    """Trains an experiment in the folder `workdir`, or resumes the run in it.

    Validation is free-running greedy decoding of the whole validation split, after every epoch and
    at the end; teacher-forced scores are never used. On SIGINT or SIGTERM, `train` finishes the
    current step, writes a checkpoint and raises KeyboardInterrupt.

    Args:
      settings: of the experiment.
      workdir: folder of the run.
      console: where progress is shown; by default the standard error.
      quiet: whether to show warnings only.
      trackers: where else metrics and captions go (`integrations.trackers.make_trackers`). None of
        them can stop the run.

    Raises:
      UserError: a setting does not fit, the workdir holds a run of another config, another process
        trains there, data cannot be read, files cannot be written, `train.max_skipped` consecutive
        steps were not finite, or no validation had weights to keep.
    """
    console = console or Terminal(stderr=True, quiet=quiet or not devices.is_first())
    folder, task = RunFolder(workdir), task_of(settings.data)
    settings = warm_start.pinned(settings, folder)
    _check(settings, task, folder)
    with folder.held() if devices.is_first() else nullcontext():
        return _train(settings, task, folder, console, trackers)


def _train(
    settings: Settings,
    task: Task,
    folder: RunFolder,
    console: Console,
    trackers: Sequence[Tracker],
) -> Progression:
    """`train` in a folder that belongs to this process."""
    settings = number_format.pinned(settings, folder.settings() if folder.begun else None)
    encoder = None
    if not task.reads_words:
        encoder = build_encoder(settings)
        settings = _pinned(settings, "encoder", encoder)
    if settings.picture is not None:
        settings = _pinned(settings, "picture", build_picture_encoder(settings))
    if devices.is_first():
        folder.claim(settings)
    devices.wait_for_all()
    console.print(
        f"data: {settings.data.name}, encoder: {settings.encoder.name}, products in "
        f"{settings.decoder.dtype}"
    )
    data = load_data(settings, task, folder, encoder, console, _warn)
    return _Session(settings, task, folder, data, console, trackers).run()


class _Session:
    """Model, optimizer and state of a run, fresh or from its newest checkpoint."""

    def __init__(
        self,
        settings: Settings,
        task: Task,
        folder: RunFolder,
        data: RunData,
        console: Console,
        trackers: Sequence[Tracker],
    ):
        self.settings, self.task, self.folder = settings, task, folder
        self.data, self.console, self.trackers = data, console, trackers
        self.total_steps = total_steps(settings, data.plan)
        self.model = build_captioner(settings, data.encoder, len(data.vocabulary))
        self.frozen = devices.replicate(frozen_weights(self.model))
        nnx.update(self.model, self.frozen)
        self.objective = make_objective(settings, *data.tables, teachers=data.teachers)
        self.optimizer = make_optimizer(
            settings.optimizer,
            total_steps=self.total_steps,
            encoder_learning_rate=getattr(settings.encoder, "learning_rate", 0.0),
        )

    def run(self) -> Progression:
        """Trains to the end, or until a signal; returns the run's progression."""
        settings, folder = self.settings, self.folder
        self._record_centres(self.data.encoder)
        batches = self._batches()
        # What is wrong with the run's origin must show before its checkpoints claim the folder.
        progression = Progression(input_position=batches.get_state())
        fresh = None if devices.from_first(int(folder.begun)) else self._begin()
        checkpoints, best = folder.checkpoints(), folder.weights("best")
        restored = None if fresh else self._restore(checkpoints)
        if restored is None:
            first_step, state = 0, fresh or self._begin()
        else:
            first_step, state, record = restored
            progression = Progression(**record)
            self._check_taught(first_step, progression.finished)
            batches.set_state(progression.input_position)
            self.console.print(f"resuming {folder.path} at step {first_step} of {self.total_steps}")
        if progression.finished:
            self.console.print("this run is already finished")
            checkpoints.close()
            best.close()
            if not any((folder.path / "last").glob("[0-9]*")):  # of a version that kept none
                self._save_last(state)
            self._record_trained_centres()
            folder.update_record(progression.totals())
            self._check_kept(progression)
            return progression
        if restored is not None:
            part = {"step": first_step} | provenance(settings)
            before = folder.record().get("resumed", [])
            folder.update_record({"resumed": [*before, part]})
        shown = config.to_dict(packaged.without_files(settings))  # trackers may be online
        with MetricWriter(folder.path, first_step, self.trackers, shown) as writer:
            loop = Loop(
                settings=settings.train,
                folder=folder.path,
                console=self.console,
                total_steps=self.total_steps,
                steps_per_epoch=self.data.plan.batches_per_epoch,
                train_step=self._train_step(),
                validation=self._validation(writer),
                batches=batches,
                checkpoints=checkpoints,
                best=best,
                progression=progression,
            )
            state = loop.run(state, first_step, writer)
            writer.close("finished" if progression.finished else "stopped")
        if progression.finished:
            self._save_last(state)
            self._record_trained_centres()
        folder.update_record(progression.totals())
        if not progression.finished:
            self.console.print(
                f"stopped at step {int(state.step)}; the same command resumes from there"
            )
            raise KeyboardInterrupt
        self._check_kept(progression)
        self._report(progression)
        return progression

    def _check_taught(self, step: int, finished: bool) -> None:
        """A finished run is opened without teachers; it needs them if its end is lost."""
        taught = len(self.data.teachers) == len(self.settings.loss.teachers)
        if not finished and not taught:
            self.folder.update_record({"finished": False})
            raise UserError(
                f"{self.folder.path}: the last checkpoint of this finished run is damaged or gone; "
                f"the same command trains it again from step {step}"
            )

    def _train_step(self) -> Step:
        return make_train_step(
            self.model,
            self.objective,
            self.optimizer,
            key=jax.random.key(self.settings.seed),
            average=self.settings.optimizer.average,
        )

    def _validation(self, writer: MetricWriter) -> Validation:
        data = self.data
        seen = (self.task, data.encoder, data.source_vocabulary, data.val_examples)
        viewers: list[CaptionViewer] = [LatestCaptions(self.folder, *seen)]
        viewers += [TrackedCaptions(writer, *seen, self.settings)] if self.trackers else []
        return Validation(
            self.settings.decode,
            self.task,
            self.model,
            self.frozen,
            data.vocabulary,
            data.val_inputs,
            data.val_examples,
            viewers,
            metric=self.settings.train.metric,
        )

    def _batches(self) -> Batches:
        return train_batches(
            self.data.train_inputs,
            self.data.plan,
            share=devices.local_slice(self.settings.train.batch_size),
            augmentation=make_augmentation(self.settings, self.data.vocabulary),
            cut_to_bucket=self.task.sorts_inputs,
            maps=self._maps(),
        )

    def _maps(self) -> Float16[np.ndarray, "K L"] | None:
        """The maps that supervise attention, over the points where the encoder looks."""
        if self.data.supervision is None:
            return None
        encoder = cast(ImageEncoder, self.data.encoder)
        if not encoder.trained:
            devices.wait_for_all()  # for the first process, which measures them
            recorded = self.folder.centres()
            if recorded is not None:
                encoder.shift = float(recorded["shift"])
        centres = np.array(encoder.centres)
        return self.data.supervision.maps(Places(centres, centres))

    def _initial_state(self) -> TrainState:
        return initial_state(
            self.model,
            self.objective,
            self.optimizer,
            keep_start=self.settings.train.init_share > 0,
        )

    def _begin(self) -> TrainState:
        """The state of a new run; records its origin."""
        self._check_taught(0, finished=False)
        origin = {}
        if self.settings.train.init_from:
            origin["init_from"] = warm_start.start_from(
                self.settings,
                self.model,
                self.data.vocabulary,
                self.data.source_vocabulary,
                partial(self.console.print, markup=False, soft_wrap=True),
            )
        begun = {"data": self.data.fingerprints, "finished": False, "resumed": []}
        if self.data.origins:
            begun["teachers"] = self.data.origins
        if self.data.drawn:
            begun["splits_drawn"] = self.data.drawn
        # An earlier run whose checkpoints were removed may have left a record here, and more.
        if devices.is_first():
            self._forget()
        self.folder.update_record(provenance(self.settings) | begun | origin, without=_OF_ORIGIN)
        return self._initial_state()

    def _forget(self) -> None:
        """Removes what an earlier run left that would be taken for this one's."""
        if self.folder.has_weights:  # it got as far as a validation, so it was a run of its own
            for name in ("last", FOLDER):
                shutil.rmtree(self.folder.path / name, ignore_errors=True)
        if self.model.encoder.trained:
            (self.folder.path / CENTRES).unlink(missing_ok=True)

    def _restore(self, checkpoints: Checkpoints) -> tuple[int, TrainState, dict[str, Any]] | None:
        """Step, state and record of the newest readable checkpoint, of this version or of 0.1."""
        like = self._initial_state()
        restored = checkpoints.restore(like, legacy_like(like), warn=_warn)
        if restored is None:
            return None
        step, state, record = restored
        if not isinstance(state, TrainState):
            state = from_legacy(state, self.objective)
        return step, state, record

    def _save_last(self, state: TrainState) -> None:
        """Saves the evaluated weights of the last step."""
        weights = eval_params(state, self.settings.train.init_share)
        last, step = self.folder.weights("last"), int(state.step)
        last.save(step, devices.fetch(weights), {"step": step})
        last.close()

    def _record_centres(self, encoder: Encoder, *, trained: bool = False) -> None:
        """Records where the encoder looks, as soon as its weights no longer change."""
        pictures = self.task.pictures(self.data.val_examples)
        if pictures is not None and encoder.trained == trained:
            record_centres(self.folder, cast(ImageEncoder, encoder), pictures, self.console.print)

    def _record_trained_centres(self) -> None:
        """Records where a trained encoder looks with the best weights."""
        if not self.model.encoder.trained or self.folder.centres() is not None:
            return
        best = self.folder.weights("best")
        restored = best.restore(trained_weights(self.model), warn=_warn)
        best.close()
        if restored is not None:
            weights = devices.fetch(all_weights(restored[1], self.frozen))
            model = nnx.merge(nnx.graphdef(self.model), weights)
            self._record_centres(model.encoder, trained=True)

    def _check_kept(self, progression: Progression) -> None:
        """Raises a UserError after a run that kept no weights: nothing can be done with it."""
        if progression.best_score is None:
            raise UserError(
                f"{self.folder.path}: no validation had weights that can be kept: all were beyond "
                "half precision's range; choose another --workdir and lower "
                "optimizer.learning_rate or optimizer.clip_norm"
            )

    def _report(self, progression: Progression) -> None:
        self.console.print(
            f"trained {progression.seconds / 60:.1f} minutes; best {self.settings.train.metric} "
            f"{progression.best_score:.4f} at step {progression.best_step}"
        )


def _warn(text: str) -> None:
    """Shows a warning of the first process, also where progress is not shown."""
    Terminal(stderr=True, quiet=not devices.is_first()).print(text, soft_wrap=True)


def _pinned(settings: Settings, group: str, encoder: Encoder) -> Settings:
    """Settings with the checksum of an encoder's weights, which ties the run to them."""
    if getattr(getattr(settings, group), "weights_sha256", ""):
        return settings
    checksum = cast(ImageEncoder, encoder).checksum
    return config.replaced(settings, {f"{group}.weights_sha256": checksum})


def _check(settings: Settings, task: Task, folder: RunFolder) -> None:
    """Rejects what would otherwise fail after minutes of work.

    Raises:
      UserError: the message names the setting.
    """
    settings.check_start()
    if settings.train.metric not in task.metrics:
        raise UserError(
            f"config.train.metric is {settings.train.metric!r}: choose one of "
            f"{', '.join(task.metrics)}"
        )
    if settings.train.init_from and not folder.begun:  # no longer needed once begun
        warm_start.check_init_from(settings)
    if not folder.begun:
        settings.data.check_effect()
        # Again when they are loaded, with the checksums that are known by then.
        teachers.check(settings, task)
    devices.check_batch(settings.train.batch_size, "config.train.batch_size")
