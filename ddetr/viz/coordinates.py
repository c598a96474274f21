"""From a pixel to the four cells that are read there: the coordinate ladder, as a pure function of its state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from ..models.multi_scale import get_valid_ratio, level_mask
from .corners import Corner, corners
from .figures import INK, Figure, frame, halo, label_axes, level_colour, pixels_of, whole_ticks
from .padding import STRIDES

Pair = tuple[float, float]

MARKERS = ("o", "s", "^", "D")
"""One marker for each level, so that the levels differ without colour too."""

_HALO = halo(3)
_WRONG = "#D55E00"


class LadderState(NamedTuple):
    """What the ladder shows: one place, one level, and the three conventions that can go wrong.

    Attributes:
        place: (x, y) in pixels of the image.
        image_size: (h, w) of the image in pixels.
        padded_size: (H, W) of its batch.
        level: 0 to 3, strides 8 to 64.
        align_corners: read as `grid_sample(align_corners=True)` does: -1 and 1 are the centres of the border cells.
        half_pixel: a cell's value sits at its centre, half a cell in. Means nothing with `align_corners`.
        swapped: hand over (y, x) in place of (x, y).
    """

    place: Pair
    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    level: int = 0
    align_corners: bool = False
    half_pixel: bool = True
    swapped: bool = False


class Ladder(NamedTuple):
    """The rungs, each as (x, y).

    Attributes:
        ratio: the level's valid ratio, (w, h).
        level_size: the map, (h, w) in cells.
        of_image: the place in [0, 1] of the image.
        of_map: in [0, 1] of the padded map: what the operator takes.
        cells: in cells of the level.
        grid: in [-1, 1]: what `grid_sample` takes.
        index: counted from the centre of the first cell.
        corners: top left, top right, bottom left, bottom right.
        reads_at: the place in pixels of the image whose value this is.
    """

    ratio: Pair
    level_size: tuple[int, int]
    of_image: Pair
    of_map: Pair
    cells: Pair
    grid: Pair
    index: Pair
    corners: tuple[Corner, Corner, Corner, Corner]
    reads_at: Pair


def climb(state: LadderState) -> Ladder:
    """The numbers of every rung. ValueError for a level that is not 0 to 3, or an image larger than its batch."""
    if state.level not in range(len(STRIDES)):
        raise ValueError(f"level must be 0 to {len(STRIDES) - 1}; got {state.level!r}")
    (h_image, w_image), (H, W) = state.image_size, state.padded_size
    if not (0 < h_image <= H and 0 < w_image <= W):
        raise ValueError(f"an image of {h_image} x {w_image} does not fit into a batch of {H} x {W}")
    if not all(math.isfinite(value) for value in state.place):
        raise ValueError(f"place must be two finite numbers (x, y); got {state.place}")
    h, w = size = (-(-H // STRIDES[state.level]), -(-W // STRIDES[state.level]))
    mask = torch.ones(1, H, W, dtype=torch.bool)
    mask[:, :h_image, :w_image] = False
    ratio = tuple(get_valid_ratio(level_mask(mask, size))[0].double().tolist())

    of_image = (state.place[0] / w_image, state.place[1] / h_image)
    of_map = (of_image[0] * ratio[0], of_image[1] * ratio[1])
    grid = (2 * of_map[0] - 1, 2 * of_map[1] - 1)
    given = grid[::-1] if state.swapped else grid
    index = tuple(_index(g, n, state) for g, n in zip(given, (w, h), strict=True))
    reads_at = tuple(
        (i + 0.5) / n / r * side
        for i, n, r, side in zip(index, (w, h), ratio, (w_image, h_image), strict=True)
    )  # fmt: skip
    cells = (of_map[0] * w, of_map[1] * h)
    return Ladder(ratio, size, of_image, of_map, cells, grid, index, corners(*index, size), reads_at)


def draw(state: LadderState, picture: Tensor | None = None) -> Figure:
    """The place on the padded image, the rungs in numbers, the level's map, and the four cells with their weights.

    picture: the image (3, h, w) as the model takes it, to show in place of a plain area.
    ValueError as `climb`, and for a picture of another size.
    """
    if picture is not None and tuple(picture.shape[1:]) != tuple(state.image_size):
        raise ValueError(f"the picture is {tuple(picture.shape[1:])}, the state's image_size {tuple(state.image_size)}")
    ladder = climb(state)
    figure = Figure(figsize=(11, 2.9), layout="compressed")
    image, rungs, level, corners = figure.subplots(1, 4, width_ratios=(1, 1.25, 1, 1))
    miss = math.dist(ladder.reads_at, state.place)
    _draw_image(image, state, ladder, picture, miss)
    _draw_rungs(rungs, state, ladder)
    _draw_level(level, state, ladder)
    _draw_corners(corners, state, ladder)
    h, w = ladder.level_size
    cells = ", ".join(
        f"row {c.row} column {c.column} {c.weight:.3f}{'' if c.inside else ' outside'}" for c in ladder.corners
    )
    figure.alt = (
        f"Pixel {_pair(state.place, 1)} is {_pair(ladder.of_image)} of the image, {_pair(ladder.of_map)} of the padded "
        f"map, {_pair(ladder.cells)} in cells of level {state.level}, {h} x {w}, and {_pair(ladder.grid)} for "
        f"grid_sample. It reads {cells}, and so the value of pixel {_pair(ladder.reads_at, 1)}, {miss:.1f} pixels off."
    )
    return figure


def places_on_image(
    picture: Tensor, places: Mapping[int, Tensor], padded_size: tuple[int, int] | None = None, title: str = ""
) -> Figure:
    """Points of some levels over an image, in its pixels.

    picture (3, h, w); places: for each level (0 to 3) its points (N, 2) as (x, y) in pixels; padded_size: (H, W) of the
    batch, to show the padding. ValueError for another level.
    """
    unknown = set(places) - set(range(len(MARKERS)))
    if unknown:
        raise ValueError(f"level must be 0 to {len(MARKERS) - 1}; got {sorted(unknown)[0]!r}")
    h, w = picture.shape[1:]
    H, W = padded_size or (h, w)
    figure = Figure(figsize=(5.4, 0.7 + 3.6 * H / W), layout="compressed")
    axes = figure.subplots()
    _picture(axes, picture, (h, w), (H, W))
    for level, points in places.items():
        x, y = points.detach().cpu().numpy().T
        axes.scatter(
            x, y, s=(5, 22, 55, 120)[level], marker=MARKERS[level], facecolor="none" if level else level_colour(level),
            edgecolor=level_colour(level), linewidth=0.6 if level == 0 else 1.6, label=f"level {level}: {len(points)}",
            path_effects=_HALO if level else None,
        )  # fmt: skip
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    axes.set_title(title, fontsize=9)
    spans = (
        f"level {n} from x {p[:, 0].min():.0f} to {p[:, 0].max():.0f}, y {p[:, 1].min():.0f} to {p[:, 1].max():.0f}"
        for n, p in places.items()
    )
    figure.alt = f"{title}: the image is {w} wide and {h} high; points of {'; '.join(spans)}."
    return figure


def queries_on_image(picture: Tensor, points: Tensor, boxes: Tensor, scores: Tensor, threshold: float = 0.5) -> Figure:
    """Where each query looks from, and for those that found something, the box that it answers with.

    picture (3, h, w); points (Q, 2) as (x, y) and boxes (Q, 4) as (cx, cy, w, h), both in [0, 1] of the image; scores
    (Q,), each query's best.
    """
    h, w = picture.shape[1:]
    scale = torch.tensor([w, h])
    figure = Figure(figsize=(5.4, 0.7 + 3.6 * h / w), layout="compressed")
    axes = figure.subplots()
    _picture(axes, picture, (h, w), (h, w))
    found = scores >= threshold
    ours = (points * scale).detach().cpu()
    for start, box in zip(ours[found], boxes[found].detach().cpu(), strict=True):
        centre, side = box[:2] * scale, box[2:] * scale
        axes.add_patch(
            Rectangle(
                (centre - side / 2).tolist(), *side.tolist(), fill=False, edgecolor=INK, linewidth=1.4,
                path_effects=_HALO,
            )
        )  # fmt: skip
        axes.annotate(
            "", centre.tolist(), start.tolist(),
            arrowprops={"arrowstyle": "->", "color": INK, "path_effects": _HALO, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    for chosen, face, label in ((~found, "white", "found nothing"), (found, _WRONG, "found something")):
        x, y = ours[chosen].T.numpy()
        axes.scatter(x, y, s=28, facecolor=face, edgecolor=INK, zorder=3, label=f"{label}: {len(x)}")
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    axes.set_title("where the queries look from", fontsize=9)
    figure.alt = (
        f"{len(points)} reference points over the image; {int(found.sum())} of them lead by an arrow to the box that "
        f"their query found with a score of at least {threshold:g}."
    )
    return figure


def _index(grid: float, cells: int, state: LadderState) -> float:
    """A coordinate in [-1, 1] -> counted from the centre of the first cell."""
    if state.align_corners:
        return (grid + 1) / 2 * (cells - 1)
    return (grid + 1) / 2 * cells - (0.5 if state.half_pixel else 0)


def _draw_image(axes: Axes, state: LadderState, ladder: Ladder, picture: Tensor | None, miss: float) -> None:
    _picture(axes, picture, state.image_size, state.padded_size)
    axes.plot(*state.place, "+", color=INK, markersize=12, markeredgewidth=2, path_effects=_HALO)
    if miss > 0.05:
        axes.annotate(
            "", ladder.reads_at, state.place,
            arrowprops={"arrowstyle": "->", "color": _WRONG, "linewidth": 2, "path_effects": _HALO},
        )  # fmt: skip
        axes.plot(*ladder.reads_at, "o", markeredgecolor=_WRONG, markerfacecolor="none", markeredgewidth=2)
        axes.set_title(f"asked at +, reads at o:\n{miss:.1f} pixels off", fontsize=9, color=_WRONG)
    else:
        axes.set_title("asked at +, and read there\n", fontsize=9)


def _draw_rungs(axes: Axes, state: LadderState, ladder: Ladder) -> None:
    (h_image, w_image), (h, w) = state.image_size, ladder.level_size
    last = (
        "(v + 1) / 2, times (w - 1, h - 1)"
        if state.align_corners
        else "less 0.5"
        if state.half_pixel
        else "no half cell"
    )
    rows = [
        ("pixel", "", _pair(state.place, 1), False),
        ("of the image", f"divided by ({w_image}, {h_image})", _pair(ladder.of_image), False),
        ("of the padded map", f"times valid ratio {_pair(ladder.ratio)}", _pair(ladder.of_map), False),
        ("in cells", f"times ({w}, {h})", _pair(ladder.cells), False),
        ("for grid_sample", "2 v - 1, (y, x)" if state.swapped else "2 v - 1",
         _pair(ladder.grid[::-1] if state.swapped else ladder.grid), state.swapped),
        ("cell index", last, _pair(ladder.index), state.align_corners or not state.half_pixel),
    ]  # fmt: skip
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(len(rows), 0))
    for row, (name, step, value, wrong) in enumerate(rows):
        ink = _WRONG if wrong else INK
        axes.text(0, row + 0.35, name, fontsize=8.5, va="center", color=ink)
        axes.text(1, row + 0.35, value, fontsize=8.5, va="center", ha="right", color=ink, family="monospace")
        axes.text(0.04, row + 0.72, step, fontsize=7, va="center", color=_WRONG if wrong else "#666666")


def _draw_level(axes: Axes, state: LadderState, ladder: Ladder) -> None:
    h, w = ladder.level_size
    valid_w, valid_h = round(ladder.ratio[0] * w), round(ladder.ratio[1] * h)
    axes.add_patch(Rectangle((0, 0), w, h, facecolor="#666666", hatch="///", edgecolor="#888888"))
    axes.add_patch(Rectangle((0, 0), valid_w, valid_h, facecolor="#f2f2f2"))
    for x in range(w + 1):
        axes.axvline(x, color="#bbbbbb", linewidth=0.5)
    for y in range(h + 1):
        axes.axhline(y, color="#bbbbbb", linewidth=0.5)
    for corner in ladder.corners:
        axes.add_patch(
            Rectangle(
                (corner.column, corner.row), 1, 1, facecolor=level_colour(state.level), edgecolor=INK, clip_on=False,
                alpha=0.25 + 0.6 * corner.weight, linewidth=0.8, linestyle="solid" if corner.inside else "dotted",
            )
        )  # fmt: skip
    axes.plot(*ladder.cells, "+", color=INK, markersize=10, markeredgewidth=2, path_effects=_HALO)
    axes.plot(ladder.index[0] + 0.5, ladder.index[1] + 0.5, "o", markeredgecolor=INK, markerfacecolor="none")
    axes.set(xlim=(-0.02 * w, 1.02 * w), ylim=(1.02 * h, -0.02 * h), aspect="equal")
    whole_ticks(axes)
    frame(axes, state.level)
    axes.set_title(f"level {state.level}: {h} x {w}\nfour cells are read", fontsize=9)
    label_axes(axes, "x (cells)", "y (cells)")


def _draw_corners(axes: Axes, state: LadderState, ladder: Ladder) -> None:
    left, top = ladder.corners[0].column, ladder.corners[0].row
    for corner in ladder.corners:
        axes.add_patch(
            Rectangle(
                (corner.column, corner.row), 1, 1, facecolor=level_colour(state.level), edgecolor=INK,
                alpha=0.15 + 0.5 * corner.weight, hatch="" if corner.inside else "///",
            )
        )  # fmt: skip
        axes.plot(corner.column + 0.5, corner.row + 0.5, "o", color=INK, markersize=3)
        axes.text(
            corner.column + 0.5, corner.row + 0.83, f"{corner.weight:.3f}" if corner.inside else "outside: 0",
            ha="center", va="center", fontsize=9, path_effects=_HALO,
        )  # fmt: skip
    read = (ladder.index[0] + 0.5, ladder.index[1] + 0.5)
    axes.plot(*read, "o", markeredgecolor=INK, markerfacecolor="none", markersize=9, markeredgewidth=2)
    axes.set(xlim=(left, left + 2), ylim=(top + 2, top), aspect="equal")
    axes.set_xticks([left + 0.5, left + 1.5], [f"column {left}", f"column {left + 1}"])
    axes.set_yticks([top + 0.5, top + 1.5], [f"row {top}", f"row {top + 1}"], rotation=90, va="center")
    axes.set_title("the four, and what each counts;\no: where they are mixed", fontsize=9)
    axes.tick_params(labelsize=7, length=0)


def _picture(axes: Axes, picture: Tensor | None, size: tuple[int, int], padded: tuple[int, int]) -> None:
    (h, w), (H, W) = size, padded
    if (h, w) != (H, W):
        axes.add_patch(Rectangle((0, 0), W, H, facecolor="#666666", hatch="///", edgecolor="#888888", zorder=0.6))
    if picture is None:
        axes.add_patch(Rectangle((0, 0), w, h, facecolor="#cfe3f2", edgecolor=INK, zorder=0.8))
    else:
        pixels = pixels_of(picture)
        faded = pixels // 16 * 8 + 128  # what is drawn on it stands out; few colours make a small file
        axes.imshow(faded, extent=(0, w, h, 0), zorder=0.8, interpolation="nearest")
    axes.set(xlim=(0, W), ylim=(H, 0), aspect="equal")
    label_axes(axes, "x (pixels)", "y (pixels)")


def _pair(values: Pair, digits: int = 3) -> str:
    return f"({values[0]:.{digits}f}, {values[1]:.{digits}f})"
