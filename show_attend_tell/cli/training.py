"""The verbs `quickstart`, `train` and `config`."""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from show_attend_tell.cli.common import (
    Verbs,
    add_experiment,
    add_quiet,
    add_trackers,
    add_verb,
    say,
)
from show_attend_tell.files import user_path

SHOWN = 16  # pictures that quickstart draws per run


def add_verbs(verbs: Verbs) -> None:
    """Adds the verbs of this module."""
    quickstart = add_verb(
        verbs,
        "quickstart",
        _quickstart,
        "Train, draw and compare soft and hard attention on generated data, in a few minutes.",
    )
    quickstart.add_argument("--workdir", type=user_path, default=Path("runs/quickstart"))
    add_quiet(quickstart)
    quickstart.set_defaults(verbs=verbs)

    train = add_verb(
        verbs, "train", _train, "Train an experiment, or resume the run in its workdir."
    )
    add_experiment(train)
    train.add_argument("--workdir", type=user_path, required=True, help="folder of the run")
    add_quiet(train)
    add_trackers(train)
    job = train.add_argument_group(
        "several processes",
        "One run on the devices of all processes. SLURM steps with several tasks and TPU pods need "
        "no options. All processes must share the folders of runs and data.",
    )
    job.add_argument(
        "--coordinator", metavar="HOST:PORT", help="address of process 0, with a free port"
    )
    job.add_argument("--processes", type=int, help="number of processes")
    job.add_argument("--process", type=int, help="index of this one, from 0")

    config = add_verb(verbs, "config", _config, "Print every setting of an experiment.")
    add_experiment(config)
    config.add_argument(
        "--changes", action="store_true", help="only settings that differ from their default"
    )


def _train(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell import config, devices
    from show_attend_tell.integrations.trackers import make_trackers
    from show_attend_tell.training.session import train

    devices.start(arguments.coordinator, arguments.processes, arguments.process)
    settings = config.load_experiment(arguments.config, overrides)
    trackers = make_trackers(arguments.tracker, arguments.tracker_pictures)
    needless = []
    # A variant that comes with the package may take back what its siblings share.
    if not config.is_installed(arguments.config):
        needless = config.needless(config.read_experiment(arguments.config))
    if needless and devices.is_first():
        say(
            f"note: {arguments.config} sets {len(needless)} settings to their defaults; "
            f"`show-attend-tell config --config {arguments.config} --changes` lists the others",
            error=True,
        )
    train(settings, arguments.workdir, quiet=arguments.quiet, trackers=trackers)


def _config(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from rich.table import Table

    from show_attend_tell import config
    from show_attend_tell.terminal import Terminal

    settings = config.load_experiment(arguments.config, overrides)
    table = Table(title=arguments.config, title_justify="left", show_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("default", overflow="fold")
    table.add_column("meaning")
    for name, value, default, meaning in config.described(settings):
        if value == default and arguments.changes:
            continue
        shown = "" if value == default else repr(default)
        text = f"{meaning.text}; {meaning.range}" if meaning.range else meaning.text
        style = None if value == default else "bold"
        table.add_row(name, repr(value), shown, text, style=style)
    Terminal(width=None if sys.stdout.isatty() else 160).print(table)


def _quickstart(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    started = time.monotonic()
    show = partial(_show, arguments.verbs, arguments.quiet)
    quiet = ("--quiet",) if arguments.quiet else ()
    train = ("train", *quiet, "--config")
    soft, hard = arguments.workdir / "soft", arguments.workdir / "hard"
    # Hard attention starts from the soft run, in half the time of a start from scratch.
    for run, variant, changes in (
        (soft, "soft", ()),
        (hard, "hard-from-soft", (f"--config.train.init_from={soft}",)),
    ):
        show(*train, f"shapes:{variant}", "--workdir", run, *changes, *overrides)
        show("evaluate", "--workdir", run, "--split", "val")
        show("attend", "--workdir", run, "--split", "val", "--num", SHOWN)
    page = arguments.workdir / "compare"
    show("compare", soft, hard, "--split", "val", "--out", page)
    say(f"{(time.monotonic() - started) / 60:.1f} minutes in all")


def _show(verbs: Verbs, quiet: bool, *command: object) -> None:
    """Prints a command of this program, unless `quiet`, and runs it."""
    words = [str(word) for word in command]
    if not quiet:
        say("", f"$ show-attend-tell {shlex.join(words)}")
    arguments, overrides = verbs.choices[words[0]].parse_known_args(words[1:])
    arguments.run(arguments, overrides)
