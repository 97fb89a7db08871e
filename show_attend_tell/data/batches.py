"""Batches of few distinct shapes, in an order fixed by the seed, at a position that is a number.

The captions of an image share its inputs. They lie in the image's R rows, one or more to a row,
each closed by `<eos>`. Images whose longest rows are about equally long share a batch (a bucket),
so a training step meets at most `buckets` shapes and compiles no more programs.

Symbols: N images (or sentences); B images of a batch, b of them read by this process; R rows;
T row length; L, D as in `models.decoder`; S side of an image; W side of a stored image; K maps.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float16, Int, Int32, Int64, Shaped, UInt8

from show_attend_tell.data.images import read_image
from show_attend_tell.data.packing import bucket_lengths, pack_captions
from show_attend_tell.data.row_cache import Rows
from show_attend_tell.data.vocabulary import AnyVocabulary
from show_attend_tell.tokens import EOS, IDS_BASE, PAD

# Annotation vectors (N, L, D), images (N, S, S, 3) or source words (N, S).
Inputs = Shaped[np.ndarray, "_ ..."] | Rows


@runtime_checkable
class Batches(Protocol):
    """An endless iterator over training batches, at a position that can be kept and restored."""

    def __iter__(self) -> "Batches": ...

    def __next__(self) -> dict[str, Any]: ...

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch handed out, as JSON can hold it."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to a position."""
        ...


class BatchPlan:
    """Says which images and captions make up batch n of training, for every n >= 0.

    An epoch visits every image exactly once, in a fresh order drawn from (seed, epoch). Every epoch
    has the same number of batches of each shape: images that do not fill a batch of their bucket
    move up into the next longer one. The last batch of the longest bucket is filled with repeated
    images whose rows are all `<pad>`.

    Attributes:
      lengths: row lengths T of the buckets, ascending: the distinct shapes (B, R, T).
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
        maps: Sequence[Sequence[Sequence[int]]] | None = None,
        languages: Sequence[Sequence[int]] | None = None,
    ):
        """Packs the captions and chooses the buckets.

        Args:
          captions: for each image its captions as word ids, each closed by `<eos>`.
          batch_size: B, images of a batch.
          rows: R, rows that an image's captions are packed into.
          buckets: largest number of distinct row lengths.
          max_length: words of a caption; a longer one keeps its first `max_length` words and
            `<eos>`, and is counted in `truncated`.
          seed: of the order of images and batches, >= 0.
          input_lengths: tokens of each input sentence. A bucket's length then holds its inputs,
            too.
          maps: for each token of `captions` the number of a map, 0 for none; see `maps_of`.
          languages: for each caption the number of its language. Each of the n languages then has
            `rows` rows of its own, which take turns: row r of n R is of language r % n.

        Raises:
          ValueError: a size is below 1; there are no images; `_check_captions` rejects one; or maps
            and captions differ in length.
        """
        if min(batch_size, rows, buckets, max_length) < 1:
            raise ValueError("batch_size, rows, buckets and max_length must be at least 1")
        if not captions:
            raise ValueError("there are no images to make batches of")
        count = 1 + max((n for of_one in languages or () for n in of_one), default=0)
        self.captions = self.truncated = self.tokens_per_epoch = 0
        self._rows: list[np.ndarray] = []  # (R, T) of each image, T its longest row
        self._maps: list[np.ndarray] = []  # likewise, if any
        for i, of_image in enumerate(captions):
            _check_captions(i, of_image)
            cut = [closed(c[:-1], max_length, EOS) for c in of_image]
            self.captions += len(cut)
            self.tokens_per_epoch += sum(map(len, cut))
            self.truncated += sum(len(c) - 1 > max_length for c in of_image)
            numbers = [0] * len(cut) if languages is None else languages[i]
            self._rows.append(padded(_packed(cut, numbers, count, rows)))
            if maps is not None:
                if list(map(len, maps[i])) != list(map(len, of_image)):
                    raise ValueError(f"image {i} has maps for other tokens than its captions'")
                # Packing depends on lengths only: each number comes to lie where its token does.
                of_tokens = [closed(m[:-1], max_length, m[-1]) for m in maps[i]]
                self._maps.append(padded(_packed(of_tokens, numbers, count, rows)))
        row_lengths = np.array([tokens.shape[1] for tokens in self._rows])
        if input_lengths is not None:
            row_lengths = np.maximum(row_lengths, input_lengths)
        self.lengths = bucket_lengths(row_lengths, buckets)
        self._bucket = np.searchsorted(self.lengths, row_lengths)
        self._batch_size, self._num_rows, self._seed = batch_size, rows * count, seed
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

        plan = self._epoch(0)
        self.batches_per_epoch = len(plan)
        self.positions_per_epoch = sum(batch_size * self._num_rows * length for length, _ in plan)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows)

    def _plan_epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """Row length and image indices of the epoch's batches; one may have fewer than B."""
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._rows))
        plan, waiting = [], order[:0]
        for bucket, length in enumerate(self.lengths):
            # Images that moved up come first, so that they are the last to move up again.
            images = np.concatenate([waiting, order[self._bucket[order] == bucket]])
            full = len(images) - len(images) % self._batch_size
            plan += [(length, part) for part in images[:full].reshape(-1, self._batch_size)]
            waiting = images[full:]
        if len(waiting):
            plan.append((self.lengths[-1], waiting))
        return [plan[i] for i in rng.permutation(len(plan))]

    def batch(self, index: int) -> tuple[Int64[np.ndarray, " B"], Int32[np.ndarray, "B R T"]]:
        """Batch `index` of training, counted from 0 over all epochs.

        Returns:
          images: their indices. Where the epoch's last batch is not full, its images are repeated
            to fill it: real inputs keep batch statistics sound. Tokens of repeated images are all
            `<pad>`; a loss must give such rows no weight.
          tokens: of the images, T one of `lengths`.
        """
        length, images = self._members(index)
        return np.resize(images, self._batch_size), self._filled(self._rows, length, images)

    def maps_of(self, index: int) -> Int32[np.ndarray, "B R T"]:
        """The numbers of the maps of batch `index`, each at its token; 0 where there is none."""
        return self._filled(self._maps, *self._members(index))

    def _members(self, index: int) -> tuple[int, np.ndarray]:
        epoch, position = divmod(index, self.batches_per_epoch)
        return self._epoch(epoch)[position]

    def _filled(
        self, rows: Sequence[Int32[np.ndarray, "R _"]], length: int, images: np.ndarray
    ) -> Int32[np.ndarray, "B R T"]:
        """The rows of images as an array of one shape; what is left of it is padding."""
        filled = np.full((self._batch_size, self._num_rows, length), PAD, np.int32)
        for row, image in zip(filled, images, strict=False):
            row[:, : rows[image].shape[1]] = rows[image]
        return filled


def _check_captions(image: int, captions: Sequence[Sequence[int]]) -> None:
    """Checks an image's captions.

    Raises:
      ValueError: there are none; or one does not hold exactly one `<eos>`, at its end, and no
        `<pad>`.
    """
    if not captions:
        raise ValueError(f"image {image} has no captions")
    for caption in map(list, captions):
        if caption[-1:] != [EOS] or caption.count(EOS) != 1 or PAD in caption:
            raise ValueError(f"a caption of image {image} is not words closed by one <eos>")


def _packed(
    captions: Sequence[Sequence[int]], languages: Sequence[int], count: int, rows: int
) -> list[list[int]]:
    """The rows of an image's captions, those of `count` languages taking turns."""
    of_each = [
        pack_captions([c for c, n in zip(captions, languages, strict=True) if n == k], rows)
        for k in range(count)
    ]
    return [row for turn in zip(*of_each, strict=True) for row in turn]


def closed(words: Sequence[int], max_length: int, end: int) -> list[int]:
    """The first `max_length` words, and what ends them."""
    return [*words[:max_length], end]


def padded(rows: Sequence[Sequence[int]]) -> Int32[np.ndarray, "R T"]:
    """Rows of tokens, padded with `<pad>` to the longest."""
    tokens = np.full((len(rows), max(map(len, rows))), PAD, np.int32)
    for into, row in zip(tokens, rows, strict=True):
        into[: len(row)] = row
    return tokens


@dataclass(frozen=True)
class Augmentation:
    """Random views of images, which change from epoch to epoch and are fixed by seed and batch.

    Attributes:
      size: S, side of the views.
      crop: smallest side of a view, as a share of the image's, in (0, 1]; height and width are
        drawn separately (`settings.ImageData.random_crop`).
      flip: whether half of the images are mirrored (`settings.ImageData.random_flip`). "off": no;
        "swap": yes, with the words `left` and `right` exchanged in their captions; "skip": only
        images whose captions have neither word.
      sides: ids of the words `left` and `right`. Where the vocabulary has only one of them, "swap"
        acts like "skip".
      seed: >= 0.
    """

    size: int
    crop: float
    flip: str
    sides: tuple[int, ...]
    seed: int

    @property
    def stored_size(self) -> int:
        """W, the side of stored images whose smallest crop still has S pixels."""
        return math.ceil(self.size / self.crop)

    def apply(
        self,
        images: UInt8[np.ndarray, "b W W 3"],
        tokens: Int[np.ndarray, "B R T"],
        index: int,
        share: slice,
    ) -> dict[str, np.ndarray]:
        """Makes the views of batch number `index`.

        Args:
          images: those that this process reads.
          tokens: of the whole batch.
          index: number of the batch.
          share: the positions in the batch that this process reads.

        Returns:
          {"inputs": (b, S, S, 3) uint8, "tokens": (b, R, T)}.
        """
        # Drawn for the whole batch: the views do not depend on the number of processes.
        draws = np.random.default_rng([self.seed, index]).uniform(size=(len(tokens), 5))[share]
        sizes = 1 - (1 - self.crop) * draws[:, :2]
        corners = draws[:, 2:4] * (1 - sizes)
        windows = np.concatenate([corners, corners + sizes], axis=1).tolist()
        tokens = tokens[share].copy()
        flipped = (draws[:, 4] < 0.5) & (self.flip != "off")
        if self.flip == "skip" or len(self.sides) < 2:
            flipped &= ~np.isin(tokens, self.sides).any(axis=(1, 2))
        views = np.stack(
            [read_image(i, self.size, tuple(w)) for i, w in zip(images, windows, strict=True)]
        )
        views[flipped] = views[flipped, :, ::-1]
        of_flipped = tokens[flipped]
        for side, other in zip(self.sides, self.sides[::-1], strict=True):
            of_flipped[tokens[flipped] == side] = other
        tokens[flipped] = of_flipped
        return {"inputs": views, "tokens": tokens}


def train_batches(
    inputs: Inputs,
    plan: BatchPlan,
    *,
    share: slice = slice(None),
    prefetch: int = 4,
    augmentation: Augmentation | None = None,
    cut_to_bucket: bool = False,
    maps: Float16[np.ndarray, "K L"] | None = None,
) -> Batches:
    """An endless iterator over training batches.

    Args:
      inputs: annotation vectors (N, L, D) or their packed rows (N, n) float16, images (N, S, S, 3)
        uint8, or source words (N, S) int32, in the plan's order. A memory map is read a batch at a
        time.
      plan: which images and captions go together.
      share: positions in a batch that this process reads; other processes read the rest.
      prefetch: batches that threads read ahead; 0 reads in the caller's thread.
      augmentation: of images, which may be stored larger than their views.
      cut_to_bucket: whether to cut the inputs' second axis to the batch's row length T. For source
        words, which are no longer than their bucket (see `BatchPlan`, `input_lengths`).
      maps: those that the plan's numbers mean; map 0 is all 0. An augmentation leaves
        them as they are.

    Returns:
      Iterator over {"inputs": (b, ...), "tokens": (b, R, T) int32} and, with maps, "maps"
      (b, R, T, L) float16: the map of each token. `get_state()` is a small
      JSON-able dict: the position after the last batch handed out. After `set_state()` with it,
      another iterator over the same plan continues with identical batches.

    Raises:
      ValueError: inputs and plan differ in their number of images.
    """
    import grain  # takes as long as JAX to import, and only training needs it

    if len(inputs) != len(plan):
        raise ValueError(f"{len(inputs)} inputs, but captions of {len(plan)} images")

    def read(index: int) -> dict[str, np.ndarray]:
        images, tokens = plan.batch(index)
        found = inputs[images[share]]
        if cut_to_bucket:
            found = found[:, : tokens.shape[-1]]
        batch = {"inputs": found, "tokens": tokens[share]}
        if augmentation is not None:
            batch = augmentation.apply(found, tokens, index, share)
        if maps is not None:
            batch["maps"] = maps[plan.maps_of(index)[share]]
        return batch

    options = grain.ReadOptions(num_threads=min(2, prefetch), prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.range(sys.maxsize).map(read).to_iter_dataset(options))


def eval_batches(
    inputs: Inputs, batch_size: int
) -> Iterator[tuple[Shaped[np.ndarray, "B ..."], int]]:
    """All inputs once, in order, in batches of one shape.

    Yields:
      Inputs (B, ...), and how many of them count; the last batch repeats inputs to fill the rest.
    """
    for start in range(0, len(inputs), batch_size):
        indices = np.arange(start, min(start + batch_size, len(inputs)))
        yield inputs[np.resize(indices, batch_size)], len(indices)


def source_ids(
    sentences: Sequence[str], vocabulary: AnyVocabulary, max_length: int
) -> tuple[Int32[np.ndarray, "N S"], int]:
    """Encodes source sentences.

    Args:
      sentences: texts.
      vocabulary: of the source language.
      max_length: tokens of a sentence, >= 1; a longer one keeps its first `max_length` tokens.

    Returns:
      The ids, each sentence closed by `<eos>`, then `<pad>`; and how many sentences were cut.
    """
    ids = [vocabulary.encode_text(sentence) for sentence in sentences]
    cut = sum(len(words) > max_length for words in ids)
    return padded([closed(words, max_length, EOS) for words in ids]), cut


def pack_words(ids: Int32[np.ndarray, "N S"]) -> Float16[np.ndarray, "N S2"]:
    """Ids of words below 2^20 as two float16 numbers each: all high digits, then all low ones."""
    return np.concatenate(np.divmod(ids, IDS_BASE), axis=1).astype(np.float16)
