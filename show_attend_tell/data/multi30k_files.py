"""The files of Multi30k's sentences."""

from pathlib import Path

from show_attend_tell.errors import UserError

SPLITS = {"train": "train", "val": "val", "test": "test_2016_flickr"}
REMEDY = (
    "set --config.data.manual_dir to the folder with train, val and test_2016_flickr of both "
    "languages (train.en.gz or train.en, and so on)"
)


def find_text(folder: Path, stem: str, language: str, remedy: str = REMEDY) -> Path:
    """Finds the file of a split in a language.

    Raises:
      UserError: there is none; the message names the available languages.
    """
    for name in (f"{stem}.{language}.gz", f"{stem}.{language}"):
        if (folder / name).is_file():
            return folder / name
    found = {path.name.removesuffix(".gz") for path in folder.glob(f"{stem}.*")}
    languages = ", ".join(sorted(name.removeprefix(f"{stem}.") for name in found)) or "no language"
    raise UserError(
        f"{folder}: no {stem}.{language}.gz or {stem}.{language} (there is {languages}); "
        f"choose other config.data.source and .target, or {remedy}"
    )
