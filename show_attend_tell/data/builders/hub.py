"""Data sets of the Hugging Face hub, or parquet files of their form, by the `datasets` library."""

import hashlib
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from show_attend_tell import hub
from show_attend_tell.data.builders.gathered import SPLITS, Gathered, Item, ends_digest, split_of
from show_attend_tell.data.builders.webdataset import texts_of
from show_attend_tell.data.records import first_line
from show_attend_tell.errors import UserError, installing

IMAGES = ("image", "img", "jpg", "png", "picture")
CAPTIONS = (
    *("caption", "captions", "text", "texts", "sentence", "sentences", "description"),
    *("comment", "alt_text", "en_text", "raw", "txt", "json"),
)
ARCHIVES = ("zip://", "tar://", "gzip://", "bz2://", "xz://", "zstd://", "lz4://")
NAMES = ("filename", "file_name", "image_id", "img_id", "image_name", "cocoid", "__key__", "id")
REPORT_EVERY = 10_000

_log = logging.getLogger(__name__)


class Hub(Gathered):
    """Any data set with a column of images and one, or several, of captions.

    Get: `pip install 'show-attend-tell[datasets]'`. Name the data set, or a folder of parquet files
    (`train-00000-of-00001.parquet`, `validation.parquet`; or folders named after splits):

        ./launch.sh train --config flickr8k:soft --workdir runs/hub \\
            --config.data.name=hub --config.data.repo=OWNER/NAME

    An existing folder of that name wins. `OWNER/NAME@REVISION` pins a revision, and
    `OWNER/NAME:CONFIG` chooses a configuration. Only data files are read: no code of a repository
    is run.

    Columns are found by their usual names (`image`; `caption`, `captions`, `text`, `caption_0`
    ...), or named by `data.image_column` and `data.caption_column`. Rows of the same picture in one
    split become one image with several captions. Splits are those of the data set, or of its column
    `split`, text or class labels; what is missing is drawn by a hash of the pictures.

    Rows are streamed once, through a temporary file in the folder of data sets. A data set that is
    built needs the hub no more.

    Version 1.0.0. Citation and terms: see the data set's card.
    """

    FORM = "hub"
    MAX_UNUSABLE = 0.05
    REMEDY = (
        "set --config.data.repo to OWNER/NAME on the Hugging Face hub, or to a folder of parquet"
    )

    def place(self) -> Path:
        return Path(self._repo())

    def digest(self) -> str:
        columns = f"{self.origin.image_column} {self.origin.caption_column}"
        files = _parquet(Path(self._repo()))
        source = ends_digest(files) if files else self._repo()
        return hashlib.sha256(f"{source} {columns}".encode()).hexdigest()

    def items(self) -> Iterator[Item]:
        # Without a name, and gone when the last function that reads from it is.
        spool = tempfile.TemporaryFile(dir=self.data_dir_root)  # noqa: SIM115
        rows: dict[tuple[str | None, str], Item] = {}
        names: set[str] = set()
        without = 0
        for number, (split, row) in enumerate(self._rows(), 1):
            encoded = _encoded(row["image"], self._repo())
            if not encoded:
                without += 1
                continue
            key = hashlib.sha256(encoded).hexdigest()
            split = _split(row["split"], self._repo()) if row["split"] else split
            if (split, key) in rows:
                rows[split, key].captions.extend(row["captions"])
                continue
            name = str(row["name"] or f"{key[:16]}.jpg")
            name = name if name not in names else f"{key[:16]} {split or ''}"
            names.add(name)
            start = spool.seek(0, 2)
            spool.write(encoded)
            read = partial(_read, spool, start, len(encoded))
            rows[split, key] = Item(name, row["captions"], read, split, key)
            if number % REPORT_EVERY == 0:
                _log.info("hub: %s rows of %s", f"{number:,}", self._repo())
        if without:
            _log.warning("hub: %d rows of %s have no picture; skipped", without, self._repo())
        yield from rows.values()

    def _repo(self) -> str:
        repo = self.origin.repo or str(self._manual_dir or "")
        if not repo:
            raise UserError(f"hub: no data set is named; {self.REMEDY}")
        return repo

    def _rows(self) -> Iterator[tuple[str | None, dict[str, Any]]]:
        """Split, and image, captions, name and split column of each row."""
        for split, rows in self._opened():
            columns = None
            for row in _pulled(rows, self._repo()):
                columns = columns or self._columns(row)
                yield split, _chosen(row, columns)

    def _opened(self) -> list[tuple[str | None, Any]]:
        """The rows of each split, streamed."""
        try:
            import datasets
        except ImportError as error:
            raise UserError(f"hub: needs the library datasets; {installing('datasets')}") from error
        repo = self._repo()
        files = _parquet(Path(repo))
        if files:
            options: dict[str, Any] = {"path": "parquet", "data_files": _by_split(files)}
        elif not hub.is_dataset(repo):
            raise UserError(f"{repo}: holds no parquet files, nor is it OWNER/NAME; {self.REMEDY}")
        else:
            path, _, config = repo.partition(":")
            path, _, revision = path.partition("@")
            options = {"path": path, "name": config or None, "revision": revision or None}
            _log.info("hub: fetching %s from the Hugging Face hub", repo)
        return _named(_load(datasets, repo, options), repo)

    def _columns(self, row: Mapping[str, Any]) -> dict[str, list[str]]:
        """Which columns hold what."""
        image, caption = self.origin.image_column, self.origin.caption_column
        images = [image] if image else [c for c in IMAGES if c in row]
        captions = [caption] if caption else [c for c in CAPTIONS if c in row][:1]
        if not captions:
            stems = "|".join(CAPTIONS)
            captions = sorted(c for c in row if re.fullmatch(rf"({stems})_?\d+", c))
        missing = [c for c in (*images[:1], *captions) if c not in row]
        if missing or not images or not captions:
            what = f"no column {missing[0]}" if missing else "no column of images and captions"
            raise UserError(
                f"{self._repo()}: {what} among {', '.join(row)}; name them in "
                "--config.data.image_column and --config.data.caption_column"
            )
        return {
            "image": images[:1],
            "captions": captions,
            "name": [c for c in NAMES if c in row][:1],
            "split": ["split"] if isinstance(row.get("split", 0), str | None) else [],
        }


def _chosen(row: Mapping[str, Any], columns: Mapping[str, list[str]]) -> dict[str, Any]:
    """Image, captions, name and split of a row; None where it has no name or split."""
    first = {what: row[names[0]] if names else None for what, names in columns.items()}
    texts = [text for c in columns["captions"] for text in texts_of(row[c], CAPTIONS)]
    return first | {"captions": texts}


def _encoded(image: Any, repo: str) -> bytes | None:
    """The encoded image in a cell; None if it is empty.

    Raises:
      UserError: the cell holds something else, or the path of a file outside the data set.
    """
    if isinstance(image, Mapping):
        path = image.get("path") or ""
        inside = _on_hub(path, repo)
        image = image.get("bytes") or (_fetched(path, repo) if inside else path or None)
    if image is None or isinstance(image, bytes):
        return image
    raise UserError(
        f"{repo}: the column of images holds {type(image).__name__}, not encoded pictures; name "
        "another in --config.data.image_column"
    )


def _on_hub(path: str, repo: str) -> bool:
    """Whether a path leads to a file of the hub, or into an archive there.

    It comes from a stranger, and each part of a chain such as `zip://a.jpg::hf://...` may lead
    somewhere else. A data set of the hub names its own files only.
    """
    *archives, last = path.split("::")
    own = re.split("[@:]", repo)[0] if hub.is_dataset(repo) else ""
    return (
        all(archive.startswith(ARCHIVES) for archive in archives)
        and last.startswith(f"hf://datasets/{own}")
        and (not own or last.removeprefix(f"hf://datasets/{own}")[:1] in ("/", "@"))
        and ".." not in last.split("/")
    )


def _fetched(path: str, repo: str) -> bytes:
    from datasets.utils.file_utils import xopen

    try:
        with xopen(path, "rb") as file:
            return file.read()
    except Exception as error:  # the hub's client: disk, server, network
        raise UserError(f"{repo}: {path} cannot be fetched ({first_line(error)})") from error


def _split(name: str, repo: str) -> str:
    """The split that a cell names."""
    if name.lower() not in SPLITS:
        raise UserError(f"{repo}: split {name!r} is not known; use one of {', '.join(SPLITS)}")
    return SPLITS[name.lower()]


def _named(opened: Mapping[str, Any], repo: str) -> list[tuple[str | None, Any]]:
    """The rows of the splits with known names; if there is none, all rows, without a split."""
    others = [name for name in opened if name not in SPLITS]
    if len(others) == len(opened):
        return [(None, rows) for rows in opened.values()]
    if others:
        _log.warning("hub: splits of %s left out: %s", repo, ", ".join(others))
    return [(SPLITS[name], rows) for name, rows in opened.items() if name in SPLITS]


def _parquet(folder: Path) -> list[Path]:
    """The parquet files in a folder, or else in those below it."""
    if not folder.is_dir():
        return []
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("*/*.parquet"))


def _by_split(files: list[Path]) -> dict[str, list[str]]:
    """Files by the split that their names, or those of their folders, speak of."""
    splits = list(map(split_of, files))
    if not any(splits):
        return {"all": list(map(str, files))}
    found: dict[str, list[str]] = {}
    for path, split in zip(files, splits, strict=True):
        if split is None:
            raise UserError(f"{path}: its name speaks of no split, others' do; rename or remove it")
        found.setdefault(split, []).append(str(path))
    return found


def _load(datasets: Any, repo: str, options: dict[str, Any]) -> dict[str, Any]:
    """The streams of a data set's splits, with images as they are encoded."""
    datasets.disable_progress_bars()
    try:
        opened = datasets.load_dataset(**options, streaming=True)
        return {str(split): rows.decode(False) for split, rows in opened.items()}
    except Exception as error:  # the hub's client: no such data set, server, network, damaged files
        raise _unreadable(repo, error) from error


def _pulled(rows: Any, repo: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a `datasets.IterableDataset`; a class label in the column `split` by its name."""
    labels = dict(enumerate(getattr((rows.features or {}).get("split"), "names", ())))
    coming = iter(rows)
    while True:
        try:
            row = next(coming, None)
        except Exception as error:  # the same, while rows arrive
            raise _unreadable(repo, error) from error
        if row is None:
            return
        if labels:
            # The library has -1, or None, for a label that is not known.
            row = {**row, "split": labels.get(row.get("split"))}
        yield row


def _unreadable(repo: str, error: Exception) -> UserError:
    return UserError(
        f"{repo}: cannot be read by the library datasets ({first_line(error)}); check the name and "
        "the network, or set --config.data.repo to a folder of its parquet files"
    )


def _read(spool: IO[bytes], start: int, size: int) -> bytes:
    spool.seek(start)
    return spool.read(size)
