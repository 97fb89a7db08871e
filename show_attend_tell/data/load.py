"""Opens a split of a data set. The first use of a data set builds it."""

import difflib
import importlib
import json
import logging
import shutil
import traceback
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from show_attend_tell import files
from show_attend_tell.data.examples import Example, ImageSource, Index, Pair, PairSource
from show_attend_tell.data.further_pairs import read_further
from show_attend_tell.data.holdout import Picked, held_out
from show_attend_tell.data.in_languages import InLanguages, in_languages
from show_attend_tell.data.index import read_index
from show_attend_tell.data.origin import Origin
from show_attend_tell.data.phrase_index import AnnotatedBuilder, read_phrases
from show_attend_tell.data.phrases import Described, joined
from show_attend_tell.data.ptb_tokenizer import has_word
from show_attend_tell.data.records import (
    AnyRecords,
    Builder,
    Records,
    damaged,
    first_line,
    lock_path,
)
from show_attend_tell.data.terms import OWN, Terms, of_both
from show_attend_tell.errors import UserError
from show_attend_tell.settings import IMAGE_SETS, PAIR_SETS, PICTURED_SETS

SPLITS = ("train", "val", "test")
HOLD_OUT = (
    "give some images that split, or hold a share of train out with --config.data.holdout=0.1"
)

_log = logging.getLogger(__name__)


def load_images(
    name: str,
    split: str,
    *,
    data_dir: Path,
    manual_dir: Path | None = None,
    limit: int = 0,
    mirrored: bool = False,
    crops: int = 0,
    restval: bool = False,
    holdout: float = 0.0,
    download: bool = False,
    repo: str = "",
    image_column: str = "",
    caption_column: str = "",
    languages: Sequence[str] = ("en",),
    captions_dir: Path | None = None,
) -> ImageSource | InLanguages:
    """Opens a split of images with captions, and builds the data set first where needed.

    Args:
      name: one of `settings.IMAGE_SETS`.
      split: "train", "val" or "test".
      data_dir: folder of built data sets.
      manual_dir: folder of the user's download (flickr8k, coco), of images with a JSON file of
        splits (karpathy), of images with a table of captions (folder), or of tar shards
        (webdataset). Generated data sets need none.
      limit: number of examples to take, from the first; 0 takes all.
      mirrored: whether a mirrored copy of every example follows (`Example.mirror`).
      crops: cropped copies of every example that follow (`Example.crop`). With `mirrored`, every
        second one is mirrored, too.
      restval: whether "train" also takes the split "restval" where there is one (coco, karpathy).
      holdout: share of "train" that is "val" instead, in data without that split, in [0, 1). The
        hash of its name decides about an image.
      download: whether large files that are missing may be fetched (coco).
      repo: a data set on the Hugging Face hub, or a folder of parquet files (hub).
      image_column, caption_column: its columns; empty: those with usual names.
      languages: of the captions. Images without a caption in any of them are left out.
      captions_dir: folder of further captions, see `data.further_captions`.

    Raises:
      UserError: the name or the split is unknown; the data set cannot be built from what is there;
        there is no room for it; its files are damaged; no caption of the split has a word; there
        are none in a language; or the data have a split "val" and `holdout` is not 0.
    """
    _check_known("data set of images", name, IMAGE_SETS)
    _check_known("split", split, SPLITS)
    origin = Origin(manual_dir, download, repo, image_column, caption_column)
    held = holdout > 0 and split != "test"
    stored = "train" if held else split
    parts = [stored]
    needs = partial(_check_splits, parts=parts, holdout=holdout)
    builder: Builder[Example] = _built(name, data_dir, origin, needs)
    needs(builder, tuple(builder.info.splits))
    if restval and split == "train" and "restval" in builder.info.splits:
        parts = [stored, "restval"]
    if split == "train" and not held:
        _warn_without_val(builder)
    index = [entry for part in parts for entry in read_index(builder, part)]
    records: AnyRecords = Records(builder, "+".join(parts))
    numbers = None
    if held:
        out = _held_out(builder, holdout)
        numbers = out if split == "val" else sorted(set(range(len(index))) - set(out))
        index, records = [index[n] for n in numbers], Picked(records, numbers)
    index = index[: limit or None]
    if not any(has_word(caption) for _, captions in index for caption in captions):
        raise UserError(
            f"{builder.source}: no caption of split {split!r} has a word; correct the captions"
        )
    folder = Path(builder.data_path)
    source = ImageSource(
        records,
        builder.reader(),
        index,
        name=name,
        parts=parts,
        describe=partial(_describe, name, parts, data_dir, origin, folder, numbers),
        mirrored=mirrored,
        crops=crops,
        holdout=(split, holdout) if held else None,
    )
    return _in_languages(source, builder, index, languages, captions_dir)


def _in_languages(
    source: ImageSource,
    builder: Builder[Example],
    index: Index,
    languages: Sequence[str],
    captions_dir: Path | None,
) -> ImageSource | InLanguages:
    """The source with captions in the languages: itself, if all of its captions are English."""
    known = builder.languages()
    unlabelled = captions_dir is None and set(known) == {""}
    if tuple(languages) == ("en",) and (unlabelled or builder.LANGUAGE == "en"):
        return source
    own = partial(builder.captions_in, index=index)
    return in_languages(source, languages, own, known, captions_dir, builder.source)


def _held_out(builder: Builder[Example], share: float) -> list[int]:
    """The numbers of the images of "train" that "val" has instead."""
    out = held_out([image_id for image_id, _ in read_index(builder, "train")], share)
    if not out:
        raise UserError(f"{builder.source}: has too few images to hold any out of training")
    return out


def _warn_without_val(builder: Builder[Example]) -> None:
    if "val" not in builder.info.splits:
        there = ", ".join(builder.info.splits)
        _log.warning(
            "%s: has no split 'val', only %s; to train, %s", builder.source, there, HOLD_OUT
        )


def load_pairs(
    name: str,
    split: str,
    *,
    data_dir: Path,
    manual_dir: Path | None = None,
    limit: int = 0,
    languages: tuple[str, str] | None = None,
    further_dir: Path | None = None,
) -> PairSource:
    """Opens a split of sentence pairs, and builds the data set first where needed.

    Args:
      name: one of `settings.PAIR_SETS`.
      split: "train", "val" or "test".
      data_dir: folder of built data sets.
      manual_dir: folder of the user's download (multi30k).
      limit: number of pairs to take, from the first; 0 takes all.
      languages: to read and to write, such as ("en", "de"); a data set of one pair of languages
        ignores them.
      further_dir: folder of further pairs, see `data.further_pairs`. They follow those of the
        split, and their words are not counted for a vocabulary.

    Raises:
      UserError: as for `load_images`; multi30k needs `languages`; or further pairs cannot be read.
    """
    _check_known("data set of sentences", name, PAIR_SETS)
    _check_known("split", split, SPLITS)
    needs = partial(_check_splits, parts=[split])
    origin = Origin(manual_dir)
    builder: Builder[Pair] = _built(name, data_dir, origin, needs, languages=languages)
    needs(builder, tuple(builder.info.splits))
    records = Records(builder, split)
    further = () if further_dir is None else read_further(further_dir, languages)
    return PairSource(
        records, builder.reader(), name=name, split=split, limit=limit, further=further
    )


def check_split(
    name: str,
    split: str,
    *,
    data_dir: Path,
    manual_dir: Path | None = None,
    holdout: float = 0.0,
) -> None:
    """Rejects a split that a data set lacks; builds nothing.

    Args:
      name, data_dir, manual_dir, holdout: as for `load_images` and `load_pairs`.
      split: the wanted one.

    Raises:
      UserError: there is no such split, or the user's files cannot be read.
    """
    _check_known("split", split, SPLITS)
    if "stated_splits" not in vars(_builder_class(name)):  # only building shows its splits
        return
    builder = _make_builder(name, data_dir, Origin(manual_dir))
    held = holdout > 0 and split != "test"
    there = builder.stated_splits()
    if there is not None:
        _check_splits(builder, there, parts=["train" if held else split], holdout=holdout)


def terms_of(name: str) -> Terms:
    """The terms of a data set. One that is not known has those of a user's own."""
    if name in PICTURED_SETS:
        return of_both(terms_of("multi30k"), terms_of("flickr8k"))
    return _builder_class(name).TERMS if name in (*IMAGE_SETS, *PAIR_SETS) else OWN


def _describe(
    name: str,
    parts: Sequence[str],
    data_dir: Path,
    origin: Origin,
    folder: Path,
    numbers: Sequence[int] | None,
) -> Described:
    """The descriptions of every example of some stored splits, and what was counted out.

    Makes the builder again, which cannot be pickled.

    Args:
      name: of the data set.
      parts: its stored splits.
      data_dir: folder of built data sets.
      origin: of the user's files.
      folder: of the built data set.
      numbers: of the examples that are meant; None: all.

    Raises:
      UserError: annotations are unreadable, or the user's files are now those of another data set.
    """
    builder = cast(AnnotatedBuilder, _make_builder(name, data_dir, origin))
    if Path(builder.data_path) != folder:
        raise UserError(f"{origin.manual_dir}: has changed since the data were opened; start again")
    whole = joined(read_phrases(builder, part) for part in parts)
    if numbers is None:
        return whole
    return Described([whole.descriptions[n] for n in numbers], whole.counts)


def _check_known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)[0]
        raise UserError(f"no {what} {value!r}; the nearest is {near!r} of {', '.join(known)}")


def _check_splits(
    builder: Builder[object], there: Collection[str], *, parts: Sequence[str], holdout: float = 0.0
) -> None:
    """Rejects splits that the data lack, and `holdout` where it has no use.

    A damaged data set may seem to have no split at all; reading it reports the damage.
    """
    if holdout and "val" in there:
        raise UserError(
            f"{builder.source}: has a split 'val', so nothing is held out of training; set "
            "config.data.holdout to 0"
        )
    missing = [split for split in parts if there and split not in there]
    if missing:
        remedy = "build it from data that has one"
        if missing == ["val"] and "train" in there and builder.name in IMAGE_SETS:
            remedy = HOLD_OUT
        raise UserError(
            f"{builder.source}: has no split {missing[0]!r}, only {', '.join(there)}; {remedy}"
        )


def _built(
    name: str,
    data_dir: Path,
    origin: Origin,
    check: Callable[[Builder[Any], Collection[str]], None],
    **options: Any,
) -> Builder[Any]:
    """The builder of a data set that stands in its folder; builds the data set where needed.

    Args:
      name: of the data set.
      data_dir: folder of built data sets.
      origin: what to build it from.
      check: called with the splits that a build would have, if they are known before it.
      options: for the builder.

    Raises:
      UserError: it cannot be built, or its description is damaged.
    """
    files.check_name(data_dir)
    try:
        builder = _make_builder(name, data_dir, origin, **options)
        if builder.data_path.exists():
            return builder
        data_dir.mkdir(parents=True, exist_ok=True)
        with files.locked(lock_path(data_dir, builder.name)):  # see `Builder.for_files`
            # Another process may have built it meanwhile; a new builder then finds that.
            builder = _make_builder(name, data_dir, origin, **options)
            if not builder.data_path.exists():
                stated = builder.stated_splits()
                if stated is not None:
                    check(builder, stated)
                _build(builder, data_dir)
        return builder
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _raised_by_tfds(error):
            raise
        raise UserError(
            f"{data_dir}: data set {name} cannot be built there ({first_line(error)}); "
            "see to room and permissions there, or choose another folder with --config.data.dir"
        ) from error


def _make_builder(name: str, data_dir: Path, origin: Origin, **options: Any) -> Builder[Any]:
    from google.protobuf.json_format import ParseError

    try:
        return _builder_class(name).for_files(
            origin, data_dir=data_dir, file_format="array_record", **options
        )
    except (ParseError, json.JSONDecodeError) as error:
        raise damaged(data_dir / name, error) from error


def _builder_class(name: str) -> Any:
    """The builder of a data set, whose import takes a second."""
    module = importlib.import_module(f"show_attend_tell.data.builders.{name}")
    return getattr(module, name.capitalize())


def _build(builder: Builder[object], data_dir: Path) -> None:
    """Builds a data set.

    TFDS writes into a folder `incomplete.*` and then renames it, so a folder with the final name
    is complete.
    """
    import tensorflow_datasets as tfds

    for killed in Path(builder.data_path).parent.glob("incomplete.*"):
        shutil.rmtree(killed)
    _log.info("building data set %s in %s", builder.name, data_dir)
    tfds.disable_progress_bar()
    builder.download_and_prepare()


def _raised_by_tfds(error: RuntimeError) -> bool:
    """Whether TFDS or ArrayRecord raised it, whose writer does so on a full disk; not our code."""
    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    return any(part in ("tensorflow_datasets", "array_record") for part in Path(innermost).parts)
