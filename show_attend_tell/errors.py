"""The one exception a user is meant to read, and what it says where a library is missing."""


class UserError(Exception):
    """Bad input or an unusable environment, described in one line.

    The message names the file or setting at fault and what to do about it. The command line prints
    it without a traceback and exits with status 2.
    """


def installing(extra: str) -> str:
    """What to do where a library is missing that belongs to an extra."""
    return (
        f"pip install 'show-attend-tell[{extra}]' (or start ./launch.sh once with "
        f"SHOW_ATTEND_TELL_EXTRA={extra})"
    )
