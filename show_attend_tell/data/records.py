"""The records of a built split, which TFDS stores in ArrayRecord files."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from show_attend_tell.errors import UserError

Record = dict[str, Any]  # field name to value, as the builder's features say
Item = TypeVar("Item", covariant=True)  # what a record holds: an example or a pair


@runtime_checkable
class Builder(Protocol[Item]):
    """The part of `builders.common.Builder` that reading needs.

    Importing that class imports TFDS, which takes a second; only building and opening a data set
    do so.
    """

    name: str
    LANGUAGE: ClassVar[str]

    @property
    def info(self) -> Any: ...  # tfds.core.DatasetInfo
    @property
    def data_path(self) -> Any: ...  # epath.Path
    @property
    def data_dir_root(self) -> Any: ...  # epath.Path, the folder of all data sets

    @property
    def source(self) -> Path: ...

    def captions_in(
        self, language: str, index: Sequence[tuple[str, tuple[str, ...]]]
    ) -> Sequence[Sequence[str]] | None: ...
    def languages(self) -> Sequence[str]: ...
    def stated_splits(self) -> Collection[str] | None: ...
    def reader(self) -> Callable[[Record], Item]: ...
    def as_data_source(self, split: str, *, decoders: Any) -> Any: ...
    def download_and_prepare(self) -> None: ...


@runtime_checkable
class AnyRecords(Protocol):
    """A split's records, or some of them; attributes as in `Records`."""

    folder: Path
    info: Any

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Record: ...


class Records:
    """A split's records, read one at a time and in any order; can be pickled.

    Attributes:
      folder: where the data set stands.
      info: TFDS's description of it, a `tfds.core.DatasetInfo`.
    """

    def __init__(self, builder: Builder[object], split: str):
        """Opens a split, or several joined by "+".

        Raises:
          UserError: a file of theirs is damaged or missing.
        """
        import tensorflow_datasets as tfds

        self.folder, self.info = Path(builder.data_path), builder.info
        # Encoded images pass through: only images.py decodes.
        decoders = {"image": tfds.decode.SkipDecoding()} if "image" in self.info.features else None
        with damage_reported(self.folder):
            self._source = builder.as_data_source(split, decoders=decoders)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Reads a record, 0 <= `index` < len.

        Raises:
          UserError: its file is damaged or missing.
        """
        with damage_reported(self.folder):
            return self._source[index]


@contextmanager
def damage_reported(folder: Path) -> Iterator[None]:
    """Reports what goes wrong while TFDS reads `folder` as damage to that folder.

    TFDS, ArrayRecord and protobuf raise exceptions of every kind for a missing or damaged file.
    Keep code of ours out of the body: its bugs must not be taken for damage.

    Raises:
        UserError: in place of any exception but MemoryError.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise damaged(folder, error) from error


def damaged(folder: Path, error: Exception) -> UserError:
    """The error for a data set that stands in `folder` and cannot be read."""
    return UserError(
        f"{folder}: cannot be read ({first_line(error)}); if a file in it is damaged, move this "
        "folder away, and the data set will be built again"
    )


def first_line(error: Exception) -> str:
    """What went wrong, in at most 200 characters of one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def lock_path(data_dir: Path, name: str) -> Path:
    """The file that a process locks while it builds or indexes data set `name`."""
    return data_dir / f".{name}.lock"
