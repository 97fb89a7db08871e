"""The program: the console script `show-attend-tell`, and `python -m show_attend_tell VERB`."""

import sys

from show_attend_tell import memory


def main() -> int:
    """Sets up the process's memory, then runs the command line; returns the exit status."""
    memory.with_tunables()  # may restart the program, so it precedes the slow imports
    from show_attend_tell.cli.parser import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
