"""C library memory settings that speed up steps on CPUs. The program sets them itself.

A training step on CPUs allocates hundreds of megabytes and frees them again. With these settings
the process keeps its memory, in pages of 2 MB if the system offers them. Fetching 4 kB at a time
costs a tenth or more of a step's time.

glibc reads the settings when a process starts. So the program replaces itself once with the same
program, but with `GLIBC_TUNABLES` set. This preserves the process ID, signals, open files and exit
status.
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
# A verb that answers one request, such as `caption`, would lose more than it gains.
VERBS = (
    *("quickstart", "prepare", "train", "sweep"),
    *("attend", "evaluate", "gradient-variance"),
)
_STARTED_AGAIN = "SHOW_ATTEND_TELL_STARTED_AGAIN"


def with_tunables() -> None:
    """Restarts the program with its memory settings if its verb computes for long."""
    words = sys.argv[1:]
    if words and words[0] in VERBS and not {"-h", "--help"} & set(words):
        start_again()


def start_again() -> None:
    """Replaces this process with the same program under `TUNABLES`; returns if that is no use.

    It returns on a system without glibc, under a debugger, and if the user has set
    `GLIBC_TUNABLES`, even to an empty value. Call it before anything is computed or printed.
    """
    if "GLIBC_TUNABLES" in os.environ or _STARTED_AGAIN in os.environ or not _has_glibc():
        return
    # The interpreter's command line, with its options and `-m`. It must end with the arguments;
    # otherwise they are not the process's own.
    command, words = sys.orig_argv, sys.argv[1:]
    if not sys.executable or command[len(command) - len(words) :] != words or sys.gettrace():
        return
    # The second variable prevents a loop if a privileged interpreter drops the first.
    changed = os.environ | {"GLIBC_TUNABLES": TUNABLES, _STARTED_AGAIN: "1"}
    with contextlib.suppress(OSError):  # on failure: slower, but with the same results
        os.execve(sys.executable, [sys.executable, *command[1:]], changed)


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False
