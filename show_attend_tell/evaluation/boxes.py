"""Boxes over the places that attention looks at: which cells they cover, which points they hold.

A box is (ymin, xmin, ymax, xmax) and a point (y, x), in shares of the picture's height and width;
several boxes mean their union. N unions, L = h * w places, cells as in
`inference.attention_record`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from show_attend_tell.inference.attention_record import cell_edges

Boxes = tuple[tuple[float, float, float, float], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """A grid of places; place i is in row i // w and column i % w.

    Attributes:
      rows, columns: the centres of the grid's rows and columns, in [0, 1], ascending.
    """

    rows: Float[np.ndarray, " h"]
    columns: Float[np.ndarray, " w"]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def centres(self) -> Float[np.ndarray, "L 2"]:
        """The centre (y, x) of each place."""
        y, x = np.meshgrid(self.rows, self.columns, indexing="ij")
        return np.stack([y.ravel(), x.ravel()], axis=1)


def box_cover(
    boxes: Sequence[tuple[float, float, float, float]],
    row_centres: Float[np.ndarray, " h"],
    column_centres: Float[np.ndarray, " w"],
) -> Float[np.ndarray, " L"]:
    """The share of each cell's area that lies in the union of boxes.

    Only what lies inside the picture counts.
    """
    rows, columns = cell_edges(row_centres), cell_edges(column_centres)
    sides = np.clip(np.array(boxes, np.float64), 0, 1)
    # The edges of cells and boxes cut the picture into pieces, each wholly inside or outside a box.
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


def box_covers(unions: Sequence[Boxes], places: Places) -> Float[np.ndarray, "N L"]:
    """`box_cover` of many unions at once.

    The five captions of a picture name the same things, so each distinct union is computed once.
    """
    distinct = {boxes: k for k, boxes in enumerate(dict.fromkeys(unions))}
    covers = np.zeros((len(distinct), len(places)))
    # Most unions are a single box, whose cover is the product of its shares down and across.
    single = [k for boxes, k in distinct.items() if len(boxes) == 1]
    sides = np.array([boxes[0] for boxes in distinct if len(boxes) == 1]).reshape(-1, 4)
    down = _shares(sides[:, 0], sides[:, 2], cell_edges(places.rows))
    across = _shares(sides[:, 1], sides[:, 3], cell_edges(places.columns))
    covers[single] = (down[:, :, None] * across[:, None, :]).reshape(-1, len(places))
    for boxes, k in distinct.items():
        if len(boxes) > 1:
            covers[k] = box_cover(boxes, places.rows, places.columns)
    return covers[[distinct[boxes] for boxes in unions]]


def points_inside(
    points: Float[np.ndarray, "N 2"], unions: Sequence[Boxes]
) -> Bool[np.ndarray, " N"]:
    """Whether each point lies in the union of boxes of the same index; edges belong to a box."""
    owner = np.repeat(np.arange(len(unions)), [len(boxes) for boxes in unions])
    sides = np.array([box for boxes in unions for box in boxes]).reshape(-1, 4)
    point = points[owner]
    inside = np.all((sides[:, :2] <= point) & (point <= sides[:, 2:]), axis=1)
    return np.bincount(owner[inside], minlength=len(unions)) > 0


def _shares(
    low: Float[np.ndarray, " N"], high: Float[np.ndarray, " N"], edges: Float[np.ndarray, " E"]
) -> Float[np.ndarray, "N E-1"]:
    """The share of each cell of one axis between `low` and `high`."""
    begin, end = np.maximum(low[:, None], edges[:-1]), np.minimum(high[:, None], edges[1:])
    return np.maximum(end - begin, 0) / np.diff(edges)
