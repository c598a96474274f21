"""Boxes and points under the reader's hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anywidget
import traitlets

FRONT_END = Path(__file__).with_suffix(".js")


class Handles(anywidget.AnyWidget):
    """Boxes and points over a picture, to be dragged, or moved with Tab, the arrow keys, and Shift for larger steps.

    Traits. What is shown follows boxes, points, labels, colours and locked; the others are read once, when it is shown:
        boxes: (x1, y1, x2, y2) each. What is outside `extent` is clipped to it.
        points: (x, y) each.
        labels, colours: one for each box, then for each point; shown as text, whatever they hold.
        locked: indices, in the same order, of what cannot be moved.
        anchored: boxes keep their top left corner; only the bottom right one can be moved.
        extent: (width, height) of the picture in the coordinates of all the others.
        image: a PNG behind it all; empty for none.
        step: how far an arrow key moves, and the smallest side of a box.

    Raises:
        traitlets.TraitError: a box or point that is not made of finite numbers, or a box turned inside out.
    """

    _esm = FRONT_END

    extent = traitlets.Tuple(traitlets.Float(min=1e-9), traitlets.Float(min=1e-9)).tag(sync=True)
    boxes = traitlets.List(traitlets.List()).tag(sync=True)
    points = traitlets.List(traitlets.List()).tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    colours = traitlets.List(traitlets.Unicode()).tag(sync=True)
    locked = traitlets.List(traitlets.Int()).tag(sync=True)
    anchored = traitlets.Bool(False).tag(sync=True)
    image = traitlets.Bytes(b"").tag(sync=True)
    step = traitlets.Float(1.0, min=1e-9).tag(sync=True)
    max_width = traitlets.Int(520, min=50).tag(sync=True)
    title = traitlets.Unicode("Drag the boxes and points").tag(sync=True)

    def __init__(self, extent: tuple[float, float], **traits: Any) -> None:
        super().__init__(extent=extent, **traits)

    @traitlets.validate("boxes")
    def _valid_boxes(self, proposal: dict[str, Any]) -> list[list[float]]:
        boxes = [self._clipped(box, 4, "box") for box in proposal["value"]]
        for x1, y1, x2, y2 in boxes:
            if not (x1 <= x2 and y1 <= y2):
                raise traitlets.TraitError(
                    f"a box is (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2; got {x1, y1, x2, y2}"
                )
        return boxes

    @traitlets.validate("points")
    def _valid_points(self, proposal: dict[str, Any]) -> list[list[float]]:
        return [self._clipped(point, 2, "point") for point in proposal["value"]]

    def _clipped(self, numbers: list[Any], count: int, what: str) -> list[float]:
        try:
            numbers = [float(number) for number in numbers]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
            raise traitlets.TraitError(f"a {what} is {count} finite numbers; got {numbers}")
        return [min(max(number, 0.0), self.extent[n % 2]) for n, number in enumerate(numbers)]
