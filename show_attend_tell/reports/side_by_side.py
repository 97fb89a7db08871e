"""The same images by several runs: the explorer's view of them, or the pictures of their maps."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from show_attend_tell.errors import UserError
from show_attend_tell.explorer.answers import RunFacts
from show_attend_tell.explorer.page import frame
from show_attend_tell.explorer.records import Recorded, view
from show_attend_tell.inference.attention_record import (
    COMPUTED,
    AttentionRecord,
    load_attention,
    safe_name,
)
from show_attend_tell.reports.grouping import Group, run_label
from show_attend_tell.reports.read_runs import Run

HEIGHT = 1000  # of the view, in pixels
LARGEST = 200_000  # bytes of a picture of maps in the page


@dataclasses.dataclass(frozen=True, eq=False)
class SideBySide:
    """What the page shows of single images.

    Attributes:
      ids: of all of them, in order.
      frame: HTML of the view; empty if it has no image.
      panels: for each image that the view lacks, its `image_id`, `photograph` (False for
        sentences) and `panels`, one for each run. A panel has `label`, `context`, `centres`
        (measured or computed), `caption`, `picture` (a `data:` address, or None), and `file`, the
        picture's name.
      photographs: whether images are shown, not sentences.
      computed: whether maps in the view lie at computed centres.
    """

    ids: list[str]
    frame: str
    panels: list[dict[str, Any]]
    photographs: bool
    computed: bool


@dataclasses.dataclass(frozen=True, eq=False)
class _Image:
    """An image or sentence with the record of each run, and where that lies."""

    image_id: str
    records: list[AttentionRecord]
    paths: list[Path]

    @property
    def is_sentence(self) -> bool:
        return any(record.is_sentence for record in self.records)

    @property
    def computed(self) -> bool:
        """Whether a map over a picture lies at computed centres."""
        found = any(record.centres == COMPUTED for record in self.records)
        return found and not self.is_sentence

    @property
    def viewable(self) -> bool:
        """Whether the view can show it.

        It needs the picture, which earlier versions did not keep, and has no self-attention.
        """
        if self.is_sentence:
            return all(record.self_alpha is None for record in self.records)
        return all(path.with_suffix(".jpg").is_file() for path in self.paths)


def side_by_side(
    groups: Sequence[Group], split: str, image_ids: Sequence[str], shown: int
) -> SideBySide:
    """The first images that every run has maps of.

    Raises:
      UserError: a file of an image is damaged.
    """
    runs = [(group, run) for group in groups for run in group.runs]
    images = _images([run for _, run in runs], split, image_ids, shown)
    viewed = [image for image in images if image.viewable]
    return SideBySide(
        ids=[image.image_id for image in images],
        frame=_frame(runs, viewed) if viewed else "",
        panels=[_panels(runs, image) for image in images if not image.viewable],
        photographs=not all(image.is_sentence for image in images),
        computed=any(image.computed for image in viewed),
    )


def _images(runs: Sequence[Run], split: str, image_ids: Sequence[str], shown: int) -> list[_Image]:
    made = []
    for image_id in image_ids:
        if len(made) == shown:
            break
        name = f"{safe_name(image_id)}.npz"
        paths = [run.workdir / "attention" / split / name for run in runs]
        # A folder may also hold files of an earlier `attend`, of other weights.
        drawn = all(run.drawn is None or image_id in run.drawn for run in runs)
        if drawn and all(path.is_file() for path in paths):
            made.append(_Image(image_id, [load_attention(path) for path in paths], paths))
    return made


def _frame(runs: Sequence[tuple[Group, Run]], images: Sequence[_Image]) -> str:
    facts = [
        _facts(group, run, images[0].records[number]) for number, (group, run) in enumerate(runs)
    ]
    names = [run.name for run in facts]
    recorded = [
        Recorded(
            dict(zip(names, image.records, strict=True)),
            None if image.is_sentence else image.paths[0].with_suffix(".jpg"),
        )
        for image in images
    ]
    return frame(view(facts, recorded), "captions and attention", HEIGHT)


def _facts(group: Group, run: Run, record: AttentionRecord) -> RunFacts:
    """What the view says of a run."""
    values = run.settings.values
    return RunFacts(
        name=run_label(group, run),
        kind=run.settings.task.noun,
        context=record.context,
        contexts=[record.context],
        hard=values["attention.kind"] == "hard",
        posterior=False,  # records hold no maps given the word
        gate=values["decoder.gate"],
        null_place=values["attention.null_place"],
        places=0 if record.is_sentence else record.alpha.shape[1],
        beam=None,
        max_length=None,
        length_penalty=None,
        vocabulary=len(run.words),
        step=run.step,
        description=f"{group.name}; {record.context} context",
    )


def _panels(runs: Sequence[tuple[Group, Run]], image: _Image) -> dict[str, Any]:
    panels = []
    for (group, run), path, record in zip(runs, image.paths, image.records, strict=True):
        panels.append(
            {
                "label": run_label(group, run),
                "context": record.context,
                "centres": record.centres,
                "caption": record.text,
                "picture": _data_uri(path.with_suffix(".png")),
                "file": path.with_suffix(".png").name,
            }
        )
    return {"image_id": image.image_id, "photograph": not image.is_sentence, "panels": panels}


def _data_uri(path: Path) -> str | None:
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
