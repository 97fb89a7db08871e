"""Folders for Orbax and TFDS, which take the name of a folder for a pattern.

Both list files by `epath.Path.glob`, which puts the folder's name before the pattern. In a folder
called `lr [try]` it finds nothing: Orbax then writes checkpoints that it cannot read.
"""

from collections.abc import Iterator
from pathlib import Path

from etils.epath.gpath import PosixGPath


class LiteralPath(PosixGPath):
    """A path whose name is never a pattern; paths made of it are of this class, too."""

    def glob(self, pattern: str) -> "Iterator[LiteralPath]":
        """The files below this folder that match the pattern."""
        return map(type(self), Path(self).glob(pattern))
