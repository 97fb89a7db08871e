"""Pictures of attention: maps over a photograph for each word, or a sentence's alignment.

Drawing needs neither a model nor an accelerator. All sizes are in pixels. (x, y) run right and
down from the top left of a picture, while matplotlib counts up from the bottom left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import IdentityTransform
from PIL import Image

from show_attend_tell.data.examples import Box
from show_attend_tell.evaluation.grounding import steps_naming
from show_attend_tell.files import replacing
from show_attend_tell.inference.attention_record import COMPUTED, EOS, AttentionRecord
from show_attend_tell.printable import printable
from show_attend_tell.reports.fonts import families_for

_DPI = 100
_PANEL = 144  # the longer side of a panel
_COLUMNS = 7
_MARGIN, _GAP = 18, 14
_ABOVE, _BELOW, _FOOT = 24, 18, 16  # room for a panel's word, its beta, and the line at the bottom
_INK, _FAINT, _BOX = "#1a1a1a", "#6f6f6f", "#ff7a00"
_CELL, _LABEL = 22, 110  # of an alignment: a cell's side, and the room for words beside a matrix
_APART = 12  # of that room, what stays free on both sides of a word


def draw_attention(
    path: Path, picture: UInt8[np.ndarray, "H W 3"] | None, record: AttentionRecord
) -> None:
    """Writes a PNG, whatever the path's suffix.

    It is an `attention_picture`, or without a picture an `alignment_picture`.
    """
    image = alignment_picture(record) if picture is None else attention_picture(picture, record)
    with replacing(path) as file:
        image.save(file, "PNG")


# Maps over an image


def attention_picture(picture: UInt8[np.ndarray, "H W 3"], record: AttentionRecord) -> Image.Image:
    """Draws a picture, and then for each word of its caption the picture with the map over it.

    This follows Xu et al. 2015, figures 2, 3 and 5: what attention passes over is grey and dim,
    what it looks at is bright, and alpha is interpolated smoothly to pixels. Every map is divided
    by its own maximum, so panels compare places, not strengths: a uniform map is bright all over.
    beta stands below each panel, unless it is 1 throughout. `<eos>` is not a word and has no
    panel. Boxes are outlined in the picture, and in the panels of the words that name them
    (`grounding.steps_naming`). The cell that hard attention read is outlined, too. The last line
    names the kind of map and tells computed centres from measured ones.

    Args:
      picture: the image, upright, in its own aspect at any size.
      record: of the same image.
    """
    small = _fit_into_panel(picture)
    words = [(t, token) for t, token in enumerate(record.tokens) if token != EOS]
    sheet = _Sheet(1 + len(words), small.shape[0], small.shape[1])
    gated = bool(np.any(record.beta != 1))
    sheet.add_panel(0, small, record.boxes)
    for k, (t, word) in enumerate(words, start=1):
        marks = [box for box in record.boxes if t in steps_naming(record, box)]
        if record.context in ("argmax", "sample"):  # a step that read one place
            marks.append(record.cell(int(record.location[t])))
        sheet.add_panel(k, _highlight(small, record, t), marks)
        sheet.add_captions(k, word, f"β {record.beta[t]:.2f}" if gated else "")
    computed = ["computed centres"] if record.centres == COMPUTED else []
    maps = "prior α, each over its maximum"
    sheet.add_foot("  ·  ".join([_foot(record), *computed, maps]))
    return sheet.image()


@dataclass(frozen=True)
class _Layout:
    """Where panels of one size stand in a picture.

    Attributes:
      panels: their number; rows are filled evenly.
      height, width: of a panel.
    """

    panels: int
    height: int
    width: int

    @property
    def rows(self) -> int:
        return math.ceil(self.panels / _COLUMNS)

    @property
    def columns(self) -> int:
        return math.ceil(self.panels / self.rows)

    @property
    def cell(self) -> int:
        """The width that a panel and its word share; narrow panels leave room for the word."""
        return max(self.width, _PANEL // 2)

    @property
    def total_width(self) -> int:
        # One or two panels still leave room for the line at the bottom.
        return max(2 * _MARGIN + self.columns * (self.cell + _GAP) - _GAP, 2 * _PANEL)

    @property
    def total_height(self) -> int:
        return 2 * _MARGIN + self.rows * self._pitch - _GAP + _FOOT

    @property
    def _pitch(self) -> int:
        return _ABOVE + self.height + _BELOW + _GAP

    def corner(self, k: int) -> tuple[int, int]:
        """x and y of the top left of panel k."""
        row, column = divmod(k, self.columns)
        left = _MARGIN + column * (self.cell + _GAP) + (self.cell - self.width) // 2
        return left, _MARGIN + row * self._pitch + _ABOVE


class _Sheet:
    """A white picture with panels, words above and numbers below them, and a line at the bottom."""

    def __init__(self, panels: int, height: int, width: int):
        self._layout = _Layout(panels, height, width)
        self._width, self._height = self._layout.total_width, self._layout.total_height
        size = (self._width / _DPI, self._height / _DPI)
        self._figure = Figure(size, dpi=_DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)

    def add_panel(self, k: int, image: UInt8[np.ndarray, "H W 3"], boxes: Sequence[Box]) -> None:
        """Draws image k and outlines boxes in it."""
        height, width = image.shape[:2]
        left, top = self._layout.corner(k)
        bottom = self._height - top - height
        self._figure.figimage(image, left, bottom, origin="upper")
        for box in boxes:
            self._figure.add_artist(
                Rectangle(
                    (left + box.xmin * width, self._height - top - box.ymax * height),
                    (box.xmax - box.xmin) * width,
                    (box.ymax - box.ymin) * height,
                    fill=False,
                    edgecolor=_BOX,
                    linewidth=0.9,
                    transform=IdentityTransform(),
                )
            )

    def add_captions(self, k: int, above: str, below: str) -> None:
        """Writes a word above panel k and a number below it."""
        left, top = self._layout.corner(k)
        x, room = left + self._layout.width / 2, self._layout.cell + _GAP - 4
        style = {"fontsize": 11, "color": _INK, "ha": "center", "va": "baseline"}
        self._add_text(x, top - 7, above, room, **style)
        style = {"fontsize": 7.5, "color": _FAINT, "ha": "center"}
        self._add_text(x, top + self._layout.height + 14, below, room, **style)

    def add_foot(self, line: str) -> None:
        """Writes the line at the bottom."""
        y, room = self._height - _MARGIN, self._width - 2 * _MARGIN
        self._add_text(_MARGIN, y, line, room, fontsize=7.5, color=_FAINT)

    def image(self) -> Image.Image:
        """The finished picture."""
        return _rendered(self._canvas)

    def _add_text(self, x: float | int, y: float | int, string: str, room: int, **style) -> None:
        _add_text(self._figure, self._canvas, x, self._height - y, string, room, **style)


def _fit_into_panel(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H2 W2 3"]:
    scale = _PANEL / max(picture.shape[:2])
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8)


def _highlight(
    picture: UInt8[np.ndarray, "H W 3"], record: AttentionRecord, t: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Blends from dim grey (no attention) to the picture in light colours (step t's maximum)."""
    height, width = picture.shape[:2]
    alpha = record.alpha[t].reshape(record.grid).astype(np.float64)
    down = _interpolation(height, record.row_centres)
    smooth = down @ alpha @ _interpolation(width, record.column_centres).T
    largest = smooth.max()  # 0 where a null place has all of the attention
    strength = (smooth / largest if largest > 0 else smooth)[..., None]
    grey = picture @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
    dim = 24 + 0.4 * grey[..., None]
    light = 0.68 * picture + 0.32 * 255
    # Steps of 4 make the file a third smaller; on flat areas they show as faint contours.
    return (4 * np.round((dim + strength * (light - dim)) / 4)).clip(0, 255).astype(np.uint8)


def _interpolation(
    pixels: int, centres: Float[np.ndarray, " cells"]
) -> Float[np.ndarray, "pixels cells"]:
    """Weights of the cells at each pixel's middle: a Gaussian of their distance; rows sum to 1.

    Uniform maps stay uniform, and nothing overshoots, unlike with bicubic interpolation.
    """
    distances = ((np.arange(pixels) + 0.5) / pixels)[:, None] - centres
    distances *= len(centres)  # in cells
    weights = np.exp(-0.5 * (distances / 0.55) ** 2)  # 0.55 cells: smooth, and cells stay distinct
    return weights / weights.sum(axis=1, keepdims=True)


# The alignment of sentences


def alignment_picture(record: AttentionRecord) -> Image.Image:
    """Draws the alignment of a sentence and its translation (Bahdanau et al. 2015, Fig. 3).

    Columns are source tokens, rows emitted ones; black is weight 0, white is 1. With
    self-attention, a second matrix shows from which earlier steps each step continued.

    Args:
      record: of a sentence.
    """
    matrices = [(record.alpha, record.source)]
    if record.self_alpha is not None:
        matrices.append((record.self_alpha, ("(start)", *record.tokens[:-1])))
    widths = [_CELL * max(len(names), 6) for _, names in matrices]
    width = sum(_LABEL + w for w in widths) + _MARGIN
    height = 2 * _MARGIN + _LABEL + _CELL * len(record.tokens) + _FOOT
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    left = 0
    for (matrix, names), matrix_width in zip(matrices, widths, strict=True):
        left += _LABEL
        corner = (left / width, (_MARGIN + _FOOT) / height)
        size = (_CELL * len(names) / width, _CELL * len(record.tokens) / height)
        axes = figure.add_axes((*corner, *size))
        axes.imshow(matrix, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.xaxis.tick_top()
        _label_ticks(axes.xaxis, names, canvas, rotation=90)
        _label_ticks(axes.yaxis, record.tokens, canvas)
        axes.tick_params(length=0)
        left += matrix_width
    style = {"fontsize": 7.5, "color": _FAINT}
    _add_text(figure, canvas, _MARGIN, 6, _foot(record), width - 2 * _MARGIN, **style)
    return _rendered(canvas)


def _label_ticks(axis: Axis, names: Sequence[str], canvas: FigureCanvasAgg, **style) -> None:
    labels = [printable(name) for name in names]
    fixed = {"fontsize": 8, "parse_math": False, "family": families_for("".join(labels))}
    axis.set_ticks(range(len(names)), labels, **fixed, **style)
    drawn = axis.get_ticklabels()
    for label in drawn:
        _shrink(label, _LABEL - _APART, canvas)
    # The axis keeps texts of its own, and writes them again when it is drawn.
    axis.set_ticklabels([label.get_text() for label in drawn])


# What both kinds share


def _foot(record: AttentionRecord) -> str:
    """The first part of the line at the bottom: whose caption it is, and how probable."""
    name = record.image_id if len(record.image_id) <= 40 else record.image_id[:39] + "…"
    return f"{name}  ·  log p {record.log_prob:.2f}{'' if record.finished else '  ·  unfinished'}"


def _add_text(
    figure: Figure,
    canvas: FigureCanvasAgg,
    x: float | int,
    y: float | int,
    string: str,
    room: int,
    **style,
) -> None:
    """Writes a text of at most `room` pixels; y counts up from the bottom."""
    string = printable(string)
    drawn = figure.text(
        x,
        y,
        string,
        transform=IdentityTransform(),
        parse_math=False,
        family=families_for(string),
        **style,
    )
    _shrink(drawn, room, canvas)


def _rendered(canvas: FigureCanvasAgg) -> Image.Image:
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _shrink(text: Text, room: int, canvas: FigureCanvasAgg) -> None:
    """Makes a text smaller, down to 6 points, then shorter, so that it fits into `room` pixels."""

    def width() -> float:
        extent = text.get_window_extent(canvas.get_renderer())
        return extent.height if text.get_rotation() == 90 else extent.width

    # It is measured anew each time: letters are whole pixels wide, so they shrink by steps.
    while (found := width()) > room and (size := float(text.get_fontsize())) > 6:
        text.set_fontsize(max(6.0, min(size - 0.25, size * room / found)))
    string = text.get_text()
    while (found := width()) > room and len(string) > 1:
        string = string[: max(1, min(len(string) - 1, int(len(string) * room / found)))]
        text.set_text(string + "…")
