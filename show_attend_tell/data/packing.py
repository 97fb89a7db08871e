"""Captions packed into rows, and the row lengths that leave least padding.

Symbols: R rows of an image; N images.
"""

import sys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int

# Partial packings that the search keeps after each caption.
_KEPT = 100


def pack_captions(captions: Sequence[Sequence[int]], rows: int) -> list[list[int]]:
    """Packs an image's captions into rows whose longest is as short as possible.

    Args:
      captions: word ids, each caption closed by `<eos>`.
      rows: R. With as many rows as captions, each has a row of its own; with 1, they follow one
        another in it.

    Returns:
      R rows of unequal length, without padding; some are empty where captions are fewer. The same
      captions always give the same rows.
    """
    packed: list[list[int]] = [[] for _ in range(rows)]
    for caption, row in zip(captions, _assign_rows(tuple(map(len, captions)), rows), strict=True):
        packed[row].extend(caption)
    return packed


@lru_cache(maxsize=65536)
def _assign_rows(lengths: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The row of each caption.

    Tries every packing, the longest caption first. Many captions have too many (ten in 3 rows have
    hundreds), so after each caption the search keeps the 100 most balanced partial packings. The
    result is then nearly the shortest.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    # From the lengths of all rows to the rows of the captions so far.
    packings: dict[tuple[int, ...], tuple[int, ...]] = {(0,) * rows: ()}
    for i in longest_first:
        longer: dict[tuple[int, ...], tuple[int, ...]] = {}
        for loads, chosen in packings.items():
            for row, load in enumerate(loads):
                if load not in loads[:row]:  # equally long rows are interchangeable
                    new = (*loads[:row], load + lengths[i], *loads[row + 1 :])
                    longer.setdefault(new, (*chosen, row))
        packings = {loads: longer[loads] for loads in sorted(longer, key=max)[:_KEPT]}
    chosen = packings[min(packings, key=max)]
    row_of = dict(zip(longest_first, chosen, strict=True))
    return tuple(row_of[i] for i in range(len(lengths)))


def bucket_lengths(lengths: Int[np.ndarray, " N"], buckets: int) -> tuple[int, ...]:
    """The at most `buckets` row lengths that pad the given ones least, ascending.

    Exact, by dynamic programming over the histogram: `cost[j]` is the least number of positions
    that hold all images of the j shortest distinct lengths, where the j-th is itself a boundary.
    """
    distinct, counts = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # With one bucket every image is as long as the longest.
    cost = np.concatenate([[0], below[1:] * distinct])
    choices = []
    for _ in range(min(buckets, len(distinct)) - 1):
        # table[i, j]: the last bucket holds distinct lengths i .. j-1, earlier buckets the others.
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
