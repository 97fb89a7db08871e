"""Measured centres: encoders made up to look at known points are found out."""

import jax.numpy as jnp
import numpy as np
import pytest
from natural import pictures_like_photographs

from show_attend_tell.models.encoders.base import ImageEncoder
from show_attend_tell.models.encoders.measured_centres import (
    COLUMNS,
    MOST,
    ROWS,
    NotMeasurable,
    measure_offset,
)

SIZE, CELL, SIDE = 72, 8, 9


def blur(offset, cell=CELL, side=SIDE, size=SIZE, width=0.4):
    """Weights (side, size): Gaussians on a grid `offset` cells to the right of the regular one."""
    centres = size / 2 + cell * (np.arange(side) - (side - 1) / 2 + offset)
    distances = np.arange(size) + 0.5 - centres[:, None]
    weights = np.exp(-0.5 * (distances / (width * cell)) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


def looking(down, across, position=0.0, **changes):
    """An encoder that averages colours, and their products, around known points."""
    rows, columns = blur(down, **changes), blur(across, **changes)
    code = position * np.random.default_rng(3).normal(size=(len(rows) ** 2, 6))

    def encode(images):
        x = images.astype(np.float64) / 255 - 0.5
        x = np.concatenate([x, 4 * x * x[..., [1, 2, 0]]], -1)
        seen = np.einsum("hy,wx,nyxc->nhwc", rows, columns, x)
        return seen.reshape(len(images), -1, 6) + code

    return encode


@pytest.fixture(scope="module")
def pictures():
    return pictures_like_photographs(8, SIZE + CELL)


@pytest.mark.parametrize("offset", [-0.484, -0.3, -0.12, 0.0, 0.05, 0.25, 0.484])
def test_a_known_offset_is_found(pictures, offset):
    # The other axis looks elsewhere, so that neither can be taken for the other.
    found = measure_offset(looking(0.2, offset), pictures, SIZE, CELL, COLUMNS)
    assert found.cells == pytest.approx(offset, abs=0.03)
    found = measure_offset(looking(offset, -0.2), pictures, SIZE, CELL, ROWS)
    assert found.cells == pytest.approx(offset, abs=0.03)
    assert found.correlation > 0.9


def test_a_moved_grid_is_found_to_be_moved(pictures):
    # Known translations: a window that begins two pixels further right looks two pixels less far.
    encode = looking(0.0, 0.1)
    cells = [
        measure_offset(
            lambda images, move=move: encode(np.roll(images, move, axis=2)), pictures, SIZE, CELL
        ).cells
        for move in (-2, 0, 2)
    ]
    np.testing.assert_allclose(cells, [0.1 + 2 / CELL, 0.1, 0.1 - 2 / CELL], atol=0.03)


def test_what_places_say_of_themselves_does_not_count(pictures):
    found = measure_offset(looking(0.0, 0.3, position=2.0), pictures, SIZE, CELL)
    assert found.cells == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("cell, side, size", [(16, 6, 96), (5, 7, 33)])
def test_other_grids(cell, side, size):
    # 7 cells of 5 pixels are wider than 33 pixels: as with SAME padding of odd sides.
    pictures = pictures_like_photographs(8, size + cell + 3)
    encode = looking(0.0, 0.2, cell=cell, side=side, size=size)
    assert measure_offset(encode, pictures, size, cell).cells == pytest.approx(0.2, abs=0.04)


def test_what_cannot_be_measured_is_refused(pictures):
    def refuses(message, encode, given=pictures):
        with pytest.raises(NotMeasurable, match=message):
            measure_offset(encode, given, SIZE, CELL)

    good = looking(0.0, 0.1)
    refuses("3 pictures are too few", good, pictures[:3])
    refuses("4x4 places is too small", looking(0.0, 0.0, side=4, cell=18))
    refuses("0.00 only", lambda images: np.ones((len(images), SIDE**2, 2)))  # flat
    refuses("not finite", lambda images: good(images) + np.inf)
    refuses(f"more than {MOST} cells", looking(0.0, 0.9))
    noise = np.random.default_rng(0)
    refuses("correlate by 0.0.", lambda images: noise.normal(size=(len(images), SIDE**2, 50)))
    with pytest.raises(ValueError, match="80 are needed"):
        measure_offset(good, pictures[:, 1:, 1:], SIZE, CELL)


class Looking(ImageEncoder):
    """An encoder without a network, for the arithmetic of centres."""

    def __init__(self, fields, size=SIZE):
        self.image_size, self.fields = size, fields
        self.grid, self.features = (len(fields), len(fields)), 1

    def __call__(self, images):
        return jnp.zeros((len(images), len(self.fields) ** 2, 1))


def test_centres_are_fields_moved_by_the_shift():
    encoder = Looking((0.25, 0.5, 0.75, 1.0), size=32)
    assert encoder.centres == encoder.fields
    assert encoder.cell == 8
    # The fields' middle is 4 pixels right of the picture's; it looks a quarter of a cell left.
    encoder.shift = encoder.shift_of(-0.25)
    assert encoder.shift == -6
    np.testing.assert_allclose(encoder.centres, [0.0625, 0.3125, 0.5625, 0.8125])
    encoder.shift = -10.0  # no centre leaves the picture
    np.testing.assert_allclose(encoder.centres, [0, 0.1875, 0.4375, 0.6875])
    assert Looking((0.75,), size=32).cell == 32
