"""The training loop: one for every experiment.

A run's folder (workdir) holds
    config.json, run.json      the resolved config; command, versions, commit, totals
    vocabulary.json            words, counted on the training split; of sentences also
                               source_vocabulary.json
    metrics.jsonl, events/     what was measured, for scripts and for TensorBoard
    checkpoints/               the whole training state; a resumed run continues bit for bit
    best/                      the weights with the best validation score
    last/                      those of the last step, once the run is finished
"""

import dataclasses
import json
import math
import signal
import time
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Int
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from show_attend_tell import config as configs
from show_attend_tell import devices, files
from show_attend_tell.data import load as datasets
from show_attend_tell.data import vocabulary as vocabularies
from show_attend_tell.data.batches import BatchPlan, train_batches
from show_attend_tell.data.vocabulary import TOKENIZERS, Subwords, Vocabulary
from show_attend_tell.errors import UserError
from show_attend_tell.inference import captioning as evaluate
from show_attend_tell.inference.captioning import AnyVocabulary
from show_attend_tell.models.captioner import (
    Captioner,
    all_weights,
    frozen_weights,
    trained_weights,
)
from show_attend_tell.models.encoders import Encoder
from show_attend_tell.objectives.rewards import IdfTable, idf_table
from show_attend_tell.runs.build import (
    build_captioner,
    build_encoder,
    make_objective,
    objective_settings,
)
from show_attend_tell.runs.checkpoint import Checkpoints
from show_attend_tell.runs.metrics_log import MetricWriter
from show_attend_tell.tokens import EOS, PAD
from show_attend_tell.training.optimizer import make_optimizer
from show_attend_tell.training.step import eval_params, initial_state, make_train_step

# That early stopping can watch: all but METEOR, which wants Java and seconds.
METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr", "exact")
TRANSLATION_METRICS = ("BLEU", "chrF", "exact")  # and of sentences


@dataclasses.dataclass
class Progression:
    """What a checkpoint records beside the arrays."""

    input_position: dict[str, Any]
    best_score: float | None = None
    best_step: int = 0
    stale: int = 0  # validations since the best one
    seconds: float = 0.0  # spent training, validation included, over all parts of the run
    tokens: float = 0.0  # real ones trained on
    finished: bool = False


def train(config: ConfigDict, workdir: Path, *, console: Console | None = None) -> Progression:
    """Trains the experiment `config` in the folder `workdir`, or resumes the run that is there.

    With `config.train.init_from`, the folder of another run, it starts with that run's weights
    (`config.train.init_weights`: best or last) instead of fresh ones. Ends after
    `config.train.epochs` (0.5: half of one), or earlier when `config.train.patience` (if not 0)
    validations in a row brought no better score. Validation is free-running greedy decoding of the
    whole validation split after every epoch and at the end, never teacher-forced scores.

    On SIGINT or SIGTERM the current step is finished, a checkpoint is written and
    KeyboardInterrupt is raised.

    Raises:
      UserError: a setting is out of its range, the workdir holds a run of another config, data
        cannot be read, nothing can be written, or `config.train.max_skipped` steps in a row were
        not finite.
    """
    console = console or Console(stderr=True, quiet=not devices.is_first())
    _check(config, workdir)
    encoder = None if config.data.name in datasets.SENTENCES else build_encoder(config)
    config = _pinned(config, encoder)
    if devices.is_first():
        _claim(workdir, config)
    devices.wait_for_all()
    settings = config.train

    console.print(f"data: {config.data.name}, encoder: {config.encoder.name}")
    train_examples = evaluate.load_split(config, "train", copies=True)
    val_examples = evaluate.load_split(config, "val")
    source = _source_vocabulary(config, train_examples, workdir)
    if encoder is None:
        encoder = build_encoder(config, len(source))
    train_inputs = evaluate.load_inputs(config, train_examples, encoder, source, augmented=True)
    val_inputs = evaluate.load_inputs(config, val_examples, encoder, source)
    val_references = evaluate.references(val_examples)
    data = {e.split: e.fingerprint for e in (train_examples, val_examples)}
    _check_same_data(workdir, data)
    lengths = None if source is None else (train_inputs != PAD).sum(axis=1)
    vocabulary, plan, table = _captions(config, train_examples, workdir, lengths)
    what, token = "images", "words"
    if source is not None:
        what, token = f"sentences (vocabulary: {len(source)})", "tokens"
    console.print(
        f"{len(plan)} {what}, {plan.captions} captions ({plan.truncated} cut to "
        f"{config.data.max_length} {token}), {len(vocabulary)} {token}, "
        f"{plan.batches_per_epoch} steps an epoch of row lengths {plan.lengths}, "
        f"{1 - plan.tokens_per_epoch / plan.positions_per_epoch:.0%} padding"
    )

    model = build_captioner(config, encoder, len(vocabulary))
    objective = make_objective(config, table)
    frozen = devices.give_all(frozen_weights(model))
    nnx.update(model, frozen)
    total_steps = math.ceil(settings.epochs * plan.batches_per_epoch)
    optimizer = make_optimizer(
        total_steps=total_steps,
        encoder_learning_rate=config.encoder.get("learning_rate", 0.0),
        **{k: v for k, v in config.optimizer.to_dict().items() if k != "average"},
    )
    state = initial_state(model, objective, optimizer, keep_start=settings.init_share > 0)
    train_step = make_train_step(
        model,
        objective,
        optimizer,
        key=jax.random.key(config.seed),
        average=config.optimizer.average,
    )
    greedy = dataclasses.replace(evaluate.Decoding(**config.decode.to_dict()), beam=1)
    run_decode = evaluate.make_decode(model, greedy)
    augmentation = evaluate.make_augmentation(config, vocabulary)
    share = devices.own(settings.batch_size)
    batches = train_batches(train_inputs, plan, share=share, augmentation=augmentation)
    progression = Progression(input_position=batches.get_state())
    checkpoints = Checkpoints(workdir / "checkpoints", keep=2)
    best = Checkpoints(workdir / "best", keep=1)
    restored = checkpoints.restore(state, warn=console.print)
    first_step = 0
    if restored is None:
        origin = {}
        if settings.init_from:
            folder = Path(settings.init_from)
            origin["init_from"] = _start_from(folder, config, model, vocabulary, source)
            state = initial_state(model, objective, optimizer, keep_start=settings.init_share > 0)
        begun = {"data": data, "finished": False, "resumed": []}
        _record(workdir, configs.provenance(config) | begun | origin)
    else:
        first_step, state, record = restored
        progression = Progression(**record)
        batches.set_state(progression.input_position)
        console.print(f"resuming {workdir} at step {first_step} of {total_steps}")
        if progression.finished:
            console.print("this run is finished already")
            _save_last(workdir, int(state.step), eval_params(state, settings.init_share))
            checkpoints.close()
            best.close()
            _record(workdir, _totals(progression))
            return progression
        part = {"step": first_step} | configs.provenance(config)
        _record(workdir, {"resumed": [*_recorded(workdir).get("resumed", []), part]})
    writer = MetricWriter(workdir, first_step)
    clock = time.monotonic()
    stop = _Stop(settings.log_every)

    def elapsed() -> float:
        nonlocal clock
        now = time.monotonic()
        progression.seconds += now - clock
        clock = now
        return progression.seconds

    def save() -> None:
        elapsed()
        progression.input_position = batches.get_state()
        best.wait()  # a checkpoint that names a best step must not be on disk before it
        # A copy: Orbax writes while the next step overwrites the donated buffers.
        arrays = jax.tree.map(np.array, state)
        checkpoints.save(int(state.step), arrays, dataclasses.asdict(progression))

    def validate(step: int) -> None:
        weights = eval_params(state, settings.init_share)
        captions = evaluate.caption_inputs(
            run_decode, all_weights(weights, frozen), val_inputs, vocabulary, greedy.batch_size
        )
        hypotheses = evaluate.texts(val_examples, captions)
        name = config.data.name
        scores = evaluate.score(name, val_references, hypotheses, meteor=False).values
        score = scores[settings.metric]
        spent = {"seconds": elapsed(), "tokens": progression.tokens}
        writer.write(step, scores | spent, kind="val")
        before = progression.best_score
        progression.stale = 0 if before is None or score > before else progression.stale + 1
        best_so_far = before is None or score >= before  # of equals the longer trained
        if best_so_far:
            progression.best_score, progression.best_step = score, step
            weights = jax.tree.map(np.array, weights)
            best.save(step, weights, {"step": step, "metric": settings.metric, "score": score})
        shown = ", ".join(
            f"{k} {scores[k]:.3f}"
            for k in ("BLEU", "chrF", "BLEU-4", "CIDEr", "exact")
            if k in scores
        )
        console.print(f"step {step}, validation: {shown}{' (best)' if best_so_far else ''}")

    # Also where a step fails: what is being written then is finished first.
    with closing(checkpoints), closing(best), _progress(console) as bar, stop:
        task = bar.add_task("training", total=total_steps, completed=first_step, status="")
        meter = _Meter(writer, settings.log_every, settings.max_skipped, workdir)
        pending = None
        for step in range(first_step + 1, total_steps + 1):
            waited = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - waited
            state, metrics = train_step(state, devices.share_out(batch))
            # Metrics of the step before are fetched while this one runs: the device never waits.
            if pending is not None:
                progression.tokens += meter.add(*pending)
                bar.update(task, completed=step - 1, status=meter.status)
            pending = (step, metrics, waited)
            at_end = step % plan.batches_per_epoch == 0 or step == total_steps
            stopped = stop.agreed(step)
            if at_end or stopped or step % settings.checkpoint_every == 0:
                progression.tokens += meter.add(*pending)
                bar.update(task, completed=step, status=meter.status)
                pending = None
                if at_end:
                    validate(step)
                    meter.restart()
                if not console.is_terminal:  # a log has no progress bar
                    console.print(f"step {step} of {total_steps}  {meter.status}")
                exhausted = bool(settings.patience) and progression.stale >= settings.patience
                progression.finished = step == total_steps or exhausted
                save()
                stopped = stopped or stop.agreed(step)  # asked for while it was saved, too
                if progression.finished or stopped:
                    break
    if progression.finished:
        _save_last(workdir, int(state.step), eval_params(state, settings.init_share))
    writer.close()
    _record(workdir, _totals(progression))
    if stopped and not progression.finished:
        console.print(f"stopped at step {step}; the same command resumes from there")
        raise KeyboardInterrupt
    console.print(
        f"trained {progression.seconds / 60:.1f} minutes; best {settings.metric} "
        f"{progression.best_score:.4f} at step {progression.best_step}"
    )
    return progression


def _save_last(workdir: Path, step: int, weights: Any) -> None:
    """Keeps the evaluated weights of a finished run's last step, where they are not kept yet."""
    last = Checkpoints(workdir / "last", keep=1)
    last.save(step, jax.tree.map(np.array, weights), {"step": step})
    last.close()


def _check_same_data(workdir: Path, data: dict[str, Any]) -> None:
    """Refuses to go on with a run whose data are no longer what it began with."""
    before = _recorded(workdir).get("data", data)
    if (workdir / "checkpoints").is_dir() and before != data:
        raise UserError(
            f"{workdir}: its data set is another one than when the run began (a folder of images "
            "was edited?); choose another --workdir, or put the data back as they were"
        )


def _captions(
    config: ConfigDict, examples: Any, workdir: Path, input_lengths: Int[np.ndarray, " N"] | None
) -> tuple[AnyVocabulary, BatchPlan, IdfTable | None]:
    """The training split's vocabulary, also saved, its batches' plan, and what a reward needs."""
    captions = examples.captions()
    # The copies of an image do not make its words more frequent.
    texts = [c for of_one in captions[: examples.stored] for c in of_one]
    vocabulary = _vocabulary(config, texts, workdir / "vocabulary.json")
    encoded = _encode(captions, vocabulary)
    table = idf_table(encoded[: examples.stored]) if config.reward.samples else None
    return vocabulary, _plan(config, encoded, config.train.batch_size, input_lengths), table


def _pinned(config: ConfigDict, encoder: Encoder | None) -> ConfigDict:
    """The config with the checksum of the encoder's weights, which is then that of the run."""
    if config.encoder.get("weights_sha256") != "":
        return config
    config = config.copy_and_resolve_references()
    config.encoder.weights_sha256 = encoder.checksum
    return config


def _source_vocabulary(config: ConfigDict, examples: Any, workdir: Path) -> AnyVocabulary | None:
    """The vocabulary of the training split's source sentences, also saved; None of images."""
    if config.data.name not in datasets.SENTENCES:
        return None
    texts = [pair.source for pair in examples]
    return _vocabulary(config, texts, workdir / "source_vocabulary.json")


def _vocabulary(config: ConfigDict, texts: list[str], path: Path) -> AnyVocabulary:
    """The vocabulary of texts, written to `path`; that of a run that has begun is read there."""
    if path.exists() and (path.parent / "checkpoints").is_dir():
        return vocabularies.load(path)
    vocabulary = make_vocabulary(config, texts)
    if devices.is_first():
        vocabulary.save(path)
    return vocabulary


def make_vocabulary(config: ConfigDict, texts: list[str]) -> AnyVocabulary:
    """The vocabulary of texts that `config.data` describes: words, or pieces of words."""
    kind = config.data.get("vocabulary", "ptb")  # of captions: the words that are scored
    if kind == "subwords":
        return Subwords.from_texts(texts, config.data.subwords)
    counted = map(cache(TOKENIZERS[kind]), texts)
    most = config.data.get("vocabulary_size", 0)
    return Vocabulary.from_captions(counted, config.data.min_count, kind, most)


def make_plan(
    config: ConfigDict, examples: Any, vocabulary: AnyVocabulary, *, batch_size: int
) -> BatchPlan:
    """The plan of a training split's batches, of `batch_size` images, for a known vocabulary."""
    return _plan(config, _encode(examples.captions(), vocabulary), batch_size, None)


def _encode(captions: list[tuple[str, ...]], vocabulary: AnyVocabulary) -> list[list[list[int]]]:
    ids_of = cache(vocabulary.encode_text)  # of an image's copies, most captions are the same
    return [[[*ids_of(c), EOS] for c in of_one] for of_one in captions]


def _plan(
    config: ConfigDict,
    encoded: list[list[list[int]]],
    batch_size: int,
    input_lengths: Int[np.ndarray, " N"] | None,
) -> BatchPlan:
    return BatchPlan(
        encoded,
        batch_size=batch_size,
        rows=config.train.rows,
        buckets=config.train.buckets,
        max_length=config.data.max_length,
        seed=config.seed,
        input_lengths=input_lengths,
    )


def _start_from(
    folder: Path,
    config: ConfigDict,
    model: Captioner,
    vocabulary: AnyVocabulary,
    source: AnyVocabulary | None,
) -> dict[str, Any]:
    """Gives the model another run's weights; a baseline's network stays fresh.

    Returns:
      What tells that run and its weights from others, for run.json.
    """
    other = evaluate.load_run(folder, weights=config.train.init_weights, half=False)
    if other.vocabulary.words != vocabulary.words:
        raise UserError(
            f"config.train.init_from={folder}: it has another vocabulary; choose a run on the "
            "same captions with the same data.min_count and data.vocabulary_size"
        )
    theirs = other.source_vocabulary
    if (theirs and theirs.words) != (source and source.words):
        raise UserError(
            f"config.train.init_from={folder}: it reads another source vocabulary; choose a run on "
            "the same sentences with the same settings of data"
        )
    # What no shape of a weight tells.
    same = ("encoder.", "attention.", "decoder.output_tanh")
    may_differ = ("attention.kind", "attention.units")  # shapes tell the second
    # Of weights the checksum decides.
    may_differ += ("encoder.learning_rate", "encoder.checkpointing", "encoder.weights")
    if other.model.encoder is None:  # frozen there; its stages may be trained from now on
        may_differ += ("encoder.trainable_from",)
    changed = [
        n
        for n in configs.differences(other.config, config)
        if n.startswith(same) and n not in may_differ
    ]
    if changed:
        raise UserError(
            f"config.train.init_from={folder}: it was trained with other {', '.join(changed)}; "
            "choose another run, or set these as it has them"
        )
    given = flatten_dict(other.params)
    own = flatten_dict(trained_weights(model))
    if other.model.encoder is None:
        given |= {name: value for name, value in own.items() if name[0] == "encoder"}
    for name, value in own.items():
        if name[0] != "baseline" and jnp.shape(given.get(name)) != value.shape:
            raise UserError(
                f"config.train.init_from={folder}: its weights {'.'.join(map(str, name))} do not "
                "fit; choose a run with the same encoder, attention and decoder settings"
            )
    fitting = {k: given[k] for k in own if k in given and given[k].shape == own[k].shape}
    nnx.update(model, unflatten_dict(fitting))
    record = _recorded(folder)
    return {
        "workdir": str(folder),
        "step": other.step,
        "commit": record.get("commit"),
        "seed": other.config.seed,
        "experiment": configs.digest(configs.experiment(other.config, record.get("init_from"))),
    }


def _check(config: ConfigDict, workdir: Path) -> None:
    """Refuses what would otherwise end in an error after minutes of work, or never be noticed."""
    settings = config.train
    if settings.epochs <= 0:
        raise UserError(f"config.train.epochs is {settings.epochs}: it must be over 0")
    for name in ("batch_size", "rows", "buckets", "log_every", "checkpoint_every"):
        if settings[name] < 1:
            raise UserError(f"config.train.{name} is {settings[name]}: it must be at least 1")
    metrics = TRANSLATION_METRICS if config.data.name in datasets.SENTENCES else METRICS
    if settings.metric not in metrics:
        raise UserError(
            f"config.train.metric is {settings.metric!r}: choose one of {', '.join(metrics)}"
        )
    if config.decoder.get("dtype", "float32") not in ("float32", "bfloat16"):
        raise UserError(
            f"config.decoder.dtype is {config.decoder.dtype!r}: choose 'float32' or 'bfloat16'"
        )
    _, reward = objective_settings(config)
    if reward is not None and not settings.init_from:
        raise UserError(
            "config.reward.samples: rewards teach nothing to an untrained model; name the run "
            "to go on from in config.train.init_from"
        )
    if not 0 <= settings.init_share <= 1 or (settings.init_share and not settings.init_from):
        raise UserError(
            f"config.train.init_share is {settings.init_share}: it must be in [0, 1], and over 0 "
            "only with config.train.init_from"
        )
    if settings.init_weights not in ("best", "last"):
        raise UserError(
            f"config.train.init_weights is {settings.init_weights!r}: choose 'best' or 'last'"
        )
    begun = (workdir / "checkpoints").is_dir()  # and then needs no other run any more
    if settings.init_from and not begun:
        weights = Path(settings.init_from) / settings.init_weights
        if not weights.is_dir():
            raise UserError(
                f"config.train.init_from={settings.init_from}: no {weights.name} weights of a "
                "trained run there; train that first, to its end"
            )
    devices.check_batch(settings.batch_size, "config.train.batch_size")
    if min(config.seed, config.data.get("crops", 0)) < 0:
        raise UserError("config.seed and config.data.crops must be 0 or more")
    if min(config.data.max_length, config.data.get("max_source_length", 1)) < 1:
        raise UserError("config.data.max_length and .max_source_length must be 1 or more")
    if config.data.get("vocabulary_size", 0) < 0:
        raise UserError("config.data.vocabulary_size must be 0 (all words) or more")
    _check_sentences(config)
    if "trainable_from" in config.encoder:
        _check_fine_tuning(config)


def _check_fine_tuning(config: ConfigDict) -> None:
    """Refuses settings of a trained encoder where it is frozen, and such as cannot be."""
    encoder = config.encoder
    augmented = evaluate.make_augmentation(config) is not None
    if augmented and not encoder.trainable_from:
        raise UserError(
            "config.data.random_crop and .random_flip change images from epoch to epoch, but a "
            "frozen encoder's annotation vectors are cached: set config.encoder.trainable_from, "
            "or take copies instead (data.mirrored, data.crops)"
        )
    rate = encoder.get("learning_rate", 0.0)
    if rate < 0 or (rate and not config.optimizer.learning_rate):
        raise UserError(
            f"config.encoder.learning_rate is {rate}: it must be 0 or more, and over 0 only with "
            "an optimizer.learning_rate over 0"
        )
    if not encoder.trainable_from and (rate or encoder.get("checkpointing", False)):
        raise UserError(
            "config.encoder.learning_rate and .checkpointing are for a trained encoder: set "
            "config.encoder.trainable_from"
        )


def _check_sentences(config: ConfigDict) -> None:
    """Refuses settings of sentences for images, and the reverse."""
    sentences = config.data.name in datasets.SENTENCES
    if sentences != ("annotations" in config.encoder):
        kinds = "sentences", "images"
        what, other = kinds if sentences else kinds[::-1]
        raise UserError(
            f"config.data.name {config.data.name!r} is of {what}, the experiment of {other}: "
            "choose another experiment file"
        )
    kind = config.data.get("vocabulary", "ptb")
    if kind not in ("subwords", *TOKENIZERS):
        raise UserError(f"config.data.vocabulary is {kind!r}: choose 'subwords' or 'words'")


def _claim(workdir: Path, config: ConfigDict) -> None:
    """Makes the workdir this config's, or checks that it is."""
    path = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            changed = configs.changes(configs.load(path), config)
            if changed:
                raise UserError(
                    f"{workdir} holds a run of another config ({', '.join(changed[:5])} differ);"
                    " choose another --workdir, or delete that folder"
                )
        else:
            configs.save(config, path)
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written ({error.strerror})") from error


def _recorded(workdir: Path) -> dict[str, Any]:
    """What run.json holds; nothing where it is not there or damaged."""
    try:
        return json.loads((workdir / "run.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _record(workdir: Path, changes: Mapping[str, Any]) -> None:
    """Writes run.json with some of its entries changed; the others, of earlier parts, stay."""
    if not devices.is_first():
        return
    record = _recorded(workdir) | dict(changes)
    files.write_text(workdir / "run.json", json.dumps(record, indent=2) + "\n")


def _totals(progression: Progression) -> dict[str, Any]:
    names = ("finished", "seconds", "tokens", "best_step")
    return {name: getattr(progression, name) for name in names}


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
    )


class _Meter:
    """Means of the metrics over `every` steps, written and put in a line for the progress bar."""

    def __init__(self, writer: MetricWriter, every: int, max_skipped: int, workdir: Path):
        self._writer, self._every = writer, every
        self._max_skipped, self._workdir = max_skipped, workdir
        self.status = ""
        self.restart()

    def restart(self) -> None:
        """Begins a new mean, so that time spent elsewhere is not counted."""
        self._rows: list[dict[str, float]] = []
        self._start = time.perf_counter()

    def add(self, step: int, metrics: Mapping[str, Array], waited: float) -> float:
        """Takes in a step's metrics; returns its number of real tokens."""
        row = {k: float(v) for k, v in jax.device_get(metrics).items()} | {"waited": waited}
        self._rows.append(row)
        if row["skipped_in_a_row"] >= self._max_skipped:
            raise UserError(
                f"{self._workdir}: {self._max_skipped} steps in a row up to step {step} had a "
                "loss or gradient that is not finite; lower optimizer.learning_rate or "
                "optimizer.clip_norm: the last good checkpoint is kept"
            )
        if step % self._every == 0:
            seconds = time.perf_counter() - self._start
            tokens = sum(r["tokens"] for r in self._rows)
            good = [r for r in self._rows if np.isfinite(r["loss"])] or self._rows
            weights = [r["tokens"] for r in good]
            scalars = {
                name: float(np.average([r[name] for r in good], weights=weights))
                for name in row
                if name not in ("tokens", "skipped", "skipped_in_a_row", "waited")
            }
            scalars["tokens_per_second"] = tokens / seconds
            scalars["data_wait_share"] = sum(r["waited"] for r in self._rows) / seconds
            scalars["skipped"] = row["skipped"]
            self._writer.write(step, scalars, kind="train")
            self.status = f"loss {scalars['loss']:.3f}  {tokens / seconds:,.0f} tokens/s"
            self.restart()
        return row["tokens"]


class _Stop:
    """Notes SIGINT and SIGTERM instead of dying of them; a second one kills."""

    def __init__(self, every: int):
        self._requested, self._every = False, every

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step, the same in all processes.

        Where there are several they ask each other, and that every few steps alone.
        """
        if jax.process_count() > 1 and step % self._every:
            return False
        return devices.anywhere(self._requested)

    def __enter__(self) -> "_Stop":
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            # Handlers can be set in the main thread alone; elsewhere the run is not interruptible.
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:
                break
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self._requested = True
        for number, handler in self._before.items():
            signal.signal(number, handler)
