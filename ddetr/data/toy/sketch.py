"""What ToyCOCO's drawings are made of: a repeatable source of chance, and a list of coloured shapes."""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from .raster import Coverage, Points, blend, cover, stroke

Colour = tuple[int, int, int]
T = TypeVar("T")

BLACK, DARK, GREY, WHITE = (16, 16, 18), (44, 44, 50), (128, 128, 132), (244, 244, 240)
WOOD = ((150, 100, 60), (110, 70, 40), (190, 145, 95), (85, 60, 45))


class Chance:
    """Python's Mersenne Twister through `random()` alone, the one method whose stream never changes."""

    def __init__(self, *seed: int | str) -> None:
        self._random = random.Random(":".join(map(str, seed))).random

    def between(self, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        return low + (high - low) * self._random()

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both possible."""
        return low + int((high - low + 1) * self._random())

    def choice(self, choices: Sequence[T]) -> T:
        """One of several."""
        return choices[int(len(choices) * self._random())]

    def happens(self, probability: float) -> bool:
        """True this often."""
        return self._random() < probability

    def colour(
        self,
        hues: Sequence[tuple[float, float]] = ((0, 1),),
        saturation: tuple[float, float] = (0.4, 0.95),
        value: tuple[float, float] = (0.4, 0.95),
    ) -> Colour:
        """A colour whose hue is in one of the ranges (0 and 1 are red)."""
        hue = self.between(*self.choice(hues)) % 1
        red, green, blue = colorsys.hsv_to_rgb(hue, self.between(*saturation), self.between(*value))
        return int(255 * red), int(255 * green), int(255 * blue)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b in a."""
    red, green, blue = (int(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def lighter(colour: Colour, share: float = 0.4) -> Colour:
    """Towards white."""
    return mix(colour, (255, 255, 255), share)


def darker(colour: Colour, share: float = 0.4) -> Colour:
    """Towards black."""
    return mix(colour, (0, 0, 0), share)


class Shape(NamedTuple):
    """Contours in the sketch's own units; `solid` ones belong to the object's mask."""

    contours: list[np.ndarray]
    colour: Colour
    opacity: int
    solid: bool


class Sketch:
    """A drawing: shapes from back to front, in units of its own (y grows downwards)."""

    def __init__(self, outline: float = 0.0) -> None:
        self.outline = outline
        self.shapes: list[Shape] = []

    def fill(self, points: Points, colour: Colour, *, outline: bool = False, solid: bool = True) -> None:
        """A filled shape, with a darker line around it if the sketch has outlines."""
        self._add([points], colour, solid)
        if outline and self.outline:
            self._add(stroke(points, self.outline, closed=True), darker(colour, 0.6), solid)

    def line(self, points: Points, width: float, colour: Colour, *, closed: bool = False, solid: bool = True) -> None:
        """A line along the points."""
        self._add(stroke(points, width, closed), colour, solid)

    def ring(self, outer: Points, inner: Points, colour: Colour) -> None:
        """What lies between two contours of the same direction."""
        self._add([outer, inner[::-1]], colour, True)

    def _add(self, contours: list[Points], colour: Colour, solid: bool) -> None:
        self.shapes.append(Shape([np.array(contour, dtype=np.float64) for contour in contours], colour, 256, solid))


class Placement(NamedTuple):
    """Where a sketch goes on the canvas: its centre and its longer side, in pixels, after a turn (degrees)."""

    x: float
    y: float
    size: float
    turn: float = 0.0
    mirrored: bool = False
    stretch: float = 1.0


class Light(NamedTuple):
    """Brightness across an object, in 256ths from one side to the other."""

    across: int = 0
    down: int = 0


def place(sketch: Sketch, at: Placement) -> list[Shape]:
    """The sketch's shapes in pixels."""
    angle = math.radians(at.turn)
    c, s = math.cos(angle), math.sin(angle)
    matrix = np.array([[c, -s], [s, c]]) * [at.stretch * (-1 if at.mirrored else 1), 1]
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    # Written out: a matrix product may be rounded differently from one processor to the next.
    turned = [
        shape._replace(
            contours=[contour[:, :1] * matrix[:, 0] + contour[:, 1:] * matrix[:, 1] for contour in shape.contours]
        )
        for shape in sketch.shapes
    ]
    for shape in turned:
        if shape.solid:
            for contour in shape.contours:
                low, high = np.minimum(low, contour.min(0)), np.maximum(high, contour.max(0))
    scale = at.size / max(high - low)
    middle = (low + high) / 2
    centre = (at.x, at.y)
    return [
        shape._replace(contours=[(contour - middle) * scale + centre for contour in shape.contours]) for shape in turned
    ]


class Part(NamedTuple):
    """A shape, and what it covers of the canvas; None if it lies outside."""

    shape: Shape
    covered: Coverage | None


def rasterise(shapes: list[Shape], height: int, width: int) -> list[Part]:
    """The shapes on a canvas (height, width)."""
    return [Part(shape, cover(shape.contours, height, width)) for shape in shapes]


def outline_of(parts: list[Part], height: int, width: int) -> np.ndarray:
    """The mask (height, width), bool: pixels of which the solid shapes cover at least half."""
    alpha = np.zeros((height, width), dtype=np.int32)
    for shape, covered in parts:
        if shape.solid and covered is not None:
            under = alpha[covered.window]
            under += (256 - under) * covered.alpha // 256
    return alpha >= 128


def paint(canvas: np.ndarray, parts: list[Part], light: Light = Light()) -> None:  # noqa: B008
    """Draw the parts onto the int32 canvas (H, W, 3) in place."""
    points = np.concatenate([contour for shape, _ in parts for contour in shape.contours])
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    for shape, covered in parts:
        if covered is not None:
            blend(canvas, covered, _lit(shape.colour, covered, light, x0, y0, x1 - x0, y1 - y0), shape.opacity)


def _lit(colour: Colour, covered: Coverage, light: Light, x0: float, y0: float, w: float, h: float) -> np.ndarray:
    if light == (0, 0):
        return np.array(colour, dtype=np.int32)
    rows, columns = covered.alpha.shape
    across = ((np.arange(covered.left, covered.left + columns) - int(x0)) * 2 - int(w)) * light.across // max(1, int(w))
    down = ((np.arange(covered.top, covered.top + rows) - int(y0)) * 2 - int(h)) * light.down // max(1, int(h))
    factor = (256 + across[None, :] + down[:, None])[..., None]
    return np.clip(np.array(colour, dtype=np.int32) * factor // 256, 0, 255)
