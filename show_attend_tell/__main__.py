"""The program: the console script `show-attend-tell`, and `python -m show_attend_tell VERB`."""

import sys

from show_attend_tell import memory


def main() -> int:
    """Sets the process's memory up, then runs the command line; returns the exit status."""
    memory.with_tunables()  # may start the program again: before the imports that take time
    from show_attend_tell.cli.parser import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
