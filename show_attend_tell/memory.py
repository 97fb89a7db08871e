"""Memory settings of the C library that make steps on CPUs faster, set by the program itself.

A training step on CPUs takes hundreds of megabytes and gives them back. With these settings the
process keeps its memory, in pages of 2 MB where the system offers them. Fetching 4 kB at a time
costs a tenth or more of a step's time.

glibc reads the settings when a process starts. So the program replaces itself once by the same
program with `GLIBC_TUNABLES` set. The process number, signals, open files and exit status stay.
"""

import contextlib
import os
import sys

TUNABLES = ":".join(
    f"glibc.malloc.{name}"
    for name in (
        "hugetlb=1",  # ask for pages of 2 MB
        "arena_max=1",
        "mmap_max=0",
        "trim_threshold=1000000000000",  # bytes: give nothing back
    )
)
VERBS = (
    *("quickstart", "prepare", "train", "sweep"),
    *("caption", "translate", "attend", "evaluate", "gradient-variance"),
)
_STARTED_AGAIN = "SHOW_ATTEND_TELL_STARTED_AGAIN"


def with_tunables() -> None:
    """Gives the program its memory settings where its verb computes something: `start_again`."""
    words = sys.argv[1:]
    if words and words[0] in VERBS and not {"-h", "--help"} & set(words):
        start_again()


def start_again() -> None:
    """Replaces this process by the same program with `TUNABLES`; returns where they do not help.

    It returns on a system without glibc, under a debugger, and where the user has set
    `GLIBC_TUNABLES`, be it to nothing. Call it before anything is computed or printed.
    """
    if "GLIBC_TUNABLES" in os.environ or _STARTED_AGAIN in os.environ or not _has_glibc():
        return
    # The interpreter's own command line, with its options and `-m`. It ends otherwise where the
    # arguments are not those of the process.
    command, words = sys.orig_argv, sys.argv[1:]
    if not sys.executable or command[len(command) - len(words) :] != words or sys.gettrace():
        return
    # The second name ends the loop where a privileged interpreter loses the first.
    changed = os.environ | {"GLIBC_TUNABLES": TUNABLES, _STARTED_AGAIN: "1"}
    with contextlib.suppress(OSError):  # then it is slower, with the same results
        os.execve(sys.executable, [sys.executable, *command[1:]], changed)


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False
