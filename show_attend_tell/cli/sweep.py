"""The verb `sweep`: a grid of runs on this machine or a SLURM cluster, then a comparison."""

import argparse
import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from show_attend_tell import files
from show_attend_tell.cli.common import (
    EXPERIMENT,
    EXPERIMENT_HELP,
    Verbs,
    add_quiet,
    add_trackers,
    add_verb,
    tracker_options,
)
from show_attend_tell.cli.reporting import add_pictures, check_pictures, show_comparison
from show_attend_tell.errors import UserError
from show_attend_tell.files import user_path

if TYPE_CHECKING:
    from rich.console import Console

    from show_attend_tell.cli.side_by_side import Task

CLUSTERS = ("local", "slurm")


def add_verbs(verbs: Verbs) -> None:
    """Adds the verb of this module."""
    sweep = add_verb(
        verbs, "sweep", _sweep, "Run a grid of settings and seeds, then compare the runs."
    )
    sweep.add_argument(
        "config",
        nargs="+",
        metavar=EXPERIMENT,
        help=f"{EXPERIMENT_HELP}; an experiment may start from an earlier one's run with the same "
        "seed",
    )
    sweep.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="values of a setting, for example attention.kind=soft,hard; may be repeated",
    )
    sweep.add_argument("--seeds", default="0", help="comma-separated (default: 0)")
    sweep.add_argument(
        "--workdir", type=user_path, default=Path("runs/sweep"), help="folder of the runs"
    )
    sweep.add_argument("--split", default="test", help="split to evaluate (default: test)")
    sweep.add_argument(
        "--jobs",
        default="auto",
        metavar="N",
        help="runs at a time on this machine, each on its own cores (default: auto, as many as "
        "cores; one on an accelerator)",
    )
    sweep.add_argument("--cluster", default="local", help="local or slurm (default: local)")
    sweep.add_argument("--partition", default="", help="SLURM partition, with --cluster slurm")
    add_pictures(sweep)
    sweep.add_argument(
        "--hours", type=float, default=24.0, help="limit per run, on SLURM per seed (default: 24)"
    )
    add_quiet(sweep)
    add_trackers(sweep)


def _once(option: str, values: Sequence[object]) -> None:
    """Rejects values of which one comes twice: two runs would share a folder."""
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"{option}: {value} comes twice; name it once")


def _sweep(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.integrations.trackers import make_trackers

    make_trackers(arguments.tracker, arguments.tracker_pictures)  # each run makes its own
    settings = {}
    for setting in arguments.set:
        key, _, values = setting.partition("=")
        if not key or not values:
            raise UserError(f"--set {setting}: give values, as in --set {key or 'KEY'}=VALUE,VALUE")
        if key in settings:
            raise UserError(f"--set {setting}: {key} comes twice; name all its values at once")
        settings[key] = re.split(r",(?![^(\[]*[)\]])", values)  # not inside brackets
        _once(f"--set {setting}", settings[key])
    try:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
    except ValueError:
        raise UserError(
            f"--seeds {arguments.seeds}: give whole numbers separated by commas, as in --seeds 0,1"
        ) from None
    _once(f"--seeds {arguments.seeds}", seeds)
    check_pictures(arguments.pictures)  # now, not after hours of training
    options = tracker_options(arguments)
    chains = grid(arguments.config, settings, seeds, arguments.workdir, overrides, options)
    run_all(
        chains,
        arguments.workdir,
        split=arguments.split,
        cluster=arguments.cluster,
        jobs=arguments.jobs,
        hours=arguments.hours,
        partition=arguments.partition,
        quiet=arguments.quiet,
    )
    runs = [job.workdir for chain in chains for job in chain]
    show_comparison(runs, arguments.split, arguments.workdir / "compare", arguments.pictures)


@dataclasses.dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
      config: its experiment.
      workdir: its folder.
      overrides: of its settings.
      source: folder of the grid's run that it starts from, if it does.
      options: of the verb `train`, besides.
    """

    config: str
    workdir: Path
    overrides: tuple[str, ...]
    source: Path | None = None
    options: tuple[str, ...] = ()


def grid(
    experiments: Sequence[str],
    settings: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    folder: Path,
    overrides: Sequence[str] = (),
    options: Sequence[str] = (),
) -> list[list[Job]]:
    """Every combination of the settings' values, with every seed; each config is checked.

    Each combination is a chain of runs, one per experiment, in the order given. An experiment
    whose `train.init_from` is `runs/NAME-VARIANT` of an earlier one starts from that experiment's
    run with the same seed and settings.

    Args:
      experiments: NAME[:VARIANT] or FILE.py[:VARIANT] of each.
      settings: values by key, for example {"attention.kind": ["soft", "hard"]}.
      seeds: of each combination.
      folder: parent of the runs' folders. Their names consist of the variant (if there are several
        experiments), the settings and the seed.
      overrides: for all runs.
      options: of the verb `train`, for all runs.

    Raises:
      UserError: an unknown key, a value of the wrong type, the same variant twice, a seed among the
        settings, or two runs with the same settings or names.
    """
    from show_attend_tell import config

    if "seed" in settings or any(given.split("=")[0] == "--config.seed" for given in overrides):
        raise UserError("config.seed: a sweep's seeds are given by --seeds, as in --seeds 0,1")

    variants = [config.variant_of(experiment) for experiment in experiments]
    if len(set(variants)) < len(variants):
        raise UserError(f"{', '.join(experiments)}: name each variant once")
    chains, known = [], {}
    for values in itertools.product(*settings.values()):
        chosen = [f"{key}={value}" for key, value in zip(settings, values, strict=True)]
        for seed in seeds:
            changed = (*overrides, *(f"--config.{c}" for c in chosen), f"--config.seed={seed}")
            chain, made = [], {}
            for experiment, variant in zip(experiments, variants, strict=True):
                mine = changed
                whole = config.load_experiment(experiment, changed)
                source = whole.train.init_from
                if source in made:
                    mine = (*changed, f"--config.train.init_from={made[source]}")
                    whole = config.load_experiment(experiment, mine)
                first = [variant] if len(experiments) > 1 else []
                name = "-".join([*first, *chosen, f"seed={seed}"]).replace("/", "_")
                job = Job(experiment, folder / name, mine, made.get(source), tuple(options))
                if (experiment, whole) in known:
                    first_name = known[experiment, whole]
                    raise UserError(f"{name}: has the settings of {first_name}; name it once")
                if name in known.values():
                    raise UserError(
                        f"{name}: a folder for two runs, as / becomes _ in its name; sweep one of "
                        "them in another --workdir"
                    )
                known[experiment, whole] = name
                chain.append(job)
                made[f"runs/{Path(experiment.split(':')[0]).stem}-{variant}"] = folder / name
            chains.append(chain)
    return chains


def run_all(
    chains: Sequence[Sequence[Job]],
    folder: Path,
    *,
    split: str,
    cluster: str,
    hours: float,
    jobs: str = "auto",
    partition: str = "",
    console: "Console | None" = None,
    quiet: bool = False,
) -> None:
    """Trains and evaluates all runs and dumps their attention; skips what is already done.

    An interrupted run resumes from its checkpoint. A failed run ends only those that start from it
    (on SLURM: the rest of its chain).

    Args:
      chains, folder: from `grid`.
      split: the split to evaluate.
      cluster: `local`, this machine; or `slurm`, all chains at once.
      hours: time limit of a run, on SLURM of a chain.
      jobs: runs at a time on this machine, or `auto`; see `side_by_side.count_jobs`.
      partition: of SLURM, "" for its default.
      console: where progress is shown; by default the standard error.
      quiet: whether not to show it.

    Raises:
      UserError: an unknown cluster or number of jobs, a partition without SLURM, no limit of time,
        a split that the data set lacks, a folder's name that is not UTF-8, or failed runs; the
        message names their logs.
      KeyboardInterrupt: after an interruption, once all running commands have ended.
    """
    from show_attend_tell.runs.folder import RunFolder
    from show_attend_tell.terminal import Terminal

    files.check_name(folder)
    console = console or Terminal(stderr=True, quiet=quiet)
    if cluster not in CLUSTERS:
        raise UserError(f"--cluster {cluster}: choose one of {', '.join(CLUSTERS)}")
    if cluster == "slurm" and jobs != "auto":
        raise UserError(f"--jobs {jobs}: SLURM itself decides how many jobs run at a time")
    if cluster != "slurm" and partition:
        raise UserError(
            f"--partition {partition}: is of SLURM; add --cluster slurm, or leave it out"
        )
    if not (math.isfinite(hours) and hours > 0):
        raise UserError(f"--hours {hours:g}: give a number of hours over 0, such as 24 or 0.5")
    commands = {}
    for job in itertools.chain.from_iterable(chains):
        RunFolder(job.workdir).await_free()  # for what a killed sweep has started
        missing = commands[job] = _missing(job, split)
        what = ", ".join(command[0] for command in missing) or "already done"
        console.print(f"{job.workdir}: {what}")
    _check_split([job for job, missing in commands.items() if missing], split)
    if cluster == "slurm":
        failed = _on_slurm(chains, commands, folder, split, hours, partition, console)
    else:
        failed = _here(commands, folder, jobs, hours, console)
    if failed:
        total = len(chains) if cluster == "slurm" else len(commands)
        raise UserError(
            f"{len(failed)} of {total} failed: {'; '.join(failed)}; the same command continues "
            "with what is left"
        )


def _check_split(jobs: Sequence[Job], split: str) -> None:
    """Rejects a split that the runs' data sets lack, before anything is built or trained.

    Raises:
      UserError: there is no such split, or the user's data cannot be read.
    """
    from show_attend_tell import config
    from show_attend_tell.data.task import check_has_split

    for data in {config.load_experiment(job.config, job.overrides).data for job in jobs}:
        check_has_split(data, split)


def _here(
    commands: Mapping[Job, Sequence[Sequence[str]]],
    folder: Path,
    jobs: str,
    hours: float,
    console: "Console",
) -> list[str]:
    """Runs what is missing on this machine; returns the failed runs, each with its log."""
    from show_attend_tell.cli import side_by_side

    logs = folder / "logs"
    names = {job.workdir: str(job.workdir) for job, missing in commands.items() if missing}
    tasks = []
    for job, missing in commands.items():
        if missing:
            after = [names[job.source]] if job.source in names else []
            log = logs / f"{job.workdir.name}.log"
            tasks.append(side_by_side.Task(names[job.workdir], missing, log, after))
    count = side_by_side.count_jobs(jobs, len(tasks), side_by_side.has_accelerator)
    if count > 1:
        tasks = _prepared_first(tasks, commands, logs)
    if tasks:
        console.print(f"{len(names)} to run, at most {count} at a time")
    ended = side_by_side.run_tasks(tasks, count, hours=hours, console=console)
    of_task, failed = {task.name: task for task in tasks}, []
    for name in names.values():
        cause = name
        while ended[cause] == side_by_side.SKIPPED:
            cause = next(n for n in of_task[cause].after if ended[n] != side_by_side.DONE)
        if ended[cause] == side_by_side.FAILED:
            needs = "" if cause == name else f"needs {cause}, "
            failed.append(f"{name} ({needs}log: {of_task[cause].log})")
    return failed


def _prepared_first(
    tasks: "Sequence[Task]", commands: Mapping[Job, Sequence[Sequence[str]]], logs: Path
) -> "list[Task]":
    """The tasks, and before them `prepare` for inputs that several new runs share.

    Runs that need the same inputs at the same time compute them only once, since caches have locks.
    But one would compute them on its few cores, and the others would wait.
    """
    from show_attend_tell import config
    from show_attend_tell.cli.side_by_side import Task
    from show_attend_tell.runs.folder import RunFolder

    sharing: dict[str, list[Job]] = {}
    for job, missing in commands.items():
        if missing and missing[0][0] == "train" and not RunFolder(job.workdir).begun:
            settings = config.to_dict(config.load_experiment(job.config, job.overrides))
            inputs = json.dumps([settings["data"], settings["encoder"]], sort_keys=True)
            sharing.setdefault(inputs, []).append(job)
    first, needs = [], {}
    for group in sharing.values():
        if len(group) > 1:
            name = f"prepare-{len(first) + 1}"
            command = ["prepare", "--config", group[0].config, *group[0].overrides]
            first.append(Task(name, [command], logs / f"{name}.log"))
            needs |= {str(job.workdir): name for job in group}
    return first + [
        dataclasses.replace(task, after=[*task.after, needs[task.name]])
        if task.name in needs
        else task
        for task in tasks
    ]


def _on_slurm(
    chains: Sequence[Sequence[Job]],
    commands: Mapping[Job, Sequence[Sequence[str]]],
    folder: Path,
    split: str,
    hours: float,
    partition: str,
    console: "Console",
) -> list[str]:
    """Submits what is missing of each chain and waits; returns the failed runs with their logs."""
    import submitit
    from submitit.core.utils import UncompletedJobError

    try:
        executor = submitit.AutoExecutor(folder=folder / "logs", cluster="slurm")
    except RuntimeError as error:
        raise UserError(f"--cluster slurm: {error}") from error
    executor.update_parameters(timeout_min=math.ceil(60 * hours), name="show-attend-tell")
    if partition:
        executor.update_parameters(slurm_partition=partition)
    submitted, failed = [], []
    try:
        for chain in chains:
            missing = [command for job in chain for command in commands[job]]
            if missing:
                submitted.append((chain, executor.submit(_run, missing)))
    except (UncompletedJobError, OSError) as error:
        for _, running in submitted:  # else the same command would submit them again
            running.cancel()
        raise UserError(f"--cluster slurm: {' '.join(str(error).split())}") from error
    for chain, running in submitted:
        try:
            running.result()
        except UncompletedJobError:
            left = [job.workdir for job in chain if _missing(job, split)]
            workdir = left[0] if left else chain[-1].workdir
            failed.append(f"{workdir} (log: {running.paths.stderr})")
            console.print(f"{workdir}: failed")
        else:
            console.print(f"{', '.join(str(job.workdir) for job in chain)}: done")
    return failed


def _missing(job: Job, split: str) -> list[list[str]]:
    """The verbs that a run still needs, with their arguments."""
    from show_attend_tell import config
    from show_attend_tell.evaluation.split_scores import reported_contexts, score_stem
    from show_attend_tell.runs.folder import RunFolder

    workdir = ["--workdir", str(job.workdir)]
    wanted = config.load_experiment(job.config, job.overrides)
    commands = []
    folder = RunFolder(job.workdir)
    try:
        # Where the folder holds a run of another config, `train` says so.
        record = folder.record()
        finished = bool(record.get("finished")) and not folder.changes(wanted)
    except UserError:
        record, finished = {}, False

    def made(path: Path) -> bool:
        return _step_of(path) == record.get("best_step", -1)

    if not finished:
        commands.append(["train", "--config", job.config, *workdir, *job.options, *job.overrides])
    stems = [
        score_stem(split, dataclasses.replace(wanted.decode, context=context), language)
        for context in reported_contexts(wanted)
        for language in ("", *wanted.data.spoken[1:])
    ]
    if not finished or not all(made(job.workdir / f"{stem}.scores.json") for stem in stems):
        commands.append(["evaluate", *workdir, "--split", split])
    if not finished or not made(job.workdir / "attention" / split / "statistics.json"):
        commands.append(["attend", *workdir, "--split", split])
    return commands


def _step_of(path: Path) -> object:
    """The step of the weights that a file was made with; None if it is not there, or damaged."""
    try:
        return files.parse_json(path.read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _run(commands: Sequence[Sequence[str]]) -> None:
    """Runs a job's verbs as a user would call them."""
    for command in commands:
        subprocess.run([sys.executable, "-m", "show_attend_tell", *command], check=True)
