"""The table of bad inputs: what is wrong, the command, and what its message must name."""

from bad_arguments import arguments, experiments, outputs, overrides
from bad_data import sources, tables
from bad_files import Case
from bad_runs import pictures, reports, runs, weights
from bad_scores import scores

KINDS = (
    *(arguments, experiments, overrides, outputs),
    *(pictures, runs, reports, weights, tables, sources, scores),
)


def cases() -> list[Case]:
    """All bad inputs.

    `{bad}` is a fresh folder that `make` fills, `{root}` a world with a trained run
    (`world.make`).
    """
    return [case for kind in KINDS for case in kind()]
