"""Runs grouped into experiments, and experiments into the rows of a score table.

Runs that share every setting but the seed are one experiment. A row is an experiment decoded in one
way and in one language; its table (see `uncertainty`) holds the mean over seeds of each image's
scores, and for BLEU of its n-gram counts.
"""

import dataclasses
import itertools
import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from show_attend_tell.errors import UserError
from show_attend_tell.reports.read_runs import DECODING, Run, RunSettings, Scored, differing


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """The runs of an experiment, one for each seed, in the order of seeds."""

    letter: str
    name: str
    runs: list[Run]


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """An experiment decoded in one way and in one language.

    Attributes:
      group: the experiment.
      label: its letter, the language, and the decoding settings that vary between rows.
      language: of the captions; empty where no run speaks several.
      decoding: the settings that every row states, and those that vary.
      scored: one score file for each seed.
      table: mean of theirs.
    """

    group: Group
    label: str
    language: str
    decoding: dict[str, Any]
    scored: list[Scored]
    table: Float[np.ndarray, "N 16"]


def check_comparable(runs: Sequence[Run]) -> None:
    """Checks that scores of the runs say something about each other.

    Raises:
      UserError: they rest on different data or vocabularies; or, in the same language, on different
        references or tokenizers.
    """
    again = "evaluate both again on the same data"
    remedies = {
        "data sets": "compare runs of one",
        "reference captions": again,
        "images": again,
        "tokenizers": "evaluate both again with one version of the program",
        "weights of CLIP": "evaluate both again with the same --clip",
        "vocabularies": "train both on the same data with the same data.min_count",
    }
    firsts: dict[tuple[str, str], tuple[Path, Any]] = {}
    for run in runs:
        for scored in run.scored:
            data = (run.settings.data, run.settings.languages)
            facts = (
                data,
                scored.references,
                scored.image_ids,
                scored.tokenizer,
                scored.clip,
                run.words,
            )
            for (what, remedy), fact in zip(remedies.items(), facts, strict=True):
                language = "" if what in ("data sets", "vocabularies") else scored.language
                if what == "weights of CLIP" and fact is None:
                    continue
                path, first = firsts.setdefault((what, language), (scored.path, fact))
                if fact != first:
                    raise UserError(f"{scored.path} and {path} rest on different {what}; {remedy}")


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], dict[str, list[Any]]]:
    """The experiments in the order given, and the settings that differ (see `differing`).

    An experiment is named after the settings that differ; after its folder if these are more than
    four, or none.

    Raises:
      UserError: two runs have the same settings and the same seed.
    """
    members: dict[str, list[Run]] = {}
    settings: dict[str, RunSettings] = {}
    for run in runs:
        key = run.settings.experiment
        settings.setdefault(key, run.settings)
        for other in members.setdefault(key, []):
            if other.settings.seed == run.settings.seed:
                raise UserError(
                    f"{run.workdir} and {other.workdir} are the same experiment with the same "
                    f"seed, {run.settings.seed}; name one of them, or train another seed"
                )
        members[key].append(run)
    different = differing(list(settings.values()))
    groups = []
    for i, found in enumerate(members.values()):
        name = ", ".join(f"{key}={values[i]}" for key, values in different.items())
        if not 1 <= len(different) <= 4:
            name = folder_name(found[0].workdir)
        letter = string.ascii_uppercase[i] if i < 26 else str(i + 1)
        groups.append(Group(letter, name, sorted(found, key=lambda run: run.settings.seed)))
    return groups, different


def run_label(group: Group, run: Run) -> str:
    """What readers call a run."""
    return f"{group.letter}, seed {run.settings.seed}"


def folder_name(workdir: Path) -> str:
    """The name of a run's folder, without the seed that `sweep` adds, or that of its parent."""
    folder = workdir.resolve()
    if re.fullmatch(r"seed=\d+", folder.name):
        folder = folder.parent
    return re.sub(r"(?<=.)-seed=\d+$", "", folder.name)


def rows_of(groups: Sequence[Group]) -> list[Row]:
    """The rows of the score table, language by language and in each group by group."""
    found: dict[tuple[str, str, str], tuple[Group, list[Scored]]] = {}
    for group in groups:
        for scored in itertools.chain.from_iterable(run.scored for run in group.runs):
            key = scored.language, group.letter, json.dumps(scored.decoding, sort_keys=True)
            found.setdefault(key, (group, []))[1].append(scored)
    decodings = [scored[0].decoding for _, scored in found.values()]
    keys = dict.fromkeys(key for decoding in decodings for key in decoding)
    varied = [k for k in keys if any(d.get(k) != decodings[0].get(k) for d in decodings)]
    stated = dict.fromkeys([*DECODING, *varied])
    rows = []
    languages = list(dict.fromkeys(language for language, *_ in found))
    for key in sorted(found, key=lambda key: languages.index(key[0])):
        group, scored = found[key]
        get, language = scored[0].decoding.get, scored[0].language
        rows.append(
            Row(
                group=group,
                label=", ".join(
                    [
                        group.letter,
                        *filter(None, [language]),
                        *(f"{in_words(k)} {get(k)}" for k in varied),
                    ]
                ),
                language=language,
                decoding={name: get(name) for name in stated},
                scored=scored,
                table=np.mean([s.table for s in scored], axis=0),
            )
        )
    return rows


def by_language(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each language: of the same images, scored by the same references."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.language, []).append(row)
    return found


def in_words(key: str) -> str:
    """A setting's name as it is shown: "length penalty"."""
    return key.replace("_", " ")
