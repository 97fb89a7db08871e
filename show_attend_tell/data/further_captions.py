"""Further captions of the images of a data set, in other languages, from files beside it.

The layout is that of Multi30k's task 2 (`config.data.captions_dir`):

    train_images.txt                   names of images, one a line
    train.1.de.gz ... train.5.de.gz    a caption of each image, one a line in the same order

and the same for `val`, `test_2016` and any other list. Files may be unpacked, and a list may have
one file of captions only, `train.de`. Which split an image is in is not taken from here: the data
set's own splits decide.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from show_attend_tell.data.text_files import read_lines
from show_attend_tell.errors import UserError

_LIST = "_images.txt"
REMEDY = (
    "set --config.data.captions_dir to the folder with train_images.txt, train.1.de.gz and so on"
)


def read_captions(folder: Path, language: str) -> dict[str, list[str]] | None:
    """Captions in a language by the name of their image; None if the folder has none in it.

    Lines without a caption are left out.

    Raises:
      UserError: the folder or a file cannot be read, there is no list of images, or files have more
        or fewer lines than their list.
    """
    found: dict[str, list[str]] = {}
    for stem, names in _lists(folder):
        for path in _files(folder, stem, language):
            lines = read_lines(path, blank=True)
            if len(lines) != len(names):
                raise UserError(
                    f"{path}: has {len(lines)} lines, {stem}{_LIST} names {len(names)} images: "
                    "line by line they do not belong together; get both again"
                )
            for name, caption in zip(names, lines, strict=True):
                if caption:
                    found.setdefault(name, []).append(caption)
    return found or None


def languages_in(folder: Path) -> list[str]:
    """The languages that the folder's captions are in."""
    matches = (
        re.fullmatch(rf"{re.escape(stem)}(?:\.\d+)?\.([A-Za-z-]+)(?:\.gz)?", path.name)
        for stem, _ in _lists(folder)
        for path in folder.iterdir()
    )
    return sorted({match[1] for match in matches if match and match[1] not in ("gz", "txt")})


def by_picture(
    captions: Mapping[str, Sequence[str]], image_ids: Iterable[str]
) -> list[tuple[str, ...]]:
    """The captions of each image of a data set.

    An image has those of its own name. If there are none, it has those of the name that is only its
    number, which is what its own says before the first `_` or `.`: `1000268201_693b08cb0e.jpg` of
    Flickr8k is `1000268201.jpg` of Flickr30k. A path with folders says no number: pictures in
    several folders may have the same.
    """
    by_number = {
        name.partition(".")[0]: of_name
        for name, of_name in captions.items()
        if re.fullmatch(r"\d+\.\w+", name)
    }
    return [
        tuple(
            captions.get(image_id)
            or ("/" not in image_id and by_number.get(number_of(image_id)))
            or ()
        )
        for image_id in image_ids
    ]


def number_of(name: str) -> str:
    """The number that a picture of Flickr is known by; empty if its name has none."""
    match = re.match(r"(\d+)[_.]", name.rpartition("/")[2])
    return match[1] if match else ""


def _lists(folder: Path) -> list[tuple[str, list[str]]]:
    """The lists of images, by what the names of their captions' files begin with."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {REMEDY}")
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(_LIST))
    if not paths:
        raise UserError(f"{folder}: has no list of images such as train{_LIST}; {REMEDY}")
    return [(path.name.removesuffix(_LIST), read_lines(path)) for path in paths]


def _files(folder: Path, stem: str, language: str) -> list[Path]:
    """The files of captions of a list, in the order of their numbers; packed or not."""
    pattern = rf"{re.escape(stem)}(?:\.(\d+))?\.{re.escape(language)}(?:\.gz)?"
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(pattern, path.name)
        if match:  # where a file is there twice, the packed one counts
            found[int(match[1] or 0)] = path
    return [found[number] for number in sorted(found)]
