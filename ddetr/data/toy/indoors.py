"""Drawings of animals and of what lies about a house, each different every time."""

from __future__ import annotations

import math

from .raster import Points, arc, ellipse, rectangle, smooth
from .sketch import BLACK, DARK, WHITE, WOOD, Chance, Colour, Sketch, darker, lighter, mix


def draw_bird(chance: Chance, sketch: Sketch) -> None:
    """Perched, or flying with its wings up."""
    plumage = chance.colour(saturation=(0.1, 0.9), value=(0.25, 0.95))
    wing, belly = darker(plumage, chance.between(0.2, 0.5)), lighter(plumage, chance.between(0.2, 0.6))
    beak = chance.choice(((240, 160, 40), (60, 60, 60), (225, 100, 40)))
    flying = chance.happens(0.45)
    fat = chance.between(0.28, 0.4)
    if flying:
        sketch.fill(
            smooth([(0.1, -0.1), (-0.15, -0.75), (-0.5, -1.1), (-0.62, -0.6), (-0.4, 0.0)]),
            darker(wing, 0.3),
            outline=True,
        )
    sketch.fill([(-0.5, -0.02), (-1.15, chance.between(-0.22, 0.2)), (-1.1, 0.28), (-0.5, 0.2)], wing, outline=True)
    if not flying:
        for x in (-0.02, 0.14):
            sketch.line([(x, fat), (x + 0.02, fat + 0.32), (x + 0.14, fat + 0.34)], 0.045, beak)
    sketch.fill(
        smooth(
            [(-0.65, 0.08), (-0.3, -fat * 0.75), (0.25, -fat * 0.85), (0.55, -0.1), (0.35, fat * 0.8), (-0.15, fat)]
        ),
        plumage,
        outline=True,
    )
    sketch.fill(
        smooth([(-0.3, fat * 0.6), (0.15, fat * 0.1), (0.45, 0.05), (0.3, fat * 0.75), (-0.1, fat * 0.95)]), belly
    )
    head = (0.55, -fat * 0.95)
    sketch.fill(
        [
            (head[0] + 0.16, head[1] - 0.08),
            (head[0] + chance.between(0.42, 0.6), head[1] + 0.06),
            (head[0] + 0.16, head[1] + 0.12),
        ],
        beak,
        outline=True,
    )
    if chance.happens(0.25):
        sketch.fill(
            [(head[0] - 0.12, head[1] - 0.12), (head[0] - 0.3, head[1] - 0.5), (head[0] + 0.08, head[1] - 0.2)], wing
        )
    sketch.fill(ellipse(*head, 0.26, 0.24), plumage, outline=True)
    sketch.fill(ellipse(head[0] + 0.09, head[1] - 0.05, 0.065, 0.065), WHITE)
    sketch.fill(ellipse(head[0] + 0.1, head[1] - 0.05, 0.04, 0.04), BLACK)
    if flying:
        sketch.fill(smooth([(0.2, 0.0), (0.3, -0.7), (0.1, -1.2), (-0.25, -0.8), (-0.3, 0.05)]), wing, outline=True)
    else:
        sketch.fill(smooth([(0.3, -0.05), (-0.1, -0.2), (-0.7, 0.12), (-0.1, 0.26)]), wing, outline=True)


def draw_cat(chance: Chance, sketch: Sketch) -> None:
    """Sitting, face to the reader, or its head alone from near."""
    fur = chance.choice(((60, 58, 60), (215, 140, 70), (160, 155, 150), (235, 225, 210), (130, 95, 65), (90, 88, 95)))
    fur = mix(fur, chance.colour(), 0.08)
    eyes = chance.choice(((90, 190, 90), (240, 200, 60), (90, 160, 220)))
    stripes, bib = chance.happens(0.45), chance.happens(0.5)
    hy = -0.62
    if chance.happens(0.75):
        side = chance.choice((-1, 1))
        tail = [(0.45 * side, 0.85), (0.85 * side, 0.75), (0.95 * side, 0.3), (0.8 * side, chance.between(-0.2, 0.1))]
        sketch.line(smooth(tail, closed=False), 0.17, darker(fur, 0.15))
        sketch.fill(
            smooth([(-0.3, -0.35), (0.3, -0.35), (0.55, 0.5), (0.5, 0.95), (-0.5, 0.95), (-0.55, 0.5)]),
            fur,
            outline=True,
        )
        if bib:
            sketch.fill(smooth([(-0.16, -0.2), (0.16, -0.2), (0.14, 0.4), (-0.14, 0.4)]), lighter(fur, 0.6))
        for x in (-0.19, 0.19):
            sketch.fill(rectangle(x - 0.13, 0.25, x + 0.13, 0.95, 0.12), fur, outline=True)
            sketch.fill(ellipse(x, 0.92, 0.17, 0.1), lighter(fur, 0.6) if bib else fur, outline=True)
        if stripes:
            for side in (-1, 1):
                for y in (0.1, 0.35):
                    sketch.line([(0.5 * side, y), (0.3 * side, y + 0.05)], 0.06, darker(fur, 0.45))
    wide = chance.between(0.46, 0.56)
    for s in (-1, 1):
        ear = [(s * wide * 0.95, hy - 0.12), (s * wide * 0.9, hy - 0.66), (s * wide * 0.2, hy - 0.36)]
        sketch.fill(ear, fur, outline=True)
        sketch.fill(
            [(s * wide * 0.84, hy - 0.2), (s * wide * 0.82, hy - 0.54), (s * wide * 0.4, hy - 0.34)], (225, 150, 150)
        )
    sketch.fill(ellipse(0, hy, wide, 0.42), fur, outline=True)
    if stripes:
        for x in (-0.14, 0, 0.14):
            sketch.line([(x, hy - 0.4), (x * 0.8, hy - 0.24)], 0.055, darker(fur, 0.45))
    sketch.fill(ellipse(0, hy + 0.18, 0.22, 0.15), lighter(fur, 0.55))
    for s in (-1, 1):
        sketch.fill(ellipse(s * 0.2, hy - 0.04, 0.11, 0.1), eyes)
        sketch.fill(ellipse(s * 0.2, hy - 0.04, 0.04, 0.09), BLACK)
        for y in (0.12, 0.2):
            sketch.line([(s * 0.14, hy + 0.15), (s * (wide + 0.16), hy + y)], 0.02, mix(WHITE, fur, 0.15))
    sketch.fill([(-0.07, hy + 0.08), (0.07, hy + 0.08), (0, hy + 0.16)], (215, 110, 120))


def draw_sports_ball(chance: Chance, sketch: Sketch) -> None:
    """A football, a basketball, a tennis ball, a beach ball or a volleyball."""
    kind = chance.choice(("football", "basketball", "tennis", "beach", "volley"))
    turn = chance.between(0, 72)
    if kind == "football":
        sketch.fill(ellipse(0, 0, 1, 1), WHITE, outline=True)
        sketch.fill(_pentagon(0, 0, 0.34, turn), DARK)
        for i in range(5):
            a = math.radians(turn + 72 * i)
            sketch.line(
                [(0.34 * math.cos(a), 0.34 * math.sin(a)), (0.72 * math.cos(a), 0.72 * math.sin(a))], 0.05, DARK
            )
            b = math.radians(turn + 36 + 72 * i)
            sketch.fill(
                [
                    *arc(0, 0, 0.99, 0.99, turn + 10 + 72 * i, turn + 62 + 72 * i, 6),
                    (0.66 * math.cos(b), 0.66 * math.sin(b)),
                ],
                DARK,
            )
    elif kind == "basketball":
        orange = chance.colour(hues=((0.05, 0.08),), saturation=(0.75, 0.95), value=(0.75, 0.92))
        sketch.fill(ellipse(0, 0, 1, 1), orange, outline=True)
        sketch.line([(-0.96, 0), (0.96, 0)], 0.06, DARK)
        sketch.line([(0, -0.96), (0, 0.96)], 0.06, DARK)
        for s in (-1, 1):
            sketch.line(arc(s * 1.15, 0, 0.75, 0.9, 125 if s > 0 else -55, 235 if s > 0 else 55), 0.06, DARK)
    elif kind == "tennis":
        sketch.fill(
            ellipse(0, 0, 1, 1),
            chance.colour(hues=((0.18, 0.22),), saturation=(0.65, 0.85), value=(0.85, 0.98)),
            outline=True,
        )
        for s in (-1, 1):
            sketch.line(arc(s * 1.25, 0, 0.85, 0.95, 130 if s > 0 else -50, 230 if s > 0 else 50), 0.1, WHITE)
    elif kind == "beach":
        colours = (chance.colour(), WHITE, chance.colour(), WHITE, chance.colour(), WHITE)
        for i, colour in enumerate(colours):
            sketch.fill(ellipse(0, 0, 1, 1, turn + 60 * i, turn + 60 * i + 61, 9), colour)
        sketch.fill(ellipse(0, 0, 0.2, 0.2), WHITE, outline=True)
    else:
        base, band = chance.choice(((WHITE, (40, 70, 160)), ((245, 210, 60), (35, 70, 150)), (WHITE, (200, 50, 50))))
        sketch.fill(ellipse(0, 0, 1, 1), base, outline=True)
        for i in range(3):
            a0 = turn + 120 * i
            sketch.fill(
                [*arc(0, 0, 1, 1, a0, a0 + 50, 8), *reversed(arc(0, 0, 0.35, 0.35, a0 + 60, a0 + 110, 6))], band
            )


def _pentagon(x: float, y: float, r: float, turn: float) -> Points:
    return [
        (x + r * math.cos(math.radians(turn + 72 * i)), y + r * math.sin(math.radians(turn + 72 * i))) for i in range(5)
    ]


def draw_bottle(chance: Chance, sketch: Sketch) -> None:
    """Wine, water, beer or sauce: a neck, shoulders, a label and a cap."""
    glass = chance.colour(
        hues=((0.25, 0.42), (0.05, 0.1), (0.52, 0.6), (0.97, 1.02)), saturation=(0.4, 0.9), value=(0.25, 0.85)
    )
    w, neck, tall = chance.between(0.24, 0.36), chance.between(0.09, 0.13), chance.between(0.25, 0.5)
    shoulder = chance.between(0.12, 0.35)
    top = -1 + tall
    right = [
        (neck, -1),
        (neck, top),
        *smooth([(neck, top), (w * 0.85, top + shoulder * 0.6), (w, top + shoulder)], closed=False),
        (w, 0.95),
        (w - 0.06, 1),
    ]
    sketch.fill([*right, *((-x, y) for x, y in reversed(right))], glass, outline=True)
    sketch.fill(rectangle(-w * 0.72, top + shoulder, -w * 0.45, 0.9, 0.04), lighter(glass, 0.45))
    label, y0 = chance.choice((WHITE, (240, 225, 180), chance.colour(value=(0.6, 1.0)))), chance.between(0.0, 0.2)
    sketch.fill(rectangle(-w, y0, w, y0 + chance.between(0.35, 0.55)), label)
    sketch.fill(rectangle(-w * 0.6, y0 + 0.1, w * 0.6, y0 + 0.17), darker(label, 0.5))
    sketch.fill(rectangle(-w * 0.4, y0 + 0.22, w * 0.4, y0 + 0.27), darker(label, 0.4))
    cap = chance.choice(((200, 40, 40), (40, 40, 45), (230, 200, 60), (240, 240, 240), (60, 110, 190)))
    sketch.fill(rectangle(-neck - 0.025, -1.07, neck + 0.025, -0.93, 0.02), cap, outline=True)


def draw_cup(chance: Chance, sketch: Sketch) -> None:
    """A mug with a handle, or a paper cup with a lid."""
    colour, decoration = chance.colour(saturation=(0.0, 0.9), value=(0.5, 0.98)), chance.colour()
    if chance.happens(0.72):
        w, narrow = chance.between(0.6, 0.75), chance.between(0.78, 1.0)
        sketch.ring(ellipse(w * 0.97, 0.05, 0.42, 0.45), ellipse(w * 0.97, 0.05, 0.25, 0.28), darker(colour, 0.15))
        sketch.fill(
            [(-w, -0.7), (w, -0.7), (w * narrow, 0.62), *arc(0, 0.62, w * narrow, 0.16, 0, 180), (-w * narrow, 0.62)],
            colour,
            outline=True,
        )
        _decorate_cup(chance, sketch, w, decoration)
        sketch.fill(ellipse(0, -0.7, w, 0.17), lighter(colour, 0.35), outline=True)
        sketch.fill(
            ellipse(0, -0.68, w * 0.86, 0.12),
            chance.choice(((80, 50, 30), (150, 90, 40), (60, 35, 25), darker(colour, 0.5))),
        )
    else:
        sketch.fill([(-0.58, -0.7), (0.58, -0.7), (0.42, 0.95), (-0.42, 0.95)], colour, outline=True)
        sketch.fill([(-0.55, -0.25), (0.55, -0.25), (0.49, 0.4), (-0.49, 0.4)], chance.choice(WOOD))
        sketch.fill(rectangle(-0.64, -0.84, 0.64, -0.66, 0.06), chance.choice((WHITE, DARK)), outline=True)
        sketch.fill(rectangle(-0.5, -0.96, 0.5, -0.82, 0.05), chance.choice((WHITE, DARK)), outline=True)


def _decorate_cup(chance: Chance, sketch: Sketch, w: float, colour: Colour) -> None:
    pattern = chance.choice(("none", "band", "dots", "heart"))
    if pattern == "band":
        sketch.fill(rectangle(-w * 0.95, -0.2, w * 0.95, 0.15), colour)
    elif pattern == "dots":
        for x in (-0.4, 0, 0.4):
            sketch.fill(ellipse(x, 0.1, 0.12, 0.12), colour)
    elif pattern == "heart":
        sketch.fill(
            smooth([(0, 0.4), (-0.34, 0.05), (-0.2, -0.22), (0, -0.08), (0.2, -0.22), (0.34, 0.05)]), (205, 45, 60)
        )


def draw_clock(chance: Chance, sketch: Sketch) -> None:
    """Round or square, with ticks and two hands."""
    frame, face = (
        chance.colour(saturation=(0.1, 0.9), value=(0.15, 0.7)),
        chance.choice((WHITE, WHITE, (245, 235, 205), DARK)),
    )
    ink = WHITE if face == DARK else BLACK
    thick = chance.between(0.1, 0.2)
    if chance.happens(0.75):
        sketch.fill(ellipse(0, 0, 1, 1, n=32), frame, outline=True)
        sketch.fill(ellipse(0, 0, 1 - thick, 1 - thick, n=32), face)
    else:
        sketch.fill(rectangle(-1, -1, 1, 1, 0.15), frame, outline=True)
        sketch.fill(rectangle(thick - 1, thick - 1, 1 - thick, 1 - thick, 0.1), face)
    for hour in range(12):
        a, inner = math.radians(30 * hour), 0.56 if hour % 3 == 0 else 0.66
        sketch.line(
            [(inner * math.cos(a), inner * math.sin(a)), (0.74 * math.cos(a), 0.74 * math.sin(a))],
            0.07 if hour % 3 == 0 else 0.04,
            ink,
        )
    for length, width in ((0.4, 0.1), (0.62, 0.07)):
        a = math.radians(chance.between(0, 360))
        sketch.line([(0, 0), (length * math.cos(a), length * math.sin(a))], width, ink)
    sketch.fill(ellipse(0, 0, 0.08, 0.08), (200, 40, 40))


def draw_banana(chance: Chance, sketch: Sketch) -> None:
    """One, or a bunch of two or three."""
    count = chance.choice((1, 1, 2, 3))
    ripe = chance.colour(hues=((0.125, 0.17),), saturation=(0.7, 0.95), value=(0.85, 0.98))
    for i in reversed(range(count)):
        bend, shift = chance.between(0.42, 0.6), i * 0.2
        outer = arc(0, -0.25 + shift, 1.0 - 0.06 * i, 0.75, 12, 168, 14)
        inner = arc(0, -0.25 + shift, 0.92 - 0.06 * i, bend - 0.08, 12, 168, 14)
        shade = darker(ripe, 0.12 * i)
        sketch.fill([*outer, *reversed(inner)], shade, outline=True)
        middle = [((ax + bx) / 2, (ay + by) / 2 + 0.02) for (ax, ay), (bx, by) in zip(outer, inner, strict=True)]
        sketch.line(middle[2:-2], 0.035, darker(shade, 0.25))
        sketch.line([(outer[-1][0], outer[-1][1]), (-1.04, -0.34)], 0.12, (120, 95, 35))
        sketch.fill(ellipse(outer[0][0], outer[0][1] - 0.02, 0.07, 0.06), (70, 50, 30))
        for _ in range(chance.integer(0, 3)):
            x, y = chance.choice(middle[3:-3])
            sketch.fill(ellipse(x, y + 0.06, 0.03, 0.02), (110, 75, 30))


def draw_pizza(chance: Chance, sketch: Sketch) -> None:
    """Whole, with a piece missing, or one slice."""
    crust = chance.colour(hues=((0.07, 0.1),), saturation=(0.5, 0.75), value=(0.65, 0.85))
    cheese = chance.colour(hues=((0.11, 0.15),), saturation=(0.5, 0.75), value=(0.88, 0.98))
    slice_, turn = chance.happens(0.35), chance.between(0, 360)
    start, stop = (
        (turn, turn + chance.between(42, 60)) if slice_ else (turn, turn + chance.choice((360, 360, 315, 270)))
    )
    for r, colour in ((1.0, crust), (0.86, (190, 60, 35)), (0.82, cheese)):
        sketch.fill(ellipse(0, 0, r, r, start, stop, 30), colour, outline=r == 1)
    for _ in range(5 if slice_ else chance.integer(9, 16)):
        a, d = math.radians(chance.between(start + 8, stop - 8)), chance.between(0.3, 0.7)
        x, y = d * math.cos(a), d * math.sin(a)
        kind = chance.choice(("salami", "salami", "olive", "basil"))
        if kind == "salami":
            sketch.fill(ellipse(x, y, 0.12, 0.12), (175, 45, 40), outline=True)
        elif kind == "olive":
            sketch.ring(ellipse(x, y, 0.07, 0.07), ellipse(x, y, 0.03, 0.03), (40, 40, 45))
        else:
            sketch.fill(ellipse(x, y, 0.1, 0.05), (60, 130, 50))
    if not slice_ and stop - start >= 360:
        for i in range(4):
            a = math.radians(turn + 45 * i)
            sketch.line([(math.cos(a), math.sin(a)), (-math.cos(a), -math.sin(a))], 0.025, darker(cheese, 0.35))


def draw_chair(chance: Chance, sketch: Sketch) -> None:
    """From the side and a little above: four legs, a seat, a back with bars or a cushion."""
    frame = chance.choice((*WOOD, DARK, WHITE, chance.colour()))
    cushion = chance.choice((frame, chance.colour(), chance.colour()))
    w, back = chance.between(0.42, 0.55), chance.between(0.8, 1.05)
    dx, dy, leg = 0.3, -0.16, 0.1
    for x, y in ((-w + dx, dy), (w + dx, dy), (-w, 0), (w, 0)):
        sketch.line([(x, y), (x, y + 0.95)], leg, darker(frame, 0.35) if y else frame)
    sketch.line([(-w, 0.5), (w, 0.5)], leg * 0.6, darker(frame, 0.2))
    post0, post1 = (-w, 0), (-w + dx, dy)
    for x, y in (post1, post0):
        sketch.line([(x, y), (x - 0.1, y - back)], leg, frame)
    sketch.fill([(-w, 0.02), (w, 0.02), (w + dx, dy), (-w + dx, dy)], cushion, outline=True)
    sketch.fill([(-w, 0.02), (w, 0.02), (w, 0.12), (-w, 0.12)], darker(cushion, 0.3))
    if chance.happens(0.5):
        sketch.fill(
            [(-w - 0.1, -back), (-w + dx - 0.1, dy - back), (-w + dx - 0.05, dy - 0.35), (-w - 0.04, -0.35)],
            cushion,
            outline=True,
        )
    else:
        for share in (0.35, 0.65, 1.0):
            shift, y = -0.1 * share, -back * share
            sketch.line([(-w + shift, y), (-w + dx + shift, dy + y)], leg, frame)
