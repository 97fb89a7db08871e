"""trackio (https://huggingface.co/docs/trackio), by its library `trackio`."""

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from show_attend_tell.integrations.project import allowed, project
from show_attend_tell.runs.tracking import Outcome, Picture, TrackedRun, Tracker


class Trackio(Tracker):
    """Logs to a run of trackio; its name is the entry.

    trackio knows runs by project and name. A name thus gets a random end: runs in different folders
    may have the same one. Records lie in trackio's folder on this machine (TRACKIO_DIR), unless
    TRACKIO_SPACE_ID or TRACKIO_SERVER_URL sends them elsewhere.
    """

    name = "trackio"

    def __init__(self, trackio: Any, pictures: str):
        """Takes the library, and one of `trackers.PICTURES`."""
        self._trackio = trackio
        elsewhere = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
        local = not any(os.environ.get(variable) for variable in elsewhere)
        self.photographs = allowed(pictures, local)

    def start(self, run: TrackedRun) -> str:
        self._run = self._trackio.init(
            project=project("TRACKIO_PROJECT"),
            name=run.entry or f"{run.name}-{uuid.uuid4().hex[:8]}",
            group=run.group,
            config=dict(run.config),
            resume="allow",
            embed=False,
        )
        return self._run.name

    def scalars(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in scalars.items()}, step=step)

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        images = {
            f"captions/{i}": self._trackio.Image(p.image, caption=f"{p.name}: {p.caption}")
            for i, p in enumerate(pictures, start=1)
        }
        self._run.log(images, step=step)

    def close(self, outcome: Outcome) -> None:
        self._run.finish()
