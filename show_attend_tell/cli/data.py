"""The verbs `prepare` and `inspect`, which work on data before a run."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from show_attend_tell.cli.common import Verbs, add_experiment, add_verb
from show_attend_tell.files import user_path


def add_verbs(verbs: Verbs) -> None:
    """Adds the verbs of this module."""
    prepare = add_verb(
        verbs, "prepare", _prepare, "Build an experiment's data set and feature cache, or resume."
    )
    inspect = add_verb(
        verbs, "inspect", _inspect, "Summarise an experiment's data set and draw a contact sheet."
    )
    for data in (prepare, inspect):
        add_experiment(data)
    inspect.add_argument(
        "--out", type=user_path, help="folder to write (default: runs/inspect/DATA)"
    )


def _prepare(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.config import load_experiment
    from show_attend_tell.runs.preparation import prepare
    from show_attend_tell.terminal import Terminal

    prepare(load_experiment(arguments.config, overrides), Terminal())


def _inspect(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.config import load_experiment
    from show_attend_tell.reports.data_sheet import inspect
    from show_attend_tell.terminal import Terminal

    settings = load_experiment(arguments.config, overrides)
    inspect(settings, arguments.out or Path("runs/inspect") / settings.data.name, Terminal())
