"""MLflow (https://mlflow.org/docs/latest/ml/tracking), by its library `mlflow`."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from show_attend_tell.config import flatten
from show_attend_tell.integrations.project import allowed, project
from show_attend_tell.runs.tracking import Outcome, Picture, TrackedRun, Tracker

_STATES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_AT_ONCE = 100  # parameters that MLflow takes in one call
_LENGTH = 6000  # characters of a parameter that it takes
_LOCAL = ("", "file", "sqlite")  # schemes of what lies on this machine


class MLflow(Tracker):
    """Logs to a run of MLflow; its id is the entry. A project is an experiment there.

    Records go where MLFLOW_TRACKING_URI says: by default to `mlflow.db` in the current folder.
    """

    name = "mlflow"

    def __init__(self, mlflow: Any, pictures: str):
        """Takes the library, and one of `trackers.PICTURES`."""
        self._mlflow, self._pictures = mlflow, pictures

    def start(self, run: TrackedRun) -> str:
        self._client = client = self._mlflow.MlflowClient()
        if run.entry:
            info = client.get_run(run.entry).info
            client.update_run(run.entry, status="RUNNING")
        else:
            name = project("MLFLOW_EXPERIMENT_NAME")
            found = client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else client.create_experiment(name)
            info = client.create_run(experiment, tags={"group": run.group}, run_name=run.name).info
            settings = [
                self._mlflow.entities.Param(key, str(value)[:_LENGTH])
                for key, value in flatten(run.config)
            ]
            for first in range(0, len(settings), _AT_ONCE):
                client.log_batch(info.run_id, params=settings[first : first + _AT_ONCE])
        places = (self._mlflow.get_tracking_uri(), info.artifact_uri)
        local = all(urlsplit(place).scheme in _LOCAL for place in places)
        self.photographs = allowed(self._pictures, local)
        self._id = info.run_id
        return self._id

    def scalars(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        now = round(time.time() * 1000)
        metric = self._mlflow.entities.Metric
        values = [
            # Names may have no parentheses.
            metric(re.sub(r"[^A-Za-z0-9_\-. :/]", "", f"{kind}/{name}"), float(value), now, step)
            for name, value in scalars.items()
        ]
        self._client.log_batch(self._id, metrics=values)

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        for i, picture in enumerate(pictures, start=1):
            self._client.log_image(self._id, picture.image, key=f"captions/{i}", step=step)
        text = "".join(f"{picture.name}: {picture.caption}\n" for picture in pictures)
        self._client.log_text(self._id, text, f"captions/step-{step:08}.txt")

    def close(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._id, _STATES[outcome])
