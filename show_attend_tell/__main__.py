"""`python -m show_attend_tell VERB`: what the console script runs."""

import sys

from show_attend_tell.cli.parser import main

if __name__ == "__main__":
    sys.exit(main())
