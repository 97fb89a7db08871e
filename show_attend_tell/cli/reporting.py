"""Verbs that report on runs or hand them on: compare, export, publish, tables and more."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from show_attend_tell.cli.common import Verbs, add_verb, print_table, say
from show_attend_tell.errors import UserError
from show_attend_tell.files import user_path

if TYPE_CHECKING:
    from show_attend_tell.inference.run import Run


def add_verbs(verbs: Verbs) -> None:
    """Adds the verbs of this module."""
    compare = add_verb(
        verbs,
        "compare",
        _compare,
        "Compare runs on a page, in a table and as JSON.",
        overrides=False,
    )
    compare.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="workdir of a run")
    compare.add_argument("--split", default="test", help="split of all runs (default: test)")
    compare.add_argument(
        "--out", type=user_path, default=Path("runs/compare"), help="folder to write"
    )
    add_pictures(compare)
    _add_sharing(verbs)

    tables = add_verb(
        verbs,
        "tables",
        _tables,
        "Generate the tables of Markdown pages from the records that `publish` wrote.",
        overrides=False,
    )
    tables.add_argument("pages", type=user_path, help="folder of Markdown pages with marked tables")
    tables.add_argument(
        "--records", type=user_path, default=Path("results"), help="(default: results)"
    )

    variance = add_verb(
        verbs,
        "gradient-variance",
        _gradient_variance,
        "Measure noise and bias of hard attention's gradient for every estimator.",
    )
    variance.add_argument(
        "--workdir", type=user_path, required=True, help="folder of a trained run"
    )
    variance.add_argument("--batches", type=int, default=4, help="(default: 4)")
    variance.add_argument("--samples", type=int, default=64, help="per batch (default: 64)")
    variance.add_argument("--images", type=int, default=8, help="per batch (default: 8)")
    variance.add_argument(
        "--fresh",
        action="store_true",
        help="use initial weights instead of the trained ones; has files of its own",
    )


def _add_sharing(verbs: Verbs) -> None:
    export = add_verb(
        verbs, "export", _export, "Export a run for sharing: its weights, config and words."
    )
    export.add_argument("--workdir", type=user_path, required=True, help="folder of a trained run")
    export.add_argument(
        "--weights", choices=("best", "last"), default="best", help="(default: best)"
    )
    export.add_argument("--out", type=user_path, required=True, help="folder to write")

    publish = add_verb(
        verbs,
        "publish",
        _publish,
        "Write runs' records for `compare`, without weights and pictures.",
        overrides=False,
    )
    publish.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="workdir of a run")
    publish.add_argument(
        "--out", type=user_path, required=True, help="folder to write, with a subfolder per run"
    )

    _add_push(verbs)


def _add_push(verbs: Verbs) -> None:
    push = add_verb(verbs, "push", _push, "Put a run on the Hugging Face hub, with a model card.")
    push.add_argument("workdir", type=user_path, metavar="RUN", help="a run, or an exported model")
    push.add_argument("repo", metavar="OWNER/NAME", help="repository; created if it is absent")
    push.add_argument("--private", action="store_true", help="only its owner may see it")
    push.add_argument("--weights", choices=("best", "last"), default="best", help="(default: best)")
    push.add_argument(
        "--dry-run",
        type=user_path,
        metavar="FOLDER",
        help="only write what would be uploaded to this folder",
    )


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """The option that says how many pictures a comparison shows."""
    parser.add_argument(
        "--pictures",
        type=int,
        default=12,
        metavar="N",
        help="images on the page; 0: none, so that the page may be shared (default: 12)",
    )


def check_pictures(count: int) -> None:
    """Rejects a negative number of pictures."""
    if count < 0:
        raise UserError(f"--pictures {count}: must be 0 or more")


def show_comparison(runs: Sequence[Path], split: str, out: Path, pictures: int) -> None:
    """Compares runs, prints the main tables and names the page."""
    from show_attend_tell.reports.compare import compare
    from show_attend_tell.reports.tables import tables, usual_scores

    content = compare(runs, split, out, shown=pictures)
    found = tables(content)
    for table in (found["runs"], usual_scores(content), found.get("tests")):
        if table is not None:
            print_table(table, dense=True)
    say(f"all {len(found)} tables: {out / 'table.md'}; with curves and pictures:")
    say(f"open {out / 'index.html'}")


def _compare(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    check_pictures(arguments.pictures)
    show_comparison(arguments.runs, arguments.split, arguments.out, arguments.pictures)


def _export(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell import sharing
    from show_attend_tell.inference.run import load_run

    run = load_run(arguments.workdir, overrides, weights=arguments.weights)
    size = sharing.export(run, arguments.out)
    say(f"{arguments.out}: step {run.step}, {size / 1e6:.1f} MB; use it as --workdir")


def _publish(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell import sharing

    names = [run.resolve().name for run in arguments.runs]
    for run, name in zip(arguments.runs, names, strict=True):
        if names.count(name) > 1:
            raise UserError(
                f"{run}: another run is called {name}, too, and their records would mix; publish "
                "each to a folder of its own with --out"
            )
    for run in arguments.runs:
        written = sharing.publish(run, arguments.out / run.resolve().name)
        size = sum(path.stat().st_size for path in written)
        say(f"{arguments.out / run.resolve().name}: {len(written)} files, {size / 1e3:.0f} kB")


def _push(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell import sharing

    options = {"overrides": overrides, "weights": arguments.weights}
    run, repo, folder = arguments.workdir, arguments.repo, arguments.dry_run
    if folder is not None:
        size = sharing.write_repository(run, repo, folder, **options)
        say(f"{folder}: {size / 1e6:.1f} MB; nothing was uploaded")
        return
    name = sharing.push(run, repo, private=arguments.private, **options)
    say(f"{name}: use it as --pretrained {repo}")


def _tables(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.reports.results_tables import update_pages

    changed = update_pages(arguments.pages, arguments.records)
    for page in changed:
        say(f"{page}: tables generated")
    if not changed:
        say(f"{arguments.pages}: all tables agree with the records")


def _gradient_variance(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.evaluation.gradient_variance import gradient_variance
    from show_attend_tell.inference.run import fresh_weights, load_run, mark_of
    from show_attend_tell.reports.variance_chart import write_variance

    for name, least in (("batches", 1), ("samples", 2), ("images", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} {getattr(arguments, name)}: must be {least} or more")
    run = load_run(arguments.workdir, overrides)
    if run.settings.picture is not None:
        raise UserError(
            f"{arguments.workdir}: gradient-variance measures attention of one kind, and this run "
            "attends to a picture, too"
        )
    params = run.params
    if arguments.fresh:
        params = fresh_weights(run)
    batches = _batches(run, 2 * arguments.batches, arguments.images)
    rows = gradient_variance(
        run.model,
        params,
        batches[: arguments.batches],
        batches[arguments.batches :],
        samples=arguments.samples,
        seed=run.settings.seed,
    )
    record = {
        "rows": rows,
        "batches": arguments.batches,
        "images": arguments.images,
        "samples": arguments.samples,
        "weights": "fresh" if arguments.fresh else f"step {run.step}",
        **run.provenance(),
    }
    chart = write_variance(run.workdir, record, mark_of(run.changes))
    _print_variance(rows)
    say(chart)


def _batches(run: "Run", count: int, images: int) -> list[tuple[Any, Any]]:
    """The first training batches, as (inputs, tokens)."""
    import jax.numpy as jnp

    from show_attend_tell.runs.inputs import load_inputs
    from show_attend_tell.training.plan import make_plan

    examples = run.task.load("train", training=True)
    inputs = load_inputs(run.settings, run.task, examples, run.encoder, run.source_vocabulary)
    plan = make_plan(run.settings, examples, run.vocabulary, batch_size=images)
    if len(plan) < count * images:
        raise UserError(
            f"--batches {count // 2}: too many for {len(plan)} training images; give fewer"
        )
    batches = []
    for number in range(count):
        members, tokens = plan.batch(number)
        batches.append((jnp.asarray(inputs[members]), jnp.asarray(tokens)))
    return batches


def _print_variance(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for each gradient that is estimated, narrow enough for 80 columns."""
    from rich import box
    from rich.table import Table

    from show_attend_tell.reports.variance_chart import row_name
    from show_attend_tell.terminal import Terminal

    numbers = {"variance": "trace", "relative": "relative", "snr": "s/n", "relative_bias": "bias"}
    for against in dict.fromkeys(row["against"] for row in rows):
        table = Table(title=f"estimates of the gradient `{against}`", box=box.SIMPLE_HEAD)
        for name in ("estimator", "credit", "rollouts", *numbers.values()):
            table.add_column(name, justify="left" if name in ("estimator", "credit") else "right")
        for row in rows:
            if row["against"] == against:
                values = [row[key] for key in numbers]
                table.add_row(
                    row_name(row),
                    row["credit"] or "—",
                    str(row["rollouts"]),
                    *("—" if value is None else f"{value:.3g}" for value in values),
                )
        Terminal().print(table)
    say("trace: of the covariance. relative: to none + sequence, at equal rollouts.")
    say("s/n: signal to noise. bias: over the norm of the exact gradient, where there is one.")
