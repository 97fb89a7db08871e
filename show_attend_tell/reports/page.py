"""The HTML page of `compare`, made of what it found."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from show_attend_tell.errors import UserError
from show_attend_tell.reports.plots import WIDTH, curve_plots, length_plots, style
from show_attend_tell.reports.tables import tables

LARGEST = 200_000  # bytes of a picture in the page


def html(
    content: dict[str, Any],
    metrics: Sequence[Sequence[dict[str, list[dict[str, Any]]]]],
    images: Sequence[dict[str, Any]],
    *,
    shown: bool = True,
) -> str:
    """The page, which loads nothing from elsewhere.

    Args:
      content: what `compare` returns.
      metrics: for each run of each experiment, the records of its metrics.jsonl by kind.
      images: each with `image_id`, `photograph` (False for sentences) and `panels`, one for each
        run. A panel has `label`, `context`, `centres` (measured or computed), `caption`, `picture`
        (from `data_uri`), and `file`, the picture's name.
      shown: whether the page has a section for images at all.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    legend = []
    for i, group in enumerate(content["groups"]):
        colour, dashes = style(i)
        lengths = " ".join(f"{length * WIDTH:g}" for length in dashes)
        legend.append({"colour": colour, "dashes": lengths, "width": WIDTH} | group)
    return environment.get_template("compare.html").render(
        content=content,
        tables=tables(content),
        plots=curve_plots(metrics),
        by_length=length_plots(content),
        images=images,
        photographs=any(image["photograph"] for image in images),
        shown=shown,
        legend=legend,
        runs=sum(len(group["runs"]) for group in content["groups"]),
    )


def data_uri(path: Path) -> str | None:
    """A PNG as a `data:` address, large ones as a smaller JPEG; None if there is no file.

    Raises:
      UserError: the file is not a PNG.
    """
    if not path.exists():
        return None
    try:
        content, kind = path.read_bytes(), "png"
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable PNG; run `attend` again") from error
    for scale in (1.0, 0.8, 0.6, 0.4, 0.2):
        if len(content) <= LARGEST:
            break
        size = [max(1, round(side * scale)) for side in picture.size]
        buffer = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=85)
        content, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
