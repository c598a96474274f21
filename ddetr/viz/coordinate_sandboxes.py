"""The hands-on views of pages 04 and 05: controls around the coordinate ladder and the offsets playground."""

from __future__ import annotations

from collections.abc import Sequence

from ipywidgets import Checkbox, Dropdown, FloatSlider
from torch import Tensor

from . import coordinates, offsets
from .figures import INK
from .handles import Handles
from .padding import STRIDES
from .sandbox import Sandbox
from .sandboxes import as_png

_NO_INDENT = {"indent": False, "layout": {"width": "auto"}}


def ladder_sandbox(image: Tensor, start: coordinates.LadderState) -> Sandbox:
    """Drag a place over the image, choose a level, and switch each of the three conventions.

    image: (3, h, w), normalised; start: what to begin with. ValueError for a state that does not fit the image.
    """
    h, w = image.shape[1:]
    if tuple(start.image_size) != (h, w):
        raise ValueError(f"the image is {(h, w)}, the state's image_size {tuple(start.image_size)}")
    coordinates.climb(start)  # says what is wrong before any control is made
    handles = Handles(
        (w, h), points=[list(start.place)], labels=["place"], colours=[INK], image=as_png(image), step=2, max_width=300,
        title="The image: drag the place",
    )  # fmt: skip
    levels = Dropdown(options=[(f"level {n}", n) for n in range(len(STRIDES))], value=start.level, description="level")
    switches = {
        name: Checkbox(getattr(start, name), description=name.replace("_", " "), **_NO_INDENT)
        for name in ("align_corners", "half_pixel", "swapped")
    }

    def state(points: list[list[float]], **chosen: bool | int) -> coordinates.LadderState:
        return start._replace(place=tuple(points[0]), **chosen)

    # Without the picture, which the handles show already; a still has no handles.
    controls = {"points": (handles, "points"), "level": levels, **switches}
    return Sandbox(coordinates.draw, state, controls, lambda still: coordinates.draw(still, image))


def offsets_sandbox(
    image: Tensor, level_sizes: Sequence[tuple[int, int]], box: tuple[float, float, float, float] | None = None
) -> Sandbox:
    """Drag the reference point of the initial star, or with `box` (cx, cy, w, h) in [0, 1] its reference box.

    image: (3, h, w), normalised; level_sizes: (h, w) of each level. ValueError as `offsets.locate`.
    """
    h, w = image.shape[1:]
    traits = {"colours": [INK], "image": as_png(image), "step": 2, "max_width": 300}
    if box is None:
        handles = Handles((w, h), points=[[w / 2, h / 2]], labels=["reference point"], **traits)
    else:
        cx, cy, width, height = box
        corners = [(cx - width / 2) * w, (cy - height / 2) * h, (cx + width / 2) * w, (cy + height / 2) * h]
        handles = Handles((w, h), boxes=[corners], labels=["reference box"], **traits)
    handles.title = "The image: drag the reference"
    drawn = handles.boxes  # they end at the image's border; a box that goes beyond is itself until it is moved
    heads = Dropdown(options=[("all", None), *((str(n), n) for n in range(offsets.HEADS))], description="head")
    controls = {
        "place": (handles, "points" if box is None else "boxes"),
        "head": heads,
        "stretch": FloatSlider(1.0, min=0.0, max=2.0, step=0.05, description="stretch"),
    }
    if box is None:  # with a box nothing is divided by the map's size
        controls["swapped"] = Checkbox(False, description="divide by (H, W)", **_NO_INDENT)

    def state(place: list[list[float]], **chosen: bool | int | float | None) -> offsets.OffsetsState:
        a, b, *corner = place[0]
        reference = (a / w, b / h)
        if corner and place == drawn:
            reference = tuple(box)
        elif corner:
            c, d = corner
            reference = ((a + c) / 2 / w, (b + d) / 2 / h, (c - a) / w, (d - b) / h)
        return offsets.OffsetsState(reference, tuple(level_sizes), **chosen)

    return Sandbox(offsets.draw, state, controls)
