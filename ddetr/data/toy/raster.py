"""Filled shapes with smooth edges, in integer arithmetic: the same pixels on any processor and with any library.

A shape is a list of contours, each (n, 2) points (x, y) in pixels. What lies inside has a winding number other than 0,
so contours of one direction unite and a contour of the other direction cuts a hole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Points = Sequence[tuple[float, float]]

_UNIT = 256  # of a pixel: coordinates are rounded to this, so that a last digit of sin or cos cannot matter
_ROWS = 4  # scan lines a pixel; along a line the covered length is exact


class Coverage(NamedTuple):
    """How much of each pixel a shape covers: `alpha` (h, w) from 0 to 256, its first pixel at `top`, `left`."""

    top: int
    left: int
    alpha: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Where `alpha` lies on the canvas."""
        h, w = self.alpha.shape
        return slice(self.top, self.top + h), slice(self.left, self.left + w)


def cover(contours: Sequence[np.ndarray], height: int, width: int) -> Coverage | None:
    """What `contours` cover of a canvas (height, width); None if nothing of it."""
    rounded = [np.rint(np.asarray(contour) * _UNIT).astype(np.int64) for contour in contours]
    starts = np.concatenate(rounded)
    ends = np.concatenate([np.roll(contour, -1, axis=0) for contour in rounded])
    left, top = np.maximum(starts.min(0) // _UNIT, 0)
    right, bottom = np.minimum(starts.max(0) // _UNIT + 1, (width, height))
    if left >= right or top >= bottom:
        return None
    h, w = int(bottom - top), int(right - left)

    lines = top * _UNIT + _UNIT // (2 * _ROWS) + np.arange(h * _ROWS) * (_UNIT // _ROWS)
    y0, y1 = starts[:, 1, None], ends[:, 1, None]
    edge, line = np.nonzero((np.minimum(y0, y1) <= lines) & (lines < np.maximum(y0, y1)))
    (x0, y0), (x1, y1) = starts[edge].T, ends[edge].T
    x = x0 + (lines[line] - y0) * (x1 - x0) // (y1 - y0)
    x = np.clip(x - left * _UNIT, 0, w * _UNIT)
    direction = np.where(y1 > y0, 1, -1)

    # Each crossing adds what it covers from x to the right: part of its own pixel, and then all; summed along the line.
    cell, rest = line * (w + 2) + x // _UNIT, x % _UNIT
    size = h * _ROWS * (w + 2)
    steps = np.bincount(cell, direction * (_UNIT - rest), size) + np.bincount(cell + 1, direction * rest, size)
    covered = np.minimum(np.abs(np.cumsum(steps.reshape(-1, w + 2), axis=1)), _UNIT)[:, :w]
    return Coverage(int(top), int(left), covered.reshape(h, _ROWS, w).sum(1).astype(np.int32) // _ROWS)


def blend(canvas: np.ndarray, covered: Coverage, colour: np.ndarray, opacity: int = 256) -> None:
    """Paint `colour`, (3,) or (h, w, 3), onto the int32 canvas (H, W, 3) in place; `opacity` up to 256."""
    under = canvas[covered.window]
    alpha = covered.alpha if opacity == 256 else covered.alpha * opacity // 256
    under += (colour - under) * alpha[..., None] // 256


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360, n: int = 24) -> Points:
    """An ellipse around (x, y), or the sector between two angles in degrees, clockwise from the right."""
    whole = stop - start >= 360
    angles = [math.radians(start + (stop - start) * i / (n if whole else n - 1)) for i in range(n)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles] + ([] if whole else [(x, y)])


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, n: int = 12) -> Points:
    """The open curve of an ellipse between two angles in degrees."""
    return ellipse(x, y, rx, ry, start, stop, n)[:n]


def rectangle(x0: float, y0: float, x1: float, y1: float, radius: float = 0) -> Points:
    """A rectangle, its corners rounded."""
    if not radius:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    corners = ((x1 - radius, y0 + radius, 270), (x1 - radius, y1 - radius, 0), (x0 + radius, y1 - radius, 90),
               (x0 + radius, y0 + radius, 180))  # fmt: skip
    return [point for x, y, a in corners for point in arc(x, y, radius, radius, a, a + 90, 5)]


def smooth(points: Points, closed: bool = True, steps: int = 5) -> Points:
    """A soft curve through the points (Catmull-Rom)."""
    n = len(points)
    around = [points[i % n] if closed else points[min(max(i, 0), n - 1)] for i in range(-1, n + 2)]
    curve = []
    for a, b, c, d in zip(around, around[1:], around[2:], around[3:], strict=False):
        for t in (i / steps for i in range(steps)):
            curve.append((_spline(a[0], b[0], c[0], d[0], t), _spline(a[1], b[1], c[1], d[1], t)))
    return curve[: n * steps] if closed else curve[: (n - 1) * steps] + [points[-1]]


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def stroke(points: Points, width: float, closed: bool = False) -> list[Points]:
    """The contours of a line of this width along the points."""
    pairs = [*itertools.pairwise(points), *([(points[-1], points[0])] if closed else [])]
    contours: list[Points] = []
    for (x0, y0), (x1, y1) in pairs:
        length = math.hypot(x1 - x0, y1 - y0)
        if length:
            ux, uy = (x1 - x0) / length * width / 2, (y1 - y0) / length * width / 2
            # Half the width longer at both ends, so that no corner shows a gap.
            ax, ay, bx, by = x0 - ux, y0 - uy, x1 + ux, y1 + uy
            contours.append([(ax - uy, ay + ux), (bx - uy, by + ux), (bx + uy, by - ux), (ax + uy, ay - ux)])
    return contours
