"""Half a cell: the two meanings of [-1, 1], and what lies outside a map."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .figures import INK, LEVEL_COLOURS, Figure, label_axes, level_colour
from .padding import STRIDES

EDGES, CENTRES = "#0072B2", "#D55E00"


class ConventionState(NamedTuple):
    """A row of `cells`, and the place `x` in [0, 1] that is asked for."""

    cells: int
    x: float


def read_at(x: float, cells: int, align_corners: bool) -> float:
    """Where grid_sample reads for 2 * x - 1, in cells counted from the left edge of the first."""
    return x * (cells - 1) + 0.5 if align_corners else x * cells


def draw(state: ConventionState) -> Figure:
    """One row of cells under both conventions, and how far apart they are on each level of the image.

    ValueError for fewer than one cell.
    """
    cells, x = state
    if cells < 1:
        raise ValueError(f"a row needs at least one cell; got {cells}")
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    for column in range(cells):
        left.add_patch(Rectangle((column, 0), 1, 1, facecolor="#f4f4f4", edgecolor="#888888"))
        left.plot(column + 0.5, 0.5, ".", color=INK, markersize=4)
    places = [read_at(x, cells, align) for align in (False, True)]
    _ruler(left, 1.5, 0, cells, EDGES, "align_corners=False: -1 and 1 are edges", places[0])
    _ruler(left, -0.5, 0.5, cells - 0.5, CENTRES, "align_corners=True: -1 and 1 are centres", places[1])
    left.set(xlim=(-0.1 * cells, 1.1 * cells), ylim=(-1.5, 2.6), yticks=[])
    left.set_title(f"x = {x:g} on {cells} cells: read at {places[0]:.3f} and at {places[1]:.3f}", fontsize=9)
    label_axes(left, "x (cells)", "")
    along = np.linspace(0, 1, 51)
    for level, stride in enumerate(STRIDES):
        right.plot(along, (0.5 - along) * stride, color=level_colour(level), label=f"level {level}, stride {stride}")
    right.axhline(0, color="#888888", linewidth=0.6)
    right.legend(fontsize=7, frameon=False)
    right.set_title("how far align_corners=True is off", fontsize=9)
    label_axes(right, "x (share of the map)", "error (pixels of the image)")
    figure.alt = (
        f"A row of {cells} cells. For x = {x:g}, align_corners=False reads at {places[0]:.3f} cells from the left "
        f"edge, align_corners=True at {places[1]:.3f}. On the image that is up to half a stride at the borders: "
        f"{', '.join(f'level {level} {stride // 2} pixels' for level, stride in enumerate(STRIDES))}; nothing in the "
        "middle."
    )
    return figure


def border(places: Tensor, values: Tensor, slopes: Tensor) -> Figure:
    """What a map of ones reads near its edge at 0, and its slope; places in cells."""
    figure = Figure(figsize=(7.5, 2.3), layout="constrained")
    axes = figure.subplots()
    places, values, slopes = (numbers.detach().numpy() for numbers in (places, values, slopes))
    axes.axvspan(places.min(), 0, facecolor="#eeeeee", hatch="///", edgecolor="#cccccc")
    axes.plot(places, values, color=LEVEL_COLOURS[0], label="what is read")
    axes.plot(places, slopes, color="#D55E00", linestyle="dashed", label="its slope: the gradient of the place")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    label_axes(axes, "x (cells; the map begins at 0)", "read, and slope (per cell)")
    zero = places[values == 0]
    figure.alt = (
        f"A map of ones read across its left edge: 1 inside, fading over one cell, 0 from {zero.max():.2f} cells on; "
        "where it is 0 its slope is 0 too."
        if len(zero)
        else "A map of ones read near its left edge."
    )
    return figure


def _ruler(axes: Axes, y: float, start: float, end: float, colour: str, title: str, place: float) -> None:
    axes.plot([start, end], [y, y], color=colour, linewidth=1.5)
    for x, text in ((start, "-1"), ((start + end) / 2, "0"), (end, "1")):
        axes.plot([x, x], [y - 0.12, y + 0.12], color=colour, linewidth=1.5)
        axes.text(x, y + 0.2, text, ha="center", fontsize=7, color=colour)
    axes.text((start + end) / 2, y + (0.65 if y > 0 else -0.75), title, ha="center", fontsize=8, color=colour)
    axes.plot([place, place], [y, 0.5], color=colour, linewidth=1, linestyle="dotted")
    axes.plot(place, 0.5, "x", color=colour, markersize=8, markeredgewidth=2)
