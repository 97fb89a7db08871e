"""Where a caption's words looked: dumps, pictures and statistics of attention maps.

The places are the cells of a grid over an image, or the tokens of a source sentence.

Everything here reads and writes files and arrays alone; no model, no accelerator.

Geometry. `images.read_image` squashes the whole picture to S x S, so coordinates that run from 0 to
1 down and across are the same in the original and in the squashed image. Location i of a grid
(h, w) is row r = i // w and column c = i % w; the middle of what the encoder sees there is
(row_centres[r], column_centres[c]). These need not lie evenly: strided convolutions with SAME
padding look up to half a cell further down and right. A location's cell is all that is nearer to
its centre than to another; the cells fill the picture.
"""

import dataclasses
import json
import math
import urllib.parse
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import IdentityTransform
from PIL import Image

from show_attend_tell.data.examples import Box
from show_attend_tell.data.vocabulary import join
from show_attend_tell.errors import UserError
from show_attend_tell.files import replacing

EOS = "<eos>"
# Words of captions for COCO's classes, beside the last word of a class's name: those that mean
# nothing else in a caption. Plurals that end in "s" go without saying.
SYNONYMS = {
    "person": (
        *("man", "men", "woman", "women", "boy", "girl", "people", "child", "children", "kid"),
        *("baby", "lady", "ladies", "guy"),
    ),
    "bicycle": ("bike",),
    "motorcycle": ("motorbike",),
    "airplane": ("plane", "aeroplane", "jet"),
    "cat": ("kitten",),
    "dog": ("puppy", "puppies"),
    "knife": ("knives",),
    "donut": ("doughnut",),
    "couch": ("sofa",),
    "tv": ("television",),
    "mouse": ("mice",),
    "cell phone": ("cellphone",),
    "refrigerator": ("fridge",),
}
STATIC_CHANGE = 0.01  # maps that change less than this from step to step do not move


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionRecord:
    """One caption with the attention of the pass that produced it (T tokens, L locations).

    Attributes:
      image_id: of the image.
      tokens: the T emitted tokens, `<eos>` last where the caption finished.
      alpha: attention weights; every row is non-negative and sums to 1, or to less where it is not
        `normalised`.
      beta: the gate of each step, in [0, 1].
      location: i in 0 .. L-1, for each step: where hard attention looked, else alpha's maximum.
      context: what the steps read: "expected", "argmax" or "sample" (see `evaluate.Decoding`).
      row_centres, column_centres: where the grid's locations look, in [0, 1], ascending (see the
        module); L = h * w, row by row.
      original_size: (height, width) of the upright original picture, in pixels.
      image_side: S, the side in pixels of the square that it was squashed to for the encoder.
      score: what the search ranked the caption by.
      log_prob: log p of the tokens, in nats.
      boxes: the objects that the true caption names, where they are known.
      source: the L tokens of the source sentence; empty for an image. A sentence is a single row
        of cells, `original_size` and `image_side` say nothing.
      self_alpha: weights of self-attention, where there is some: how much step t went on from the
        state before step s <= t; every row sums to 1.
      normalised: False where a Gaussian window takes away from the weights.

    Raises:
      ValueError: the parts do not fit each other, or a number is outside of its range.
    """

    image_id: str
    tokens: tuple[str, ...]
    alpha: Float[np.ndarray, "T L"]
    beta: Float[np.ndarray, " T"]
    location: Int[np.ndarray, " T"]
    context: str
    row_centres: Float[np.ndarray, " h"]
    column_centres: Float[np.ndarray, " w"]
    original_size: tuple[int, int]
    image_side: int
    score: float
    log_prob: float
    boxes: tuple[Box, ...] = ()
    source: tuple[str, ...] = ()
    self_alpha: Float[np.ndarray, "T T"] | None = None
    normalised: bool = True

    @property
    def text(self) -> str:
        """The words alone."""
        return join(token for token in self.tokens if token != EOS)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return len(self.row_centres), len(self.column_centres)

    def __post_init__(self):
        steps, locations = len(self.tokens), math.prod(self.grid)
        per_step = (self.beta.shape, self.location.shape)
        if self.alpha.shape != (steps, locations) or per_step != ((steps,),) * 2:
            raise ValueError(
                f"alpha {self.alpha.shape}, beta and location {per_step} do not fit {steps} tokens "
                f"on a grid {self.grid}"
            )
        if not np.all((self.location >= 0) & (self.location < locations)):
            raise ValueError("a location is not on the grid")
        if min(*self.grid, *self.original_size, self.image_side) < 1:
            raise ValueError("a size is less than 1")
        for centres in (self.row_centres, self.column_centres):
            inside = np.all((centres >= 0) & (centres <= 1))
            if not (inside and np.all(np.diff(centres) > 0)):
                raise ValueError("the locations' centres do not ascend from 0 to 1")
        # Half-precision weights sum to 1 within a hundredth; "not all" catches NaN too.
        sums = self.alpha.sum(axis=1, dtype=np.float64)
        least = 0.99 if self.normalised else 0.0
        if not (np.all(self.alpha >= 0) and np.all((sums > least) & (sums < 1.01))):
            raise ValueError("a row of alpha is not a distribution")
        if self.source and self.grid != (1, len(self.source)):
            raise ValueError(f"{len(self.source)} source tokens on a grid {self.grid}")
        if self.self_alpha is not None:
            fits = self.self_alpha.shape == (steps, steps) and np.all(self.self_alpha >= 0)
            if not (fits and np.all(np.abs(self.self_alpha.sum(axis=1) - 1) < 0.01)):
                raise ValueError(f"self_alpha is not a distribution for each of {steps} tokens")
        if not np.all((self.beta >= 0) & (self.beta <= 1)):
            raise ValueError("beta is outside of [0, 1]")
        for box in self.boxes:
            inside = 0 <= box.ymin <= box.ymax <= 1 and 0 <= box.xmin <= box.xmax <= 1
            if not inside or box.word_index < -1:
                raise ValueError(f"the box of {box.label!r} is outside of the picture")

    def cell(self, location: int) -> Box:
        """The rectangle of the picture that is nearer to a location's centre than to another."""
        row, column = divmod(location, self.grid[1])
        down, across = _edges(self.row_centres), _edges(self.column_centres)
        return Box("", 0, down[row], across[column], down[row + 1], across[column + 1])

    def steps_of(self, box: Box) -> list[int]:
        """The steps whose token names the box's object.

        That is the noun, at the place where the true caption has it; or, where the class alone is
        known, any word for it (see `class_words`).
        """
        if box.word_index >= 0:
            said = self.tokens[box.word_index : box.word_index + 1] == (box.label,)
            return [box.word_index] * said
        words = class_words(box.label)
        return [t for t, token in enumerate(self.tokens) if token in words]


@cache
def class_words(name: str) -> frozenset[str]:
    """The words of captions that name an object of a class, in the singular and the plural.

    They are the last word of the class's name ("phone" of "cell phone", and so "dog" of "hot dog",
    too) and `SYNONYMS`.
    """
    words = {name.split()[-1], *SYNONYMS.get(name, ())}
    plurals = {f"{word}{ending}" for word in words for ending in ("s", "es")}
    plurals |= {f"{word[:-1]}ies" for word in words if word.endswith("y")}
    singulars = {word[:-1] for word in words if word.endswith("s")}  # of "skis"
    return frozenset(words | plurals | singulars)


def safe_name(image_id: str) -> str:
    """A file name, without suffix, that stands for this image id and for no other.

    Letters, digits and "_.-~" stay; all else, and a leading dot, is percent-encoded, so no name
    leaves its folder or hides. Ids whose names were over 120 characters end in their SHA-256.
    """
    name = urllib.parse.quote(image_id, safe="", errors="surrogatepass")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > 120:  # the name that follows is longer than that, so it is no other id's name
        name = f"{name[:80]}-{sha256(image_id.encode(errors='surrogatepass')).hexdigest()}"
    return name or "%"


def save_attention(path: Path, record: AttentionRecord) -> None:
    """Writes a record as a compressed `.npz`, without pickles: the fields under their own names.

    `grid` (h, w) and `original_size` are (2,); the boxes are `box_labels` (N,),
    `box_word_indices` (N,) and `boxes` (N, 4), ymin, xmin, ymax, xmax. alpha and beta are float32.
    """
    boxes = [(box.ymin, box.xmin, box.ymax, box.xmax) for box in record.boxes]
    with replacing(path) as file:
        np.savez_compressed(
            file,
            image_id=np.array(record.image_id, np.str_),
            tokens=np.array(record.tokens, np.str_),
            alpha=record.alpha.astype(np.float32),
            beta=record.beta.astype(np.float32),
            location=record.location.astype(np.int64),
            context=np.array(record.context, np.str_),
            grid=np.array(record.grid, np.int64),
            row_centres=np.array(record.row_centres, np.float64),
            column_centres=np.array(record.column_centres, np.float64),
            original_size=np.array(record.original_size, np.int64),
            image_side=np.array(record.image_side, np.int64),
            score=np.array(record.score, np.float64),
            log_prob=np.array(record.log_prob, np.float64),
            box_labels=np.array([box.label for box in record.boxes], np.str_),
            box_word_indices=np.array([box.word_index for box in record.boxes], np.int64),
            boxes=np.array(boxes, np.float64).reshape(-1, 4),
            source=np.array(record.source, np.str_),
            # Nothing is (0, 0): a caption has a token at least.
            self_alpha=np.zeros((0, 0), np.float32)
            if record.self_alpha is None
            else record.self_alpha.astype(np.float32),
            normalised=np.array(int(record.normalised), np.int64),
        )


# Of each array in a dump: the kind of its dtype, and its number of axes.
_ARRAYS = {
    "image_id": ("U", 0),
    "tokens": ("U", 1),
    "alpha": ("f", 2),
    "beta": ("f", 1),
    "location": ("i", 1),
    "context": ("U", 0),
    "row_centres": ("f", 1),
    "column_centres": ("f", 1),
    "original_size": ("i", 1),
    "image_side": ("i", 0),
    "score": ("f", 0),
    "log_prob": ("f", 0),
    "box_labels": ("U", 1),
    "box_word_indices": ("i", 1),
    "boxes": ("f", 2),
    "source": ("U", 1),
    "self_alpha": ("f", 2),
    "normalised": ("i", 0),
}
# Of dumps from before these were written.
_DEFAULTS = {
    "source": np.array([], np.str_),
    "self_alpha": np.zeros((0, 0), np.float32),
    "normalised": np.array(1),
}


def load_attention(path: Path) -> AttentionRecord:
    """Reads what `save_attention` wrote.

    Raises:
      UserError: the file is missing, damaged, or no attention dump.
    """
    try:
        # A file object, since np.load of a path leaves the file open where the zip is damaged.
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("not a whole zip file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                content = _DEFAULTS | {n: arrays[n] for n in _ARRAYS if n in arrays}
        for name in _ARRAYS:
            content[name]  # raises where it is not there
        for name, (kind, axes) in _ARRAYS.items():
            if content[name].dtype.kind != kind or content[name].ndim != axes:
                raise ValueError(f"{name} is {content[name].dtype}{content[name].shape}")
        height, width = content["original_size"].tolist()
        parts = zip(
            content["box_labels"].tolist(),
            content["box_word_indices"].tolist(),
            content["boxes"].tolist(),
            strict=True,
        )
        return AttentionRecord(
            image_id=content["image_id"].item(),
            tokens=tuple(content["tokens"].tolist()),
            alpha=content["alpha"],
            beta=content["beta"],
            location=content["location"],
            context=content["context"].item(),
            row_centres=content["row_centres"],
            column_centres=content["column_centres"],
            original_size=(height, width),
            image_side=content["image_side"].item(),
            score=content["score"].item(),
            log_prob=content["log_prob"].item(),
            boxes=tuple(Box(label, index, *edges) for label, index, edges in parts),
            source=tuple(content["source"].tolist()),
            self_alpha=content["self_alpha"] if content["self_alpha"].size else None,
            normalised=bool(content["normalised"].item()),
        )
    except FileNotFoundError:
        raise UserError(f"{path}: not there; `attend` writes it") from None
    except KeyError as error:
        raise UserError(f"{path}: not an attention dump ({error.args[0]})") from None
    except (
        OSError,
        ValueError,
        TypeError,
        EOFError,
        MemoryError,
        NotImplementedError,  # zip features that Python's zipfile lacks
        RuntimeError,  # an encrypted zip
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(f"{path}: damaged ({error}); run `attend` again") from error


# Statistics


def attention_statistics(records: Sequence[AttentionRecord]) -> dict[str, Any]:
    """What the maps of a run do, in numbers.

    A step is an emitted token, `<eos>` included; means are over all steps of all captions, and the
    change is over all pairs of consecutive steps of one caption.

    An object is matched where the token at its noun's place is that noun (word_index counts from
    the caption's start; the order of nouns alone is not enough). Of objects whose class alone is
    known, all of one class in a picture count as one object, in the union of their boxes, and each
    word for the class matches it (`class_words`), once for every time that it is said. Only matches
    are measured, each at its step. The attention inside a box is sum_i alpha_i * (share of cell i's
    area inside the box); a grown box reaches one cell, (1 / h, 1 / w), further on each side, as far
    as the picture does; uniform attention has 1 / L at every location.

    Returns:
      A dict that JSON can hold; a mean over nothing is None.
      images, steps, grid: what was measured; grid is None of sentences.
      mean_entropy: of alpha, in nats, beside uniform_entropy = log L.
      effective_patches: exp(mean_entropy), from 1 to L.
      mean_change: total variation 1/2 sum_i |alpha_ti - alpha_(t-1)i|, from 0 (same map) to 1,
        over `pairs` pairs.
      mean_beta: of the gate.
      static_maps: whether mean_change is under `STATIC_CHANGE`; None where there are no pairs.
      warnings: plain lines for the user; one where static_maps is not False.
      objects: None where no record has boxes, else a dict: `matched` counts matches, `unmatched`
        objects without one; `in_box` and `in_grown_box` are mean shares of attention over the
        matches, and `uniform_in_box` and `uniform_in_grown_box` what uniform attention has there.

    Raises:
      UserError: there are no records.
      ValueError: the records' grids differ.
    """
    if not records:
        raise UserError("there are no captions whose attention could be measured")
    sentences = all(record.source for record in records)
    grids = {record.grid for record in records}
    if len(grids) > 1 and not sentences:
        raise ValueError(f"records of different grids: {sorted(grids)}")
    alphas = [record.alpha.astype(np.float64) for record in records]
    entropies = np.concatenate([_entropy(alpha) for alpha in alphas])
    changes = np.concatenate([np.abs(np.diff(alpha, axis=0)).sum(axis=1) / 2 for alpha in alphas])
    entropy, change = _mean(entropies), _mean(changes)
    steps = np.array([len(record.tokens) for record in records])
    places = np.array([math.prod(record.grid) for record in records])
    uniform_entropy = float(steps @ np.log(places) / steps.sum())
    static = None if change is None else change < STATIC_CHANGE
    warnings = []
    if static is None:
        warnings.append("no caption has two tokens: whether the maps move is not known")
    elif static:
        warnings.append(
            f"maps never move: from word to word alpha changes by {change:.2g} of at most 1 "
            f"(entropy {entropy:.3g} of at most {uniform_entropy:.3g} nats), so the pictures say "
            "nothing about single words"
        )
    return {
        "images": len(records),
        "steps": len(entropies),
        "grid": None if sentences else list(records[0].grid),
        "mean_entropy": entropy,
        "uniform_entropy": uniform_entropy,
        "effective_patches": None if entropy is None else math.exp(entropy),
        "mean_change": change,
        "pairs": len(changes),
        "mean_beta": _mean(np.concatenate([record.beta.astype(np.float64) for record in records])),
        "static_maps": static,
        "warnings": warnings,
        "objects": _object_statistics(records),
    }


def write_statistics(path: Path, statistics: dict[str, Any]) -> None:
    """Writes what `attention_statistics` returned as JSON."""
    with replacing(path) as file:
        file.write((json.dumps(statistics, indent=2, allow_nan=False) + "\n").encode())


def box_cover(
    boxes: Sequence[tuple[float, float, float, float]],
    row_centres: Float[np.ndarray, " h"],
    column_centres: Float[np.ndarray, " w"],
) -> Float[np.ndarray, " L"]:
    """The share of each cell's area that lies in the union of boxes (ymin, xmin, ymax, xmax)."""
    rows, columns = _edges(row_centres), _edges(column_centres)
    sides = np.clip(np.array(boxes, np.float64), 0, 1)
    # The edges of cells and boxes cut the picture into pieces that lie in a box wholly or not.
    down = np.unique(np.concatenate([rows, sides[:, 0], sides[:, 2]]))
    across = np.unique(np.concatenate([columns, sides[:, 1], sides[:, 3]]))
    inside = np.zeros((len(down) - 1, len(across) - 1), bool)
    for ymin, xmin, ymax, xmax in sides:
        top, bottom = np.searchsorted(down, (ymin, ymax))
        left, right = np.searchsorted(across, (xmin, xmax))
        inside[top:bottom, left:right] = True
    area = inside * np.outer(np.diff(down), np.diff(across))
    area = np.add.reduceat(area, np.searchsorted(down, rows[:-1]), axis=0)
    area = np.add.reduceat(area, np.searchsorted(across, columns[:-1]), axis=1)
    return (area / np.outer(np.diff(rows), np.diff(columns))).ravel()


def _edges(centres: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n+1"]:
    """Between which the cells of these centres lie."""
    return np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, [1.0]])


def _object_statistics(records: Sequence[AttentionRecord]) -> dict[str, Any] | None:
    shares: dict[str, list[float]] = {
        "in_box": [],
        "in_grown_box": [],
        "uniform_in_box": [],
        "uniform_in_grown_box": [],
    }
    matched = unmatched = 0
    for record in records:
        dy, dx = 1 / record.grid[0], 1 / record.grid[1]
        objects: dict[tuple[str, int], list[Box]] = {}
        for box in record.boxes:
            objects.setdefault((box.label, box.word_index), []).append(box)
        for boxes in objects.values():
            steps = record.steps_of(boxes[0])
            if not steps:
                unmatched += 1
                continue
            matched += len(steps)
            for name, y, x in (("in_box", 0.0, 0.0), ("in_grown_box", dy, dx)):
                edges = [(b.ymin - y, b.xmin - x, b.ymax + y, b.xmax + x) for b in boxes]
                cover = box_cover(edges, record.row_centres, record.column_centres)
                for t in steps:
                    shares[name].append(float(record.alpha[t].astype(np.float64) @ cover))
                    shares[f"uniform_{name}"].append(float(cover.mean()))
    if matched + unmatched == 0:
        return None
    counts = {"matched": matched, "unmatched": unmatched}
    return counts | {name: _mean(np.array(values)) for name, values in shares.items()}


def _entropy(alpha: Float[np.ndarray, "T L"]) -> Float[np.ndarray, " T"]:
    """Entropy of each row, made to sum to 1, in nats; 0 log 0 = 0."""
    alpha = alpha / alpha.sum(axis=1, keepdims=True)
    return -(alpha * np.log(alpha, where=alpha > 0, out=np.zeros_like(alpha))).sum(axis=1)


def _mean(values: Float[np.ndarray, " N"]) -> float | None:
    return float(values.mean()) if values.size else None


# Pictures

# All in pixels; at 100 dots per inch.
_DPI = 100
_PANEL = 144  # the longer side of a panel
_COLUMNS = 7
_MARGIN, _GAP = 18, 14
_ABOVE, _BELOW, _FOOT = 24, 18, 16  # a panel's word, its beta, and the line under all
_INK, _FAINT, _BOX = "#1a1a1a", "#6f6f6f", "#ff7a00"


def draw_attention(
    path: Path, picture: UInt8[np.ndarray, "H W 3"] | None, record: AttentionRecord
) -> None:
    """Writes a PNG, whatever the path's suffix: of `attention_picture`, or without a picture of
    `alignment_picture`."""
    image = alignment_picture(record) if picture is None else attention_picture(picture, record)
    with replacing(path) as file:
        image.save(file, "PNG")


def attention_picture(picture: UInt8[np.ndarray, "H W 3"], record: AttentionRecord) -> Image.Image:
    """Draws a picture, and then for each word of its caption the picture with the map over it.

    In the manner of Xu et al. 2015, figures 2, 3 and 5: what is not looked at is grey and dim, what
    is looked at is bright; alpha is interpolated smoothly to pixels. Every map is divided by its
    own maximum, so panels compare places, not strengths: a map that is even all over is bright all
    over. beta stands under each panel. `<eos>` is no word and has no panel. Boxes are outlined in
    the picture, and in the panel of the word that names them (`AttentionRecord.steps_of`); so
    is the one cell that hard attention read.

    Args:
      picture: the image, upright, in its own aspect at any size.
      record: of the same image.
    """
    small = _fit_into_panel(picture)
    height, width = small.shape[:2]
    words = [(t, token) for t, token in enumerate(record.tokens) if token != EOS]
    rows = math.ceil((1 + len(words)) / _COLUMNS)
    columns = math.ceil((1 + len(words)) / rows)
    cell = max(width, _PANEL // 2)  # room for the words over narrow pictures
    pitch_x, pitch_y = cell + _GAP, _ABOVE + height + _BELOW + _GAP
    # One or two panels still leave room for the line under them.
    total_width = max(2 * _MARGIN + columns * pitch_x - _GAP, 2 * _PANEL)
    total_height = 2 * _MARGIN + rows * pitch_y - _GAP + _FOOT

    figure = Figure((total_width / _DPI, total_height / _DPI), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)

    def text(x: float | int, y: float | int, string: str, room: int, **style) -> None:
        drawn = figure.text(
            x,
            total_height - y,
            _printable(string),
            transform=IdentityTransform(),
            parse_math=False,
            family="DejaVu Sans",
            **style,
        )
        _shrink(drawn, room, canvas)

    def panel(k: int, image: UInt8[np.ndarray, "H W 3"], boxes: Sequence[Box]) -> tuple[float, int]:
        """Places panel k; returns its centre and the top of its picture, from the top left."""
        row, column = divmod(k, columns)
        left = _MARGIN + column * pitch_x + (cell - width) // 2
        top = _MARGIN + row * pitch_y + _ABOVE
        figure.figimage(image, left, total_height - top - height, origin="upper")
        for box in boxes:
            figure.add_artist(
                Rectangle(
                    (left + box.xmin * width, total_height - top - box.ymax * height),
                    (box.xmax - box.xmin) * width,
                    (box.ymax - box.ymin) * height,
                    fill=False,
                    edgecolor=_BOX,
                    linewidth=0.9,
                    transform=IdentityTransform(),
                )
            )
        return left + width / 2, top

    panel(0, small, record.boxes)
    for k, (t, word) in enumerate(words, start=1):
        image = _highlight(small, record, t)
        marks = [box for box in record.boxes if t in record.steps_of(box)]
        if record.context != "expected":
            marks.append(record.cell(int(record.location[t])))
        x, top = panel(k, image, marks)
        room = cell + _GAP - 4
        text(x, top - 7, word, room, fontsize=11, color=_INK, ha="center", va="baseline")
        beta = f"β {record.beta[t]:.2f}"
        text(x, top + height + 14, beta, room, fontsize=7.5, color=_FAINT, ha="center")
    finished = "" if EOS in record.tokens else "  ·  unfinished"
    image_id = record.image_id if len(record.image_id) <= 40 else record.image_id[:39] + "…"
    foot = f"{image_id}  ·  log p {record.log_prob:.2f}{finished}  ·  each map over its own maximum"
    room = total_width - 2 * _MARGIN
    text(_MARGIN, total_height - _MARGIN, foot, room, fontsize=7.5, color=_FAINT)

    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def alignment_picture(record: AttentionRecord) -> Image.Image:
    """Draws the alignment of a sentence and its translation (Bahdanau et al. 2015, Fig. 3).

    A column for each source token, a row for each emitted one; black is weight 0, white is 1. With
    self-attention a second matrix shows which of the steps before each step went on from.

    Args:
      record: of a sentence.
    """
    steps = len(record.tokens)
    matrices = [(record.alpha, record.source)]
    if record.self_alpha is not None:
        matrices.append((record.self_alpha, ("(start)", *record.tokens[:-1])))
    cell, label = 22, 110  # pixels of a cell, and of the room for words beside the matrix
    columns = [len(names) for _, names in matrices]
    width = sum(label + cell * max(n, 6) for n in columns) + _MARGIN
    height = 2 * _MARGIN + label + cell * steps + _FOOT
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    left = 0
    for matrix, names in matrices:
        left += label
        size = (cell * len(names) / width, cell * steps / height)
        axes = figure.add_axes((left / width, (_MARGIN + _FOOT) / height, *size))
        axes.imshow(matrix, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        style = {"fontsize": 8, "parse_math": False, "family": "DejaVu Sans"}
        axes.set_xticks(range(len(names)), map(_printable, names), rotation=90, **style)
        axes.set_yticks(range(steps), map(_printable, record.tokens), **style)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        left += cell * max(len(names), 6)
    finished = "" if EOS in record.tokens else "  ·  unfinished"
    foot = f"{record.image_id}  ·  log p {record.log_prob:.2f}{finished}"
    figure.text(_MARGIN / width, 6 / height, foot, fontsize=7.5, color=_FAINT, parse_math=False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _printable(string: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in string)


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
    strength = (smooth / smooth.max())[..., None]
    grey = picture @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
    dim = 24 + 0.4 * grey[..., None]
    light = 0.68 * picture + 0.32 * 255
    # Steps of 4 take a third off the file; on flat ground they show as faint contours.
    return (4 * np.round((dim + strength * (light - dim)) / 4)).clip(0, 255).astype(np.uint8)


def _interpolation(
    pixels: int, centres: Float[np.ndarray, " cells"]
) -> Float[np.ndarray, "pixels cells"]:
    """Weights of the cells at each pixel's middle: a Gaussian of their distance; rows sum to 1.

    Even maps stay even, and nothing overshoots, as it would with bicubic interpolation.
    """
    distances = ((np.arange(pixels) + 0.5) / pixels)[:, None] - centres
    distances *= len(centres)  # in cells
    weights = np.exp(-0.5 * (distances / 0.55) ** 2)  # 0.55 cells: smooth, and cells stay apart
    return weights / weights.sum(axis=1, keepdims=True)


def _shrink(text: Text, room: int, canvas: FigureCanvasAgg) -> None:
    """Makes a text smaller, down to 6 points, then shorter, so that it fits into `room` pixels."""
    width = text.get_window_extent(canvas.get_renderer()).width
    if width <= room:
        return
    size = max(6.0, text.get_fontsize() * room / width)
    width *= size / text.get_fontsize()
    text.set_fontsize(size)
    if width > room:
        string = text.get_text()
        text.set_text(string[: max(1, int(len(string) * room / width) - 2)] + "…")
