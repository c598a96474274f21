"""The decoder's queries: where they look from, and what each answers for over many images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from .figures import Figure, halo, label_axes, pixels_of

GREEN = "#3CFF3C"
"""The paper's cross."""

SIZE_BINS = (("up to 0.1", "#0072B2", "o"), ("0.1 to 0.25", "#E69F00", "^"), ("above 0.25", "#D55E00", "s"))
"""Kinds of boxes by the side of a square of their area, as a part of the image's side; each a colour and a marker."""

_RIM = halo(4.5, "black")


class QueriesState(NamedTuple):
    """What the view of the queries' work shows.

    Attributes:
        boxes: (N, Q, 4) as (cx, cy, w, h) in [0, 1] of the image: what each query answered on N images.
        reference_points: (Q, 2) as (x, y) in [0, 1], where each looks from.
        queries: numbers of those to draw.
    """

    boxes: Tensor
    reference_points: Tensor
    queries: Sequence[int]


def draw_queries(state: QueriesState, columns: int = 8) -> Figure:
    """A square for each query: the centres of all boxes it gave, by size, and its reference point as a cross.

    ValueError for a query that there is not, or for none.
    """
    Q = state.boxes.shape[1]
    wrong = [query for query in state.queries if not 0 <= query < Q]
    if wrong or not len(state.queries):
        raise ValueError(f"queries must be some of 0 to {Q - 1}; got {wrong[0] if wrong else 'none'}")
    rows = -(-len(state.queries) // columns)
    figure = Figure(figsize=(1.3 * columns, 0.9 + 1.4 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, query in zip(grid, state.queries, strict=False):
        boxes = state.boxes[:, query].cpu().numpy()
        for (_, colour, marker), chosen in zip(SIZE_BINS, _by_size(boxes), strict=True):
            axes.scatter(*boxes[chosen, :2].T, s=7, c=colour, marker=marker, alpha=0.7, linewidths=0)
        place = state.reference_points[query].tolist()
        axes.plot(*place, "+", color="#00B300", markersize=22, markeredgewidth=1.2, zorder=0.5)  # under the points
        axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[0, 1], yticks=[0, 1], aspect="equal")
        axes.set_title(f"query {query}", fontsize=8)
        axes.tick_params(labelsize=6)
    for axes in grid[len(state.queries) :]:
        axes.axis("off")
    figure.supxlabel("x of the box centre (part of the image's width)", fontsize=8)
    figure.supylabel("y (part of its height)", fontsize=8)
    handles = [
        figure.axes[0].scatter([], [], s=20, c=colour, marker=marker, label=f"side {name}")
        for name, colour, marker in SIZE_BINS
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    spread = state.boxes[:, list(state.queries), :2].std(0).mean()
    figure.alt = (
        f"Centres of the boxes that queries {', '.join(map(str, state.queries))} gave on {len(state.boxes)} images; "
        f"each stays near its reference point, a green cross: the mean deviation is {spread:.2f} of the image's side."
    )
    return figure


def draw_reference_points(image: Tensor, reference_points: Tensor, lit: Sequence[int] = ()) -> Figure:
    """Where the queries look from: reference_points (Q, 2) in [0, 1] over an image (3, H, W), `lit` with numbers.

    ValueError for a query that there is not.
    """
    Q = len(reference_points)
    if any(not 0 <= query < Q for query in lit):
        raise ValueError(f"queries are 0 to {Q - 1}; got {list(lit)}")
    H, W = image.shape[1:]
    figure = Figure(figsize=(5.5, 0.8 + 5 * H / W), layout="constrained")
    axes = figure.subplots()
    _photo(axes, image)
    x, y = (reference_points.cpu() * reference_points.new_tensor([W, H]).cpu()).T.numpy()
    axes.plot(x, y, "+", color=GREEN, markersize=8, markeredgewidth=1.6, linestyle="none", path_effects=_RIM)
    for query in lit:
        axes.annotate(
            str(query), (x[query], y[query]), xytext=(4, 4), textcoords="offset points", fontsize=8, color="white",
            path_effects=halo(2.5, "black"),
        )  # fmt: skip
    numbered = f", numbers {', '.join(map(str, lit))} named" if lit else ""
    figure.alt = f"The reference points of {Q} queries over an image{numbered}."
    return figure


def _by_size(boxes: np.ndarray) -> list[np.ndarray]:
    side = np.sqrt(boxes[:, 2] * boxes[:, 3])
    return [side <= 0.1, (side > 0.1) & (side <= 0.25), side > 0.25]


def _photo(axes: Axes, image: Tensor) -> None:
    axes.imshow(pixels_of(image), extent=(0, image.shape[2], image.shape[1], 0))
    label_axes(axes, "x (pixels)", "y (pixels)")
