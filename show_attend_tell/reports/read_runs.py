"""Folders of finished runs as typed records, checked while they are read.

A folder needs config.json, run.json, metrics.jsonl, vocabulary.json, the captions and scores of a
split, and the statistics of its attention maps: no data set, no model and no weights.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from show_attend_tell import config
from show_attend_tell.data import vocabulary as vocabularies
from show_attend_tell.data.base_task import Task
from show_attend_tell.data.task import task_of
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.results_file import read_results
from show_attend_tell.files import parse_json
from show_attend_tell.reports.measured import Measured, read_measured
from show_attend_tell.reports.uncertainty import COUNTS, MEANS, score_table, with_means
from show_attend_tell.runs.metrics_log import read_metrics
from show_attend_tell.settings import Decode

DECODING = ("context", "beam", "length_penalty")  # settings that every score file states
BY_LENGTH = ("BLEU", "chrF", "exact")  # scores of sentences grouped by source length


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """A score file: N images or sentences, decoded in one way.

    Attributes:
      path: of the file.
      step: of the weights.
      decoding: how the captions were searched for, without the batch size.
      language: of the captions, if the run speaks several; else empty.
      scores: corpus scores by name; None: could not be computed.
      missing: the reason for each None.
      references: SHA-256 of the references.
      tokenizer: its name.
      clip: what CLIPScore was computed with; None if it was not.
      image_ids: in the order of the table.
      table: what `uncertainty` measures.
      by_length: scores of sentences grouped by source length; empty for images.
      measured: likelihood, grounding and faithfulness.
    """

    path: Path
    step: int
    decoding: dict[str, Any]
    language: str
    scores: dict[str, float | None]
    missing: dict[str, str]
    references: str
    tokenizer: str
    clip: Mapping[str, Any] | None
    image_ids: tuple[str, ...]
    table: Float[np.ndarray, "N 16"]
    by_length: list[dict[str, float]]
    measured: Measured


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What reports want to know about a run's config.

    Attributes:
      seed: of the run.
      data: name of the data set.
      languages: source and target; None for images.
      init_from: the run whose weights training began with, if any.
      task: the kind of data.
      experiment: digest of the config without what sets apart the runs of one experiment.
      values: these settings by dotted name.
    """

    seed: int
    data: str
    languages: tuple[str | None, str | None]
    init_from: str | None
    task: Task
    experiment: str
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
      workdir: its folder.
      settings: from config.json.
      record: run.json.
      step: of the best weights.
      words: of the vocabulary.
      metrics: records of metrics.jsonl by kind, numbers only; "val" has at least one.
      scored: the score files of the split, at least one; those of the first language come first.
      attention: statistics of the split's attention maps by name.
      context: the context that made the maps.
      drawn: ids of what `attend` drew; None: not known, of earlier versions.
      variance: rows of gradient_variance.json, if there is one of trained weights.
    """

    workdir: Path
    settings: RunSettings
    record: dict[str, Any]
    step: int
    words: tuple[str, ...]
    metrics: dict[str, list[dict[str, float]]]
    scored: list[Scored]
    attention: dict[str, float | None]
    context: str
    drawn: frozenset[str] | None
    variance: list[dict[str, Any]]

    @property
    def seconds(self) -> float | None:
        """How long training took."""
        return finite(self.record.get("seconds"))


def read_run(workdir: Path, split: str) -> Run:
    """Reads a run that was evaluated and attended on a split.

    Raises:
      UserError: the folder is not a run, the run is not finished, not evaluated or not attended, or
        a file is missing or damaged.
    """
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir}: not the folder of a run, there is no config.json in it")
    with _reading(workdir / "run.json", "train again"):
        record = _read_json(workdir / "run.json")
        if record.get("finished") is not True:
            raise UserError(f"{workdir}: its training is not finished; `train` resumes it")
        step = int(record["best_step"])
        for source in (record.get("init_from"), *record.get("teachers", ())):
            if source is not None:
                source["experiment"]  # raises KeyError if it is missing
    settings = _read_settings(workdir / "config.json", record)
    metrics = _read_metrics(workdir / "metrics.jsonl", settings.task.progress_metric)
    scored = _read_all_scores(workdir, split, step)
    attention, context, drawn = _read_attention(workdir, split, step)
    return Run(
        workdir=workdir,
        settings=settings,
        record=record,
        step=step,
        words=vocabularies.load(workdir / "vocabulary.json").words,
        metrics=metrics,
        scored=scored,
        attention=attention,
        context=context,
        drawn=drawn,
        variance=_read_variance(workdir / "gradient_variance.json", step),
    )


# Settings: the only place that sees a config


def _read_settings(path: Path, record: Mapping[str, Any]) -> RunSettings:
    """The settings of a run; `record` is its run.json."""
    settings = config.load_run(path)
    experiment = config.experiment(settings, record)
    values = dict(config.flatten(settings))
    return RunSettings(
        seed=settings.seed,
        data=settings.data.name,
        languages=(values.get("data.source"), values.get("data.target")),
        init_from=settings.train.init_from or None,
        task=task_of(settings.data),
        experiment=config.digest(experiment),
        values={
            name: list(value) if isinstance(value, tuple) else value
            for name, value in config.flatten(experiment)
        },
    )


def differing(runs: Sequence[RunSettings]) -> dict[str, list[Any]]:
    """The settings that differ, by dotted name: the values of all, None where one lacks it."""
    absent = object()
    names = sorted({name for settings in runs for name in settings.values})
    return {
        name: [settings.values.get(name) for settings in runs]
        for name in names
        if any(
            settings.values.get(name, absent) != runs[0].values.get(name, absent)
            for settings in runs
        )
    }


# Files


@contextlib.contextmanager
def _reading(path: Path, remedy: str) -> Iterator[None]:
    """Turns the errors of a missing or damaged file into one line for the user."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {remedy}") from None
    except KeyError as error:
        raise UserError(f"{path}: lacks {error}; {remedy}") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())}); {remedy}") from error


def _read_json(path: Path) -> dict[str, Any]:
    content = parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    return content


def _read_metrics(path: Path, watched: str) -> dict[str, list[dict[str, float]]]:
    with _reading(path, "train again"):
        metrics: dict[str, list[dict[str, float]]] = {"train": [], "val": []}
        for row in read_metrics(path):
            numbers = {k: number for k, v in dict(row).items() if (number := finite(v)) is not None}
            metrics.setdefault(row["kind"], []).append(numbers)
        if not metrics["val"] or not all(r.keys() >= {"step", watched} for r in metrics["val"]):
            raise ValueError(f"it has no validation, or one without {watched}")
        return metrics


def _read_all_scores(workdir: Path, split: str, best_step: int) -> list[Scored]:
    remedy = f"run `evaluate --workdir {workdir} --split {split}`"
    name = re.compile(rf"{re.escape(split)}(\.[A-Za-z0-9-]+)?-[a-z]+-beam\d+-lp.+\.scores\.json")
    # What was measured with other settings than the run's says nothing of the run.
    found = (path for path in workdir.glob("*.scores.json") if "-overridden=" not in path.name)
    # A hyphen sorts before a full stop, so files without a language, of the first one, lead.
    paths = sorted(path for path in found if name.fullmatch(path.name))
    if not paths:
        raise UserError(f"{workdir}: no scores of the {split} split; {remedy}")
    read = [_read_scores(path, split, remedy) for path in paths]
    best = [scored for scored in read if scored.step == best_step]
    if best:  # the others are of weights that training has left behind
        return best
    raise UserError(
        f"{paths[0]}: of step {read[0].step}, but the best weights are of {best_step}; {remedy}"
    )


def _read_scores(path: Path, split: str, remedy: str) -> Scored:
    captions = path.with_name(path.name.replace(".scores.", ".captions."))
    image_ids = tuple(read_results(captions))
    with _reading(path, remedy):
        record = _read_json(path)
        if (record["split"], record["images"]) != (split, len(image_ids)) or not image_ids:
            raise ValueError("it does not belong to the captions beside it")
        decoding = dict(record["decoding"])
        for name in DECODING:
            decoding[name]  # raises KeyError if it is missing
        # Earlier versions searched as today's defaults do. The last two change no scores.
        decoding = dataclasses.asdict(Decode()) | decoding
        del decoding["batch_size"], decoding["n_best"]
        count, per_image = len(image_ids), dict(record["per_image"])
        table = score_table(
            _numbers(record["bleu_counts"], (count, COUNTS)),
            {name: _numbers(per_image[name], (count,)) for name in MEANS if name in per_image},
        )
        recorded = dict(record["scores"]).items()
        scores = {str(name): None if v is None else _number(v) for name, v in recorded}
        return Scored(
            path=path,
            step=int(record["step"]),
            decoding=decoding,
            language=str(record.get("language", "")),
            scores=with_means(scores, table),
            missing={str(k): str(v) for k, v in dict(record["missing"]).items()},
            references=record["references"],
            tokenizer=record["tokenizer"],
            clip=record.get("clip"),
            image_ids=image_ids,
            table=table,
            by_length=[
                {
                    key: _number(bucket[key])
                    for key in ("least", "most", "mean", "sentences", *BY_LENGTH)
                }
                for bucket in record.get("by_length", ())
            ],
            measured=read_measured(record),
        )


def _read_attention(
    workdir: Path, split: str, best_step: int
) -> tuple[dict[str, float | None], str, frozenset[str] | None]:
    """Statistics of a run's maps, the context that made the maps, and what was drawn of them."""
    path = workdir / "attention" / split / "statistics.json"
    with _reading(path, f"run `attend --workdir {workdir} --split {split}`"):
        read = _read_json(path)
        _check_step(read, best_step)
        objects = dict(read["objects"] or {})
        values = {
            "entropy": read["mean_entropy"],
            "entropy of uniform attention": read["uniform_entropy"],
            "effective patches": read["effective_patches"],
            "change from word to word": read["mean_change"],
            "share in grown box": objects.get("in_grown_box"),
            "uniform share in grown box": objects.get("uniform_in_grown_box"),
        }
        numbers = {name: None if v is None else _number(v) for name, v in values.items()}
        ids = read.get("ids")
        drawn = None if ids is None else frozenset(map(str, ids))
        return numbers, str(read["decoding"]["context"]), drawn


def _read_variance(path: Path, best_step: int) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with _reading(path, "run `gradient-variance` again, or move the file away"):
        read = _read_json(path)
        # Earlier versions wrote what they measured with initial weights into the same file, and
        # did not always name the weights.
        weights = read.get("weights")
        if weights == "fresh":
            return []
        if weights not in (None, f"step {best_step}"):
            raise ValueError(f"of {weights}, but the best weights are of step {best_step}")
        return [dict(row) for row in read["rows"]]


def _check_step(record: Mapping[str, Any], best_step: int) -> None:
    if record["step"] != best_step:
        raise ValueError(f"of step {record['step']}, but the best weights are of {best_step}")


# Numbers


def finite(value: Any) -> float | None:
    """The value as a float if it is a finite number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _number(value: Any) -> float:
    number = finite(value)
    if number is None:
        raise ValueError(f"{value!r} is not a finite number")
    return number


def _numbers(values: Any, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    array = np.array(values, np.float64)
    if array.shape != shape or not np.all(np.isfinite(array)):
        raise ValueError(f"expected finite numbers of shape {shape}, found {array.shape}")
    return array
