"""The one exception a user is meant to read."""


class UserError(Exception):
    """Bad input or an unusable environment, described in one line.

    The message names the file or setting at fault and what to do about it. The command line prints
    it without a traceback and exits with status 2.
    """
