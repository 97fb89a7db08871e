"""Tables in the pages of results, generated from the records that the repository keeps.

A page marks the place of a table by two comments, and everything between them is generated:

    <!-- table: flickr8k -->
    <!-- end -->

The name is that of a folder of `results/`, which holds the records of runs that
`sharing.publish` wrote. A table has one line for each experiment and way of decoding, with means
± standard deviations over seeds. The commands that trained the experiments follow it.
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from show_attend_tell import files
from show_attend_tell.errors import UserError
from show_attend_tell.printable import printable
from show_attend_tell.reports import markdown
from show_attend_tell.reports.grouping import (
    Group,
    Row,
    check_comparable,
    folder_name,
    group_runs,
    in_words,
    rows_of,
)
from show_attend_tell.reports.read_runs import read_run
from show_attend_tell.reports.tables import spread
from show_attend_tell.reports.uncertainty import over_seeds

SPLIT = "test"
# The columns, if any row has such scores: the unit and the format of each. All but CIDEr are shown
# from 0 to 100, as sacrebleu's BLEU and chrF are already.
PERCENT = (0.01, "{:.2f}")
SCORES = {
    **{f"BLEU-{n}": PERCENT for n in range(1, 5)},
    "METEOR": PERCENT,
    "ROUGE-L": PERCENT,
    "CIDEr": (1.0, "{:.3f}"),
    "BLEU": (1.0, "{:.2f}"),
    "chrF": (1.0, "{:.2f}"),
}

_BEGIN = re.compile(r"<!-- table: (?P<name>[\w.-]+) -->\n")
_END = "<!-- end -->"


def update_pages(pages: Path, results: Path) -> list[Path]:
    """Generates the tables of all Markdown pages in a folder anew.

    Args:
      pages: folder of the pages.
      results: folder of the records, with a folder for each table.

    Returns:
      The pages that changed.

    Raises:
      UserError: there are no pages, one is not UTF-8, or as `filled`.
    """
    changed, found = [], sorted(pages.glob("*.md"))
    if not found:
        raise UserError(f"{pages}: no Markdown page there; name the folder of the pages")
    for page in found:
        try:
            text = page.read_text(encoding="utf-8")
        except ValueError as error:
            raise UserError(f"{page}: not UTF-8; save the page as UTF-8") from error
        new = filled(text, results)
        if new != text:
            files.write_text(page, new)
            changed.append(page)
    return changed


def filled(text: str, results: Path) -> str:
    """A page's text with its tables generated.

    Raises:
      UserError: a table has no end, a name no folder of records, or a record is missing or damaged.
    """
    parts, position = [], 0
    for begin in _BEGIN.finditer(text):
        end = text.find(_END, begin.end())
        following = _BEGIN.search(text, begin.end())
        if end < 0 or (following and following.start() < end):
            raise UserError(f"table {begin['name']}: no line {_END!r} after it; add one")
        parts += [text[position : begin.end()], table(results / begin["name"])]
        position = end
    return "".join([*parts, text[position:]])


def table(folder: Path) -> str:
    """The table of a folder of records and the commands of its experiments, as Markdown.

    Scores are those of the test split. Minutes are the run's own, without those of a run that it
    started from. Experiments are named after their folders.

    Raises:
      UserError: there are no records, or one is missing, damaged, or cannot be compared.
    """
    workdirs = sorted(path.parent for path in folder.glob("*/config.json"))
    if not workdirs:
        raise UserError(f"{folder}: no records of runs; `publish RUN --out {folder}` writes them")
    runs = [read_run(workdir, SPLIT) for workdir in workdirs]
    check_comparable(runs)
    groups = group_runs(runs)[0]
    rows = rows_of(groups)
    names = [name for name in SCORES if any(name in row.scored[0].scores for row in rows)]
    head = ["experiment", *names, "seeds", "minutes"]
    lines = markdown.table(head, [_cells(row, rows, names) for row in rows])
    # Beside the scores, a command would make a column too narrow to read.
    commands = [line for group in groups for line in (f"# {_name(group)}", _command(group))]
    return "\n".join([*lines, "", "```text", *commands, "```"]) + "\n"


def _cells(row: Row, rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    cells = [_label(row, [other for other in rows if other.group is row.group])]
    for name in names:
        unit, pattern = SCORES[name]
        score = over_seeds([scored.scores.get(name) for scored in row.scored])
        cells.append(spread(score, pattern, unit))
    minutes = spread(over_seeds([run.seconds for run in row.group.runs]), "{:.1f}", 60.0)
    return [*cells, str(len(row.scored)), minutes]


def _label(row: Row, same: Sequence[Row]) -> str:
    """The experiment, and what sets the row apart from others of this experiment."""
    keys = [k for k, v in row.decoding.items() if any(other.decoding[k] != v for other in same)]
    values = (
        row.decoding[k] if k == "context" else f"{in_words(k)} {row.decoding[k]}" for k in keys
    )
    return ", ".join([_name(row.group), *filter(None, [row.language]), *values])


def _name(group: Group) -> str:
    return printable(folder_name(group.runs[0].workdir))


def _command(group: Group) -> str:
    """How every seed was trained; N stands for the seed, and `--workdir` is left out."""
    commands = []
    for run in group.runs:
        _, *arguments = run.record["command"]
        if "--workdir" in arguments:
            place = arguments.index("--workdir")
            del arguments[place : place + 2]
        arguments = [re.sub(r"\bseed=\d+", "seed=N", argument) for argument in arguments]
        # An experiment of the project goes by its name.
        commands.append([re.sub(r"^experiments/(\w+)\.py", r"\1", a) for a in arguments])
    shared = [a for a in commands[0] if all(a in command for command in commands)]
    line = printable(" ".join(["./launch.sh", *shared]))
    return " \\\n".join(
        textwrap.wrap(
            line, 96, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
    )
