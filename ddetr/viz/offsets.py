"""Where attention looks from a reference point: the star of offsets, and the offsets playground."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from torch import Tensor

from ..models.deform_attention import MSDeformAttn
from ..ops import sampling_locations
from .figures import INK, Figure, halo, label_axes, level_colour, whole_ticks

HEADS = 8
_OUTSIDE = "#D55E00"
_EDGE = 1e-3  # cells: a point on the border is inside, however it was rounded


class OffsetsState(NamedTuple):
    """What the playground shows: where the star of a fresh network lies on each level's map.

    Attributes:
        reference: (x, y), or a box (cx, cy, w, h), in [0, 1] of the map.
        level_sizes: (h, w) of each level.
        stretch: what all offsets are multiplied by.
        swapped: divide the offsets by (h, w) in place of (w, h). Means nothing for a box.
        head: the head to point out, or None.
        num_points: P.
    """

    reference: tuple[float, ...]
    level_sizes: tuple[tuple[int, int], ...]
    stretch: float = 1.0
    swapped: bool = False
    head: int | None = None
    num_points: int = 4


def initial_star(num_points: int = 4, num_heads: int = HEADS) -> Tensor:
    """The offsets of a fresh network in cells, (M, P, 2) as (x, y), the same on every level."""
    fresh = MSDeformAttn(num_heads, num_levels=1, num_heads=num_heads, num_points=num_points)
    return fresh.sampling_offsets.bias.detach().view(num_heads, num_points, 2)


def locate(state: OffsetsState) -> Tensor:
    """Where the star looks, (M, L, P, 2) as (x, y) in [0, 1] of the map.

    ValueError for a reference that is neither a point nor a box, no level, or a head that is not there.
    """
    if len(state.reference) not in (2, 4) or not all(math.isfinite(value) for value in state.reference):
        raise ValueError(f"reference must be (x, y) or (cx, cy, w, h), finite; got {state.reference}")
    if not state.level_sizes:
        raise ValueError("level_sizes must have (h, w) of at least one level; got none")
    if state.head is not None and state.head not in range(HEADS):
        raise ValueError(f"head must be 0 to {HEADS - 1}, or None; got {state.head!r}")
    levels = len(state.level_sizes)
    offsets = state.stretch * initial_star(state.num_points)[:, None].expand(-1, levels, -1, -1)
    reference = torch.tensor(state.reference, dtype=torch.float32).expand(1, 1, levels, -1)
    sizes = [size[::-1] if state.swapped else size for size in state.level_sizes]
    return sampling_locations(reference, offsets[None, None], sizes)[0, 0]


def draw(state: OffsetsState) -> Figure:
    """Each level's map in cells with the star's points on it; those outside the map, which read zero, hollow.

    ValueError as `locate`.
    """
    locations = locate(state)
    levels = len(state.level_sizes)
    figure = Figure(figsize=(2.75 * levels, 2.85))  # a fixed layout: it is drawn often
    place = {"left": 0.2 / levels, "right": 1 - 0.06 / levels, "bottom": 0.15, "top": 0.86, "wspace": 0.16}
    sentences = []
    for level, axes in enumerate(figure.subplots(1, levels, squeeze=False, gridspec_kw=place)[0]):
        h, w = state.level_sizes[level]
        cells = locations[:, level] * torch.tensor([w, h])  # (M, P, 2)
        inside = ((cells > -_EDGE) & (cells < torch.tensor([w, h]) + _EDGE)).all(-1)
        _map(axes, state, level)
        _points(axes, state, cells, inside, level_colour(level))
        count = int((~inside).sum())
        axes.set_title(f"level {level}: {h} x {w}\n{count} of {inside.numel()} points outside", fontsize=9)
        span = cells.flatten(0, 1)
        low, high = span.amin(0).tolist(), span.amax(0).tolist()
        sentences.append(
            f"level {level}, {h} x {w}: x from {low[0]:.1f} to {high[0]:.1f} cells, y from {low[1]:.1f} to "
            f"{high[1]:.1f}, {count} outside"
        )
    kind = "point" if len(state.reference) == 2 else "box"
    figure.alt = f"The star around a {kind} on each level. {'; '.join(sentences)}."
    return figure


def star(offsets: Tensor, title: str = "") -> Figure:
    """Every head's points around the reference point, in cells; offsets (M, P, 2)."""
    figure = Figure(figsize=(3.9, 3.9), layout="compressed")
    axes = figure.subplots()
    reach = offsets.abs().max().item() + 1
    _crossed(axes, reach)
    for head, points in enumerate(offsets.detach().tolist()):
        colour, marker = _head_style(head)
        x, y = zip((0, 0), *points, strict=True)
        axes.plot(x, y, color=colour, linewidth=1, zorder=2)
        axes.plot(x[1:], y[1:], marker, color=colour, markersize=6, markeredgecolor=INK, markeredgewidth=0.6, zorder=3)
        direction = torch.tensor(points[-1]) / (torch.tensor(points[-1]).norm() + 1e-9)
        axes.text(
            *(torch.tensor(points[-1]) + 0.55 * direction).tolist(), str(head), ha="center", va="center", fontsize=9,
            color=INK, path_effects=halo(3),
        )  # fmt: skip
    axes.set_title(title, fontsize=9)
    label_axes(axes, "x offset (cells)", "y offset (cells)")
    ends = "; ".join(f"head {head} to ({p[0]:.1f}, {p[1]:.1f})" for head, p in enumerate(_clean(offsets[:, -1])))
    figure.alt = f"{title}: each head's {offsets.shape[1]} points on a ray from the reference point, {ends}."
    return figure


def learnt_offsets(offsets: Tensor, weights: Tensor, level: int, title: str = "") -> Figure:
    """What many queries make of the star: a panel for each head, the star hollow, the queries' points filled.

    offsets (N, M, P, 2) in cells of `level`, weights (N, M, P), which shade the points. ValueError for other shapes.
    """
    if offsets.shape[:-1] != weights.shape or offsets.shape[1] != HEADS:
        raise ValueError(
            f"offsets must be (N, {HEADS}, P, 2) and weights (N, {HEADS}, P); got {tuple(offsets.shape)} and "
            f"{tuple(weights.shape)}"
        )
    offsets, weights = offsets.detach().cpu(), weights.detach().cpu()
    before = initial_star(offsets.shape[2])
    reach = max(offsets.abs().max().item(), before.abs().max().item()) + 0.5
    figure = Figure(figsize=(8.6, 4.7), layout="compressed")
    moved = (offsets - before).norm(dim=-1).mean((0, 2))
    for head, axes in enumerate(figure.subplots(2, HEADS // 2, sharex=True, sharey=True).flat):
        _crossed(axes, reach)
        points, strength = offsets[:, head].flatten(0, 1), weights[:, head].flatten()
        colours = [to_rgba(level_colour(level), alpha) for alpha in (0.08 + 0.92 * strength).clamp(max=1).tolist()]
        order = strength.argsort()
        axes.scatter(*points[order].T.numpy(), s=12, color=[colours[i] for i in order.tolist()], linewidth=0, zorder=2)
        axes.plot(*before[head].T.numpy(), "o", markersize=7, markerfacecolor="none", markeredgecolor=INK, zorder=3)
        axes.set_title(f"head {head}: moved by {moved[head]:.2f}", fontsize=8)
        label_axes(axes, "x (cells)" if head >= HEADS // 2 else "", "y (cells)" if head % (HEADS // 2) == 0 else "")
    figure.suptitle(title, fontsize=9)
    heads = ", ".join(f"head {head} {distance:.2f}" for head, distance in enumerate(moved.tolist()))
    figure.alt = (
        f"{title}: points of {len(offsets)} queries against the initial star, moved on average by {heads} cells."
    )
    return figure


def weights_by_head(weights: Tensor, title: str = "") -> Figure:
    """How one query shares out its attention: a bar for each head, a colour for each level, a piece for each point.

    weights (M, L, P), summing to 1 over levels and points.
    """
    heads, levels, _ = weights.shape
    figure = Figure(figsize=(7.5, 0.9 + 0.24 * heads), layout="constrained")
    axes = figure.subplots()
    for head in range(heads):
        start = 0.0
        for level in range(levels):
            for point, weight in enumerate(weights[head, level].tolist()):
                label = f"level {level}" if head == point == 0 else None
                axes.barh(
                    head, weight, left=start, color=level_colour(level), edgecolor="white", linewidth=0.6, label=label
                )
                start += weight
    axes.set(xlim=(0, max(1, weights.sum((1, 2)).max().item())), yticks=range(heads))
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    label_axes(axes, "attention weight", "head")
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    shares = (", ".join(f"{v:.2f}" for v in row) for row in weights.sum(-1).tolist())
    figure.alt = (
        f"{title}: weight on each level by head: " + "; ".join(f"head {n} {s}" for n, s in enumerate(shares)) + "."
    )
    return figure


def _clean(points: Tensor) -> list[list[float]]:
    """Numbers for a text: no -0.0."""
    return [[round(value, 1) + 0.0 for value in point] for point in points.tolist()]


def _head_style(head: int) -> tuple[str, str]:
    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#888888")
    return colours[head % len(colours)], "osD^vPX*"[head % 8]


def _crossed(axes: Axes, reach: float) -> None:
    """A square of cells around the reference point, whose own cell is shaded."""
    edges = torch.arange(-math.ceil(reach) - 0.5, math.ceil(reach) + 1).tolist()
    for edge in edges:
        axes.axvline(edge, color="#dddddd", linewidth=0.6, zorder=0)
        axes.axhline(edge, color="#dddddd", linewidth=0.6, zorder=0)
    axes.add_patch(Rectangle((-0.5, -0.5), 1, 1, facecolor="#dddddd", zorder=0))
    axes.plot(0, 0, "+", color=INK, markersize=9, markeredgewidth=1.5, zorder=4)
    axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal")
    whole_ticks(axes)


def _points(axes: Axes, state: OffsetsState, cells: Tensor, inside: Tensor, colour: str) -> None:
    """Those outside hollow; all grey but the chosen head's, which lie on top."""
    chosen = torch.tensor([state.head in (None, head) for head in range(HEADS)]).repeat_interleave(cells.shape[1])
    order = chosen.int().argsort(stable=True)
    filled, chosen = inside.flatten()[order].tolist(), chosen[order].tolist()
    axes.scatter(
        *cells.flatten(0, 1)[order].T.numpy(), s=25, clip_on=False, linewidths=0.7, zorder=4,
        edgecolors=[INK if here else _OUTSIDE for here in filled],
        facecolors=[
            "white" if not here else colour if own else "#bbbbbb" for here, own in zip(filled, chosen, strict=True)
        ],
    )  # fmt: skip


def _map(axes: Axes, state: OffsetsState, level: int) -> None:
    h, w = state.level_sizes[level]
    axes.add_patch(Rectangle((0, 0), w, h, facecolor="#f2f2f2", zorder=0))
    axes.vlines(range(w + 1), 0, h, color="#cccccc", linewidth=0.5, zorder=1)
    axes.hlines(range(h + 1), 0, w, color="#cccccc", linewidth=0.5, zorder=1)
    x, y, *sides = state.reference
    if sides:
        width, height = sides[0] * w, sides[1] * h
        axes.add_patch(
            Rectangle(
                (x * w - width / 2, y * h - height / 2), width, height, fill=False, edgecolor=INK, linewidth=2, zorder=2
            )
        )
    axes.plot(x * w, y * h, "+", color="#00A000", markersize=11, markeredgewidth=2.5, path_effects=halo(3), zorder=5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.add_patch(Rectangle((0, 0), w, h, fill=False, edgecolor=level_colour(level), linewidth=2.5, zorder=2))
    axes.set_aspect("equal")
    axes.invert_yaxis()
    whole_ticks(axes)
    label_axes(axes, "x (cells)", "y (cells)" if level == 0 else "")
