"""A caption, and where its words looked: the record, and its file.

A word looks at the cells of a grid over an image, or at the tokens of a source sentence. This
module needs neither a model nor an accelerator.

Geometry. `images.read_image` squashes the whole picture to S x S, so coordinates that run from 0 to
1 down and across mean the same in the original and in the squashed image. Location i of a grid
(h, w) is row r = i // w and column c = i % w. The encoder's view there is centred on
(row_centres[r], column_centres[c]). The centres need not lie in the middles of h x w equal cells.
They are measured where the encoder's view is known (`models.encoders.measured_centres`), else
computed as the middles of receptive fields, which can be half a cell off. A location's cell is the
area that is nearer to its centre than to any other; the cells fill the picture.

T emitted tokens, L = h * w locations.
"""

import dataclasses
import math
import urllib.parse
import zipfile
import zlib
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from show_attend_tell.data.examples import Box
from show_attend_tell.data.vocabulary import join
from show_attend_tell.errors import UserError
from show_attend_tell.files import replacing

EOS = "<eos>"
MEASURED, COMPUTED = "measured", "computed"


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionRecord:
    """One caption or translation with the attention of the pass that produced it.

    Attributes:
      image_id: id of the image or the sentence.
      tokens: the T emitted tokens; `<eos>` comes last if the caption finished.
      alpha: attention weights; every row is non-negative and sums to 1, or to less if the record is
        not `normalised`.
      beta: the gate of each step, in [0, 1].
      location: i in 0 .. L-1 for each step: where hard attention looked, else alpha's maximum.
      context: what the steps read: "expected", "argmax" or "sample" (see `captioning.Decoding`).
      row_centres, column_centres: centres of the grid's rows and columns (see the module), in
        [0, 1], ascending. Locations run row by row.
      original_size: (height, width) of the upright original picture, in pixels.
      image_side: S, the side in pixels of the square that the encoder saw.
      score: what the search ranked the caption by.
      log_prob: log p of the tokens, in nats.
      boxes: the objects that the true caption names, where they are known.
      source: the L tokens of the source sentence; empty for an image. A sentence is a grid of one
        row; its `original_size` and `image_side` mean nothing.
      self_alpha: weights of self-attention, if there is any: row t says how much step t took from
        the state before each step s <= t, and sums to 1.
      normalised: False if a Gaussian window lowers the weights.
      centres: "measured" or "computed" (see the module); means nothing for a sentence.

    Raises:
      ValueError: the parts do not fit each other, or a number is out of range.
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
    centres: str = COMPUTED

    @property
    def text(self) -> str:
        """The words, without `<eos>`."""
        return join(token for token in self.tokens if token != EOS)

    @property
    def finished(self) -> bool:
        """Whether the caption ended by itself, and not because it reached the longest length."""
        return EOS in self.tokens

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return len(self.row_centres), len(self.column_centres)

    @property
    def is_sentence(self) -> bool:
        """Whether the words looked at a source sentence, not at an image."""
        return bool(self.source)

    def __post_init__(self):
        self._check_shapes()
        self._check_distributions()
        for centres in (self.row_centres, self.column_centres):
            inside = np.all((centres >= 0) & (centres <= 1))
            if not (inside and np.all(np.diff(centres) > 0)):
                raise ValueError("the locations' centres do not ascend from 0 to 1")
        if self.centres not in (MEASURED, COMPUTED):
            raise ValueError(f"centres are {self.centres!r}")
        for box in self.boxes:
            inside = 0 <= box.ymin <= box.ymax <= 1 and 0 <= box.xmin <= box.xmax <= 1
            if not inside or box.word_index < -1:
                raise ValueError(f"the box of {box.label!r} is outside the picture")

    def _check_shapes(self) -> None:
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
        if self.is_sentence and self.grid != (1, len(self.source)):
            raise ValueError(f"{len(self.source)} source tokens on a grid {self.grid}")
        if self.self_alpha is not None and self.self_alpha.shape != (steps, steps):
            raise ValueError(f"self_alpha {self.self_alpha.shape} does not fit {steps} tokens")

    def _check_distributions(self) -> None:
        # Half-precision weights sum to 1 within a hundredth; a null place may have all of them.
        # "not all" also catches NaN.
        sums = self.alpha.sum(axis=1, dtype=np.float64)
        least = 0.99 if self.normalised else 0.0
        if not (np.all(self.alpha >= 0) and np.all((sums >= least) & (sums < 1.01))):
            raise ValueError("a row of alpha is not a distribution")
        if self.self_alpha is not None:
            sums = self.self_alpha.sum(axis=1)
            if not (np.all(self.self_alpha >= 0) and np.all(np.abs(sums - 1) < 0.01)):
                raise ValueError("a row of self_alpha is not a distribution")
        if not np.all((self.beta >= 0) & (self.beta <= 1)):
            raise ValueError("beta is outside [0, 1]")

    def cell(self, location: int) -> Box:
        """The rectangle of the picture that is nearer to this location's centre than to others."""
        row, column = divmod(location, self.grid[1])
        down, across = cell_edges(self.row_centres), cell_edges(self.column_centres)
        edges = (down[row], across[column], down[row + 1], across[column + 1])
        return Box("", 0, *map(float, edges))


def cell_edges(centres: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n+1"]:
    """Where the cells of these centres begin and end, from 0 to 1."""
    return np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, [1.0]])


def safe_name(image_id: str) -> str:
    """A file name, without suffix, that stands for this image id and for no other.

    Letters, digits and "_.-~" stay. Everything else, and a leading dot, is percent-encoded, so no
    name leaves its folder or is hidden. Names over 120 characters end in the id's SHA-256.
    """
    name = urllib.parse.quote(image_id, safe="", errors="surrogatepass")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > 120:  # the shortened name is longer than 120, so it stands for no other id
        name = f"{name[:80]}-{sha256(image_id.encode(errors='surrogatepass')).hexdigest()}"
    return name or "%"


def save_attention(path: Path, record: AttentionRecord) -> None:
    """Writes a record as a compressed `.npz` without pickles, its fields under their own names.

    `grid` (h, w) and `original_size` have shape (2,). N boxes become `box_labels` (N,),
    `box_word_indices` (N,) and `boxes` (N, 4), with ymin, xmin, ymax, xmax. alpha and beta are
    float32.
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
            # (0, 0) stands for None, since a caption has at least one token.
            self_alpha=np.zeros((0, 0), np.float32)
            if record.self_alpha is None
            else record.self_alpha.astype(np.float32),
            normalised=np.array(int(record.normalised), np.int64),
            centres=np.array(record.centres, np.str_),
        )


# The kind of dtype and the number of axes of each array in a file.
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
    "centres": ("U", 0),
}
# Arrays that files of earlier versions lack.
_DEFAULTS: dict[str, np.ndarray] = {
    "source": np.array([], np.str_),
    "self_alpha": np.zeros((0, 0), np.float32),
    "normalised": np.array(1),
    "centres": np.array(COMPUTED),
}


def load_attention(path: Path) -> AttentionRecord:
    """Reads what `save_attention` wrote.

    Raises:
      UserError: the file is missing, damaged, or not an attention dump.
    """
    try:
        return _record(_read_arrays(path))
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


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; raises KeyError or ValueError if one is missing or odd."""
    # np.load of a path would leave the file open if the zip is damaged.
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("not a whole zip file")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            content = _DEFAULTS | {n: arrays[n] for n in _ARRAYS if n in arrays}
    for name in _ARRAYS:
        content[name]  # raises KeyError if it is missing
    for name, (kind, axes) in _ARRAYS.items():
        if content[name].dtype.kind != kind or content[name].ndim != axes:
            raise ValueError(f"{name} is {content[name].dtype}{content[name].shape}")
    return content


def _record(content: dict[str, np.ndarray]) -> AttentionRecord:
    height, width = content["original_size"].tolist()
    boxes = zip(
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
        boxes=tuple(Box(label, index, *edges) for label, index, edges in boxes),
        source=tuple(content["source"].tolist()),
        self_alpha=content["self_alpha"] if content["self_alpha"].size else None,
        normalised=bool(content["normalised"].item()),
        centres=content["centres"].item(),
    )
