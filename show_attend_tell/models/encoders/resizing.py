"""Bicubic resizing as PyTorch's `interpolate` computes it, for position embeddings."""

import numpy as np
from jaxtyping import Float


def bicubic(
    grid: Float[np.ndarray, "n n D"], side: int, *, antialias: bool
) -> Float[np.ndarray, "side side D"]:
    """A grid of vectors on another number of places; itself if that is the same.

    Args:
        grid: vectors of n x n places.
        side: places along a side of the result.
        antialias: whether a smaller grid is averaged over what each place covers. The kernel then
            is Keys' with a = -0.5, cut off at the border, as Pillow has it. Else a is -0.75, and
            the outermost places repeat beyond the border.
    """
    if side == len(grid):
        return grid
    weights = _weights(len(grid), side, antialias)
    resized = np.einsum("ip,jq,pqd->ijd", weights, weights, grid.astype(np.float64), optimize=True)
    return resized.astype(np.float32)


def _weights(old: int, new: int, antialias: bool) -> Float[np.ndarray, "new old"]:
    """What each of the old places adds to each of the new ones, along one side."""
    step = old / new
    a, width = (-0.5, max(step, 1.0)) if antialias else (-0.75, 1.0)
    middles = (np.arange(new) + 0.5) * step - 0.5  # in old places
    reach = int(np.ceil(2 * width))
    near = np.floor(middles)[:, None].astype(int) + np.arange(1 - reach, reach + 1)
    values = _keys((near - middles[:, None]) / width, a)
    if antialias:
        values[(near < 0) | (near >= old)] = 0
        values /= values.sum(axis=1, keepdims=True)
    found = np.zeros((new, old))
    np.add.at(found, (np.arange(new)[:, None], near.clip(0, old - 1)), values)
    return found


def _keys(x: Float[np.ndarray, "new k"], a: float) -> Float[np.ndarray, "new k"]:
    """Keys' cubic convolution kernel (1981, doi:10.1109/TASSP.1981.1163711), eq. 15."""
    x = np.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
