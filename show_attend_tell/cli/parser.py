"""The command line: show-attend-tell VERB."""

import argparse
import errno
import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from show_attend_tell.cli import data, describing, exploring, reporting, score, sweep, training
from show_attend_tell.cli.common import say
from show_attend_tell.errors import UserError

# What to do about errors of the system, by their number.
_ROOM = "free some space there, and start the same command again"
_RIGHTS = "see to its permissions, or name another place"
_PATH = "check the path, or name another place"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHTS),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST), _PATH),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), _PATH),
}
NEGATIVE = re.compile(r"-\.?\d")  # how a negative number begins
UNREAD = 141  # the exit status where a pipe's reader has gone: 128 and the number of its signal


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit status.

    It is 0, 2 for a user's error, 130 when interrupted, and `UNREAD` where nobody reads on.
    """
    try:
        status = _run(argv)
    except (BrokenPipeError, SystemExit) as error:  # argparse exits, perhaps after printing help
        if _unread() or isinstance(error, BrokenPipeError):
            return UNREAD
        raise
    return UNREAD if _unread() else status


def _run(argv: Sequence[str] | None) -> int:
    """Runs a verb; returns the exit status.

    Raises:
      BrokenPipeError: nobody reads what it prints.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack letters of a caption
            stream.reconfigure(errors="backslashreplace")
    parser = make_parser()
    arguments, overrides = parser.parse_known_args(argv)
    if unknown := _unknown(overrides):
        parser.error(f"{unknown[0]}: no such option; try {arguments.verb} --help")
    try:
        _prepare_libraries()
        arguments.run(arguments, overrides)
    except UserError as error:
        say(f"error: {error}", error=True)
        return 2
    except KeyboardInterrupt:
        say("interrupted", error=True)
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        # What no module handles: a full disk, a folder without permission.
        where = f"{error.filename}: " if error.filename else ""
        remedy = REMEDIES.get(error.errno or 0, "see to it, and start again")
        say(f"error: {where}{error.strerror or error}; {remedy}", error=True)
        return 2
    return 0


def _unknown(words: Sequence[str]) -> list[str]:
    """What looks like an option, but is neither an override nor the negative value of one."""
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word.startswith("-")
        and not word.startswith("--config.")
        and not (before.startswith("--config.") and "=" not in before and NEGATIVE.match(word))
    ]


def _unread() -> bool:
    """Whether something printed is left whose reader has gone, as `head` does once it has enough.

    It then goes nowhere. Python would try again at its end, and tell of an error.
    """
    gone = False
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it was closed
        try:
            stream.flush()
        except BrokenPipeError:
            gone = True
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
        except OSError:
            pass  # another fault, such as a full disk: whoever printed has met it
    return gone


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs. Each sets `run`, called with the arguments and the overrides."""
    parser = argparse.ArgumentParser(
        "show-attend-tell",
        description="Image captioning with visual attention (Xu et al. 2015).",
        epilog="show-attend-tell VERB --help explains a verb.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for family in (training, data, describing, score, exploring, reporting, sweep):
        family.add_verbs(verbs)
    return parser


class _Messages(logging.Handler):
    """Shows messages on the standard error, whatever that is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), error=True)


def _prepare_libraries() -> None:
    """Silences libraries, shows our own messages and caches compiled programs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import absl.logging
    import jax
    import platformdirs

    # Orbax logs what its threads raise, with a traceback, and then raises it where we see it.
    absl.logging.set_verbosity(absl.logging.FATAL)
    log = logging.getLogger("show_attend_tell")
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(_Messages())
    log.propagate = False
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        cache = Path(platformdirs.user_cache_dir("show_attend_tell")) / "jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        # Small programs, too: the hundred that initialise a model take seconds.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


if __name__ == "__main__":
    sys.exit(main())
