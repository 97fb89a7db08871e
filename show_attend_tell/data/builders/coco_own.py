"""COCO as its homepage hands it out: `captions_*.json` and a folder of images for each split."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from show_attend_tell.data.builders.common import (
    DAMAGE,
    refuse,
    zip_members,
)
from show_attend_tell.data.builders.gathered import Gathered, Item, content_digest, reader
from show_attend_tell.data.origin import Origin
from show_attend_tell.errors import UserError
from show_attend_tell.files import parse_json, read_json

YEARS = ("2017", "2014")
PLACES = ("annotations", ".", "annotations/annotations")  # of the captions, below the folder
MAX_TEXT_BYTES = 2**31

_log = logging.getLogger(__name__)


class CocoOwn(Gathered, skip_registration=True):
    """COCO's own train and val, of 2017 (118,287 and 5,000 images) or 2014 (82,783 and 40,504).

    Get: from https://cocodataset.org the images, and `annotations_trainval2017.zip`. Put them into
    one folder, extracted or as zips:

        annotations/captions_train2017.json, captions_val2017.json
        train2017/ or train2017.zip, val2017/ or val2017.zip (or below images/)

    or those of 2014. One of the two splits is enough: it is then split by hashes. With both, half
    of val becomes test, chosen by the hashes of file names. For scores that compare with papers,
    use Karpathy and Li's splits: put `caption_datasets.zip` beside the archives of 2014.

    Version 1.0.0. Citation: T.-Y. Lin et al. Microsoft COCO: common objects in context. ECCV 2014.
    """

    name = "coco"
    FORM = "own"
    LANGUAGE = "en"
    REMEDY = (
        "set --config.data.manual_dir to the folder with annotations/captions_train2017.json, "
        "captions_val2017.json, train2017/ and val2017/"
    )

    def digest(self) -> str:
        parts = self._parts()
        digest = content_digest(path for path, _ in parts.values())
        # The archive has the captions of both splits: which images are there decides.
        packed = any(path.suffix == ".zip" for path, _ in parts.values())
        if not packed:
            return digest
        return hashlib.sha256(f"{digest} {' '.join(parts)}".encode()).hexdigest()

    def items(self) -> Iterator[Item]:
        for split, (captions, images) in self._parts().items():
            _log.info("coco: reading %s of %s", split, captions)
            found = read_captions(captions, f"captions_{images.stem}.json")
            for name, read in zip(found, _readers(images, found), strict=True):
                yield Item(name, found[name], read, split)

    def _parts(self) -> dict[str, tuple[Path, Path]]:
        """For each split the file of captions, or its archive, and the folder or zip of images."""
        folder = self._folder()
        lacking = []
        for year in YEARS:
            parts = {}
            for split in ("train", "val"):
                captions, images = find_captions(folder, split, year), _images(folder, split, year)
                if captions and images:
                    parts[split] = (captions, images)
                elif captions:
                    lacking.append(f"{split}{year}/")
            if parts:
                return parts
        raise UserError(
            f"{folder}: has captions but no images: {' or '.join(lacking)} is not there; "
            f"{self.REMEDY}"
        )


def holds_captions(origin: Origin) -> bool:
    """Whether a folder has COCO's own captions, and no splits of Karpathy and Li."""
    folder = origin.manual_dir
    if folder is None or not folder.is_dir() or (folder / "caption_datasets.zip").exists():
        return False
    return any(find_captions(folder, s, year) for year in YEARS for s in ("train", "val"))


def find_captions(folder: Path, split: str, year: str) -> Path | None:
    """The captions of a split, or the archive of 2017 that holds them."""
    places = [folder / place / f"captions_{split}{year}.json" for place in PLACES]
    # The archive of 2014 also belongs to the splits of Karpathy and Li.
    places += [folder / "annotations_trainval2017.zip"] * (year == "2017")
    return next((path for path in places if path.is_file()), None)


def read_captions(path: Path, member: str) -> dict[str, list[str]]:
    """Captions by file name, also of images that have none.

    Args:
      path: of a file such as `captions_val2017.json`, or of an archive.
      member: name of the file in the archive.

    Raises:
      UserError: it cannot be read, or has another form.
    """
    content = _member(path, member) if path.suffix == ".zip" else read_json(path)
    try:
        names = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
        captions: dict[str, list[str]] = {name: [] for name in names.values()}
        for annotation in content["annotations"]:
            text = annotation["caption"]
            if not isinstance(text, str | None):
                raise TypeError(f"a caption is {text!r}, not text")
            captions[names[annotation["image_id"]]] += [text or ""]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not in the form of captions_val2017.json ({type(error).__name__}: {error}); "
            "get it again"
        ) from error
    return captions


def _member(path: Path, name: str) -> Any:
    try:
        return parse_json(zip_members(path, MAX_TEXT_BYTES)[name]())
    except KeyError:
        raise UserError(f"{path}: {name} is not in it; get it again") from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged ({error}); get it again") from error


def _images(folder: Path, split: str, year: str) -> Path | None:
    """The folder or the archive of a split's images."""
    name = f"{split}{year}"
    folders = [folder / name, folder / "images" / name, folder / name / name]
    found = next((p for p in reversed(folders) if p.is_dir()), None)
    zips = (folder / f"{name}.zip", folder / "images" / f"{name}.zip")
    return found or next((path for path in zips if path.is_file()), None)


def _readers(images: Path, names: Iterable[str]) -> Iterator[Callable[[], bytes]]:
    """The functions that read some images of a folder or an archive."""
    members = zip_members(images) if images.suffix == ".zip" else None
    for name in names:
        if members is None:
            yield reader(images / name)
        else:
            yield members.get(name, refuse("it is not there"))
