"""A run's folder. One object both creates it and reads it.

    config.json, run.json      all settings; command, versions, commit, totals
    vocabulary.json            words, counted on the training split; text inputs have their own in
                               source_vocabulary.json
    centres.json               where the encoder looks, if that was measured for this run (see
                               `runs.measuring`)
    metrics.jsonl, events/     metrics, for scripts and for TensorBoard
    latest_captions.json       the first few captions of the newest validation and their attention,
                               to watch a run by; nothing else reads it, and 0.1 wrote none
    trackers/                  the run's entry in each tracker that it is logged to (see
                               `runs.tracking`)
    checkpoints/               the whole training state; a resumed run continues bit for bit
    best/                      the weights with the best validation score
    last/                      the weights of the last step, once the run is finished
    .lock                      held by the process that trains here

An exported model has `weights.safetensors` instead of the three checkpoint folders, and a
`run.json` only if earlier runs were trained on other data (see `RunFolder.trained_on`).
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from show_attend_tell import config, devices, files
from show_attend_tell.data import vocabulary as vocabularies
from show_attend_tell.data.examples import ExampleSource
from show_attend_tell.data.phrases import Description
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.files import listed, parse_json
from show_attend_tell.runs.checkpoint import WEIGHTS, Checkpoints, remove_unfinished
from show_attend_tell.settings import Settings

TARGET, SOURCE = "vocabulary.json", "source_vocabulary.json"
UNKNOWN = "unknown"  # of data
CENTRES, LATEST_CAPTIONS = "centres.json", "latest_captions.json"
LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """The files of a run or of an exported model."""

    path: Path

    @property
    def begun(self) -> bool:
        """Whether training has started here."""
        return (self.path / "checkpoints").is_dir()

    @property
    def has_config(self) -> bool:
        """Whether this is a run or an exported model at all."""
        return (self.path / "config.json").is_file()

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to use: exported ones, or those of a first validation."""
        return self.exported_weights is not None or any((self.path / "best").glob("[0-9]*"))

    @property
    def exported_weights(self) -> Path | None:
        """The weights file of an exported model; None for a run."""
        path = self.path / WEIGHTS
        return path if path.exists() else None

    def settings(self, overrides: Sequence[str] = ()) -> Settings:
        """The run's settings; see `config.load_run` for errors."""
        return config.load_run(self.path / "config.json", overrides)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from training here; makes the folder.

        What a killed process left of its checkpoints goes.

        Raises:
          UserError: another process trains here; or the folder cannot be written, or has a name
            that is not UTF-8.
        """
        files.check_name(self.path)
        busy = (
            f"{self.path}: another process is training in this folder; wait until it ends, or "
            "choose another --workdir"
        )
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                alone = stack.enter_context(files.held(self.path / LOCK, busy))
            except OSError as error:
                raise UserError(self._unwritable(error)) from error
            for name in ("checkpoints", "best", "last"):
                remove_unfinished(self.path / name, alone=alone)
            yield

    def await_free(self) -> None:
        """Waits while another process trains here."""
        if (self.path / LOCK).is_file():
            with files.locked(self.path / LOCK):
                pass

    def claim(self, settings: Settings) -> None:
        """Claims the folder for `settings`, or checks that it already belongs to them.

        An attempt that ended before its training began, at an error say, has no claim on it.

        Raises:
          UserError: it holds a run with other settings, or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            changed = self.changes(settings) if self.has_config else []
            if self.exported_weights is not None:
                raise UserError(f"{self.path} holds an exported model; choose another --workdir")
            if changed and (self.begun or self.has_weights):
                raise UserError(
                    f"{self.path} holds a run of another config (differing in "
                    f"{', '.join(changed[:5])}); choose another --workdir"
                )
            if changed:
                (self.path / CENTRES).unlink(missing_ok=True)
            if changed or not self.has_config:
                config.save(settings, self.path / "config.json")
        except OSError as error:
            raise UserError(self._unwritable(error)) from error

    def _unwritable(self, error: OSError) -> str:
        return (
            f"{self.path}: cannot be written ({error.strerror}); see to room and permissions "
            "there, or choose another --workdir"
        )

    def changes(self, wanted: Settings) -> list[str]:
        """The settings that differ from this run's and would change its results.

        See `config.changes`. The run that this one started from may have moved.
        """
        changed = config.changes(self.settings(), wanted)
        start = "train.init_from"
        if start in changed and self._started_from(wanted):
            changed.remove(start)
        return changed

    def _started_from(self, wanted: Settings) -> bool:
        """Whether this run started from the weights that `wanted` names."""
        begun, other = self.record().get("init_from"), RunFolder(Path(wanted.train.init_from))
        weights = other.path / wanted.train.init_weights
        if not wanted.train.init_from or not isinstance(begun, dict) or not weights.is_dir():
            return False
        try:
            settings = other.settings()
        except UserError:
            return False
        of = config.digest(config.experiment(settings, other.record()))
        same = (of, settings.seed) == (begun.get("experiment"), begun.get("seed"))
        return same and (weights / str(begun.get("step"))).is_dir()

    def record(self) -> dict[str, Any]:
        """The content of run.json; empty if it is absent or damaged."""
        try:
            content = parse_json((self.path / "run.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def trained_on(self) -> list[str]:
        """The data sets that the weights were trained on, those of earlier runs and teachers first.

        `UNKNOWN` stands for those of an earlier run that recorded none and is not there any more.
        """
        settings, record = self.settings(), self.record()
        known = [record, record.get("init_from")]
        known = [of.get("trained_on") for of in known if isinstance(of, dict)]
        start = RunFolder(Path(settings.train.init_from))
        earlier: list[str] = next((names for names in known if isinstance(names, list)), [])
        if not earlier and settings.train.init_from:
            earlier = start.trained_on() if start.has_config else [UNKNOWN]
        teachers = listed(record, "teachers")
        taught = [name for of in teachers for name in listed(of, "trained_on")]
        return [*dict.fromkeys([*map(str, [*earlier, *taught]), settings.data.name])]

    def update_record(self, changes: Mapping[str, Any], without: Sequence[str] = ()) -> None:
        """Changes entries of run.json, removes those in `without`, and keeps the others."""
        if devices.is_first():
            kept = {key: value for key, value in self.record().items() if key not in without}
            record = kept | dict(changes)
            files.write_text(self.path / "run.json", json.dumps(record, indent=2) + "\n")

    def centres(self) -> dict[str, Any] | None:
        """The content of centres.json (see `runs.measuring.Measured`); None if it is absent.

        Raises:
          UserError: it is damaged.
        """
        path = self.path / CENTRES
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
            if math.isfinite(content["shift"]):
                return content
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            pass
        raise UserError(f"{path}: damaged; without it, attention is drawn at computed centres")

    def record_centres(self, content: Mapping[str, Any]) -> None:
        """Writes centres.json."""
        files.write_text(self.path / CENTRES, json.dumps(content) + "\n")

    def record_latest_captions(self, content: Mapping[str, Any]) -> None:
        """Writes latest_captions.json."""
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        files.write_text(self.path / LATEST_CAPTIONS, text + "\n")

    def check_data(self, fingerprints: Mapping[str, Any]) -> None:
        """Rejects data that have changed since the run began.

        Args:
          fingerprints: by split, of `contents`.

        Raises:
          UserError: the fingerprints differ.
        """
        recorded = self.record().get("data")
        if not isinstance(recorded, dict) or not all(type(of) is dict for of in recorded.values()):
            return  # nothing is known
        if self.begun and not _same_data(recorded, fingerprints):
            raise UserError(
                f"{self.path}: the data set has changed since the run began (was a folder of "
                "images, or of further pairs, edited?); choose another --workdir, or restore "
                "the data"
            )

    def keep_places(self, settings: Settings) -> None:
        """Records where the data and the weights of this run lie now.

        Call it once `check_data` has found them to be the run's.
        """
        saved, now = self.settings(), dict(config.flatten(settings))
        moved = config.replaced(saved, {n: now[n] for n in config.PLACES if n in now})
        if moved != saved and devices.is_first():
            config.save(moved, self.path / "config.json")

    def vocabulary(
        self, name: str, build: Callable[[], AnyVocabulary | None]
    ) -> AnyVocabulary | None:
        """The saved vocabulary if the run has begun; otherwise the one that `build` makes.

        The new vocabulary is saved. The result is None if `build` makes none.
        """
        path = self.path / name
        if path.exists() and self.begun:
            return vocabularies.load(path)
        vocabulary = build()
        if vocabulary is not None and devices.is_first():
            vocabulary.save(path)
        return vocabulary

    def checkpoints(self) -> Checkpoints:
        """Checkpoints of the whole training state."""
        return Checkpoints(self.path / "checkpoints", keep=2)

    def weights(self, which: str) -> Checkpoints:
        """Checkpoints of the `best` or the `last` weights."""
        return Checkpoints(self.path / which, keep=1)


def contents(
    examples: ExampleSource, supervising: Sequence[Sequence[Description]] | None = None
) -> dict[str, Any]:
    """The fingerprint of a split, as run.json keeps it.

    It has a hash of the captions, and one of the descriptions whose boxes supervise attention.
    """
    texts = {"captions": json.dumps(examples.captions()[: examples.stored])}
    if supervising is not None:
        texts["boxes"] = repr(supervising)
    hashes = {of: hashlib.sha256(text.encode()).hexdigest()[:12] for of, text in texts.items()}
    return examples.fingerprint | hashes


def _same_data(begun: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two records of `contents` by split are of the same data.

    What a data set was built from (`config`) does not matter: up to version 0.2 each copy of a
    user's folder was another source. Its records have no hash of the captions; those up to 0.2 have
    none of the boxes that supervise a run.
    """
    if begun.keys() != now.keys():
        return False
    for split in now:
        left_out = {"config", *({"captions", "boxes"} - begun[split].keys())}
        old, new = (
            {key: value for key, value in data[split].items() if key not in left_out}
            for data in (begun, now)
        )
        if old != new:
            return False
    return True
