"""What stands behind ToyCOCO's objects: places, textures, and clutter that is no category."""

from __future__ import annotations

import numpy as np

from .raster import Coverage, Points, blend, cover, ellipse, rectangle, smooth, stroke
from .sketch import Chance, Colour, Light, Placement, Sketch, darker, lighter, mix, paint, place, rasterise


class Noise:
    """Random bytes in arrays, from PCG64's raw stream, which numpy keeps the same for ever."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def bytes(self, *shape: int) -> np.ndarray:
        """Evenly distributed integers from 0 to 255, int32."""
        count = int(np.prod(shape))
        words = self._bits.random_raw((count + 7) // 8).astype("<u8")
        return words.view(np.uint8)[:count].reshape(shape).astype(np.int32)

    def clouds(self, height: int, width: int, cell: int) -> np.ndarray:
        """Soft blotches of about `cell` pixels, -128 to 127: random values at a grid's corners, and between them."""
        corners = self.bytes(height // cell + 2, width // cell + 2) - 128
        y, x = np.arange(height), np.arange(width)
        rows = corners[y // cell] * (cell - y % cell)[:, None] + corners[y // cell + 1] * (y % cell)[:, None]
        columns = rows[:, x // cell] * (cell - x % cell) + rows[:, x // cell + 1] * (x % cell)
        return columns // (cell * cell)


def background(chance: Chance, noise: Noise, height: int, width: int) -> np.ndarray:
    """A place without objects, as an int32 canvas (height, width, 3)."""
    draw = chance.choice((landscape, landscape, street, room, room, sea, surface, surface))
    canvas = draw(chance, noise, height, width)
    for _ in range(chance.integer(0, 9)):
        clutter(chance, canvas)
    return canvas


def landscape(chance: Chance, noise: Noise, height: int, width: int) -> np.ndarray:
    """Sky, clouds, hills and trees."""
    canvas, horizon = _sky(chance, noise, height, width)
    hill = chance.colour(hues=((0.08, 0.4),), saturation=(0.2, 0.6), value=(0.25, 0.75))
    for i in range(chance.integer(1, 3)):
        y = horizon + int(0.12 * i * height)
        points = [(width * x / 6, y - chance.between(-0.04, 0.12) * height) for x in range(-1, 8)]
        _fill(canvas, [*smooth(points, closed=False), (width * 1.3, height + 9), (-width, height + 9)], hill)
        hill = mix(darker(hill, 0.15), chance.colour(hues=((0.2, 0.4),), value=(0.3, 0.6)), 0.25)
    ground = slice(horizon, None)
    canvas[ground] += noise.clouds(height - horizon, width, chance.choice((3, 6, 12)))[..., None] // chance.choice(
        (6, 9)
    )
    for _ in range(chance.integer(0, 4)):
        _tree(
            chance,
            canvas,
            chance.between(0, width),
            horizon + chance.between(0, 0.15) * height,
            chance.between(0.1, 0.4) * height,
        )
    return canvas


def street(chance: Chance, noise: Noise, height: int, width: int) -> np.ndarray:
    """Houses with windows above a road."""
    canvas, _ = _sky(chance, noise, height, width)
    kerb, x = int(height * chance.between(0.5, 0.7)), -0.1 * width
    while x < width:
        wide = chance.between(0.2, 0.45) * width
        wall, top = chance.colour(saturation=(0.05, 0.5), value=(0.3, 0.85)), chance.between(0.02, 0.35) * height
        _fill(canvas, rectangle(x, top, x + wide, kerb), wall)
        pane, columns = chance.choice(((70, 85, 100), (190, 205, 215), (225, 200, 120))), chance.integer(2, 4)
        step = wide / columns
        for i in range(columns):
            y = top + step * 0.25
            while y + step * 0.5 < kerb - step * 0.3:
                _fill(canvas, rectangle(x + step * (i + 0.25), y, x + step * (i + 0.75), y + step * 0.55), pane)
                y += step * 0.9
        x += wide
    road = chance.colour(saturation=(0.0, 0.12), value=(0.25, 0.55))
    canvas[kerb:] = road
    canvas[kerb : kerb + max(2, height // 40)] = lighter(road, 0.4)
    y, dash = (kerb + height) / 2, width / 9
    for i in range(5):
        _fill(canvas, rectangle(dash * 2 * i, y, dash * (2 * i + 1), y + height / 70), lighter(road, 0.7))
    canvas[kerb:] += noise.clouds(height - kerb, width, 4)[..., None] // 10
    return canvas


def room(chance: Chance, noise: Noise, height: int, width: int) -> np.ndarray:
    """A wall with paper or tiles above a floor or a table."""
    wall = chance.colour(saturation=(0.05, 0.55), value=(0.4, 0.95))
    canvas = _plain(wall, height, width)
    edge = int(height * chance.between(0.55, 0.9))
    pattern, second = (
        chance.choice(("none", "stripes", "tiles", "dots")),
        mix(wall, chance.colour(), chance.between(0.1, 0.35)),
    )
    step = chance.integer(8, 30)
    if pattern == "stripes":
        canvas[:, np.arange(width) // step % 2 == 0] = second
    elif pattern == "tiles":
        canvas[np.arange(height) % step < 2] = second
        canvas[:, np.arange(width) % step < 2] = second
    elif pattern == "dots":
        for y in range(step, height, 2 * step):
            for x in range(step, width, 2 * step):
                _fill(canvas, ellipse(x, y, step / 3, step / 3, n=8), second)
    if chance.happens(0.5):
        left, top, w, h = (chance.between(*r) for r in ((0, 0.7), (0.03, 0.25), (0.15, 0.35), (0.15, 0.35)))
        frame = rectangle(left * width, top * height, (left + w) * width, (top + h) * height)
        _fill(canvas, frame, chance.colour(saturation=(0.1, 0.7)))
        _line(canvas, frame, 4, chance.colour(saturation=(0.2, 0.6), value=(0.2, 0.7)), closed=True)
    floor = chance.choice(((140, 95, 60), (95, 65, 45), (180, 150, 115), chance.colour(saturation=(0.05, 0.5))))
    canvas[edge:] = floor
    for y in range(edge, height, max(6, (height - edge) // 3)):
        canvas[y : y + 1] = darker(floor, 0.35)
    canvas[edge:] += noise.clouds(height - edge, width, 9)[..., None] // 10
    return canvas


def sea(chance: Chance, noise: Noise, height: int, width: int) -> np.ndarray:
    """Water with waves under a sky."""
    canvas, horizon = _sky(chance, noise, height, width)
    water = chance.colour(hues=((0.48, 0.62),), saturation=(0.3, 0.8), value=(0.3, 0.8))
    depth = np.arange(height - horizon)[:, None, None] * 60 // (height - horizon)
    canvas[horizon:] = np.array(water) - depth + 20
    canvas[horizon:] += noise.clouds(height - horizon, width * 3, 9)[:, ::3, None] // 7
    for _ in range(chance.integer(6, 20)):
        x, y = chance.between(0, width), chance.between(horizon + 4, height)
        w = chance.between(0.03, 0.12) * width
        _line(canvas, [(x, y), (x + w * 0.5, y - 2), (x + w, y)], 1.2, lighter(water, 0.5))
    return canvas


def surface(chance: Chance, noise: Noise, height: int, width: int) -> np.ndarray:
    """Seen from near: grass, sand, planks, a checked cloth."""
    base = chance.colour(saturation=(0.1, 0.6), value=(0.25, 0.9))
    canvas = _plain(base, height, width)
    kind = chance.choice(("rough", "rough", "planks", "cloth"))
    if kind == "planks":
        step = chance.integer(18, 40)
        for i, y in enumerate(range(0, height, step)):
            canvas[y : y + step] = mix(base, darker(base, 0.3), chance.between(0, 1))
            canvas[y : y + 2] = darker(base, 0.55)
            joint = chance.integer(0, width)
            canvas[y : y + step, joint : joint + 2] = darker(base, 0.55 if i else 0.5)
        canvas += noise.clouds(height, width // 8 + 1, 3)[:, np.arange(width) // 8, None] // 9
    elif kind == "cloth":
        step, second = chance.integer(10, 26), chance.colour(saturation=(0.1, 0.8))
        for axis, length in ((0, height), (1, width)):
            on = (np.arange(length) // step % 2 == 0).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
            canvas += on * ((np.array(second) - canvas) // 2)
    for cell, strength in ((2, 5), (7, 4), (40, 3)):
        canvas += noise.clouds(height, width, cell)[..., None] // (strength if kind == "rough" else strength * 3)
    return canvas


def clutter(chance: Chance, canvas: np.ndarray) -> None:
    """One thing that is no category: a stone, a box, a book, a stick, a leaf, a star, a lamp-post."""
    height, width = canvas.shape[:2]
    sketch, colour = (
        Sketch(outline=chance.choice((0.0, 0.05))),
        chance.colour(saturation=(0.0, 0.9), value=(0.15, 0.95)),
    )
    kind = chance.choice(("stone", "box", "books", "stick", "leaf", "star", "post", "blob"))
    if kind == "stone":
        sketch.fill(
            smooth([(-1, 0.3), (-0.5, -0.4), (0.3, -0.5), (1, 0.2), (0.4, 0.5), (-0.5, 0.5)]),
            mix(colour, (128, 128, 128), 0.7),
            outline=True,
        )
    elif kind == "box":
        sketch.fill([(-1, -0.6), (0.7, -0.6), (0.7, 0.6), (-1, 0.6)], colour, outline=True)
        sketch.fill([(-1, -0.6), (-0.7, -0.9), (1, -0.9), (0.7, -0.6)], lighter(colour), outline=True)
        sketch.fill([(0.7, -0.6), (1, -0.9), (1, 0.3), (0.7, 0.6)], darker(colour), outline=True)
    elif kind == "books":
        for i in range(chance.integer(2, 4)):
            sketch.fill(
                rectangle(-1 + 0.1 * chance.between(-1, 1), 0.2 * i, 1, 0.2 * i + 0.2), chance.colour(), outline=True
            )
    elif kind == "stick":
        sketch.line([(-1, 0), (-0.2, chance.between(-0.2, 0.2)), (1, 0.1)], chance.between(0.08, 0.16), (110, 80, 55))
    elif kind == "leaf":
        sketch.fill(smooth([(-1, 0), (0, -0.45), (1, 0), (0, 0.45)]), chance.colour(hues=((0.08, 0.4),)), outline=True)
        sketch.line([(-1.2, 0), (0.9, 0)], 0.06, darker(colour))
    elif kind == "star":
        points = ellipse(0, 0, 1, 1, n=10)
        sketch.fill(
            [(x * (1 if i % 2 else 0.45), y * (1 if i % 2 else 0.45)) for i, (x, y) in enumerate(points)],
            colour,
            outline=True,
        )
    elif kind == "post":
        sketch.fill(rectangle(-0.07, -1, 0.07, 1.5), mix(colour, (90, 90, 90), 0.7), outline=True)
        sketch.fill(ellipse(0, -1, 0.2, 0.12, n=10), lighter(colour))
    else:
        points = [(x * chance.between(0.5, 1.2), y * chance.between(0.5, 1.2)) for x, y in ellipse(0, 0, 1, 0.8, n=7)]
        sketch.fill(smooth(points), colour, outline=True)
    upright = kind in ("box", "books", "post", "stone")
    at = Placement(
        chance.between(0, width), chance.between(0, height), chance.between(0.05, 0.28) * min(height, width),
        chance.between(-8, 8) if upright else chance.between(0, 360),
    )  # fmt: skip
    paint(canvas, rasterise(place(sketch, at), height, width), Light(chance.integer(-50, 50), chance.integer(-50, 20)))


def _sky(chance: Chance, noise: Noise, height: int, width: int) -> tuple[np.ndarray, int]:
    """A sky from top to bottom, and where the ground begins."""
    top = chance.colour(hues=((0.5, 0.66), (0.02, 0.1)), saturation=(0.05, 0.6), value=(0.35, 0.98))
    bottom = lighter(top, chance.between(0.1, 0.6))
    share = np.arange(height)[:, None, None]
    canvas = (
        np.array(top) + (np.array(bottom) - np.array(top)) * share // height + np.zeros((1, width, 1), dtype=np.int64)
    )
    canvas += np.maximum(noise.clouds(height, width, chance.choice((24, 40))), 0)[..., None] // chance.choice((2, 4, 8))
    return canvas.astype(np.int32), int(height * chance.between(0.3, 0.7))


def _tree(chance: Chance, canvas: np.ndarray, x: float, y: float, tall: float) -> None:
    leaves = chance.colour(hues=((0.15, 0.4),), saturation=(0.3, 0.8), value=(0.2, 0.6))
    _fill(canvas, rectangle(x - tall * 0.05, y - tall * 0.5, x + tall * 0.05, y), (90, 65, 45))
    if chance.happens(0.5):
        _fill(canvas, [(x, y - tall), (x + tall * 0.3, y - tall * 0.25), (x - tall * 0.3, y - tall * 0.25)], leaves)
    else:
        for dx, dy, r in ((0, 0.75, 0.25), (-0.17, 0.6, 0.2), (0.18, 0.58, 0.2)):
            _fill(
                canvas, ellipse(x + dx * tall, y - dy * tall, r * tall, r * tall, n=14), mix(leaves, (0, 0, 0), r - 0.2)
            )


def _plain(colour: Colour, height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.int32)


def _fill(canvas: np.ndarray, points: Points, colour: Colour) -> None:
    _blend(canvas, cover([np.array(points)], *canvas.shape[:2]), colour)


def _line(canvas: np.ndarray, points: Points, width: float, colour: Colour, closed: bool = False) -> None:
    _blend(canvas, cover([np.array(c) for c in stroke(points, width, closed)], *canvas.shape[:2]), colour)


def _blend(canvas: np.ndarray, covered: Coverage | None, colour: Colour) -> None:
    if covered is not None:
        blend(canvas, covered, np.array(colour, dtype=np.int32))
