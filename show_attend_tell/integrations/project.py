"""What all trackers share."""

import os

PROJECT = "show-attend-tell"


def project(variable: str) -> str:
    """The project that an environment variable names, else `PROJECT`."""
    return os.environ.get(variable) or PROJECT


def allowed(pictures: str, local: bool) -> bool:
    """Whether a tracker may show pictures of the data set.

    Args:
      pictures: one of `trackers.PICTURES`.
      local: whether the tracker keeps everything on this machine.
    """
    return pictures == "all" or (pictures == "local" and local)
