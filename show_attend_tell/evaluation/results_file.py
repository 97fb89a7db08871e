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


def read_results(path: Path) -> dict[str, str]:
    """Captions by id, in the file's order; numeric ids become strings.

    Raises:
      UserError: the file is missing, has another format, or names an image twice.
    """
    try:
        results = parse_json(path.read_text(encoding="utf-8"))
        captions = {_image_id(r["image_id"]): _caption(r["caption"]) for r in results}
    except FileNotFoundError:
        raise UserError(f"{path}: not there; `evaluate` writes it") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a COCO results file ({error}); evaluate again") from error
    if len(captions) != len(results):
        raise UserError(f"{path}: names an image twice; evaluate again")
    return captions


def _image_id(value: object) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise TypeError(f"image_id {value!r} is neither a string nor a whole number")
    return str(value)


def _caption(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"caption {value!r} is not a string")
    return value
