"""A grid of runs, here one after another or on a SLURM cluster, then compared."""

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
from show_attend_tell.inference.captioning import Decoding, reported_contexts, score_stem

CLUSTERS = ("local", "slurm")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: its experiment, its folder and what it overrides."""

    config: str
    workdir: Path
    overrides: tuple[str, ...]


def grid(
    experiments: Sequence[str],
    settings: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    folder: Path,
    overrides: Sequence[str] = (),
) -> list[list[Job]]:
    """Every combination of the settings' values, with every seed; each config is checked.

    Each combination is a chain of runs, one of each experiment, in the order given: a variant whose
    `train.init_from` is `runs/FILE-VARIANT` of an earlier one goes on from that one's run with the
    same seed and settings.

    Args:
      experiments: FILE.py[:VARIANT] of each.
      settings: values by key, for example {"attention.kind": ["soft", "hard"]}.
      seeds: of each combination.
      folder: of the runs' folders, which are named after variant (where there are several
        experiments), settings and seed.
      overrides: of all runs.

    Raises:
      UserError: no such key, a value of another type, or the same variant twice.
    """
    variants = [experiment.partition(":")[2] for experiment in experiments]
    if len(set(variants)) < len(variants):
        raise UserError(f"{', '.join(experiments)}: name each variant once")
    chains = []
    for values in itertools.product(*settings.values()):
        chosen = [f"{key}={value}" for key, value in zip(settings, values, strict=True)]
        for seed in seeds:
            changed = (*overrides, *(f"--config.{c}" for c in chosen), f"--config.seed={seed}")
            chain, made = [], {}
            for config, variant in zip(experiments, variants, strict=True):
                mine = changed
                source = configs.from_file(config, changed).train.init_from
                if source in made:
                    mine = (*changed, f"--config.train.init_from={made[source]}")
                first = [variant] if len(experiments) > 1 else []
                name = "-".join([*first, *chosen, f"seed={seed}"]).replace("/", "_")
                made[f"runs/{Path(config.split(':')[0]).stem}-{variant}"] = folder / name
                chain.append(Job(config, folder / name, mine))
            chains.append(chain)
    return chains


def sweep(
    chains: Sequence[Sequence[Job]],
    folder: Path,
    *,
    split: str,
    cluster: str,
    hours: float,
    partition: str = "",
    console: Console | None = None,
) -> None:
    """Trains, evaluates and dumps the attention of all runs; what is done already is not redone.

    A run that was cut short resumes from its checkpoint. One run's failure ends its chain, and no
    other.

    Args:
      chains, folder: of `grid`.
      split: to evaluate.
      cluster: `local`, one run after another on this machine; or `slurm`, all chains at once.
      hours: that a chain may take.
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

    def wait(chain: Sequence[Job], running: Any) -> None:
        try:
            running.result()
        except submitit.core.utils.UncompletedJobError:
            workdir = next(job.workdir for job in chain if _missing(job, split))
            failed.append(f"{workdir} (log: {running.paths.stderr})")
            console.print(f"{workdir}: failed")
        else:
            console.print(f"{', '.join(str(job.workdir) for job in chain)}: done")

    for chain in chains:
        commands = []
        for job in chain:
            missing = _missing(job, split)
            what = ", ".join(command[0] for command in missing) or "done already"
            console.print(f"{job.workdir}: {what}")
            commands += missing
        if not commands:
            continue
        running = executor.submit(_run, commands)
        if cluster == "slurm":
            submitted.append((chain, running))
        else:
            wait(chain, running)
    for chain, running in submitted:
        wait(chain, running)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(chains)} failed: {'; '.join(failed)}; the same command takes "
            "up what is left"
        )


def _missing(job: Job, split: str) -> list[list[str]]:
    """The verbs that a run still needs, with their arguments."""
    workdir = ["--workdir", str(job.workdir)]
    wanted = configs.from_file(job.config, job.overrides)
    commands = []
    try:
        finished = json.loads((job.workdir / "run.json").read_text()).get("finished", False)
        # Where the folder holds a run of another config, `train` says so.
        finished &= not configs.changes(configs.load(job.workdir / "config.json"), wanted)
    except (OSError, ValueError, UserError):
        finished = False
    if not finished:
        commands.append(["train", "--config", job.config, *workdir, *job.overrides])
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
        subprocess.run([sys.executable, "-m", "show_attend_tell", *command], check=True)
