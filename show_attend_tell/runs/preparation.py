"""Getting data ready before a run, and looking at them: the verbs `prepare` and `inspect`."""

import json
import shutil
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from show_attend_tell import files
from show_attend_tell.data import load as datasets
from show_attend_tell.data import row_cache
from show_attend_tell.data.examples import Example
from show_attend_tell.data.images import picture_size, read_picture
from show_attend_tell.inference import captioning as evaluate
from show_attend_tell.runs.build import build_encoder
from show_attend_tell.tokens import UNK
from show_attend_tell.training.session import make_vocabulary

PROBED = 48  # images that are timed before the time of all is told
COLUMNS, ROWS = 6, 4  # of a contact sheet
SIDE, LINES, LINE, LETTERS = 220, 3, 15, 36  # pixels of a picture; a caption's lines under it
MEASURED = 200  # pictures whose size is looked up: each is read for it


def prepare(config: ConfigDict, console: Console) -> list[dict[str, Any]]:
    """Builds the data set of an experiment, then what its encoder takes or gives for every split.

    What is there already is not made again, and an interrupted cache is gone on with. Its size and
    time are told when the data set is built, before it is computed.

    Returns:
      A record for each split: its images (or sentences), and of images the bytes of the cache and
      how many were in it before.

    Raises:
      UserError: the data cannot be built or read, or there is no room for them.
    """
    train = evaluate.load_split(config, "train", copies=True)
    splits = {"train": train} | _others(config, train)
    if config.data.name in datasets.SENTENCES:
        records = [{"split": split, "sentences": len(pairs)} for split, pairs in splits.items()]
        console.print(_table("built", records))
        return records
    encoder = build_encoder(config)
    caches = {
        split: evaluate.input_cache(config, examples, encoder, augmented=split == "train")
        for split, examples in splits.items()
    }
    records = [
        {"split": split, "images": cache.shape[0], "bytes": cache.size, "done": cache.finished()}
        for split, cache in caches.items()
    ]
    console.print(_table("cache of what the encoder gives", records))
    missing = sum(record["images"] - record["done"] for record in records)
    need = sum(r["bytes"] // r["images"] * (r["images"] - r["done"]) for r in records)
    folder = evaluate.data_folder(config) / "features"
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    console.print(f"to do: {missing:,} images, {need / 1e9:.2f} GB of {free / 1e9:.1f} GB free")
    row_cache.check_room(folder, need)
    if missing > 4 * PROBED:
        seconds = _seconds_an_image(max(caches.values(), key=lambda cache: cache.shape[0]))
        console.print(f"about {missing * seconds / 60:.1f} minutes: {1 / seconds:.0f} images/s")
    for split, cache in caches.items():
        cache.load()
        console.print(f"{split}: {cache.folder}")
    return records


def _others(config: ConfigDict, train: Any) -> dict[str, Any]:
    """The other splits of the data set that can be used."""
    return {
        split: evaluate.load_split(config, split)
        for split in datasets.SPLITS
        if split in train.splits and split != "train"
    }


def _seconds_an_image(cache: row_cache.RowCache) -> float:
    blocks = cache.produce(0, min(2 * PROBED, cache.shape[0]))
    next(blocks)  # compiles, and fills the pipeline
    started = time.perf_counter()
    count = sum(len(block) for block in blocks)
    return (time.perf_counter() - started) / max(count, 1)


def inspect(config: ConfigDict, folder: Path, console: Console) -> dict[str, Any]:
    """Tells what an experiment's data set holds, and draws a contact sheet of it.

    Writes `data.json`, what is also returned, and of images `contact_sheet.png`.

    Returns:
      Of each split counts of images and captions, lengths of captions in tokens, how many are
      longer than `data.max_length`, and which share of their tokens the vocabulary has; the
      vocabulary's size; what was left out when the data set was built, and why.

    Raises:
      UserError: the data cannot be built or read.
    """
    train = evaluate.load_split(config, "train")
    splits = {"train": train} | _others(config, train)
    captions = {split: examples.captions() for split, examples in splits.items()}
    vocabulary = make_vocabulary(config, [c for of_one in captions["train"] for c in of_one])
    record: dict[str, Any] = {
        "data": config.data.name,
        "vocabulary": len(vocabulary),
        "splits": [
            {"split": split} | _described(captions[split], vocabulary, config.data.max_length)
            for split in splits
        ],
        "left out": train.left_out,
    }
    images = config.data.name not in datasets.SENTENCES
    folder.mkdir(parents=True, exist_ok=True)
    if images:
        chosen = _sample(len(train), MEASURED, config.seed)
        sizes = [picture_size(train[i].image) for i in chosen]
        record["height and width"] = {
            name: np.percentile(sizes, q, axis=0).astype(int).tolist()
            for name, q in (("least", 0), ("median", 50), ("most", 100))
        }
        sheet = contact_sheet([train[i] for i in chosen[: COLUMNS * ROWS]])
        with files.replacing(folder / "contact_sheet.png") as file:
            sheet.save(file, "PNG")
    files.write_text(folder / "data.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    console.print(_table(f"{config.data.name}: {len(vocabulary)} tokens known", record["splits"]))
    for reason, names in record["left out"].items():
        shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        console.print(f"left out, {reason}: {len(names)} ({shown})")
    console.print(f"written to {folder}")
    return record


def _described(
    captions: Sequence[Sequence[str]], vocabulary: evaluate.AnyVocabulary, max_length: int
) -> dict[str, Any]:
    """The figures of a split's captions."""
    encoded = [vocabulary.encode_text(caption) for of_one in captions for caption in of_one]
    lengths = np.array([len(ids) for ids in encoded])
    unknown = sum(ids.count(UNK) for ids in encoded)
    return {
        "images": len(captions),
        "captions": len(encoded),
        "mean length": round(float(lengths.mean()), 2),
        "95 % within": int(np.percentile(lengths, 95)),
        "longest": int(lengths.max()),
        "cut": int((lengths > max_length).sum()),
        "tokens known": round(1 - unknown / max(int(lengths.sum()), 1), 4),
    }


def contact_sheet(examples: Sequence[Example]) -> Image.Image:
    """Pictures in rows, each with the beginning of its first caption below."""
    rows = -(-len(examples) // COLUMNS)
    tile = (SIDE + 8, SIDE + LINES * LINE + 12)
    sheet = Image.new("RGB", (COLUMNS * tile[0], rows * tile[1]), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, example in enumerate(examples):
        left, top = number % COLUMNS * tile[0] + 4, number // COLUMNS * tile[1] + 4
        picture = Image.fromarray(read_picture(example.image, SIDE))
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top))
        lines = textwrap.wrap(example.captions[0], LETTERS, max_lines=LINES, placeholder=" ...")
        draw.text((left, top + SIDE + 2), "\n".join(lines), "black", font)
    return sheet


def _sample(count: int, size: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(count)[:size].tolist()


def _table(title: str, records: Iterable[Mapping[str, Any]]) -> Table:
    records = list(records)
    table = Table(title=title)
    for name in records[0]:
        table.add_column(name, justify="left" if name == "split" else "right")
    for record in records:
        values = (f"{v:,}" if isinstance(v, int) else str(v) for v in record.values())
        table.add_row(*values)
    return table
