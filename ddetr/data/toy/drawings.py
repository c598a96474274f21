"""Sixteen of COCO's categories as drawings, each with its own proportions, colours, poses and details every time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from . import indoors, outdoors
from .sketch import Chance, Sketch


class Look(NamedTuple):
    """How a category is drawn, how far it may be turned either way (degrees), and whether its mirror image exists."""

    draw: Callable[[Chance, Sketch], None]
    turn: float
    mirrored: bool = True


LOOKS: dict[int, Look] = {
    3: Look(outdoors.draw_car, 5),
    6: Look(outdoors.draw_bus, 4),
    9: Look(outdoors.draw_boat, 8),
    10: Look(outdoors.draw_traffic_light, 6),
    13: Look(outdoors.draw_stop_sign, 8, mirrored=False),
    16: Look(indoors.draw_bird, 18),
    17: Look(indoors.draw_cat, 8),
    28: Look(outdoors.draw_umbrella, 20),
    37: Look(indoors.draw_sports_ball, 180),
    38: Look(outdoors.draw_kite, 40),
    44: Look(indoors.draw_bottle, 10),
    47: Look(indoors.draw_cup, 8),
    52: Look(indoors.draw_banana, 180),
    59: Look(indoors.draw_pizza, 180),
    62: Look(indoors.draw_chair, 6),
    85: Look(indoors.draw_clock, 10),
}
"""COCO category id -> its drawing."""


def sketch_of(category_id: int, chance: Chance) -> Sketch:
    """A new drawing of a category."""
    sketch = Sketch(outline=chance.choice((0.0, 0.025, 0.045)))
    LOOKS[category_id].draw(chance, sketch)
    return sketch
