"""A grid of runs of one experiment, here one after another or on a SLURM cluster, then compared."""

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from rich.console import Console

from show_attend_tell import config as configs
from show_attend_tell.errors import UserError
from show_attend_tell.evaluate import Decoding, reported_contexts, score_stem

CLUSTERS = ("local", "slurm")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: its folder and what it overrides."""

    workdir: Path
    overrides: tuple[str, ...]


def grid(
    config: str,
    settings: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    folder: Path,
    overrides: Sequence[str] = (),
) -> list[Job]:
    """Every combination of the settings' values, with every seed; each config is checked.

    Args:
      config: an experiment, FILE.py[:VARIANT].
      settings: values by key, for example {"attention.kind": ["soft", "hard"]}.
      seeds: of each combination.
      folder: of the runs' folders, which are named after settings and seed.
      overrides: of all runs.

    Raises:
      UserError: no such key, or a value of another type.
    """
    jobs = []
    for values in itertools.product(*settings.values()):
        chosen = [f"{key}={value}" for key, value in zip(settings, values, strict=True)]
        for seed in seeds:
            changed = (*overrides, *(f"--config.{c}" for c in chosen), f"--config.seed={seed}")
            configs.from_file(config, changed)
            name = "-".join([*chosen, f"seed={seed}"]).replace("/", "_")
            jobs.append(Job(folder / name, changed))
    return jobs


def sweep(
    config: str,
    jobs: Sequence[Job],
    folder: Path,
    *,
    split: str,
    cluster: str,
    hours: float,
    partition: str = "",
    console: Console | None = None,
) -> None:
    """Trains, evaluates and dumps the attention of all runs; what is done already is not redone.

    A run that was cut short resumes from its checkpoint. One run's failure does not stop the
    others.

    Args:
      config, jobs, folder: of `grid`.
      split: to evaluate.
      cluster: `local`, one run after another on this machine; or `slurm`, all at once.
      hours: that a run may take.
      partition: of SLURM, "" for its default.
      console: where progress is told.

    Raises:
      UserError: an unknown cluster, or runs that failed; it names their logs.
    """
    console = console or Console(stderr=True)
    if cluster not in CLUSTERS:
        raise UserError(f"--cluster {cluster}: choose one of {', '.join(CLUSTERS)}")
    try:
        executor = submitit.AutoExecutor(folder=folder / "logs", cluster=cluster)
    except RuntimeError as error:
        raise UserError(f"--cluster {cluster}: {error}") from error
    executor.update_parameters(timeout_min=round(60 * hours), name="show-attend-tell")
    if partition:
        executor.update_parameters(slurm_partition=partition)
    submitted, failed = [], []

    def wait(workdir: Path, job: Any) -> None:
        try:
            job.result()
        except submitit.core.utils.UncompletedJobError:
            failed.append(f"{workdir} (log: {job.paths.stderr})")
            console.print(f"{workdir}: failed")
        else:
            console.print(f"{workdir}: done")

    for job in jobs:
        commands = _missing(config, job, split)
        if not commands:
            console.print(f"{job.workdir}: done already")
            continue
        console.print(f"{job.workdir}: {', '.join(command[0] for command in commands)}")
        running = executor.submit(_run, commands)
        if cluster == "slurm":
            submitted.append((job.workdir, running))
        else:
            wait(job.workdir, running)
    for workdir, running in submitted:
        wait(workdir, running)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}; the same command "
            "takes up what is left"
        )


def _missing(config: str, job: Job, split: str) -> list[list[str]]:
    """The verbs that a run still needs, with their arguments."""
    workdir = ["--workdir", str(job.workdir)]
    wanted = configs.from_file(config, job.overrides)
    commands = []
    try:
        finished = json.loads((job.workdir / "run.json").read_text()).get("finished", False)
        # Where the folder holds a run of another config, `train` says so.
        finished &= not configs.differences(configs.load(job.workdir / "config.json"), wanted)
    except (OSError, ValueError, UserError):
        finished = False
    if not finished:
        commands.append(["train", "--config", config, *workdir, *job.overrides])
    decoding = Decoding(**wanted.decode.to_dict())
    stems = [
        score_stem(split, dataclasses.replace(decoding, context=context))
        for context in reported_contexts(wanted)
    ]
    if not finished or not all((job.workdir / f"{s}.scores.json").exists() for s in stems):
        commands.append(["evaluate", *workdir, "--split", split])
    if not finished or not (job.workdir / "attention" / split / "statistics.json").exists():
        commands.append(["attend", *workdir, "--split", split])
    return commands


def _run(commands: Sequence[Sequence[str]]) -> None:
    """What a job does: the verbs, as a user would call them."""
    for command in commands:
        subprocess.run([sys.executable, "-m", "show_attend_tell.main", *command], check=True)
