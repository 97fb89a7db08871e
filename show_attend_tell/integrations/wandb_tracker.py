"""Weights & Biases (https://docs.wandb.ai), by its library `wandb` 0.31 or newer."""

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from show_attend_tell.integrations.project import allowed, project
from show_attend_tell.runs.tracking import Outcome, Picture, TrackedRun, Tracker

_CODES = {"finished": 0, "stopped": 130, "failed": 1}  # as the command line exits


class WeightsAndBiases(Tracker):
    """Logs to a run of Weights & Biases; its id is the entry.

    The variable WANDB_MODE chooses between online, the default, and offline. Offline, the records
    lie in `wandb` in the run's folder, one folder for each part of the run. All have the same id,
    and their steps do not overlap, so that `wandb sync` makes one run of them.
    """

    name = "wandb"
    holds_back = True  # a row is complete once the step has changed

    def __init__(self, wandb: Any, pictures: str):
        """Takes the library, and one of `trackers.PICTURES`."""
        self._wandb, self._pictures = wandb, pictures

    def start(self, run: TrackedRun) -> str:
        mode = self._wandb.setup().settings.mode
        # Without this, the library asks on the terminal, and nobody may be there.
        if mode in ("online", "shared") and not self._wandb.login(prompt=False, verify=False):
            raise ConnectionError("not logged in: run `wandb login`, or set WANDB_MODE=offline")
        self._run = self._wandb.init(
            project=project("WANDB_PROJECT"),
            id=run.entry or uuid.uuid4().hex[:12],
            name=run.name,
            group=os.environ.get("WANDB_RUN_GROUP") or run.group,
            config=dict(run.config),
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            reinit="create_new",
            settings=self._wandb.Settings(
                # Progress bars are no logs, and our own lines say what there is to say.
                console="off",
                silent=True,
                x_transaction_log_flush_interval=1.0,  # seconds that a kill can lose; it is 15
            ),
        )
        self.photographs = allowed(self._pictures, self._run.offline or self._run.disabled)
        return self._run.id

    def scalars(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in scalars.items()}, step=step)

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        if not pictures:
            return
        # Pictures of different sizes in one row are shown wrongly.
        widths, heights = zip(*(p.image.size for p in pictures), strict=True)
        images = []
        for p in pictures:
            canvas = Image.new("RGB", (max(widths), max(heights)), "white")
            canvas.paste(p.image)
            images.append(self._wandb.Image(canvas, caption=f"{p.name}: {p.caption}"))
        self._run.log({"captions": images}, step=step)

    def close(self, outcome: Outcome) -> None:
        self._run.finish(exit_code=_CODES[outcome])
