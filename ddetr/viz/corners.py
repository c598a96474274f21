"""The four cells that bilinear interpolation reads, for every view that shows them."""

from __future__ import annotations

import math
from typing import NamedTuple


class Corner(NamedTuple):
    """One of the four cells: where it lies, its share of what is read, and whether the map has it at all."""

    row: int
    column: int
    weight: float
    inside: bool


def corners(x: float, y: float, size: tuple[int, int]) -> tuple[Corner, Corner, Corner, Corner]:
    """Top left, top right, bottom left, bottom right of a place on a map of (h, w) cells; the weights sum to 1.

    x, y: in cells, counted from the *centre* of the first one, so that cells' centres lie at whole numbers.
    """
    left, top = math.floor(x), math.floor(y)
    dx, dy = x - left, y - top
    return tuple(
        Corner(
            top + j,
            left + i,
            (dx if i else 1 - dx) * (dy if j else 1 - dy),
            0 <= top + j < size[0] and 0 <= left + i < size[1],
        )
        for j in (0, 1)
        for i in (0, 1)
    )
