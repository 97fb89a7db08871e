"""What a data set holds: counts, lengths, and a contact sheet."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from show_attend_tell import files
from show_attend_tell.data.examples import Example, ExampleSource
from show_attend_tell.data.images import naming, picture_size, read_picture
from show_attend_tell.data.task import task_of
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.printable import first_few, printable
from show_attend_tell.reports.fonts import file_for
from show_attend_tell.runs.preparation import table_of, usable_splits
from show_attend_tell.settings import Settings
from show_attend_tell.tokens import UNK

COLUMNS, ROWS = 6, 4  # of a contact sheet
SIDE, LINES, LINE, LETTERS = 220, 3, 15, 36  # pixels of a picture; a caption's lines under it
MEASURED = 200  # pictures whose size is looked up: each is read for it


def inspect(settings: Settings, folder: Path, console: Console) -> dict[str, Any]:
    """Describes an experiment's data set and draws a contact sheet of its images.

    Writes `data.json`, which is also returned, and for images `contact_sheet.png`.

    Returns:
      For each split: counts of examples and captions, lengths of captions in tokens, how many
      exceed `data.max_length`, and the share of their tokens that the vocabulary has. Also the
      vocabulary's size, what was left out when the data set was built, and why, and how splits
      were made that the source lacks. Where phrases are annotated, also the number of those with
      boxes; and by split and reason, what of the annotations could not be used or was changed: how
      often, and the first names.

    Raises:
      UserError: the data cannot be built or read.
    """
    task = task_of(settings.data)
    train = task.load("train")
    splits = usable_splits(task, train)
    captions = {split: examples.captions() for split, examples in splits.items()}
    texts = [caption for of_one in captions["train"] for caption in of_one]
    vocabulary = task.target_vocabulary(texts, task.source_vocabulary(train))
    record: dict[str, Any] = {
        "data": settings.data.name,
        "vocabulary": len(vocabulary),
        "splits": [
            {"split": split, task.noun: len(of_split)}
            | _described(of_split, vocabulary, settings.data.max_length)
            for split, of_split in captions.items()
        ],
        "left out": train.left_out,
        "splits drawn": train.drawn,
    }
    _add_phrases(record, splits)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = task.pictures(train)
    if pictures is not None:
        record["height and width"] = _draw(pictures, folder, settings.seed)
    files.write_text(folder / "data.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    console.print(table_of(f"{train.name}: a vocabulary of {len(vocabulary)}", record["splits"]))
    if train.drawn:
        console.print(train.drawn, markup=False)
    for reason, names in record["left out"].items():
        console.print(f"left out, {reason}: {len(names)} ({first_few(names)})")
    for split, reasons in record.get("phrases", {}).items():
        for reason, found in reasons.items():
            shown = "; ".join(found["names"]) + "; ..." * (found["count"] > len(found["names"]))
            console.print(f"{split}, {reason}: {found['count']:,} ({shown})")
    console.print(f"written to {folder}")
    return record


def contact_sheet(examples: Sequence[Example]) -> Image.Image:
    """Pictures in rows, each above the beginning of its first caption."""
    rows = -(-len(examples) // COLUMNS)
    tile = (SIDE + 8, SIDE + LINES * LINE + 12)
    sheet = Image.new("RGB", (COLUMNS * tile[0], rows * tile[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for number, example in enumerate(examples):
        left, top = number % COLUMNS * tile[0] + 4, number // COLUMNS * tile[1] + 4
        with naming(example.image_id):
            picture = Image.fromarray(read_picture(example.image, SIDE))
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top))
        caption = printable(example.captions[0])
        lines = textwrap.wrap(caption, LETTERS, max_lines=LINES, placeholder=" ...")
        path = file_for(caption)
        font = ImageFont.truetype(path, 12) if path else ImageFont.load_default(12)
        draw.text((left, top + SIDE + 2), "\n".join(lines), "black", font)
    return sheet


def _described(
    captions: Sequence[Sequence[str]], vocabulary: AnyVocabulary, max_length: int
) -> dict[str, Any]:
    """The figures of a split's captions."""
    encoded = [vocabulary.encode_text(caption) for of_one in captions for caption in of_one]
    lengths = np.array([len(ids) for ids in encoded])
    unknown = sum(ids.count(UNK) for ids in encoded)
    return {
        "captions": len(encoded),
        "mean length": round(float(lengths.mean()), 2),
        "95 % within": int(np.percentile(lengths, 95)),
        "longest": int(lengths.max()),
        "cut": int((lengths > max_length).sum()),
        "tokens known": round(1 - unknown / max(int(lengths.sum()), 1), 4),
    }


def _add_phrases(record: dict[str, Any], splits: Mapping[str, ExampleSource]) -> None:
    """Adds what `inspect` returns of annotated phrases to its record, if there are any."""
    described = {split: examples.descriptions() for split, examples in splits.items()}
    counts = {split: examples.phrase_counts() for split, examples in splits.items()}
    if not any(map(any, described.values())) and not any(counts.values()):
        return
    for row in record["splits"]:
        phrases = [p for of_one in described[row["split"]] for d in of_one for p in d.phrases]
        row["phrases with boxes"] = sum(bool(phrase.boxes) for phrase in phrases)
    record["phrases"] = {
        split: {reason: asdict(counted) for reason, counted in of_split.items()}
        for split, of_split in counts.items()
    }


def _draw(pictures: ExampleSource[Example], folder: Path, seed: int) -> dict[str, list[int]]:
    """Writes the contact sheet of some pictures; returns the extent of their sizes."""
    chosen = np.random.default_rng(seed).permutation(len(pictures))[:MEASURED].tolist()
    sizes = [_size(pictures[i]) for i in chosen]
    sheet = contact_sheet([pictures[i] for i in chosen[: COLUMNS * ROWS]])
    with files.replacing(folder / "contact_sheet.png") as file:
        sheet.save(file, "PNG")
    return {
        name: np.percentile(sizes, q, axis=0).astype(int).tolist()
        for name, q in (("least", 0), ("median", 50), ("most", 100))
    }


def _size(example: Example) -> tuple[int, int]:
    with naming(example.image_id):
        return picture_size(example.image)
