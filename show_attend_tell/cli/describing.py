"""The verbs that describe inputs with a trained run: evaluate, caption, translate, attend."""

import argparse
import dataclasses
import importlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from show_attend_tell.cli.common import Verbs, add_run, add_verb, load, print_table, say
from show_attend_tell.errors import UserError
from show_attend_tell.files import user_path
from show_attend_tell.tokens import EOS_WORD

if TYPE_CHECKING:
    from show_attend_tell.data.subject import Subject
    from show_attend_tell.inference.attention_record import AttentionRecord
    from show_attend_tell.inference.captioning import Caption, Described, Spoken
    from show_attend_tell.inference.run import Run
    from show_attend_tell.settings import Decode

DRAWING = "show_attend_tell.reports.attention_pictures"  # slow to import
PRETRAINED = "flickr8k-soft"  # what `caption` uses if no run is named
IMAGE_HELP = "a file, a folder, a pattern in quotes ('photos/*.jpg'), or - for standard input"
STDIN = "standard input"  # in messages
STDIN_NAME = "standard-input"  # of its picture
MAX_STDIN_BYTES = 2**28  # no picture is so large, but a pipe may never end
AT_ONCE = 1024  # sentences that are translated before their lines are printed


def add_verbs(verbs: Verbs) -> None:
    """Adds the verbs of this module."""
    evaluate = add_verb(
        verbs, "evaluate", _evaluate, "Caption a split with a trained run and score it."
    )
    add_run(evaluate)
    evaluate.add_argument("--split", default="test", help="train, val or test (default: test)")
    evaluate.add_argument(
        "--clip",
        default="",
        metavar="WEIGHTS",
        help="add CLIPScore and RefCLIPScore of English captions by this CLIP: a folder, or "
        "OWNER/NAME on the hub",
    )

    caption = add_verb(verbs, "caption", _caption, "Caption image files and draw their attention.")
    add_run(caption, default=PRETRAINED)
    caption.add_argument("images", nargs="+", metavar="IMAGE", help=IMAGE_HELP)
    caption.add_argument("--out", type=user_path, help="folder to write (default: RUN/captions)")
    caption.add_argument(
        "--json", action="store_true", help="print one JSON array instead, for scripts"
    )

    translate = add_verb(
        verbs, "translate", _translate, "Translate sentences from arguments or standard input."
    )
    add_run(translate)
    translate.add_argument(
        "sentences", nargs="*", metavar="SENTENCE", help="default: lines of standard input"
    )
    translate.add_argument(
        "--picture", metavar="IMAGE", type=user_path, help="the picture that all sentences describe"
    )
    translate.add_argument("--out", type=user_path, help="folder for pictures of the alignments")

    attend = add_verb(
        verbs, "attend", _attend, "Dump attention maps (.npz and .png) and their statistics (JSON)."
    )
    add_run(attend)
    attend.add_argument(
        "images", nargs="*", metavar="IMAGE", help=f"instead of a split: {IMAGE_HELP}"
    )
    attend.add_argument("--split", default="val", help="train, val or test (default: val)")
    attend.add_argument("--num", type=int, default=16, help="images to draw (default: 16)")
    attend.add_argument("--out", type=user_path, help="folder to write (default: RUN/attention)")


def _evaluate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.evaluation.split_evaluation import clip_scorer, evaluate_split
    from show_attend_tell.evaluation.split_scores import reported_contexts
    from show_attend_tell.reports.grounding_tables import measured_tables

    run, decoding = load(arguments, overrides)
    contexts = (decoding.context,)
    if not (arguments.context or run.others):  # the runs of an ensemble read what each reads
        contexts = reported_contexts(run.settings)
    speakers = [run]
    if not arguments.language and run.task.languages:
        speakers = [run.speaking(language) for language in run.task.languages]
    clip = clip_scorer(speakers, arguments.clip) if arguments.clip else None
    for one in speakers:
        found = evaluate_split(one, arguments.split, decoding, contexts, clip)
        _print_scores(found.records)
        for table in measured_tables(found.records[0]):
            print_table(table)
        for name, text in islice(found.texts.items(), 4):
            say(f"{name}: {text}")


def _print_scores(records: Sequence[Mapping[str, Any]]) -> None:
    """Prints the scores of one split, with a column for each context."""
    from rich.table import Table

    from show_attend_tell.evaluation.split_scores import further_options, in_words
    from show_attend_tell.settings import Decode
    from show_attend_tell.terminal import Terminal

    first = records[0]
    further = in_words(further_options(Decode(**first["decoding"])))
    language = f" in {first['language']}" if "language" in first else ""
    table = Table(
        title=f"{first['split']}: {first['images']} {first['noun']}{language}, beam "
        f"{first['decoding']['beam']}, length penalty {first['decoding']['length_penalty']}"
        f"{further}"
    )
    table.add_column("score")
    for record in records:
        table.add_column(f"{record['decoding']['context']} context", justify="right")
    for name in first["scores"]:
        values = [record["scores"][name] for record in records]
        table.add_row(name, *("left out" if value is None else f"{value:.4f}" for value in values))
    Terminal().print(table)
    for k, bucket in enumerate(first.get("by_length", ())):
        values = ", ".join(f"{record['by_length'][k]['BLEU']:.2f}" for record in records)
        words = f"{bucket['least']} to {bucket['most']} source words"
        say(f"BLEU of the {bucket['sentences']} sentences of {words}: {values}")
    for name, why in first["missing"].items():
        say(f"{name} {why}")


def _caption(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell import programs
    from show_attend_tell.data.base_task import expect
    from show_attend_tell.inference.captioning import caption_files

    run, decoding = load(arguments, overrides)
    expect(run.task, "caption", run.workdir)
    programs.folder()
    # While XLA compiles and computes, Python has time to import what draws. Not if it has to read a
    # data set: while TFDS is imported, it replaces the import statement of all threads.
    drawing = threading.Thread(target=importlib.import_module, args=[DRAWING], daemon=True)
    if not decoding.neighbours:
        drawing.start()
    subjects, wrong = _subjects(arguments.images)
    found: list[dict[str, Any]] = []
    for batch in caption_files(run, subjects, decoding, per_token=arguments.json):
        wrong += batch.wrong
        if not batch.subjects:
            continue
        if drawing.is_alive():
            drawing.join()
        folder = arguments.out or run.workdir / f"captions{_suffix(run)}"
        drawn = [
            _dump(folder_of, records, batch.subjects)
            for folder_of, records in _records(run, decoding, batch, folder)
        ]
        for subject, caption, *pictures in zip(batch.subjects, batch.captions, *drawn, strict=True):
            path = "-" if isinstance(subject.picture, bytes) else str(subject.picture)
            if arguments.json:
                found.append(_as_json(path, caption, pictures))
                continue
            say(f"{path}: {caption.text}")
            if decoding.n_best > 1:
                say(*(f"    {one.score:.3f}  {one.text}" for one in caption.n_best))
            say(*(f"    {picture}" for picture in pictures))
    if arguments.json:
        # ASCII: a name that is not UTF-8 can be printed nowhere otherwise.
        say(*json.dumps(found, indent=2).splitlines())
    _reject(wrong)


def _records(
    run: "Run", decoding: "Decode", batch: "Described", folder: Path
) -> Iterator[tuple[Path, list["AttentionRecord"]]]:
    """What each model of an ensemble attended to, and the folder for it; else the run's own."""
    from show_attend_tell.inference.captioning import attention_records

    for number, (one, how, folder_of) in enumerate(_members(run, decoding, folder)):
        seen = [caption.seen_by(number) for caption in batch.captions]
        yield folder_of, attention_records(one, how, batch.subjects, seen)


def _members(
    run: "Run", decoding: "Decode", folder: Path
) -> Iterator[tuple["Run", "Decode", Path]]:
    """The runs of an ensemble with what each reads and a folder, numbered from 1; or the run."""
    from show_attend_tell.inference.ensemble import contexts_of

    contexts = contexts_of(run, decoding)
    for number, (one, context) in enumerate(zip(run.members, contexts, strict=True), 1):
        own = folder / str(number) if run.others else folder
        yield one, dataclasses.replace(decoding, context=context), own


def _looks(
    run: "Run",
    decoding: "Decode",
    captions: Sequence["Caption"],
    pictures: Sequence["Subject"],
    folder: Path,
) -> Iterator[tuple[Path, list["AttentionRecord"]]]:
    """Where each model looked in the pictures beside sentences, and the folder for it."""
    from show_attend_tell.inference.captioning import picture_records

    for number, (one, how, folder_of) in enumerate(_members(run, decoding, folder)):
        seen = [caption.seen_by(number) for caption in captions]
        if one.settings.picture is not None:
            yield folder_of / "pictures", picture_records(one, how, pictures, seen)


def _suffix(run: "Run") -> str:
    """What sets a folder apart: of another than the run's first language, or of other settings."""
    from show_attend_tell.inference.run import mark_of

    first = next(iter(run.task.languages), "")
    language = "" if run.language == first else f".{run.language}"
    return language + mark_of(run.changes)


def _as_json(path: str, caption: "Caption", pictures: Sequence[Path]) -> dict[str, Any]:
    """A caption for scripts; log-probabilities in nats."""
    found = {"path": path, **_spoken(caption), "maps": str(pictures[0])}
    if len(caption.n_best) > 1:
        found["n_best"] = [_spoken(one) for one in caption.n_best]
    if len(pictures) > 1:
        found["maps_of_each"] = [str(picture) for picture in pictures]
    return found


def _spoken(caption: "Spoken") -> dict[str, Any]:
    assert caption.token_log_probs is not None
    return {
        "caption": caption.text,
        "words": [token for token in caption.tokens if token != EOS_WORD],
        "word_log_probs": caption.token_log_probs.tolist(),
        "finished": EOS_WORD in caption.tokens,
        "log_prob": caption.log_prob,
        "score": caption.score,
    }


def _subjects(arguments: Sequence[str]) -> tuple[list["Subject"], list[str]]:
    """The pictures that arguments name, and what is wrong with other arguments.

    A picture is called by its file's name, or by its path if names repeat.
    """
    from show_attend_tell.data.picture_names import named_pictures
    from show_attend_tell.data.subject import Subject

    given = named_pictures(argument for argument in arguments if argument != "-")
    names = Counter(path.name for path in given.paths)
    subjects = [
        Subject(path.name if names[path.name] == 1 else str(path), path) for path in given.paths
    ]
    if "-" in arguments:
        content = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
        if 0 < len(content) <= MAX_STDIN_BYTES:
            subjects.append(Subject(STDIN_NAME, content))
        elif content:
            given.wrong.append(f"{STDIN}: more than {MAX_STDIN_BYTES:,} bytes; name a file")
        else:
            given.wrong.append(f"{STDIN}: empty; pipe the content of an image file into it")
    return subjects, given.wrong


def _reject(wrong: Sequence[str]) -> None:
    """Raises an error for what was left out, once all else is done."""
    if wrong:
        raise UserError("; ".join(wrong))


def _translate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.data.base_task import expect
    from show_attend_tell.data.sentence_task import tidied
    from show_attend_tell.data.subject import Subject
    from show_attend_tell.inference.captioning import Described, translate

    run, decoding = load(arguments, overrides)
    expect(run.task, "translate", run.workdir)
    sentences = tidied(arguments.sentences or _lines(sys.stdin.buffer.read()))
    cut = 0
    for first in range(0, len(sentences), AT_ONCE):
        part = sentences[first : first + AT_ONCE]
        captions, here = translate(run, part, decoding, arguments.picture, begin=first)
        cut += len(here)
        for caption in captions:
            say(caption.text)
            if decoding.n_best > 1:
                say(*(f"    {one.score:.3f}  {one.text}" for one in caption.n_best))
        if arguments.out:
            subjects = [Subject(f"sentence {i}", text=t) for i, t in enumerate(part, first + 1)]
            _draw_translations(run, decoding, Described(subjects, captions, []), arguments)
    if cut:
        say(
            f"{cut} of {len(sentences)} sentences were cut (config.data.max_source_length)",
            error=True,
        )


def _draw_translations(
    run: "Run", decoding: "Decode", batch: "Described", arguments: argparse.Namespace
) -> None:
    """Draws the alignments of some sentences and, beside a picture, where each word looked."""
    for folder, records in _records(run, decoding, batch, arguments.out):
        for path in _dump(folder, records, batch.subjects):
            say(path, error=True)
    if arguments.picture:
        looked = [
            dataclasses.replace(subject, picture=arguments.picture) for subject in batch.subjects
        ]
        for folder, records in _looks(run, decoding, batch.captions, looked, arguments.out):
            for path in _dump(folder, records, looked):
                say(path, error=True)


def _lines(content: bytes) -> list[str]:
    """The lines of UTF-8 text."""
    lines = []
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), 1):
        try:
            lines.append(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"line {number} of the input is not UTF-8; convert it") from error
    return lines


def _attend(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from show_attend_tell.data.base_task import expect
    from show_attend_tell.inference.captioning import (
        attention_records,
        caption_files,
        caption_split,
    )

    if arguments.num < 0:
        raise UserError(f"--num {arguments.num}: must be 0 or more")
    run, decoding = load(arguments, overrides)
    wrong: list[str] = []
    made: dict[Path, list[AttentionRecord]] = {}
    if arguments.images:
        expect(run.task, "caption", run.workdir)
        folder = arguments.out or run.workdir / "attention" / f"files{_suffix(run)}"
        subjects, wrong = _subjects(arguments.images)
        count = len(subjects)  # all are drawn
        for batch in caption_files(run, subjects, decoding):
            wrong += batch.wrong
            if not batch.subjects:
                continue
            for folder_of, records in _records(run, decoding, batch, folder):
                _dump(folder_of, records, batch.subjects)
                made.setdefault(folder_of, []).extend(records)
    else:
        examples, captions = caption_split(run, arguments.split, decoding)
        folder = arguments.out or run.workdir / "attention" / f"{arguments.split}{_suffix(run)}"
        count = min(arguments.num, len(captions))
        for number, (one, how, folder_of) in enumerate(_members(run, decoding, folder)):
            seen = [caption.seen_by(number) for caption in captions]
            # One at a time: the images of a large split would fill the memory.
            records = attention_records(one, how, map(run.task.subject, examples), seen)
            _dump(folder_of, records[:count], map(run.task.subject, islice(examples, count)))
            made[folder_of] = records
        beside = [seen for one in islice(examples, count) if (seen := run.task.beside(one))]
        for folder_of, records in _looks(run, decoding, captions[: len(beside)], beside, folder):
            _dump(folder_of, records, beside)
    for one, how, folder_of in _members(run, decoding, folder):
        if made.get(folder_of):
            origin = {"decoding": dataclasses.asdict(how), "step": one.step} | one.provenance()
            _write_statistics(folder_of, made[folder_of], count, run.task.noun, origin)
    _reject(wrong)


def _dump(
    folder: Path, records: Sequence["AttentionRecord"], subjects: Iterable["Subject"]
) -> list[Path]:
    """Writes an .npz and a .png for each record, and the image itself as a .jpg.

    Returns:
      The paths of the .png files.
    """
    from rich.progress import track

    from show_attend_tell.data.images import SIDE, jpeg, read_picture
    from show_attend_tell.files import replacing
    from show_attend_tell.inference.attention_record import safe_name, save_attention
    from show_attend_tell.reports.attention_pictures import draw_attention
    from show_attend_tell.terminal import Terminal

    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    pairs = zip(records, subjects, strict=True)
    console = Terminal(stderr=True)
    for record, subject in track(pairs, "attention maps", total=len(records), console=console):
        stem = folder / safe_name(record.image_id)
        save_attention(stem.with_name(f"{stem.name}.npz"), record)
        source = subject.picture
        picture = None if source is None else read_picture(source, SIDE)
        if picture is not None:
            with replacing(stem.with_name(f"{stem.name}.jpg")) as file:
                file.write(jpeg(picture, SIDE))
        pictures.append(stem.with_name(f"{stem.name}.png"))
        draw_attention(pictures[-1], picture, record)
    return pictures


def _write_statistics(
    folder: Path,
    records: Sequence["AttentionRecord"],
    drawn: int,
    noun: str,
    origin: Mapping[str, Any],
) -> None:
    """Measures the maps, writes statistics.json beside the pictures and prints a summary.

    The first `drawn` maps have pictures: `ids` names them.
    """
    from show_attend_tell.evaluation.grounding import attention_statistics, write_statistics

    statistics = attention_statistics(records) | dict(origin)
    statistics["ids"] = [record.image_id for record in records[:drawn]]
    write_statistics(folder / "statistics.json", statistics)
    say(
        f"attention over {statistics['images']} {noun}: entropy "
        f"{statistics['mean_entropy'] or 0:.2f} of {statistics['uniform_entropy']:.2f} nats, "
        f"change from word to word {statistics['mean_change'] or 0:.2f} of 1"
    )
    objects = statistics["objects"]
    if objects and objects["matched"]:
        say(
            f"attention in the named object's box grown by a cell: {objects['in_grown_box']:.1%} "
            f"(uniform attention: {objects['uniform_in_grown_box']:.1%}), "
            f"{objects['matched']} nouns"
        )
    elif objects:
        say("attention in the objects' boxes: no caption named one at the expected word")
    for warning in statistics["warnings"]:
        say(f"warning: {warning}")
    say(f"pictures and statistics: {folder}")
