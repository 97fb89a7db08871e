"""Whose turn it is to compute: a person who waits comes before work in the background."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One computation at a time; several at once would only slow each other down."""

    def __init__(self):
        self._changed = threading.Condition()
        self._busy, self._waiting = False, 0

    @contextmanager
    def person(self) -> Iterator[None]:
        """A turn for somebody who waits."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._busy)
            self._waiting -= 1
            self._busy = True
        try:
            yield
        finally:
            self._done()

    @contextmanager
    def background(self) -> Iterator[None]:
        """A turn when nobody waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and self._waiting == 0)
            self._busy = True
        try:
            yield
        finally:
            self._done()

    def _done(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
