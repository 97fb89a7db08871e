"""Captions or translations of a split as a file in the COCO results format."""

import json
from collections.abc import Mapping
from pathlib import Path

from show_attend_tell import files
from show_attend_tell.errors import UserError
from show_attend_tell.files import parse_json


def write_results(path: Path, hypotheses: Mapping[str, str]) -> None:
    """Writes captions by id as JSON: [{"image_id": ..., "caption": ...}, ...]."""
    results = [{"image_id": image_id, "caption": text} for image_id, text in hypotheses.items()]
    files.write_text(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def read_results(path: Path, remedy: str = "evaluate again") -> dict[str, str]:
    """Captions by id, in the file's order; numeric ids become strings.

    Args:
      path: of the file.
      remedy: what to do if it is damaged.

    Raises:
      UserError: the file is missing; or as `results_of`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: not there; `evaluate` writes it") from None
    except OSError as error:
        raise UserError(f"{path}: not a COCO results file ({error}); {remedy}") from error
    return results_of(content, path, remedy)


def results_of(content: bytes, path: Path, remedy: str) -> dict[str, str]:
    """Captions by id in the content of a file; see `read_results` for the arguments.

    Raises:
      UserError: it has another format, or names an image twice.
    """
    captions: dict[str, str] = {}
    try:
        results = parse_json(content.decode("utf-8-sig"))
        if not isinstance(results, list):
            raise TypeError("no list")
        for number, result in enumerate(results, 1):
            image_id, caption = read_pair(result, f"entry {number}")
            if image_id in captions:
                raise UserError(f"{path}: names an image twice ({image_id}); {remedy}")
            captions[image_id] = caption
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a COCO results file ({error}); {remedy}") from error
    return captions


def read_pair(entry: object, where: str) -> tuple[str, str]:
    """The id and the text of an entry of COCO's files: captions, or annotations.

    Args:
      entry: {"image_id": ..., "caption": ...}.
      where: which entry it is, for messages.

    Raises:
      TypeError: it is none; the message begins with `where`.
    """
    if not isinstance(entry, dict) or not entry.keys() >= {"image_id", "caption"}:
        raise TypeError(f"{where}: lacks image_id or caption")
    if not isinstance(entry["caption"], str):
        raise TypeError(f"{where}: its caption is not a string")
    return read_id(entry["image_id"], where), entry["caption"]


def read_id(value: object, where: str) -> str:
    """An id of an image as text, from a string or a whole number.

    Raises:
      TypeError: it is neither; the message begins with `where`.
    """
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise TypeError(f"{where}: its id is neither a string nor a whole number")
    return str(value)
