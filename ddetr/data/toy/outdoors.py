"""Drawings of what stands, drives, sails and flies outdoors, each different every time."""

from __future__ import annotations

import math

from .raster import Points, arc, ellipse, rectangle, smooth
from .sketch import BLACK, DARK, GREY, WHITE, WOOD, Chance, Sketch, darker, lighter, mix

GLASS = ((150, 190, 215), (90, 120, 145), (40, 55, 70), (195, 215, 225))


def draw_car(chance: Chance, sketch: Sketch) -> None:
    """From the side: a saloon, a hatchback, an estate or a pickup."""
    paint, glass = chance.colour(saturation=(0.0, 0.95), value=(0.25, 0.98)), chance.choice(GLASS)
    length, roof = chance.between(1.7, 2.3), chance.between(0.34, 0.48)
    kind = chance.choice(("saloon", "hatchback", "estate", "pickup"))
    front = chance.between(0.5, 0.62)
    back = {"saloon": -0.52, "hatchback": -0.8, "estate": -0.93, "pickup": 0.0}[kind] * length / 2
    rear_glass = back + {"saloon": 0.28, "hatchback": 0.2, "estate": 0.07, "pickup": 0.05}[kind]
    half, nose = length / 2, chance.between(0.02, 0.12)
    cabin = [(back, 0), (rear_glass, -roof), (front * half - 0.28, -roof), (front * half + 0.05, 0)]
    sketch.fill(cabin, paint, outline=True)
    middle = (rear_glass + front * half - 0.28) / 2
    for x0, x1, slant0, slant1 in (
        (rear_glass + 0.03, middle - 0.03, back - rear_glass, 0),
        (middle + 0.03, front * half - 0.31, 0, 0.26),
    ):
        if x1 - x0 > 0.08:
            low = 0.62
            window = [(x0 + slant0 * low, -0.06), (x0, -roof + 0.06), (x1, -roof + 0.06), (x1 + slant1 * low, -0.06)]
            sketch.fill(window, glass)
    body = [
        (-half, 0.05),
        (-half + 0.06, -0.02),
        (back, -0.03),
        (front * half, -0.03),
        (half - 0.08, nose),
        (half, nose + 0.1),
        (half, 0.38),
        (-half, 0.38),
    ]
    sketch.fill(body, paint, outline=True)
    sketch.fill(rectangle(-half, 0.32, half, 0.4), darker(paint, 0.5))
    sketch.fill(ellipse(half - 0.06, nose + 0.14, 0.06, 0.05), (250, 240, 170))
    sketch.fill(rectangle(-half, 0.1, -half + 0.07, 0.2), (200, 30, 30))
    if kind != "pickup":
        sketch.line([(middle, -0.02), (middle, 0.3)], 0.02, darker(paint, 0.4))
    sketch.fill(rectangle(middle - 0.2, 0.06, middle - 0.08, 0.09), darker(paint, 0.5))
    _wheels(chance, sketch, (-half * 0.6, half * 0.62), 0.36, chance.between(0.19, 0.24))


def _wheels(chance: Chance, sketch: Sketch, xs: tuple[float, ...], y: float, r: float) -> None:
    rim = chance.choice((GREY, (190, 190, 195), (90, 90, 95)))
    for x in xs:
        sketch.fill(ellipse(x, y, r, r), BLACK)
        sketch.fill(ellipse(x, y, r * 0.55, r * 0.55), rim)
        sketch.fill(ellipse(x, y, r * 0.18, r * 0.18), DARK)


def draw_bus(chance: Chance, sketch: Sketch) -> None:
    """From the side: long, tall and full of windows, with one deck or two."""
    paint, glass = chance.colour(saturation=(0.5, 0.95), value=(0.5, 0.98)), chance.choice(GLASS)
    double = chance.happens(0.25)
    half, h = (chance.between(0.95, 1.15), 1.15) if double else (chance.between(1.15, 1.6), chance.between(0.75, 0.9))
    trim = chance.choice((WHITE, darker(paint, 0.5), chance.colour()))
    sketch.fill(rectangle(-half, -h / 2, half, h / 2, 0.1), paint, outline=True)
    rows = (-h / 2 + 0.1, 0.0) if double else (-h / 2 + 0.12,)
    tall, count = 0.27 if double else chance.between(0.28, 0.36), chance.integer(4, 6)
    step = (2 * half - 0.42) / count
    for y in rows:
        for i in range(count):
            x = -half + 0.08 + i * step
            sketch.fill(rectangle(x, y, x + step - 0.06, y + tall, 0.03), glass)
    sketch.fill(rectangle(half - 0.28, -h / 2 + 0.12, half, -h / 2 + 0.12 + tall + 0.04), lighter(glass, 0.25))
    door = rectangle(half - 0.32, h / 2 - 0.42, half - 0.1, h / 2 - 0.04)
    sketch.fill(door, lighter(glass, 0.1))
    sketch.line([(half - 0.21, h / 2 - 0.42), (half - 0.21, h / 2 - 0.04)], 0.025, darker(paint, 0.5))
    if chance.happens(0.7):
        y = h / 2 - 0.26
        sketch.fill(rectangle(-half, y, half - 0.34, y + chance.between(0.06, 0.14)), trim)
    sketch.fill(rectangle(half - 0.05, h / 2 - 0.16, half, h / 2 - 0.07), (250, 240, 170))
    _wheels(chance, sketch, (-half * 0.6, half * 0.5), h / 2, chance.between(0.17, 0.21))


def draw_boat(chance: Chance, sketch: Sketch) -> None:
    """A sailing boat, or a motor boat with a cabin."""
    hull = chance.colour(saturation=(0.1, 0.95), value=(0.3, 0.98))
    half, deep = chance.between(0.85, 1.1), chance.between(0.24, 0.36)
    if chance.happens(0.65):
        tall = chance.between(1.1, 1.6)
        mast, sail = chance.between(-0.15, 0.1), chance.choice((WHITE, WHITE, chance.colour(value=(0.7, 1.0))))
        sketch.line([(mast, 0), (mast, -tall)], 0.06, chance.choice(WOOD))
        belly = chance.between(0.0, 0.15)
        main = smooth([(mast - 0.05, -tall), (mast - 0.35 - belly, -tall * 0.5), (mast - 0.75, -0.12)], closed=False)
        sketch.fill([*main, (mast - 0.05, -0.12)], sail, outline=True)
        jib = chance.choice((sail, chance.colour(value=(0.7, 1.0))))
        sketch.fill(
            [(mast + 0.06, -tall * chance.between(0.7, 0.92)), (mast + 0.65, -0.12), (mast + 0.06, -0.12)],
            jib,
            outline=True,
        )
        if chance.happens(0.4):
            sketch.line([(mast - 0.42, -tall * 0.38), (mast - 0.05, -tall * 0.38)], 0.05, darker(sail, 0.3))
    else:
        glass = chance.choice(GLASS)
        for x0, x1, y0, y1 in ((-0.5, 0.3, -0.34, 0.0), (-0.36, 0.08, -0.6, -0.34)):
            sketch.fill([(x0, y1), (x0 + 0.03, y0), (x1 - 0.12, y0), (x1, y1)], WHITE, outline=True)
            for i in range(3):
                x = x0 + 0.08 + i * (x1 - x0 - 0.24) / 3
                sketch.fill(rectangle(x, y0 + 0.07, x + (x1 - x0 - 0.24) / 3 - 0.05, y0 + 0.21), glass)
        if chance.happens(0.5):
            sketch.line([(-0.1, -0.6), (-0.1, -0.95)], 0.04, DARK)
            sketch.fill([(-0.1, -0.95), (-0.36, -0.87), (-0.1, -0.8)], chance.colour())
    bottom = [(-half, 0), (half, -0.06), (half * 0.72, deep), (-half * 0.8, deep)]
    sketch.fill(bottom, hull, outline=True)
    sketch.fill([(-half, 0), (half, -0.06), (half * 0.95, 0.05), (-half * 0.97, 0.08)], lighter(hull, 0.5))
    sketch.fill(
        [(-half * 0.86, deep * 0.72), (half * 0.79, deep * 0.72), (half * 0.72, deep), (-half * 0.8, deep)],
        darker(hull, 0.5),
    )


def draw_traffic_light(chance: Chance, sketch: Sketch) -> None:
    """Three lamps in a housing, one of them lit, hung on a pole or from above."""
    case = chance.choice((DARK, BLACK, (60, 62, 40), (205, 165, 30), (45, 70, 50)))
    if chance.happens(0.6):
        sketch.fill(rectangle(-0.05, 0.9, 0.05, 2.2), GREY, solid=False)
    w = chance.between(0.34, 0.42)
    if chance.happens(0.4):
        sketch.fill(rectangle(-w - 0.1, -1.1, w + 0.1, 1.1, 0.08), BLACK)
        sketch.line(rectangle(-w - 0.08, -1.08, w + 0.08, 1.08), 0.03, WHITE, closed=True)
    sketch.fill(rectangle(-w, -1, w, 1, 0.12), case, outline=True)
    lit = chance.integer(0, 2)
    for i, colour in enumerate(((235, 40, 30), (250, 190, 30), (40, 210, 100))):
        y, r = -0.64 + i * 0.64, w * 0.62
        sketch.fill(ellipse(0, y, r * 1.22, r * 1.22), darker(case, 0.5))
        sketch.fill(ellipse(0, y, r, r), colour if i == lit else darker(colour, 0.68))
        if i == lit:
            sketch.fill(ellipse(-r * 0.2, y - r * 0.2, r * 0.45, r * 0.45), lighter(colour, 0.6))
        sketch.fill(
            [*arc(0, y, r * 1.3, r * 1.3, 180, 360), *reversed(arc(0, y + 0.05, r * 1.1, r * 0.95, 180, 360))], BLACK
        )


def draw_stop_sign(chance: Chance, sketch: Sketch) -> None:
    """A red octagon with its word, on a pole."""
    red = chance.colour(hues=((0.97, 1.02),), saturation=(0.8, 0.95), value=(0.6, 0.85))
    if chance.happens(0.8):
        sketch.fill(rectangle(-0.07, 0.8, 0.07, 2.4), chance.choice((GREY, (90, 70, 55), (170, 172, 175))), solid=False)
    sketch.fill(_octagon(1.0), WHITE, outline=True)
    sketch.fill(_octagon(0.9), red)
    s_curve = [(0.34, -0.26), (0.26, -0.32), (0.06, -0.32), (0.0, -0.22), (0.08, -0.04)]
    s_curve += [(0.28, 0.02), (0.36, 0.18), (0.26, 0.32), (0.06, 0.32), (-0.02, 0.24)]
    o_curve = [(0.02, -0.2), (0.1, -0.32), (0.26, -0.32), (0.34, -0.2)]
    o_curve += [(x, -y) for x, y in reversed(o_curve)] + o_curve[:1]
    p_curve = [(0.04, 0.36), (0.04, -0.32), (0.28, -0.32), (0.36, -0.22), (0.36, -0.1), (0.28, 0.0), (0.04, 0.0)]
    bar, stem = [(-0.02, -0.32), (0.38, -0.32)], [(0.18, -0.32), (0.18, 0.36)]
    letters = ((s_curve, -0.76), (bar, -0.38), (stem, -0.38), (o_curve, 0.0), (p_curve, 0.42))
    for points, left in letters:
        sketch.line([(x * 0.85 + left, y) for x, y in points], 0.091, WHITE)


def _octagon(r: float) -> Points:
    return [(r * math.cos(a), r * math.sin(a)) for a in (math.radians(22.5 + 45 * i) for i in range(8))]


def draw_kite(chance: Chance, sketch: Sketch) -> None:
    """A diamond in two or four colours with a tail of bows."""
    colours = [chance.colour(saturation=(0.6, 0.95), value=(0.6, 1.0)) for _ in range(4)]
    if chance.happens(0.5):
        colours = [colours[0], colours[1], colours[0], colours[1]]
    w, cross, low = chance.between(0.55, 0.75), chance.between(-0.4, -0.25), chance.between(0.45, 0.65)
    corners = [(0, -1), (w, cross), (0, low), (-w, cross)]
    for a, b, colour in zip(corners, corners[1:] + corners[:1], colours, strict=True):
        sketch.fill([(0, cross), a, b], colour, outline=True)
    tail = smooth([(0, low), (0.18, low + 0.22), (-0.1, low + 0.45), (0.2, low + 0.7), (0.05, low + 0.9)], closed=False)
    sketch.line(tail, 0.04, DARK)
    for i, colour in zip((4, 10, 16), colours, strict=False):
        x, y = tail[i]
        sketch.fill([(x, y), (x - 0.17, y - 0.1), (x - 0.17, y + 0.1)], colour)
        sketch.fill([(x, y), (x + 0.17, y - 0.1), (x + 0.17, y + 0.1)], colour)


def draw_umbrella(chance: Chance, sketch: Sketch) -> None:
    """Open, from the side, with panels and a hooked handle."""
    first = chance.colour()
    second = chance.choice((first, first, WHITE, chance.colour()))
    high, panels = chance.between(0.62, 0.85), chance.choice((4, 5, 6))
    sketch.line([(0, -high - 0.12), (0, 0.75)], 0.06, DARK)
    sketch.line(arc(0.14, 0.75, 0.14, 0.16, 180, 0, 9), 0.08, chance.choice(WOOD))
    for i in range(panels):
        x0, x1 = (math.cos(math.pi * (1 - j / panels)) for j in (i, i + 1))
        colour = (first, second)[i % 2] if second != first else mix(first, BLACK, 0.16 * (i % 2))
        left, right = _rib(x0, high), _rib(x1, high)
        scallop = arc((x0 + x1) / 2, 0, (x1 - x0) / 2, 0.12, 360, 180)
        sketch.fill([*left, *reversed(right), *scallop], colour, outline=True)


def _rib(x: float, high: float) -> Points:
    """From the rim at (x, 0) to the top, on the canopy."""
    return [(x * math.sin(a), -high * math.cos(a)) for a in (math.radians(90 - 15 * i) for i in range(7))]
