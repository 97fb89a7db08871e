"""Calls verbs with bad inputs; each must say in one line what is wrong and what to do.

    python tests/chaos/bad_inputs.py [--only TEXT] [--show]

The table of inputs is in `bad_cases.py`.
"""

import argparse
import contextlib
import io
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import bad_cases
import nursery
import world
from bad_cases import Case

NOBODY = 65534
# How remedies are worded: with what one does, or with what there is to choose from.
REMEDY = re.compile(
    r"\b(add|adds|build|check|choose|convert|correct|create|evaluate|export|fetch|fix|free|get"
    r"|give|install|join|keep|leave|lower|make|move|must|name|named|nearest|need|needs|open|pass|pipe|put"
    r"|remove|rename|required|run|save|scale|see|set|start|take|takes|train|try|unpack|use|wait"
    r"|write|usage|one of|from)\b"
)
PARSER = ("usage:", "error:")
MOST = 700  # characters of a line
SECONDS = 60


class TooLong(Exception):
    """A verb neither ended nor failed."""


class Input(io.TextIOWrapper):
    """Standard input with a given content."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))


def called(case: Case, root: Path, bad: Path) -> tuple[int | None, str, str]:
    """The exit status, the standard error and what went wrong otherwise, for one bad input."""
    from show_attend_tell.cli.parser import main

    bad.mkdir(mode=0o777)
    bad.chmod(0o777)
    case.make(bad, root)
    words = [w.replace("{bad}", str(bad)).replace("{root}", str(root)) for w in case.words]
    errors, status, raised = io.StringIO(), None, ""

    def stop(number, frame):
        raise TooLong(f"over {SECONDS} s")

    before, sys.stdin = sys.stdin, Input(case.stdin)
    sys.argv = ["show-attend-tell", *words]
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        if case.unprivileged and os.geteuid() == 0:
            os.seteuid(NOBODY)
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = main(words)
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException as error:
        raised = f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)
        if os.getuid() == 0:
            os.seteuid(0)
        sys.stdin = before
    return status, errors.getvalue(), raised


def complaints(case: Case, root: Path, bad: Path, found: tuple[int | None, str, str]) -> list[str]:
    """What is wrong with how a bad input was answered; empty if nothing is."""
    status, text, raised = found
    if raised:
        return [f"raised {raised}"]
    lines = text.strip().splitlines()
    wrong = []
    if status == 0:
        return ["no error"]
    if not lines:
        return ["no message"]
    if "Traceback" in text:
        wrong.append("a traceback")
    line, names = lines[-1], case.names.replace("{bad}", str(bad)).replace("{root}", str(root))
    errors = [one for one in lines if one.startswith("error:") or ": error:" in one]
    if len(errors) != 1 or errors[0] != line:
        wrong.append(f"{len(errors)} lines of errors")
    if names not in line:
        wrong.append(f"does not name {names!r}")
    if not REMEDY.search(line) and "usage:" not in text:
        wrong.append("no remedy")
    if len(line) > MOST:
        wrong.append(f"{len(line)} characters")
    if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in line):
        wrong.append("control characters")
    if str(bad) in line and re.search(r"\b0x[0-9a-f]{6,}", line):
        wrong.append("an address in memory")
    return wrong


def make_world(base: Path) -> Path:
    """A world with a trained, evaluated, attended and exported run."""
    root, prints = base / "root", base / "prints"
    prints.mkdir()
    nursery.prepare(base / "cache")
    world.make(root)
    for name in ("train", "evaluate", "attend", "export"):
        ended = nursery.run(world.words_of(world.verbs()[name], root), prints)
        assert not ended.status, ended.err
    return root


def measure(only: str = "", show=lambda line: None) -> tuple[int, list[str]]:
    """The number of bad inputs, and those that were not answered clearly."""
    base = Path(tempfile.mkdtemp(prefix="bad-"))
    base.chmod(0o755)
    unclear, count = [], 0
    try:
        root = make_world(base)
        os.chdir(base)
        for number, case in enumerate(bad_cases.cases()):
            shown = f"{case.about}: {' '.join(case.words)!r}"
            if only not in shown:
                continue
            count += 1
            bad = base / f"bad{number}"
            found = called(case, root, bad)
            last = (found[1].strip().splitlines() or [""])[-1]
            wrong = complaints(case, root, bad, found)
            show(f"{number:3} {shown[:150]}\n    {last[:MOST]}")
            if wrong:
                unclear.append(f"{shown[:300]}\n    {', '.join(wrong)}\n    {last[:MOST]}")
            shutil.rmtree(bad, ignore_errors=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return count, unclear


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="inputs that have this text")
    parser.add_argument("--show", action="store_true", help="every message")
    arguments = parser.parse_args()
    show = (lambda line: print(line, flush=True)) if arguments.show else (lambda line: None)
    count, unclear = measure(arguments.only, show)
    for line in unclear:
        print(f"UNCLEAR {line}")
    print(f"{count} bad inputs, {len(unclear)} without a clear line")
    return 1 if unclear else 0


if __name__ == "__main__":
    sys.exit(main())
