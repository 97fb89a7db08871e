"""The command line: show-attend-tell VERB."""

import argparse
import dataclasses
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from show_attend_tell.errors import UserError

if TYPE_CHECKING:
    from show_attend_tell.inference.attention_record import AttentionRecord
    from show_attend_tell.inference.captioning import Decoding, Run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHOWN = 16  # pictures that quickstart draws of each run
PRETRAINED = "flickr8k-soft"  # what `caption` takes where no run is named
OVERRIDES = "Further --config.KEY=VALUE arguments override single values of the config."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit status: 0, 2 for a user's error, 130 when interrupted."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    unknown = [r for r in rest if r.startswith("-") and not r.startswith("--config.")]
    if unknown or (rest and arguments.verb == "quickstart"):
        parser.error(f"{(unknown or rest)[0]}: no such option; try {arguments.verb} --help")
    try:
        _quiet()
        arguments.run(arguments, rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        # What no module foresaw: a full disk, a folder without permission.
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "show-attend-tell",
        description="Image captioning with visual attention (Xu et al. 2015).",
        epilog="show-attend-tell VERB --help explains a verb.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            name, help=help, description=help, epilog=OVERRIDES, allow_abbrev=False
        )
        added.set_defaults(run=run)
        return added

    quickstart = verb(
        "quickstart",
        _quickstart,
        "Train, draw and compare soft and hard attention on the generated data set: a few minutes.",
    )
    quickstart.epilog = None
    quickstart.add_argument("--workdir", type=Path, default=Path("runs/quickstart"))

    prepare = verb(
        "prepare", _prepare, "Build an experiment's data set and feature cache, or go on with them."
    )
    look = verb(
        "inspect", _inspect, "Tell what an experiment's data set holds; draw a sheet of it."
    )
    for data in (prepare, look):
        data.add_argument(
            "--config", required=True, metavar="FILE.py[:VARIANT]", help="experiment file"
        )
    look.add_argument("--out", type=Path, help="folder to write (default: runs/inspect/DATA)")

    train = verb("train", _train, "Train an experiment, or resume it where its workdir stands.")
    train.add_argument(
        "--config", required=True, metavar="FILE.py[:VARIANT]", help="experiment file"
    )
    train.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    job = train.add_argument_group(
        "several processes",
        "One run on the devices of all; SLURM steps of several tasks and TPU pods need no options. "
        "The folders of runs and data must be the same for all.",
    )
    job.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, free there")
    job.add_argument("--processes", type=int, help="how many there are")
    job.add_argument("--process", type=int, help="number of this one, from 0")

    evaluate = verb("evaluate", _evaluate, "Caption a split with a trained run and score it.")
    _add_run_arguments(evaluate)
    evaluate.add_argument("--split", default="test", help="train, val or test (default: test)")

    caption = verb("caption", _caption, "Caption image files and draw their attention.")
    _add_run_arguments(caption, default=PRETRAINED)
    caption.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    caption.add_argument("--out", type=Path, help="folder of the pictures (default: W/captions)")

    translate = verb("translate", _translate, "Translate sentences, of arguments or a pipe.")
    _add_run_arguments(translate)
    translate.add_argument(
        "sentences", nargs="*", metavar="SENTENCE", help="(default: lines of input)"
    )
    translate.add_argument("--out", type=Path, help="folder for pictures of the alignments")

    attend = verb(
        "attend", _attend, "Dump attention maps (.npz and .png) and their statistics (JSON)."
    )
    _add_run_arguments(attend)
    attend.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="instead of a split")
    attend.add_argument("--split", default="val", help="train, val or test (default: val)")
    attend.add_argument("--num", type=int, default=16, help="images to draw (default: 16)")
    attend.add_argument("--out", type=Path, help="folder (default: W/attention)")

    compare = verb("compare", _compare, "Compare runs: a page, a table and their numbers.")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="workdir of a run")
    compare.add_argument("--split", default="test", help="that all were evaluated on (test)")
    compare.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder to write")
    _add_pictures(compare)

    sweep = verb("sweep", _sweep, "Run a grid of settings and seeds, then compare the runs.")
    sweep.add_argument(
        "config",
        nargs="+",
        metavar="FILE.py[:VARIANT]",
        help="experiments; of several, later ones go on from earlier ones of the same seed",
    )
    sweep.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="values of a config key, for example attention.kind=soft,hard; may be repeated",
    )
    sweep.add_argument("--seeds", default="0", help="separated by commas (default: 0)")
    sweep.add_argument(
        "--workdir", type=Path, default=Path("runs/sweep"), help="folder of the runs"
    )
    sweep.add_argument("--split", default="test", help="to evaluate (default: test)")
    sweep.add_argument("--cluster", default="local", help="local or slurm (default: local)")
    sweep.add_argument("--partition", default="", help="of SLURM")
    _add_pictures(sweep)
    sweep.add_argument("--hours", type=float, default=24.0, help="that a seed may take (24)")

    export = verb("export", _export, "Write a run's weights, small and alone, to hand them on.")
    export.add_argument("--workdir", type=Path, required=True, help="folder of a trained run")
    export.add_argument("--weights", choices=("best", "last"), default="best", help="(best)")
    export.add_argument("--out", type=Path, required=True, help="folder to write")

    publish = verb(
        "publish", _publish, "Write a run's records, without weights and pictures, for `compare`."
    )
    publish.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="workdir of a run")
    publish.add_argument("--out", type=Path, required=True, help="folder of their folders")

    variance = verb(
        "gradient-variance",
        _gradient_variance,
        "Measure the noise of hard attention's gradient for every baseline and credit.",
    )
    variance.add_argument("--workdir", type=Path, required=True, help="folder of a trained run")
    variance.add_argument("--batches", type=int, default=4, help="(default: 4)")
    variance.add_argument("--samples", type=int, default=64, help="per batch (default: 64)")
    variance.add_argument("--images", type=int, default=8, help="of a batch (default: 8)")
    variance.add_argument(
        "--fresh", action="store_true", help="initial weights instead of the trained ones"
    )
    return parser


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pictures",
        type=int,
        default=12,
        metavar="N",
        help="images on the page; 0 for a page that may be passed on whatever the data (12)",
    )


def _add_run_arguments(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    which = parser.add_mutually_exclusive_group(required=default is None)
    which.add_argument("--workdir", type=Path, help="folder of a trained run, or an exported one")
    packaged = "a model that comes with the package"
    which.add_argument(
        "--pretrained",
        metavar="NAME",
        default=default,
        help=f"{packaged} (default: {default})" if default else packaged,
    )
    parser.add_argument("--beam", type=int, help="beam size; 1 is greedy (default: the config's)")
    parser.add_argument(
        "--length-penalty", type=float, help="exponent of the length (default: the config's)"
    )
    parser.add_argument(
        "--context",
        help="what hard attention reads: expected, argmax or sample (default: the config's; "
        "evaluate reports expected and argmax of a hard run)",
    )


def _quiet() -> None:
    """Libraries' start-up notices are not this program's output; compiled code is kept."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax
    import platformdirs
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(platformdirs.user_cache_dir("show_attend_tell")) / "jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        # Small programs, too: the hundred that make a model's first weights take seconds.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _prepare(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from rich.console import Console

    from show_attend_tell import config as configs
    from show_attend_tell.runs.preparation import prepare

    prepare(configs.from_file(arguments.config, overrides), Console())


def _inspect(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from rich.console import Console

    from show_attend_tell import config as configs
    from show_attend_tell.runs.preparation import inspect

    config = configs.from_file(arguments.config, overrides)
    inspect(config, arguments.out or Path("runs/inspect") / config.data.name, Console())


def _train(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell import config as configs
    from show_attend_tell import devices
    from show_attend_tell.training.session import train

    devices.start(arguments.coordinator, arguments.processes, arguments.process)
    train(configs.from_file(arguments.config, overrides), arguments.workdir)


def _load(arguments: argparse.Namespace, overrides: Sequence[str]) -> tuple["Run", "Decoding"]:
    from show_attend_tell import pretrained
    from show_attend_tell.inference.captioning import load_run

    if arguments.workdir is not None:
        run = load_run(arguments.workdir, overrides)
    else:
        run = pretrained.load(arguments.pretrained, overrides)
    names = ("beam", "length_penalty", "context")
    changed = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
    return run, dataclasses.replace(run.decoding, **changed)


def _evaluate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.inference.captioning import caption_split, reported_contexts, score_split

    run, decoding = _load(arguments, overrides)
    records = []
    for context in (arguments.context,) if arguments.context else reported_contexts(run.config):
        decoding = dataclasses.replace(decoding, context=context)
        examples, captions = caption_split(run, arguments.split, decoding)
        records.append(score_split(run, arguments.split, decoding, examples, captions))
    _print_scores(records)
    for image_id, caption in list(zip(examples.ids, captions, strict=True))[:4]:
        print(f"{image_id}: {caption.text}")


def _print_scores(records: Sequence[dict[str, Any]]) -> None:
    """Scores of one split, a column for each way of decoding."""
    from rich.console import Console
    from rich.table import Table

    decoding = records[0]["decoding"]
    what = "sentences" if "by_length" in records[0] else "images"
    table = Table(
        title=f"{records[0]['split']}: {records[0]['images']} {what}, beam {decoding['beam']}, "
        f"length penalty {decoding['length_penalty']}"
    )
    table.add_column("score")
    for record in records:
        table.add_column(f"{record['decoding']['context']} context", justify="right")
    for name in records[0]["scores"]:
        values = [record["scores"][name] for record in records]
        table.add_row(name, *("left out" if value is None else f"{value:.4f}" for value in values))
    Console().print(table)
    for k, bucket in enumerate(records[0].get("by_length", ())):
        values = ", ".join(f"{record['by_length'][k]['BLEU']:.2f}" for record in records)
        words = f"{bucket['least']} to {bucket['most']} source words"
        print(f"BLEU of the {bucket['sentences']} sentences of {words}: {values}")
    for name, why in records[0]["missing"].items():
        print(f"{name} {why}")


def _caption(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.data.load import SENTENCES
    from show_attend_tell.inference.captioning import attention_records, caption_files

    run, decoding = _load(arguments, overrides)
    if run.config.data.name in SENTENCES:
        raise UserError(f"{run.workdir}: a run on sentences, which `translate` translates")
    captions, wrong = caption_files(run, arguments.images, decoding)
    if not captions:
        _refuse(wrong)
    folder = arguments.out or run.workdir / "captions"
    records = attention_records(run, decoding, _named(list(captions)), list(captions.values()))
    pictures = _dump(folder, records, list(captions))
    for (path, caption), picture in zip(captions.items(), pictures, strict=True):
        print(f"{path}: {caption.text}\n    {picture}")
    _refuse(wrong)


def _refuse(wrong: Mapping[Path, str]) -> None:
    """Ends with an error where files were left out, after all others are done."""
    if wrong:
        raise UserError("; ".join(wrong.values()))


def _named(paths: Sequence[Path]) -> list[tuple[str, Path, tuple]]:
    """Image id, file and (no) boxes: the file's name, or its path where a name comes twice."""
    names = Counter(path.name for path in paths)
    return [(path.name if names[path.name] == 1 else str(path), path, ()) for path in paths]


def _lines(content: bytes) -> list[str]:
    """The lines of UTF-8 text."""
    lines = []
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), 1):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError as error:
            raise UserError(f"line {number} of the input is not UTF-8; convert it") from error
    return lines


def _translate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.data.load import SENTENCES
    from show_attend_tell.inference.captioning import alignment_records, translate

    run, decoding = _load(arguments, overrides)
    if run.config.data.name not in SENTENCES:
        raise UserError(f"{run.workdir}: a run on images, which `caption` captions")
    given = arguments.sentences or _lines(sys.stdin.buffer.read())
    sentences = [" ".join(sentence.split()) for sentence in given]
    for number, sentence in enumerate(sentences, 1):
        if not sentence:
            raise UserError(f"sentence {number} is empty; give words to translate")
    if not sentences:
        raise UserError("no sentence was given; name one, or write some to the input, one a line")
    limit = run.config.data.max_source_length
    cut = [s for s in sentences if len(run.source_vocabulary.encode_text(s)) > limit]
    if cut:
        print(
            f"{len(cut)} of {len(sentences)} sentences cut to {limit} tokens "
            "(config.data.max_source_length)",
            file=sys.stderr,
        )
    captions = translate(run, sentences, decoding)
    for caption in captions:
        print(caption.text)
    if arguments.out:
        named = [(f"sentence {i}", sentence) for i, sentence in enumerate(sentences, 1)]
        records = alignment_records(run, decoding, named, captions)
        for path in _dump(arguments.out, records, [None] * len(records)):
            print(path, file=sys.stderr)


def _attend(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.data.load import SENTENCES
    from show_attend_tell.inference.captioning import (
        alignment_records,
        attention_origin,
        attention_records,
        caption_files,
        caption_split,
    )

    if arguments.num < 0:
        raise UserError(f"--num {arguments.num}: must be 0 or more")
    run, decoding = _load(arguments, overrides)
    wrong: Mapping[Path, str] = {}
    sentences = run.config.data.name in SENTENCES
    if arguments.images and sentences:
        raise UserError(f"{run.workdir}: a run on sentences; `translate --out` draws alignments")
    if arguments.images:
        by_path, wrong = caption_files(run, arguments.images, decoding)
        if not by_path:
            _refuse(wrong)
        named, captions = _named(list(by_path)), list(by_path.values())
        sources = list(by_path)
        folder = arguments.out or run.workdir / "attention" / "files"
    else:
        examples, captions = caption_split(run, arguments.split, decoding)
        folder = arguments.out or run.workdir / "attention" / arguments.split
        if not sentences:
            # One at a time: the images of a large split would fill the memory.
            named = ((e.image_id, e.image, e.boxes) for e in examples)
            sources = [e.image for e in islice(examples, arguments.num)]
    if sentences:
        pairs = [(pair.pair_id, pair.source) for pair in examples]
        records = alignment_records(run, decoding, pairs, captions)
        sources = [None] * len(records)
    else:
        records = attention_records(run, decoding, named, captions)
    count = len(records) if arguments.images else arguments.num
    _dump(folder, records[:count], sources[:count])
    if records:
        _print_statistics(folder, records, attention_origin(run, decoding))
    _refuse(wrong)


def _dump(
    folder: Path, records: Sequence["AttentionRecord"], sources: Sequence[bytes | Path | None]
) -> list[Path]:
    """Writes an .npz and a .png for each record; returns the pictures' paths."""
    from rich.console import Console
    from rich.progress import track

    from show_attend_tell.data import images
    from show_attend_tell.inference import attention_record as attention_maps

    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    pairs = list(zip(records, sources, strict=True))
    for record, source in track(pairs, "attention maps", console=Console(stderr=True)):
        name = attention_maps.safe_name(record.image_id)
        attention_maps.save_attention(folder / f"{name}.npz", record)
        picture = None if source is None else images.read_picture(source, 512)
        attention_maps.draw_attention(folder / f"{name}.png", picture, record)
        pictures.append(folder / f"{name}.png")
    return pictures


def _print_statistics(
    folder: Path, records: Sequence["AttentionRecord"], origin: Mapping[str, Any]
) -> None:
    """Measures the maps, writes statistics.json beside the pictures and prints the main figures."""
    from show_attend_tell.inference import attention_record as attention_maps

    statistics = attention_maps.attention_statistics(records) | dict(origin)
    attention_maps.write_statistics(folder / "statistics.json", statistics)
    print(
        f"attention over {statistics['images']} "
        f"{'images' if statistics['grid'] else 'sentences'}: entropy "
        f"{statistics['mean_entropy'] or 0:.2f} of {statistics['uniform_entropy']:.2f} nats, "
        f"change from word to word {statistics['mean_change'] or 0:.2f} of 1"
    )
    objects = statistics["objects"]
    if objects and objects["matched"]:
        print(
            f"attention in the named object's box grown by a cell: {objects['in_grown_box']:.1%} "
            f"(uniform attention: {objects['uniform_in_grown_box']:.1%}), "
            f"{objects['matched']} nouns"
        )
    elif objects:
        print("attention in the objects' boxes: no caption named one, or not in its place")
    for warning in statistics["warnings"]:
        print(f"warning: {warning}")
    print(f"pictures and statistics: {folder}")


def _compare(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.reports.compare import compare

    if overrides:
        raise UserError(f"{overrides[0]}: compare takes no overrides")
    compare(arguments.runs, arguments.split, arguments.out, shown=arguments.pictures)
    print((arguments.out / "table.md").read_text())
    print(f"open {arguments.out / 'index.html'}")


def _sweep(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.cli import sweep

    settings = {}
    for setting in arguments.set:
        key, _, values = setting.partition("=")
        if not values:
            raise UserError(f"--set {setting}: give values, as in --set {key}=VALUE,VALUE")
        settings[key] = values.split(",")
    try:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds {arguments.seeds}: whole numbers separated by commas") from None
    chains = sweep.grid(arguments.config, settings, seeds, arguments.workdir, overrides)
    sweep.sweep(
        chains,
        arguments.workdir,
        split=arguments.split,
        cluster=arguments.cluster,
        hours=arguments.hours,
        partition=arguments.partition,
    )
    arguments.runs = [job.workdir for chain in chains for job in chain]
    arguments.out = arguments.workdir / "compare"
    _compare(arguments, ())


def _export(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell import pretrained
    from show_attend_tell.inference.captioning import load_run

    run = load_run(arguments.workdir, overrides, weights=arguments.weights)
    size = pretrained.export(run, arguments.out)
    print(f"{arguments.out}: step {run.step}, {size / 1e6:.1f} MB; caption with --workdir of it")


def _publish(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell import pretrained

    if overrides:
        raise UserError(f"{overrides[0]}: publish takes no overrides")
    for run in arguments.runs:
        written = pretrained.publish(run, arguments.out / run.resolve().name)
        size = sum(path.stat().st_size for path in written)
        print(f"{arguments.out / run.resolve().name}: {len(written)} files, {size / 1e3:.0f} kB")


def _gradient_variance(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    import jax.numpy as jnp
    from rich.console import Console
    from rich.table import Table

    from show_attend_tell import config as configs
    from show_attend_tell.evaluation.gradient_variance import gradient_variance
    from show_attend_tell.inference import captioning as evaluate
    from show_attend_tell.models import captioner
    from show_attend_tell.reports.variance_chart import write_variance
    from show_attend_tell.training.session import make_plan

    for name, least in (("batches", 1), ("samples", 2), ("images", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} {getattr(arguments, name)}: must be {least} or more")
    run = evaluate.load_run(arguments.workdir, overrides)
    params = run.params
    if arguments.fresh:
        params = captioner.all_weights(captioner.trained_weights(run.model), run.params)
    examples = evaluate.load_split(run.config, "train", copies=True)
    inputs = evaluate.load_inputs(run.config, examples, run.encoder, run.source_vocabulary)
    plan = make_plan(run.config, examples, run.vocabulary, batch_size=arguments.images)
    if len(plan) < 2 * arguments.batches * arguments.images:
        raise UserError(f"--batches {arguments.batches}: too many for {len(plan)} training images")
    batches = []
    for number in range(2 * arguments.batches):
        images, tokens = plan.batch(number)
        batches.append((jnp.asarray(inputs[images]), jnp.asarray(tokens)))
    measured, others = batches[: arguments.batches], batches[arguments.batches :]
    rows = gradient_variance(
        run.model, params, measured, others, samples=arguments.samples, seed=run.config.seed
    )
    record = {
        "rows": rows,
        "batches": arguments.batches,
        "images": arguments.images,
        "samples": arguments.samples,
        "weights": "fresh" if arguments.fresh else f"step {run.step}",
        **configs.provenance(run.config),
    }
    write_variance(run.workdir, record)
    table = Table(
        title="trace of the gradient's covariance; relative: to none + sequence, at equal rollouts"
    )
    for name in ("baseline", "credit", "rollouts", "trace", "relative", "signal to noise"):
        table.add_column(name, justify="left" if name in ("baseline", "credit") else "right")
    for row in rows:
        table.add_row(
            row["baseline"],
            row["credit"],
            str(row["rollouts"]),
            f"{row['variance']:.3g}",
            f"{row['relative']:.3f}",
            f"{row['snr']:.3g}",
        )
    Console().print(table)
    print(run.workdir / "gradient_variance.png")


def _quickstart(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    started = time.monotonic()
    experiment = EXPERIMENTS / "shapes.py"
    if not experiment.is_file():
        raise UserError(f"{experiment}: not there; run quickstart from a checkout of the project")
    soft, hard = arguments.workdir / "soft", arguments.workdir / "hard"
    # Hard attention goes on from the soft run, which takes half the time of a start from scratch.
    for run, variant, changes in (
        (soft, "soft", ()),
        (hard, "hard-from-soft", (f"--config.train.init_from={soft}",)),
    ):
        _show("train", "--config", f"{experiment}:{variant}", "--workdir", run, *changes)
        _show("evaluate", "--workdir", run, "--split", "val")
        _show("attend", "--workdir", run, "--split", "val", "--num", SHOWN)
    page = arguments.workdir / "compare"
    _show("compare", soft, hard, "--split", "val", "--out", page)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes in all")


def _show(*command: Any) -> None:
    """Prints a command of this program and runs it."""
    words = [str(word) for word in command]
    print(f"\n$ show-attend-tell {shlex.join(words)}", flush=True)
    arguments, overrides = _parser().parse_known_args(words)
    arguments.run(arguments, overrides)


if __name__ == "__main__":
    sys.exit(main())
