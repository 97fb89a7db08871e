"""Finished runs beside each other: one self-contained page, Markdown tables and a JSON.

Reads the folders of runs alone, no data set, no model and no weights. Runs of one config but for
its seed are one experiment; a row of the score table is an experiment decoded in one way.

Intervals are percentile bootstraps over images (Koehn 2004, "Statistical significance tests for
machine translation evaluation"); differences are tested by paired approximate randomisation (Noreen
1989; Riezler and Maxwell 2005), which swaps the two sides' captions of random images. Both take the
mean over seeds of each image's scores, for BLEU of its n-gram counts: they tell what other images
would change, not what other seeds would.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import re
import statistics
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from show_attend_tell import config as configs
from show_attend_tell import files
from show_attend_tell.data import vocabulary as vocabularies
from show_attend_tell.data.load import SENTENCES
from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.results_file import read_results
from show_attend_tell.evaluation.scores import bleu_from_sums
from show_attend_tell.inference import attention_record as attention_maps
from show_attend_tell.reports import page as comparison_page
from show_attend_tell.runs.metrics_log import read_metrics

METEOR_MEAN = "METEOR, image mean"  # the corpus value is no mean, so no resample of it is cheap
CHRF_MEAN = "chrF, sentence mean"  # likewise
# Scores of single images or sentences that are averaged, and what that mean is called.
MEANS = {
    "METEOR": METEOR_MEAN,
    "ROUGE-L": "ROUGE-L",
    "CIDEr": "CIDEr",
    "exact": "exact",
    "chrF": CHRF_MEAN,
}
TOLD = ("context", "beam", "length_penalty")  # of how a row was decoded; else what differs
TESTED = ("BLEU-4", METEOR_MEAN, "CIDEr", CHRF_MEAN)
TARGETS = (0.5, 0.9, 1.0)  # shares of the validation score that every run reached


def compare(
    workdirs: Sequence[Path],
    split: str,
    out: Path,
    *,
    samples: int = 2000,
    seed: int = 0,
    shown: int = 12,
) -> dict[str, Any]:
    """Compares runs; writes `index.html`, `table.md` and `comparison.json` into `out`.

    Args:
      workdirs: folders of finished runs, evaluated on the split and with statistics of their
        attention on it, or what `pretrained.publish` wrote of them.
      split: of the scores and maps.
      out: folder, made where it is not there.
      samples: bootstrap resamples, and random swaps of a test.
      seed: of both.
      shown: the most images whose maps are put side by side.

    Returns:
      What `comparison.json` holds.

    Raises:
      UserError: no run, or one twice; a run is not finished, not evaluated or not attended; a file
        is damaged; or the runs' data, references, tokenizers or vocabularies differ.
    """
    if not workdirs:
        raise UserError("there are no runs to compare")
    if samples < 1 or shown < 0:
        raise UserError(f"samples {samples}, shown {shown}: must be at least 1 and 0")
    known: dict[Path, Path] = {}
    for workdir in workdirs:
        if workdir.resolve() in known:
            raise UserError(f"{workdir}: the same run is given twice; name each run once")
        known[workdir.resolve()] = workdir
    runs = [_read_run(workdir, split) for workdir in workdirs]
    _check_comparable(runs)
    groups, config = _group(runs)
    rows = _rows(groups)
    first = runs[0].scored[0]
    content = {
        "split": split,
        "data": runs[0].config.data.name,
        "images": len(first.image_ids),
        "what": "sentences" if runs[0].config.data.name in SENTENCES else "images",
        "references": first.references,
        "tokenizer": first.tokenizer,
        "samples": samples,
        "seed": seed,
        "groups": [_describe(group) for group in groups],
        "scores": _scores(rows, samples, seed),
        "tests": _tests(rows, samples, seed),
        "progress": _progress(groups),
        "by_length": _by_length(rows),
        "attention": [_attention(group) for group in groups],
        "gradient_variance": [
            {"run": _run_label(group, run)} | row
            for group in groups
            for run in group.runs
            for row in run.variance
        ],
        "config": config,
    }
    content["notes"] = _notes(content)
    images = _side_by_side(groups, split, first.image_ids, shown)
    content["pictures"] = [image["image_id"] for image in images]
    text = json.dumps(content, indent=2, ensure_ascii=False)
    markdown = comparison_page.markdown(content)
    metrics = [[run.metrics for run in group.runs] for group in groups]
    page = comparison_page.html(content, metrics, images, shown=shown > 0)
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / "comparison.json", text + "\n")
    files.write_text(out / "table.md", markdown)
    files.write_text(out / "index.html", page)
    return content


# Reading


@dataclasses.dataclass(frozen=True, eq=False)
class _Scored:
    """A score file: N images, decoded in one way."""

    path: Path
    decoding: dict[str, Any]  # without the batch size
    scores: dict[str, float | None]
    missing: dict[str, str]
    references: str
    tokenizer: str
    image_ids: tuple[str, ...]
    table: Float[np.ndarray, "N 15"]  # BLEU's counts, then MEANS; NaN where there is none
    by_length: list[dict[str, float]]  # scores of sentences of similar length; empty of images


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    workdir: Path
    config: ConfigDict
    record: dict[str, Any]  # run.json
    step: int  # of the best weights
    words: tuple[str, ...]  # of the vocabulary
    metrics: dict[str, list[dict[str, float]]]  # by kind
    scored: list[_Scored]
    attention: dict[str, float | None]
    context: str  # of the maps
    variance: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
    """The runs of an experiment, one for each seed."""

    letter: str
    name: str
    runs: list[_Run]


@dataclasses.dataclass(frozen=True, eq=False)
class _Row:
    """An experiment decoded in one way."""

    group: _Group
    label: str
    decoding: dict[str, Any]  # what is told of it
    scored: list[_Scored]
    table: Float[np.ndarray, "N 15"]  # mean of `scored`


def _watched(config: ConfigDict) -> str:
    """The validation score that tells how far training is."""
    return "BLEU" if config.data.name in SENTENCES else "CIDEr"


@contextlib.contextmanager
def _reading(path: Path, remedy: str) -> Iterator[None]:
    """Turns whatever a missing or damaged file causes into one line."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: not there; {remedy}") from None
    except KeyError as error:
        raise UserError(f"{path}: lacks {error}; {remedy}") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())}); {remedy}") from error


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_run(workdir: Path, split: str) -> _Run:
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir}: not the folder of a run, there is no config.json in it")
    with _reading(path, "train again"):
        config = configs.load(path)
        if not isinstance(config.seed, int) or not isinstance(config.data.name, str):
            raise ValueError("the seed is no whole number or the data set has no name")
    with _reading(workdir / "run.json", "train again"):
        record = _read_json(workdir / "run.json")
        if record.get("finished") is not True:
            raise UserError(f"{workdir}: its training is not finished; `train` resumes it")
        best_step = int(record["best_step"])
    path = workdir / "metrics.jsonl"
    with _reading(path, "train again"):
        metrics: dict[str, list[dict[str, float]]] = {"train": [], "val": []}
        for row in read_metrics(path):
            numbers = {k: number for k, v in row.items() if (number := _optional(v)) is not None}
            metrics.setdefault(row["kind"], []).append(numbers)
        watched = _watched(config)
        if not metrics["val"] or not all(r.keys() >= {"step", watched} for r in metrics["val"]):
            raise ValueError(f"there is no validation in it, or one without its {watched}")
    evaluate = f"run `evaluate --workdir {workdir} --split {split}`"
    scored = [
        _read_scores(path, split, best_step, evaluate)
        for path in sorted(workdir.glob("*.scores.json"))
        if re.fullmatch(rf"{re.escape(split)}-[a-z]+-beam\d+-lp.+\.scores\.json", path.name)
    ]
    if not scored:
        raise UserError(f"{workdir}: no scores of the {split} split; {evaluate}")
    attention, context = _read_attention(workdir, split, best_step)
    words = vocabularies.load(workdir / "vocabulary.json").words
    path = workdir / "gradient_variance.json"
    variance: list[dict[str, Any]] = []
    if path.exists():
        with _reading(path, "run `gradient-variance` again, or delete the file"):
            variance = [dict(row.items()) for row in _read_json(path)["rows"]]
    return _Run(
        workdir, config, record, best_step, words, metrics, scored, attention, context, variance
    )


def _read_scores(path: Path, split: str, best_step: int, evaluate: str) -> _Scored:
    captions = path.with_name(path.name.replace(".scores.", ".captions."))
    image_ids = tuple(read_results(captions))
    with _reading(path, evaluate):
        record = _read_json(path)
        if (record["split"], record["images"]) != (split, len(image_ids)) or not image_ids:
            raise ValueError("it is not of the captions beside it")
        _check_step(record, best_step)
        decoding = {k: v for k, v in record["decoding"].items() if k != "batch_size"}
        for name in TOLD:
            decoding[name]  # raises where it is not there
        count, per_image = len(image_ids), record["per_image"]
        columns = [_numbers(record["bleu_counts"], (count, 10))]
        for name in MEANS:
            nothing = np.full((count, 1), np.nan)
            got = name in per_image
            columns.append(_numbers(per_image[name], (count,))[:, None] if got else nothing)
        table = np.concatenate(columns, axis=1)
        scores = {}
        for name, value in record["scores"].items():
            scores[str(name)] = None if value is None else _number(value)
            if MEANS.get(name, name) != name:
                mean = float(table[:, 10 + list(MEANS).index(name)].mean())
                scores[MEANS[name]] = None if math.isnan(mean) else mean
        return _Scored(
            path=path,
            decoding=decoding,
            scores=scores,
            missing={str(k): str(v) for k, v in record["missing"].items()},
            references=record["references"],
            tokenizer=record["tokenizer"],
            image_ids=image_ids,
            table=table,
            by_length=[
                {
                    key: _number(bucket[key])
                    for key in ("least", "most", "mean", "sentences", *comparison_page.BY_LENGTH)
                }
                for bucket in record.get("by_length", ())
            ],
        )


def _read_attention(
    workdir: Path, split: str, best_step: int
) -> tuple[dict[str, float | None], str]:
    """Statistics of a run's maps, and the context that made them."""
    attend = f"run `attend --workdir {workdir} --split {split}`"
    path = workdir / "attention" / split / "statistics.json"
    with _reading(path, attend):
        read = _read_json(path)
        _check_step(read, best_step)
        objects = read["objects"] or {}
        values = {
            "entropy": read["mean_entropy"],
            "entropy of uniform attention": read["uniform_entropy"],
            "effective patches": read["effective_patches"],
            "change from word to word": read["mean_change"],
            "share in grown box": objects.get("in_grown_box"),
            "uniform share in grown box": objects.get("uniform_in_grown_box"),
        }
        values = {name: None if v is None else _number(v) for name, v in values.items()}
        context = str(read["decoding"]["context"])
    return values, context


def _check_step(record: dict[str, Any], best_step: int) -> None:
    if record["step"] != best_step:
        raise ValueError(f"of step {record['step']}, but the best weights are of {best_step}")


def _optional(value: Any) -> float | None:
    """A finite number; None where the value is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _number(value: Any) -> float:
    number = _optional(value)
    if number is None:
        raise ValueError(f"{value!r} is no finite number")
    return number


def _numbers(values: Any, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    array = np.array(values, np.float64)
    if array.shape != shape or not np.all(np.isfinite(array)):
        raise ValueError(f"{array.shape} numbers, some perhaps not finite, in place of {shape}")
    return array


def _check_comparable(runs: Sequence[_Run]) -> None:
    """Raises UserError where scores of the runs would say nothing about each other."""
    again = "evaluate both again on the same data"
    remedies = {
        "data sets": "compare runs of one",
        "reference captions": again,
        "images": again,
        "tokenizers": "evaluate both again with one version of the program",
        "vocabularies": "train both on the same data with the same data.min_count",
    }
    found = []
    for run in runs:
        for s in run.scored:
            data = run.config.data
            named = [data.get(key) for key in ("name", "source", "target")]
            facts = named, s.references, s.image_ids, s.tokenizer, run.words
            found.append((s.path, facts))
            for (what, remedy), a, b in zip(remedies.items(), found[0][1], facts, strict=True):
                if a != b:
                    raise UserError(
                        f"{s.path} and {found[0][0]} rest on different {what}; {remedy}"
                    )


# Grouping


def _group(runs: Sequence[_Run]) -> tuple[list[_Group], dict[str, list[Any]]]:
    """The experiments, in the order given, and the values of each config key that differs."""
    members: dict[str, list[_Run]] = {}
    settings: dict[str, ConfigDict] = {}
    for run in runs:
        config = configs.experiment(run.config, run.record.get("init_from"))
        key = configs.digest(config)
        settings.setdefault(key, config)
        for other in members.setdefault(key, []):
            if other.config.seed == run.config.seed:
                raise UserError(
                    f"{run.workdir} and {other.workdir} are the same experiment with the same "
                    f"seed, {run.config.seed}; name one of them, or train another seed"
                )
        members[key].append(run)
    first, *others = settings.values()
    keys = sorted({key for other in others for key in configs.differences(first, other)})
    differing = {key: [_value(config, key) for config in settings.values()] for key in keys}
    groups = []
    for i, found in enumerate(members.values()):
        name = ", ".join(f"{key}={values[i]}" for key, values in differing.items())
        if not 1 <= len(keys) <= 4:
            # Of `sweep`'s folders the seed is no part of the name.
            name = re.sub(r"(?<=.)-seed=\d+$", "", found[0].workdir.resolve().name)
        letter = string.ascii_uppercase[i] if i < 26 else str(i + 1)
        groups.append(_Group(letter, name, sorted(found, key=lambda run: run.config.seed)))
    return groups, differing


def _value(config: ConfigDict, key: str) -> Any:
    """A value by its dotted name; None where it is not there."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, ConfigDict) or part not in value:
            return None
        value = value[part]
    return list(value) if isinstance(value, tuple) else value


def _rows(groups: Sequence[_Group]) -> list[_Row]:
    found: dict[tuple[str, str], tuple[_Group, list[_Scored]]] = {}
    for group in groups:
        for scored in itertools.chain.from_iterable(run.scored for run in group.runs):
            key = group.letter, json.dumps(scored.decoding, sort_keys=True)
            found.setdefault(key, (group, []))[1].append(scored)
    decodings = [scored[0].decoding for _, scored in found.values()]
    keys = dict.fromkeys(key for decoding in decodings for key in decoding)
    varied = [k for k in keys if any(d.get(k) != decodings[0].get(k) for d in decodings)]
    told = dict.fromkeys([*TOLD, *varied])
    rows = []
    for group, scored in found.values():
        get = scored[0].decoding.get
        rows.append(
            _Row(
                group=group,
                label=", ".join([group.letter, *(f"{_words(k)} {get(k)}" for k in varied)]),
                decoding={key: get(key) for key in told},
                scored=scored,
                table=np.mean([s.table for s in scored], axis=0),
            )
        )
    return rows


# Scores


def _measure(sums: Float[np.ndarray, "S 15"], count: int) -> dict[str, Float[np.ndarray, " S"]]:
    """Scores of S sets of `count` images, from the sums over each."""
    means = {name: sums[:, 10 + i] / count for i, name in enumerate(MEANS.values())}
    means = {name: values for name, values in means.items() if not np.isnan(values).any()}
    return bleu_from_sums(sums[:, :10]) | means


def _scores(rows: Sequence[_Row], samples: int, seed: int) -> list[dict[str, Any]]:
    """The rows of the score table with bootstrap intervals of 95 %."""
    count = len(rows[0].table)
    generator = np.random.default_rng([seed, 0])
    # How often each resample draws each image.
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=samples).astype(np.float64)
    made = []
    for row in rows:
        resampled = _measure(drawn @ row.table, count)
        scores = {}
        for name in row.scored[0].scores:
            score = _over_seeds([s.scores.get(name) for s in row.scored]) | {"interval": None}
            if name in resampled and score["mean"] is not None:
                score["interval"] = np.quantile(resampled[name], [0.025, 0.975]).tolist()
            scores[name] = score
        made.append(
            {
                "label": row.label,
                "group": row.group.letter,
                "decoding": {_words(key): value for key, value in row.decoding.items()},
                "seeds": len(row.scored),
                "files": [str(s.path) for s in row.scored],
                "scores": scores,
                "missing": {k: v for s in row.scored for k, v in s.missing.items()},
            }
        )
    return made


def _tests(rows: Sequence[_Row], samples: int, seed: int) -> list[dict[str, Any]]:
    """The p-value of every pair of rows: how often swaps by chance differ as much as they do."""
    count = len(rows[0].table)
    generator = np.random.default_rng([seed, 1])
    swapped = generator.integers(0, 2, size=(samples, count)).astype(np.float64)
    made = []
    for a, b in itertools.combinations(rows, 2):
        moved = swapped @ (b.table - a.table)
        sums = [row.table.sum(axis=0, keepdims=True) for row in (a, b)]
        true = [_measure(s, count) for s in sums]
        chance = _measure(sums[0] + moved, count), _measure(sums[1] - moved, count)
        scores = {}
        for name in TESTED:
            if name in true[0] and name in true[1]:
                difference = float(true[0][name][0] - true[1][name][0])
                by_chance = np.abs(chance[0][name] - chance[1][name])
                # As large but for rounding; 1 is added for the true order, one of those possible.
                extreme = int(np.sum(by_chance >= abs(difference) - 1e-12))
                scores[name] = {"difference": difference, "p": (1 + extreme) / (1 + samples)}
        made.append({"a": a.label, "b": b.label, "scores": scores})
    return made


def _words(key: str) -> str:
    return key.replace("_", " ")


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and (of two or more) standard deviation; None where a value is."""
    if not values or None in values:
        return {"mean": None, "std": None, "values": list(values)}
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": list(values)}


# Training and attention


def _by_length(rows: Sequence[_Row]) -> list[dict[str, Any]]:
    """Scores by the source's length of every row, means over seeds; none of images."""
    made = []
    for row in rows:
        buckets = zip(*(scored.by_length for scored in row.scored), strict=True)
        made.append(
            {
                "label": row.label,
                "group": row.group.letter,
                "buckets": [
                    {key: statistics.fmean(b[key] for b in same) for key in same[0]}
                    for same in buckets
                ],
            }
        )
    return made if any(row["buckets"] for row in made) else []


def _describe(group: _Group) -> dict[str, Any]:
    runs = []
    for run in group.runs:
        told = {"workdir": str(run.workdir), "seed": run.config.seed, "step": run.step}
        told |= {key: run.record.get(key) for key in ("commit", "device", "command")}
        told["init_from"] = run.config.train.get("init_from") or None
        runs.append(told | {"seconds": _optional(run.record.get("seconds"))})
    return {"letter": group.letter, "name": group.name, "runs": runs}


def _run_label(group: _Group, run: _Run) -> str:
    return f"{group.letter}, seed {run.config.seed}"


def _progress(groups: Sequence[_Group]) -> dict[str, Any]:
    """Steps, seconds and tokens until a validation score that every run reached in the end."""
    watched = _watched(groups[0].runs[0].config)
    best = {run: max(row[watched] for row in run.metrics["val"]) for g in groups for run in g.runs}
    targets = [{"share": share, watched: share * min(best.values())} for share in TARGETS]
    rows = []
    for group in groups:
        reached = []
        for target in targets:
            firsts = [
                next(row for row in run.metrics["val"] if row[watched] >= target[watched])
                for run in group.runs
            ]
            keys = ("step", "seconds", "tokens")
            reached.append({key: _over_seeds([row.get(key) for row in firsts]) for key in keys})
        seconds = [_optional(run.record.get("seconds")) for run in group.runs]
        rows.append(
            {
                "group": group.letter,
                "best": _over_seeds([best[run] for run in group.runs]),
                "seconds": _over_seeds(seconds),
                "reached": reached,
            }
        )
    return {"score": watched, "targets": targets, "rows": rows}


def _attention(group: _Group) -> dict[str, Any]:
    names = group.runs[0].attention
    return {
        "group": group.letter,
        "context": ", ".join(sorted({run.context for run in group.runs})),
        "statistics": {n: _over_seeds([run.attention[n] for run in group.runs]) for n in names},
    }


def _side_by_side(
    groups: Sequence[_Group], split: str, image_ids: Sequence[str], shown: int
) -> list[dict[str, Any]]:
    """The first images that every run has maps of, with each run's caption and picture."""
    runs = [(group, run) for group in groups for run in group.runs]
    made = []
    for image_id in image_ids:
        if len(made) == shown:
            break
        stem = attention_maps.safe_name(image_id)
        paths = [run.workdir / "attention" / split / f"{stem}.npz" for _, run in runs]
        if not all(path.is_file() for path in paths):
            continue
        panels = []
        for (group, run), path in zip(runs, paths, strict=True):
            record = attention_maps.load_attention(path)
            panels.append(
                {
                    "label": _run_label(group, run),
                    "context": record.context,
                    "caption": record.text,
                    "picture": comparison_page.data_uri(path.with_suffix(".png")),
                    "file": path.with_suffix(".png").name,
                }
            )
        made.append({"image_id": image_id, "panels": panels})
    return made


def _notes(content: dict[str, Any]) -> dict[str, list[str]]:
    """How the figures were found, by table."""
    samples, seed, what = content["samples"], content["seed"], content["what"]
    scores = [
        f"{content['images']:,} {what}. Mean ± standard deviation over seeds (of two or more). In "
        f"brackets: 95 % percentile bootstrap interval over {what} ({samples:,} resamples, seed "
        f"{seed}) of the mean over seeds of each, for BLEU of its mean n-gram counts. The highest "
        "of a column is bold."
    ]
    for name, mean in MEANS.items():
        if name != mean and any(mean in row["scores"] for row in content["scores"]):
            scores.append(
                f"{name} of a corpus is not the mean of its {what}' {name}. Its interval and its "
                f"test are of that mean, the column “{mean}”."
            )
    for row in content["scores"]:
        scores += [f"{row['label']}: {name} {why}" for name, why in row["missing"].items()]
    runs = []
    if len({json.dumps(run["device"]) for g in content["groups"] for run in g["runs"]}) > 1:
        runs.append("The runs' devices differ: their minutes cannot be compared.")
    runs += [
        f"{run['workdir']} began with the weights of {run['init_from']}: steps and minutes are "
        "those after that."
        for group in content["groups"]
        for run in group["runs"]
        if run["init_from"]
    ]
    return {
        "runs": runs,
        "scores": scores,
        "tests": [
            f"p: paired approximate randomisation, two-sided, {samples:,} samples, seed {seed}, so "
            f"at least {1 / (1 + samples):.2g}. Not corrected for the number of pairs; over images "
            "alone, so other seeds could still turn a difference."
        ],
        "progress": [
            f"Until the first validation whose {content['progress']['score']} is "
            + ", ".join(f"{100 * share:.0f} %" for share in TARGETS)
            + " of what every run reached in the end. Validation comes once an epoch, and its time "
            "counts; tokens are real ones, without padding."
        ],
        "attention": [
            "Entropy in nats; effective patches are exp(entropy). Change: total variation between "
            "the maps of consecutive words, from 0 to 1. Share: of attention inside the named "
            "object's true box grown by one cell, at the word that names it, and what uniform "
            "attention has there; — where no boxes are known."
        ],
        "config": ["Keys of one value in all experiments are left out; — stands for none."],
    }
