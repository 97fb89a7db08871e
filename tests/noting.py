"""A tracker that only notes what it gets, for the tests of trackers and of training."""

from show_attend_tell.runs.tracking import Tracker


class Noting(Tracker):
    """Keeps what it gets in a list that outlives it, as a server would; fails at a step."""

    name, photographs = "noting", True

    def __init__(self, entries, fails_at=None, error=None):
        self.entries, self.fails_at = entries, fails_at
        self.error = error or ConnectionError("no route to host")

    def start(self, run):
        if self.fails_at == 0:
            raise self.error
        entry = run.entry or f"entry {len(self.entries)}"
        self.rows = self.entries.setdefault(entry, [])
        self.config = dict(run.config)
        return entry

    def scalars(self, step, kind, scalars):
        if step == self.fails_at:
            raise self.error
        self.rows.append((kind, step, dict(scalars)))

    def pictures(self, step, pictures):
        self.rows.append(("captions", step, [p.name for p in pictures]))

    def close(self, outcome):
        self.rows.append((outcome,))
