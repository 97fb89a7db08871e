"""Batches of few distinct shapes, in an order fixed by the seed, at a position that is a number.

An image's captions share its inputs: they lie in R rows of that image, one or more a row, each
closed by `<eos>`. Images whose longest rows are about equally long share a batch (a bucket), so a
training step meets at most `buckets` shapes and never compiles again.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import grain
import numpy as np
from jaxtyping import Int, Shaped, UInt8

from show_attend_tell.data.images import read_image
from show_attend_tell.data.row_cache import Rows
from show_attend_tell.errors import UserError
from show_attend_tell.tokens import EOS, PAD

FLIPS = ("off", "swap", "skip")
_WAYS = 100  # of laying out captions that are gone on with


def pack_captions(captions: Sequence[Sequence[int]], rows: int) -> list[list[int]]:
    """Lays an image's captions into `rows` rows whose longest is as short as can be.

    Args:
        captions: word ids, each caption ended with `<eos>`.
        rows: R; as many as captions gives one a row, 1 gives them all one after the other.

    Returns:
        R rows of unequal length, without padding; rows are empty where captions are fewer. The same
        captions always give the same rows.
    """
    packed: list[list[int]] = [[] for _ in range(rows)]
    for caption, row in zip(captions, _rows_of(tuple(map(len, captions)), rows), strict=True):
        packed[row].extend(caption)
    return packed


@lru_cache(maxsize=65536)
def _rows_of(lengths: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The row of each caption.

    Tries every way to lay out the captions, the longest first. Of many captions (ten have hundreds
    of ways in 3 rows) only the most even ways so far are gone on with: then nearly the shortest.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    ways = {(0,) * rows: ()}  # from the rows' loads to a row for each caption so far
    for i in longest_first:
        longer: dict[tuple[int, ...], tuple[int, ...]] = {}
        for loads, chosen in ways.items():
            for row, load in enumerate(loads):
                if load not in loads[:row]:  # rows of equal load are alike
                    new = (*loads[:row], load + lengths[i], *loads[row + 1 :])
                    longer.setdefault(new, (*chosen, row))
        ways = {loads: longer[loads] for loads in sorted(longer, key=max)[:_WAYS]}
    chosen = ways[min(ways, key=max)]
    placed = dict(zip(longest_first, chosen, strict=True))
    return tuple(placed[i] for i in range(len(lengths)))


def bucket_lengths(lengths: Int[np.ndarray, " N"], buckets: int) -> tuple[int, ...]:
    """The at most `buckets` row lengths that pad the given ones least, ascending.

    Exact, by dynamic programming over the histogram: `cost[j]` is the least number of positions
    that hold all images of the j shortest distinct lengths, the j-th itself being a boundary.
    """
    distinct, counts = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # With one bucket every image is as long as the longest.
    cost = np.concatenate([[0], below[1:] * distinct])
    choices = []
    for _ in range(min(buckets, len(distinct)) - 1):
        # table[i, j]: the last bucket holds distinct lengths i .. j-1, the others all before.
        table = cost[:, None] + (below[None, :] - below[:, None]) * np.append(0, distinct)[None, :]
        table[np.tril_indices(len(cost), -1)] = sys.maxsize
        choices.append(np.argmin(table, axis=0))
        cost = np.min(table, axis=0)
    boundaries, j = {int(distinct[-1])}, len(distinct)
    for choice in reversed(choices):
        j = choice[j]
        if j == 0:
            break
        boundaries.add(int(distinct[j - 1]))
    return tuple(sorted(boundaries))


class BatchPlan:
    """Which images and captions make up batch n of training, for every n >= 0.

    An epoch visits every image exactly once in a fresh order drawn from (seed, epoch). Every epoch
    has the same number of batches of each shape: images that do not fill a batch of their bucket
    move up into the next longer one, and the last batch of the longest bucket is filled with
    repeated images whose rows are all `<pad>`.

    Attributes:
        lengths: row lengths T of the buckets, ascending: the distinct shapes (batch_size, R, T).
        batches_per_epoch: number of batches in which every image is seen once.
        tokens_per_epoch: words and `<eos>` in them.
        positions_per_epoch: positions of their token arrays, padding included.
        captions: number of captions.
        truncated: number of captions that were cut to `max_length` words.
    """

    def __init__(
        self,
        captions: Sequence[Sequence[Sequence[int]]],
        *,
        batch_size: int,
        rows: int,
        buckets: int,
        max_length: int,
        seed: int,
        input_lengths: Int[np.ndarray, " N"] | None = None,
    ):
        """Packs the captions and chooses the buckets.

        Args:
            captions: per image its captions as word ids, each ended with `<eos>`.
            batch_size: B, images a batch.
            rows: R, caption rows an image.
            buckets: the largest number of distinct row lengths.
            max_length: words a caption may have; a longer one keeps its first `max_length` words
                and `<eos>`, and is counted in `truncated`.
            seed: of the order of images and batches, >= 0.
            input_lengths: of the inputs, where these are sentences: a bucket's length is then that
                of inputs and rows alike.

        Raises:
            ValueError: for a size below 1, no images, an image without captions, or a caption that
                does not hold exactly one `<eos>`, at its end, and no `<pad>`.
        """
        if min(batch_size, rows, buckets, max_length) < 1:
            raise ValueError("batch_size, rows, buckets and max_length must be at least 1")
        if not captions:
            raise ValueError("there are no images to make batches of")
        self.captions = self.truncated = 0
        self._rows = []
        for i, of_image in enumerate(captions):
            if not of_image:
                raise ValueError(f"image {i} has no captions")
            eos, pad = EOS, PAD
            for caption in map(list, of_image):
                if caption[-1:] != [eos] or caption.count(eos) != 1 or pad in caption:
                    raise ValueError(f"a caption of image {i} is not words closed by one <eos>")
            cut = [[*c[: min(max_length, len(c) - 1)], eos] for c in of_image]
            self.captions += len(cut)
            self.truncated += sum(len(c) - 1 > max_length for c in of_image)
            packed = pack_captions(cut, rows)
            tokens = np.full((rows, max(map(len, packed))), pad, np.int32)
            for row, ids in zip(tokens, packed, strict=True):
                row[: len(ids)] = ids
            self._rows.append(tokens)
        row_lengths = np.array([tokens.shape[1] for tokens in self._rows])
        if input_lengths is not None:
            row_lengths = np.maximum(row_lengths, input_lengths)
        self.lengths = bucket_lengths(row_lengths, buckets)
        self._bucket = np.searchsorted(self.lengths, row_lengths)
        self._batch_size, self._num_rows, self._seed = batch_size, rows, seed
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

        plan = self._epoch(0)
        self.batches_per_epoch = len(plan)
        self.tokens_per_epoch = sum(int((t != PAD).sum()) for t in self._rows)
        self.positions_per_epoch = sum(batch_size * rows * length for length, _ in plan)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows)

    def _plan_epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """The epoch's batches: row length and the images' indices (fewer than B in one batch)."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._rows))
        plan, waiting = [], order[:0]
        for bucket, length in enumerate(self.lengths):
            # Images that moved up come first: they are the last to be left over again.
            images = np.concatenate([waiting, order[self._bucket[order] == bucket]])
            full = len(images) - len(images) % self._batch_size
            plan += [(length, part) for part in images[:full].reshape(-1, self._batch_size)]
            waiting = images[full:]
        if len(waiting):
            plan.append((self.lengths[-1], waiting))
        return [plan[i] for i in rng.permutation(len(plan))]

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `index` of training, counted from 0 over all epochs.

        Returns:
            images: (B,) int64 indices of the images. Where the epoch's last batch is not full, its
                images are repeated to fill it (real inputs keep batch statistics sound), and
                their tokens are all `<pad>`: a loss must give such rows no weight.
            tokens: (B, R, T) int32, T one of `lengths`.
        """
        epoch, position = divmod(index, self.batches_per_epoch)
        length, images = self._epoch(epoch)[position]
        tokens = np.full((self._batch_size, self._num_rows, length), PAD, np.int32)
        for row, image in zip(tokens, images, strict=False):
            row[:, : self._rows[image].shape[1]] = self._rows[image]
        return np.resize(images, self._batch_size), tokens


@dataclass(frozen=True)
class Augmentation:
    """Random views of images, others in every epoch; the same for the same seed and batch.

    Attributes:
        size: S, the side of the images that come out.
        crop: least side of the part that is seen, as a share of the image's, in (0, 1]; its height
            and its width are drawn apart.
        flip: "off"; "swap" exchanges left and right in half of the images and the words `left` and
            `right` in their captions; "skip" leaves images alone whose captions have these words.
        sides: the ids of `left` and `right`; where only one of them is a word, "swap" is "skip".
        seed: >= 0.
    """

    size: int
    crop: float
    flip: str
    sides: tuple[int, ...]
    seed: int

    def __post_init__(self):
        if not 0 < self.crop <= 1:
            raise UserError(f"config.data.random_crop is {self.crop}: it must be in (0, 1]")
        if self.flip not in FLIPS:
            choices = ", ".join(map(repr, FLIPS))
            raise UserError(f"config.data.random_flip is {self.flip!r}: choose one of {choices}")

    @property
    def stored_size(self) -> int:
        """The side of images whose smallest crop has all the pixels that come out."""
        return math.ceil(self.size / self.crop)

    def apply(
        self,
        images: UInt8[np.ndarray, "b W W 3"],
        tokens: Int[np.ndarray, "B R T"],
        index: int,
        share: slice,
    ) -> dict[str, np.ndarray]:
        """The `share` of batch number `index`, seen anew: images (b, S, S, 3) and their tokens."""
        draws = np.random.default_rng([self.seed, index]).uniform(size=(len(tokens), 5))[share]
        sizes = 1 - (1 - self.crop) * draws[:, :2]
        corners = draws[:, 2:4] * (1 - sizes)
        windows = np.concatenate([corners, corners + sizes], axis=1).tolist()
        tokens = tokens[share].copy()
        flipped = (draws[:, 4] < 0.5) & (self.flip != "off")
        if self.flip == "skip" or len(self.sides) < 2:
            flipped &= ~np.isin(tokens, self.sides).any(axis=(1, 2))
        seen = np.stack(
            [read_image(i, self.size, tuple(w)) for i, w in zip(images, windows, strict=True)]
        )
        seen[flipped] = seen[flipped, :, ::-1]
        of_flipped = tokens[flipped]
        for side, other in zip(self.sides, self.sides[::-1], strict=True):
            of_flipped[tokens[flipped] == side] = other
        tokens[flipped] = of_flipped
        return {"inputs": seen, "tokens": tokens}


def train_batches(
    inputs: Shaped[np.ndarray, "N ..."] | Rows,
    plan: BatchPlan,
    *,
    share: slice = slice(None),
    prefetch: int = 4,
    augmentation: Augmentation | None = None,
) -> grain.DatasetIterator:
    """Training batches without end.

    Args:
        inputs: annotation vectors (N, L, D) float16, images (N, S, S, 3) uint8 or source words
            (N, S) int32, one an image of the plan, in its order; a memory map is read a batch at a
            time, words are cut to the batch's length.
        plan: which images and captions go together.
        share: the positions of a batch's images that are read, where other processes read the rest.
        prefetch: batches read ahead by threads; 0 reads in the caller's thread.
        augmentation: of images, which may then be larger than what comes out.

    Returns:
        Iterator over {"inputs": (B, ...), "tokens": (B, R, T) int32}. `get_state()` is a small
        JSON-able dict, the position behind the batch handed out last; after `set_state()` of it
        another iterator over the same plan continues with the identical batches.

    Raises:
        ValueError: where inputs and plan differ in their number of images.
    """
    if len(inputs) != len(plan):
        raise ValueError(f"{len(inputs)} inputs, but captions of {len(plan)} images")

    words = inputs.ndim == 2  # of sentences, which are no longer than their bucket

    def read(index: int) -> dict[str, np.ndarray]:
        images, tokens = plan.batch(index)
        read = inputs[images[share]]
        if words:
            read = read[:, : tokens.shape[-1]]
        if augmentation is not None:
            return augmentation.apply(read, tokens, index, share)
        return {"inputs": read, "tokens": tokens[share]}

    options = grain.ReadOptions(num_threads=min(2, prefetch), prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.range(sys.maxsize).map(read).to_iter_dataset(options))


def source_ids(
    sentences: Sequence[str], vocabulary: Any, max_length: int
) -> tuple[Int[np.ndarray, "N S"], int]:
    """The ids of source sentences, each closed by <eos>, then <pad>; and how many were cut.

    Args:
        sentences: texts.
        vocabulary: of the source, with `encode_text`.
        max_length: tokens a sentence may have; a longer one keeps its first ones and is counted.
    """
    ids = [vocabulary.encode_text(sentence) for sentence in sentences]
    cut = sum(len(words) > max_length for words in ids)
    ids = [[*words[:max_length], EOS] for words in ids]
    array = np.full((len(ids), max(map(len, ids))), PAD, np.int32)
    for row, words in zip(array, ids, strict=True):
        row[: len(words)] = words
    return array, cut


def eval_batches(
    inputs: Shaped[np.ndarray, "N ..."] | Rows, batch_size: int
) -> Iterator[tuple[Shaped[np.ndarray, "B ..."], int]]:
    """All inputs once, in order, in batches of one shape.

    Yields:
        (B, ...) inputs and how many of them count; in the last batch the rest repeat its inputs.
    """
    for start in range(0, len(inputs), batch_size):
        indices = np.arange(start, min(start + batch_size, len(inputs)))
        yield inputs[np.resize(indices, batch_size)], len(indices)
