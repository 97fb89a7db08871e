"""Captions and references out of anybody's files, brought together by image or by line.

Captions come in COCO's results format, which `evaluate` writes, too, or one a line. References come
as COCO's annotations, as a data set file of Karpathy and Li, as Flickr8k's captions, or in lines:
one for each line of the captions, in each of several files or with tabs between them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from show_attend_tell.errors import UserError
from show_attend_tell.evaluation.results_file import read_id, read_pair, results_of
from show_attend_tell.files import decoded, parse_json, stands_in
from show_attend_tell.printable import whole

CAPTIONS_FORM = (
    'captions must be [{"image_id": 1, "caption": "..."}, ...], one for each image, or text with '
    "one on each line"
)
REFERENCES_FORM = (
    'references must be {"annotations": [{"image_id": 1, "caption": "..."}, ...]} as in COCO, a '
    "dataset_*.json of Karpathy and Li, or text with lines"
)
_JSON_START = re.compile(rb'\s*[\[{]\s*["{]')
_FLICKR8K_START = re.compile(rb"\s*[^\t\n]+#\d+\t")
_NAMED = 3  # ids that a message names

Texts = dict[str, list[str]]  # references by id


@dataclass(frozen=True)
class Captions:
    """The captions of a file.

    Attributes:
      path: of the file.
      texts: by image id, or by the number of the line.
      lines: whether they are lines.
    """

    path: Path
    texts: dict[str, str]
    lines: bool


@dataclass(frozen=True)
class References:
    """The references of one or several files.

    Attributes:
      name: of the files, for messages.
      texts: by image id, or by the number of the line; at least one each.
      lines: whether they are lines.
      others: the ids of images by another name that captions may give them, such as their files'.
      hint: how to choose other images of the file, if that is possible.
      shared: ids of the images that have one other name.
    """

    name: str
    texts: Texts
    lines: bool
    others: Mapping[str, str]
    hint: str = ""
    shared: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Matched:
    """Captions beside their references, all of the same images in the same order.

    Attributes:
      name: of the files of references, for messages.
      references: by id.
      captions: one by id, for each file.
      left_out: images that a file lacks, which are not scored.
    """

    name: str
    references: Texts
    captions: list[dict[str, str]]
    left_out: int


def read_captions(path: Path) -> Captions:
    """Reads a file of captions.

    Raises:
      UserError: it cannot be read, is empty, has another form, or names an image twice.
    """
    content = _read(path)
    if _is_json(path, content):
        texts = results_of(content, path, CAPTIONS_FORM)
        if not texts:
            raise UserError(f"{path}: holds no captions; {CAPTIONS_FORM}")
        return Captions(path, {name: whole(text) for name, text in texts.items()}, lines=False)
    return Captions(path, _numbered(_lines(path, content)), lines=True)


def read_references(paths: Sequence[Path], split: str | None = None) -> References:
    """Reads references.

    Args:
      paths: one file, or several with the same number of lines.
      split: of a file with several; None: test.

    Raises:
      UserError: a file cannot be read, is empty or has another form; or the number of lines
        differs, a line is blank, or there is no such split.
    """
    read = [(path, _read(path)) for path in paths]
    by_image = [
        path
        for path, content in read
        if _is_json(path, content) or _FLICKR8K_START.match(_start(content))
    ]
    if by_image and len(paths) > 1:
        raise UserError(
            f"{by_image[0]}: references by image must be in one file, here are {len(paths)}; "
            "join them, or give only one"
        )
    path, first = read[0]
    content = _parsed(path, first) if _is_json(path, first) else None
    if _is_karpathy(content):
        return _of_karpathy(path, content, split)
    if split is not None:
        raise UserError(f"--split {split}: {path} has no splits; leave --split out")
    if content is not None:
        return _of_coco(path, content)
    if by_image:
        return _of_flickr8k(path, first)
    return _of_lines(read)


def match(
    captions: Sequence[Captions], references: References, *, allow_missing: bool = False
) -> Matched:
    """Brings captions and references together.

    Args:
      captions: of one file or several.
      references: of the same images or lines.
      allow_missing: scores the images that all files have, rather than rejecting others.

    Raises:
      UserError: one side has lines and the other images, the number of lines differs, or an image
        is missing somewhere; the message names files and some of the images.
    """
    texts = [_by_reference_id(one, references) for one in captions]
    common = [name for name in references.texts if all(name in of for of in texts)]
    known = set(references.texts).union(*texts)
    if len(common) < len(known) and not allow_missing:
        for one, of in zip(captions, texts, strict=True):
            _check_same(one, of, references)
    if not common:
        raise UserError(
            f"{', '.join(str(one.path) for one in captions)} and {references.name} have no image "
            f"in common ({_some(texts[0])} and {_some(references.texts)}); give captions and "
            "references of the same images"
        )
    return Matched(
        references.name,
        {name: references.texts[name] for name in common},
        [{name: of[name] for name in common} for of in texts],
        len(known) - len(common),
    )


def _by_reference_id(captions: Captions, references: References) -> dict[str, str]:
    """Captions by the ids that the references have."""
    if captions.lines != references.lines:
        kinds = ("image ids", "lines")
        raise UserError(
            f"{captions.path} has {kinds[captions.lines]}, {references.name} has "
            f"{kinds[references.lines]}; give both by image, or both in lines"
        )
    if captions.lines and len(captions.texts) != len(references.texts):
        raise UserError(
            f"{captions.path}: {len(captions.texts):,} lines, but {references.name} has "
            f"{len(references.texts):,}; line by line, both must be of the same images"
        )
    names = captions.texts.keys()
    unclear = [name for name in names if name in references.shared and name not in references.texts]
    if unclear:
        images = _some(references.shared[unclear[0]])
        raise UserError(
            f"{captions.path}: {_some(unclear[:1])} is the file_name of several images of "
            f"{references.name} ({images}); name images by their id"
        )
    if len(names & references.others.keys()) <= len(names & references.texts.keys()):
        return captions.texts
    texts = {references.others.get(name, name): text for name, text in captions.texts.items()}
    if len(texts) < len(names):
        raise UserError(
            f"{captions.path}: names an image twice, in different ways; remove one of them"
        )
    return texts


def _check_same(captions: Captions, texts: Mapping[str, str], references: References) -> None:
    remedy = "or score what all files have with --allow-missing"
    lacking = [name for name in texts if name not in references.texts]
    if lacking:
        raise UserError(
            f"{captions.path}: {len(lacking):,} of {len(texts):,} images have no references in "
            f"{references.name} ({_some(lacking)}); give their references{references.hint}, "
            f"{remedy}"
        )
    lacking = [name for name in references.texts if name not in texts]
    if lacking:
        raise UserError(
            f"{captions.path}: no captions for {len(lacking):,} of {len(references.texts):,} "
            f"images of {references.name} ({_some(lacking)}); add them{references.hint}, {remedy}"
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(name[:60] for name in names[:_NAMED]) + ", ..." * (len(names) > _NAMED)


# Files


def _read(path: Path) -> bytes:
    """The content of a file that is what it seems to be. It is read once: it may be a pipe."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not content:
        raise UserError(f"{path}: empty; give a file that has text")
    if instead := stands_in(content[:4096]):
        raise UserError(f"{path}: it is {instead}")
    return content


def _start(content: bytes) -> bytes:
    return content[:4096].removeprefix(b"\xef\xbb\xbf")


def _is_json(path: Path, content: bytes) -> bool:
    known = path.suffix.lower() == ".json"
    return known or _JSON_START.match(_start(content)) is not None


def _parsed(path: Path, content: bytes) -> Any:
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"{path}: not a readable JSON file ({error}); {REFERENCES_FORM}") from error


def _lines(path: Path, content: bytes) -> list[str]:
    lines = decoded(content, path).split("\n")
    if lines[-1] == "":
        lines.pop()
    lines = [line.strip() for line in lines]
    if not any(lines):
        raise UserError(f"{path}: no line has a word; give a file that has text")
    return lines


def _numbered(values: Iterable[Any]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(values, 1)}


def _of_lines(read: Sequence[tuple[Path, bytes]]) -> References:
    paths, lines = [path for path, _ in read], [_lines(*one) for one in read]
    for path, of in zip(paths, lines, strict=True):
        if len(of) != len(lines[0]):
            raise UserError(
                f"{path}: {len(of):,} lines, but {paths[0]} has {len(lines[0]):,}; line by line, "
                "all references must be of the same images"
            )
    texts = [
        [text for line in of for part in line.split("\t") if (text := part.strip())]
        for of in zip(*lines, strict=True)
    ]
    name = ", ".join(map(str, paths))
    for number, of in enumerate(texts, 1):
        if not of:
            raise UserError(
                f"{name}, line {number}: no reference; add one, or remove the line from all files"
            )
    return References(name, _numbered(texts), lines=True, others={})


def _of_coco(path: Path, content: Any) -> References:
    texts: Texts = {}
    named: dict[str, list[str]] = {}
    ids: set[str] = set()
    try:
        if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
            raise TypeError("no annotations")
        for number, annotation in enumerate(content["annotations"], 1):
            image_id, text = read_pair(annotation, f"annotation {number}")
            texts.setdefault(image_id, []).append(whole(text))
        for number, image in enumerate(content.get("images") or (), 1):
            image_id = read_id(image["id"], f"image {number}")
            if image_id in ids:
                raise TypeError(f"image {number}: {image_id} comes twice")
            ids.add(image_id)
            named.setdefault(str(image.get("file_name", image_id)), []).append(image_id)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not COCO's annotations ({error}); {REFERENCES_FORM}") from error
    if not texts:
        raise UserError(f"{path}: holds no references; {REFERENCES_FORM}")
    others = {name: of[0] for name, of in named.items() if len(of) == 1}
    shared = {name: of for name, of in named.items() if len(of) > 1}
    return References(str(path), texts, lines=False, others=others, shared=shared)


def _is_karpathy(content: Any) -> bool:
    images = content.get("images") if isinstance(content, dict) else None
    first = images[0] if isinstance(images, list) and images else None
    return isinstance(first, dict) and "sentences" in first


def _of_karpathy(path: Path, content: Any, split: str | None) -> References:
    # Slow to import, and few need it.
    from show_attend_tell.data.builders.karpathy import entries_of

    splits = entries_of(content, path)
    chosen = splits.get(split or "test")
    if chosen is None:
        names = ", ".join(splits)
        raise UserError(f"--split {split or 'test'}: {path} has {names}; choose one of them")
    texts = {name: [whole(text) for text in of] for name, (_, of) in chosen.items() if of}
    others = {}
    for image in content["images"]:
        number = image.get("cocoid", image.get("imgid"))
        if image["filename"] in texts and number is not None:
            others[str(number)] = image["filename"]
    hint = f", choose another split than {split or 'test'} with --split"
    return References(str(path), texts, lines=False, others=others, hint=hint)


def _of_flickr8k(path: Path, content: bytes) -> References:
    # Slow to import, and few need it.
    from show_attend_tell.data.builders.flickr8k import read_captions as read_flickr8k

    texts = read_flickr8k(decoded(content, path), str(path))
    texts = {name: captions for name, captions in texts.items() if captions}
    return References(str(path), texts, lines=False, others={})
