"""Where a data set is built from."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Origin:
    """What a user says about the source of a data set.

    Attributes:
      manual_dir: folder of the user's download or own data; for tar shards, also a pattern.
      download: whether large files that are missing may be fetched.
      repo: a data set on the Hugging Face hub, or a folder of parquet files.
      image_column, caption_column: its columns; empty: those with usual names.
    """

    manual_dir: Path | None = None
    download: bool = False
    repo: str = ""
    image_column: str = ""
    caption_column: str = ""
