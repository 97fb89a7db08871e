"""SPICE (Anderson et al. 2016): how much captions and references agree on objects and relations.

The only score that needs Java. pycocoevalcap ships the program, but not the parser that it needs:
Stanford CoreNLP, 0.4 GB, which is downloaded once.
"""

import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocoevalcap.spice import get_stanford_models, spice

from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.caption_metrics import tokenized
from show_attend_tell.evaluation.scores import Scores, check_pairs
from show_attend_tell.files import parse_json

NAME = "SPICE"
MEMORY = "8G"  # what pycocoevalcap grants Java
FOLDER = Path(spice.__file__).parent
_PARSER = [f"lib/{get_stanford_models.JAR}{end}.jar" for end in ("", "-models")]
_JAVA = "it is made for Java 8: put that one first on the PATH, or leave --spice out"


def check_spice() -> list[str]:
    """The command that runs SPICE, without its files.

    Raises:
      UserError: Java or a part of SPICE is missing; the message says how to get it.
    """
    java = shutil.which("java")
    if java is None:
        raise UserError("SPICE needs Java, and there is no java on the PATH; install one (Java 8)")
    program = FOLDER / spice.SPICE_JAR
    if not program.is_file():
        raise UserError(f"SPICE needs {program}: install pycocoevalcap again")
    for name in _PARSER:
        if not (FOLDER / name).is_file():
            raise UserError(
                f"SPICE needs {FOLDER / name}, 0.4 GB: get it with "
                f'`{sys.executable} -c "from pycocoevalcap.spice.spice import Spice; Spice()"`'
            )
    return [java, f"-Xmx{MEMORY}", "-jar", str(program)]


def add_spice(
    scores: Scores, references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str]
) -> None:
    """Adds SPICE, in [0, 1], of each caption and their mean, to other scores of the captions.

    A caption and references that SPICE finds nothing in score 0.

    Args:
      scores: of the captions.
      references: raw captions by image id.
      hypotheses: one caption by image id.

    Raises:
      UserError: the images differ, or SPICE does not run here.
    """
    check_pairs(references, hypotheses)
    truth, said = tokenized(references, hypotheses)
    # Its ids are numbers of the captions: an image id may be anything.
    entries = [
        {"image_id": number, "test": said[name][0], "refs": truth[name]}
        for number, name in enumerate(hypotheses)
    ]
    found = _scored(check_spice(), entries)
    try:
        by_number = {int(one["image_id"]): one["scores"]["All"]["f"] for one in found}
        values = [_share(by_number[number]) for number in range(len(entries))]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"SPICE wrote no scores ({error!r}); {_JAVA}") from error
    scores.values[NAME], scores.per_image[NAME] = float(np.mean(values)), values


def _scored(command: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> Any:
    with tempfile.TemporaryDirectory(prefix="spice-") as folder:
        given, written = Path(folder) / "captions.json", Path(folder) / "scores.json"
        given.write_text(json.dumps(entries), encoding="utf-8")
        options = [str(given), "-out", str(written), "-subset", "-silent"]
        try:
            done = subprocess.run(
                [*command, *options], cwd=folder, capture_output=True, text=True, errors="replace"
            )
            if done.returncode:
                lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
                why = next((line for line in lines if "Exception" in line or "Error" in line), "")
                why = why or "".join(lines[-1:]) or f"exit status {done.returncode}"
                raise UserError(f"SPICE failed ({why[:200]}); {_JAVA}")
            return parse_json(written.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"SPICE wrote no scores ({error}); {_JAVA}") from error


def _share(value: Any) -> float:
    """An F-score; 0 for what is no number: nothing was found in a caption."""
    number = 0.0 if value is None else float(value)
    return number if math.isfinite(number) else 0.0
