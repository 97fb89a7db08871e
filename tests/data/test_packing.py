import itertools

import numpy as np
import pytest

from show_attend_tell.data.packing import bucket_lengths, pack_captions

EOS = 2


def split(row):
    """The captions in a row."""
    ends = [i + 1 for i, word in enumerate(row) if word == EOS]
    return [row[start:end] for start, end in itertools.pairwise([0, *ends])]


def test_packing_makes_the_longest_row_as_short_as_possible():
    rng = np.random.default_rng(1)
    for rows, number in [(1, 3), (2, 5), (2, 5), (3, 5), (3, 5), (5, 5), (3, 2)]:
        lengths = rng.integers(2, 20, number).tolist()
        captions = [[4 + i] * (n - 1) + [EOS] for i, n in enumerate(lengths)]
        packed = pack_captions(captions, rows)
        assert len(packed) == rows
        assert [row for row in packed if row] == [row for row in packed if row[-1:] == [EOS]]
        found = [caption for row in packed for caption in split(row)]
        assert sorted(found) == captions
        best = min(
            max(np.bincount(ways, lengths, rows))
            for ways in itertools.product(range(rows), repeat=number)
        )
        assert max(map(len, packed)) == best
    # The usual rule, longest first into the emptiest row, gives 8 + 5 + 4 here.
    eights = [[4] * (n - 1) + [EOS] for n in (8, 7, 6, 5, 4)]
    assert sorted(map(len, pack_captions(eights, 2))) == [15, 15]


def test_many_captions_are_packed_nearly_evenly():
    rng = np.random.default_rng(2)
    captions = [[4] * (n - 1) + [EOS] for n in rng.integers(4, 30, 40)]
    lengths = [*map(len, pack_captions(captions, 7))]
    assert max(lengths) <= 1.03 * sum(lengths) / 7


@pytest.mark.parametrize("buckets", [1, 2, 3, 4, 20])
def test_bucket_lengths_pad_as_little_as_possible(buckets):
    rng = np.random.default_rng(buckets)
    lengths = rng.choice([3, 4, 7, 8, 9, 13, 20, 21], size=200, p=rng.dirichlet(np.ones(8)))
    distinct = np.unique(lengths)

    def positions(boundaries):
        return sum(boundaries[np.searchsorted(boundaries, length)] for length in lengths)

    best = min(
        positions([*shorter, distinct[-1]])
        for k in range(min(buckets, len(distinct)))
        for shorter in itertools.combinations(distinct[:-1], k)
    )
    found = bucket_lengths(lengths, buckets)
    assert len(found) <= buckets and found[-1] == distinct[-1]
    assert positions(found) == best


def test_as_many_captions_as_rows_get_a_row_each():
    captions = [[4, EOS], [5, 5, 5, EOS], [6, 6, EOS]]
    assert sorted(pack_captions(captions, 3)) == captions
    assert pack_captions(captions, 1) == [[4, EOS, 5, 5, 5, EOS, 6, 6, EOS]]
    assert sorted(pack_captions(captions, 5)) == [[], [], *captions]


def test_bucket_lengths_of_a_small_histogram():
    lengths = np.array([3, 3, 3, 5, 9])
    assert bucket_lengths(lengths, 1) == (9,)
    assert bucket_lengths(lengths, 2) == (3, 9)  # 9 + 18 positions; (5, 9) would have 20 + 9
    assert bucket_lengths(lengths, 3) == bucket_lengths(lengths, 9) == (3, 5, 9)
