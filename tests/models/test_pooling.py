"""Packed rows: local features of all places, then pooled ones once."""

import jax.numpy as jnp
import numpy as np
import pytest

from show_attend_tell.models.encoders import Precomputed
from show_attend_tell.models.encoders.pooling import (
    only_local,
    pack,
    packed_size,
    pooled_features,
    unpack,
)

SECTIONS = (("near", 2), ("scene", 3), ("far", 1), ("scene", 1))
MIXED = np.array(
    [
        [[1, 2, 90, 91, 92, 3, 93], [4, 5, 90, 91, 92, 6, 93]],
        [[7, 8, 80, 81, 82, 9, 83], [10, 11, 80, 81, 82, 12, 83]],
        [[0, 0, 70, 71, 72, 0, 73], [0, 1, 70, 71, 72, 0, 73]],
    ],
    np.float16,
)


def test_a_row_by_hand():
    rows = pack(MIXED, SECTIONS, ("scene",))
    assert rows.dtype == np.float16 and rows.shape == (3, 10)
    np.testing.assert_array_equal(rows[0], [1, 2, 3, 4, 5, 6, 90, 91, 92, 93])
    np.testing.assert_array_equal(rows[1], [7, 8, 9, 10, 11, 12, 80, 81, 82, 83])
    assert pooled_features(SECTIONS, ("scene",)) == 4
    assert packed_size(SECTIONS, ("scene",), 2) == 10


@pytest.mark.parametrize("pooled", [("scene",), ("near", "far")])
def test_unpacked_rows_are_the_vectors(pooled):
    vectors = MIXED[:, :1].repeat(3, axis=1)
    first = 0
    for name, size in SECTIONS:
        if name not in pooled:  # a value of its own at each place
            vectors[..., first : first + size] += np.arange(0, 6, 2)[:, None]
        first += size
    rows = pack(vectors, SECTIONS, pooled)
    assert rows.shape == (3, packed_size(SECTIONS, pooled, 3))
    found = unpack(jnp.asarray(rows), SECTIONS, pooled, 3)
    assert found.dtype == jnp.float16
    np.testing.assert_array_equal(found, vectors)
    encoder = Precomputed(7, (1, 3), SECTIONS, pooled)
    annotations, mask, *_ = encoder.annotations(jnp.asarray(rows))
    assert mask is None and encoder.local_features == 7 - pooled_features(SECTIONS, pooled)
    np.testing.assert_array_equal(annotations, vectors)


def test_local_sections_keep_their_order():
    np.testing.assert_array_equal(only_local(MIXED, SECTIONS, ("scene",)), MIXED[..., [0, 1, 5]])
    np.testing.assert_array_equal(only_local(MIXED, (), ()), MIXED)  # one part only
