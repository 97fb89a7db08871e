"""The program: the console script `show-attend-tell`, and `python -m show_attend_tell VERB`."""

import gc
import sys

from show_attend_tell import memory


def main() -> int:
    """Sets up the process's memory, then runs the command line; returns the exit status."""
    memory.with_tunables()  # may restart the program, so it precedes the slow imports
    gc.set_threshold(10_000, 20, 100)  # imports make many objects, which stay
    from show_attend_tell.cli.parser import main as run

    try:
        return run()
    finally:
        gc.freeze()  # at its end, Python need not look through them once more


if __name__ == "__main__":
    sys.exit(main())
