"""Sampling points over the image (the paper's figure 6). Pure functions: data in, figure out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from .figures import Figure, halo, label_axes, level_colour, plain_text
from .sampling_view import (
    ON_IMAGE,
    ON_PADDING,
    OUTSIDE,
    Attention,
    Points,
    SamplingView,
    cell_of,
    check_index,
    corners,
    describe,
    points_of,
    reference,
    to_pixels,
    token_at,
)

__all__ = [
    "Attention",
    "SamplingView",
    "cell_of",
    "corners",
    "points_of",
    "reference",
    "sampling_points",
    "to_pixels",
    "token_at",
]

REFERENCE_COLOUR = "#3CFF3C"
"""The paper's green, for the reference point's cross and the boxes; always with a black rim."""


def sampling_points(
    view: SamplingView,
    part: str,
    layer: int,
    row: int,
    *,
    heads: Iterable[int] | None = None,
    levels: Iterable[int] | None = None,
    heaviest: int | None = None,
    weights: bool = True,
    lines: bool = False,
    point: Sequence[int] | None = None,
    grid: bool = False,
    inches: float = 5.0,
) -> Figure:
    """The image with the sampling points of one token or query (the paper's figure 6).

    A point has the colour of its level; its area and its opacity grow with its weight, by one scale for all heads and
    levels of this row. The reference point is a green cross with its box, if it has one; a query's predicted box is
    dashed. Hollow points lie on padding or outside the map, which read zero; those too far out to be drawn are counted.

    Args:
        view: the image and its points.
        part: "encoder", whose rows are tokens (see `token_at`), or "decoder", whose rows are queries.
        layer, row: which.
        heads, levels: numbers of those to draw; None for all.
        heaviest: how many points, the heaviest of those; None for all.
        weights: False draws every point alike.
        lines: a line from the reference point to each point.
        point: (head, level, point) of one that is circled, with the four cells that it reads close up beside the image;
            the heaviest, if it is not among those drawn.
        grid: the cells of that point's level over the image; without `point`, of the heaviest one's.
        inches: of the picture's longer side, for a page that shows several.

    Raises:
        ValueError: anything that does not exist; says what there is.
    """
    points = points_of(view, part, layer, row, heads=heads, levels=levels, heaviest=heaviest)
    everything = points_of(view, part, layer, row)
    cross = reference(view, part, layer, row)
    left, right, top, bottom = _frame(view, points, cross)
    scale = inches / max(right - left, bottom - top)
    figure = Figure(figsize=(scale * (right - left) + 3.1, scale * (bottom - top) + 0.9), layout="constrained")
    axes = figure.subplots()
    h, w = view.size
    axes.set_facecolor("#d9d9d9")
    axes.imshow(view.image, extent=(0, w, h, 0), zorder=1)
    H, W = view.padded_size
    if view.size != (H, W):
        style = {"facecolor": "#8a8a8a", "hatch": "///", "edgecolor": "#a5a5a5", "linewidth": 0, "zorder": 0.5}
        axes.add_patch(Rectangle((0, 0), W, H, **style))
    heaviest_of_all = float(everything.weight.max())
    if lines:
        _draw_lines(axes, view, part, layer, row, points)
    _draw_points(axes, points, heaviest_of_all if weights else None)
    _draw_reference(axes, view, part, layer, row, cross)
    if point is not None:
        shape = view.attention(part, layer).weights.shape[1:]
        for name, number, count in zip(("head", "level", "point"), point, shape, strict=True):
            check_index(name, number, count, f"{name}s")
    circled = _find(points, point)
    if grid and len(points.x):
        _draw_grid(axes, view, int(points.level[circled]))
    if point is not None and circled >= 0:
        ring = {"s": 220, "facecolors": "none", "zorder": 6}
        for rim, width in (("black", 3.0), ("white", 1.4)):
            axes.scatter(points.x[circled], points.y[circled], edgecolors=rim, linewidths=width, **ring)
        _draw_corners(axes.inset_axes((1.04, 0.0, 0.3, 0.3)), view, points, circled)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.set_title(plain_text(describe(view, part, layer, row), 120), fontsize=9)
    label_axes(axes, "x (pixels)", "y (pixels)")
    shown = (points.x >= left) & (points.x <= right) & (points.y >= top) & (points.y <= bottom)
    counts = _counts(points, int((~shown).sum()))
    handles = _legend(view, points, heaviest_of_all if weights else None, cross, part)
    legend = axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=7, frameon=False, borderaxespad=0,
        title=f"{len(points.x)} points" + "".join(f"\n{line}" for line in counts), title_fontsize=7.5,
    )  # fmt: skip
    legend._legend_box.align = "left"
    figure.alt = _alt(view, part, layer, row, points, cross, counts)
    return figure


def _draw_points(axes: Axes, points: Points, heaviest: float | None) -> None:
    share = np.full(len(points.weight), 0.3) if heaviest is None else points.weight / heaviest
    for level in np.unique(points.level):
        colour = level_colour(level)
        for reads in (True, False):
            of = (points.level == level) & ((points.where == ON_IMAGE) == reads)
            if not of.any():
                continue
            alpha = np.full(of.sum(), 0.85) if heaviest is None else 0.4 + 0.6 * share[of]
            inks = to_rgba_array([colour] * len(alpha), alpha)
            style = {"facecolors": inks, "edgecolors": "white"} if reads else {"facecolors": "none", "edgecolors": inks}
            axes.scatter(
                points.x[of], points.y[of], s=_area(share[of]), linewidths=0.4 if reads else 1.2, zorder=3, **style
            )


def _area(share: Any) -> Any:
    """A point's area in square typographic points, `share` its weight as a part of the heaviest."""
    return 9 + 130 * share


def _draw_lines(axes: Axes, view: SamplingView, part: str, layer: int, row: int, points: Points) -> None:
    start = reference(view, part, layer, row)
    for x, y, level in zip(points.x, points.y, points.level, strict=True):
        colour = level_colour(level)
        axes.plot([start[level, 0], x], [start[level, 1], y], color=colour, linewidth=0.7, alpha=0.6, zorder=2)


def _draw_reference(axes: Axes, view: SamplingView, part: str, layer: int, row: int, cross: np.ndarray) -> None:
    rim = halo(3, "black")
    style = {"fill": False, "edgecolor": REFERENCE_COLOUR, "linewidth": 1.4, "path_effects": rim, "zorder": 4}
    for cx, cy, w, h in np.unique(cross[:, :4].round(1), axis=0) if cross.shape[1] == 4 else ():
        axes.add_patch(Rectangle((cx - w / 2, cy - h / 2), w, h, **style))
    if part == "decoder" and view.boxes is not None and layer < len(view.boxes):
        x1, y1, x2, y2 = view.boxes[layer, row].tolist()
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, linestyle=(0, (4, 3)), **style))
    line = {"color": REFERENCE_COLOUR, "markersize": 11, "markeredgewidth": 2, "path_effects": rim, "zorder": 5}
    axes.plot(*np.unique(cross[:, :2].round(1), axis=0).T, marker="+", linestyle="none", **line)


def _find(points: Points, point: Sequence[int] | None) -> int:
    """Where a (head, level, point) is among the points; the last one, the heaviest, where it is not."""
    if point is not None:
        head, level, number = point
        found = np.flatnonzero((points.head == head) & (points.level == level) & (points.point == number))
        if len(found):
            return int(found[0])
    return len(points.x) - 1


def _draw_grid(axes: Axes, view: SamplingView, level: int) -> None:
    (rows, columns), colour = view.level_sizes[level], level_colour(level)
    ends = to_pixels(view, np.ones(2), level)
    style = {"color": colour, "linewidth": 0.6, "zorder": 1.5}
    axes.vlines(np.linspace(0, ends[0], columns + 1), 0, ends[1], **style)
    axes.hlines(np.linspace(0, ends[1], rows + 1), 0, ends[0], **style)


def _draw_corners(axes: Axes, view: SamplingView, points: Points, i: int) -> None:
    level, x, y = int(points.level[i]), float(points.x[i]), float(points.y[i])
    rows, columns = view.level_sizes[level]
    w, h = to_pixels(view, np.ones(2), level) / [columns, rows]  # a cell in pixels
    axes.imshow(view.image, extent=(0, view.size[1], view.size[0], 0))
    axes.set_facecolor("#8a8a8a")
    _draw_grid(axes, view, level)
    for corner in corners(view, level, x, y):
        reads = corner.where == ON_IMAGE
        colour = level_colour(level) if reads else "#555555"
        place = (corner.column * w, corner.row * h)
        axes.add_patch(Rectangle(place, w, h, color=colour, alpha=0.15 + 0.6 * corner.weight, zorder=2))
        text = f"{corner.weight:.2f}" + ("" if reads else ("\npadding" if corner.where == ON_PADDING else "\noutside"))
        rim = halo(2, "black")
        axes.text(
            place[0] + w / 2, place[1] + h / 2, text, ha="center", va="center", fontsize=6, color="white",
            path_effects=rim, zorder=4, clip_on=True,
        )  # fmt: skip
    axes.plot(x, y, "o", color=level_colour(level), markeredgecolor="white", markersize=5, zorder=5)
    axes.set(xlim=(x - 1.6 * w, x + 1.6 * w), ylim=(y + 1.6 * h, y - 1.6 * h), xticks=[], yticks=[])
    axes.set_title(f"head {points.head[i]}, level {level}, point {points.point[i]}", fontsize=7)


def _frame(view: SamplingView, points: Points, cross: np.ndarray) -> tuple[float, float, float, float]:
    """Left, right, top and bottom: the image, and beyond it as far as points lie, up to a quarter of it."""
    limits: list[float] = []
    for size, values, start in ((view.size[1], points.x, cross[:, 0]), (view.size[0], points.y, cross[:, 1])):
        values = np.concatenate([values, start])
        reach, margin = 0.2 * size, 0.02 * size
        limits.append(max(min(-margin, values.min() - margin), -reach))
        limits.append(min(max(size + margin, values.max() + margin), size + reach))
    left, right, top, bottom = limits
    return left, right, top, bottom


def _counts(points: Points, beyond: int) -> list[str]:
    padding, outside = int((points.where == ON_PADDING).sum()), int((points.where == OUTSIDE).sum())
    texts = (f"{padding} on padding", f"{outside} outside the map", f"{beyond} beyond this frame")
    return [text for text, count in zip(texts, (padding, outside, beyond), strict=True) if count]


def _legend(
    view: SamplingView, points: Points, heaviest: float | None, cross: np.ndarray, part: str
) -> list[Line2D | Rectangle]:
    def dot(share: float, **style: Any) -> Line2D:
        size = float(np.sqrt(_area(share)))
        return Line2D([], [], marker="o", linestyle="none", markersize=size, **style)

    handles: list[Line2D | Rectangle] = []
    total = points.weight.sum()
    for level in np.unique(points.level):
        of = points.level == level
        part_of_all = f": weight {points.weight[of].sum() / total:.0%}" if heaviest is not None and total else ""
        h, w = view.level_sizes[level]
        handles.append(dot(0.25, color=level_colour(level), label=f"level {level} ({h} x {w}){part_of_all}"))
    if heaviest is not None:
        for share in (1.0, 0.25):
            handles.append(dot(share, color="#888888", alpha=0.4 + 0.6 * share, label=f"weight {share * heaviest:.3f}"))
    if (points.where != ON_IMAGE).any():
        handles.append(dot(0.25, markerfacecolor="none", markeredgecolor="#888888", label="hollow: not on the image"))
    rim = halo(3, "black")
    cross_line = {"marker": "+", "linestyle": "none", "markersize": 9, "markeredgewidth": 2, "path_effects": rim}
    handles.append(Line2D([], [], color=REFERENCE_COLOUR, label="reference point", **cross_line))
    if cross.shape[1] == 4:
        handles.append(Line2D([], [], color=REFERENCE_COLOUR, path_effects=rim, label="reference box"))
    if part == "decoder" and view.boxes is not None:
        style = {"linestyle": (0, (2, 1)), "path_effects": rim}
        handles.append(Line2D([], [], color=REFERENCE_COLOUR, label="predicted box", **style))
    return handles


def _alt(
    view: SamplingView, part: str, layer: int, row: int, points: Points, cross: np.ndarray, counts: list[str]
) -> str:
    heads = len(np.unique(points.head))
    total = points.weight.sum() or 1.0
    levels = (f"level {k} {points.weight[points.level == k].sum() / total:.0%}" for k in np.unique(points.level))
    text = (
        f"Sampling points of {describe(view, part, layer, row)}. {len(points.x)} points of {heads} heads around "
        f"the reference point ({cross[0, 0]:.0f}, {cross[0, 1]:.0f}), in pixels (x, y). Weight by level: "
        f"{', '.join(levels)}."
    )
    if len(points.x):
        text += (
            f" The heaviest, {points.weight[-1]:.3f}: head {points.head[-1]}, level {points.level[-1]}, at "
            f"({points.x[-1]:.0f}, {points.y[-1]:.0f})."
        )
    return text + (f" {', '.join(counts)}.".capitalize() if counts else "")
