"""One level's map, channel by channel, and what one cell of it sees of the image: a pure function of its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .features import ON_PHOTO, map_colours, picture, width_holding
from .figures import Figure, frame, label_axes, level_colour

Maps = Callable[[Tensor], Sequence[Tensor]]
"""images (1, 3, H, W) -> L maps (1, C, h, w): a backbone, or a backbone and a neck."""


class FeatureState(NamedTuple):
    """What the browser shows.

    Attributes:
        image: (3, H, W), normalised.
        maps: L of (C, h, w).
        names: of the levels.
        level: whose map is shown.
        channel: which one; None for the three main directions as colours.
        place: (x, y) in pixels; the cell there is marked.
        weight: (H, W), how much each pixel moves that cell; None leaves that panel out.
    """

    image: Tensor
    maps: Sequence[Tensor]
    names: Sequence[str]
    level: int = 0
    channel: int | None = None
    place: tuple[float, float] = (0.0, 0.0)
    weight: Tensor | None = None


def cell_at(image_size: tuple[int, int], map_size: tuple[int, int], place: tuple[float, float]) -> tuple[int, int]:
    """The (row, column) of a map's cell that holds a pixel (x, y); sizes are (h, w). ValueError outside the image."""
    (H, W), (h, w), (x, y) = image_size, map_size, place
    if not (0 <= x <= W and 0 <= y <= H):
        raise ValueError(f"place must be (x, y) within the image, {W} x {H} pixels wide and high; got ({x:g}, {y:g})")
    return min(int(y / H * h), h - 1), min(int(x / W * w), w - 1)


def what_moves(maps: Maps, image: Tensor, level: int, place: tuple[float, float]) -> Tensor:
    """How much each pixel of image (3, H, W) moves one cell of a level: the gradient's size, (H, W)."""
    pixels = image[None].clone().requires_grad_()
    with torch.enable_grad():
        feature = maps(pixels)[level][0]  # (C, h, w)
        row, column = cell_at(image.shape[1:], feature.shape[1:], place)
        (gradient,) = torch.autograd.grad(feature[:, row, column].square().sum(), pixels)
    return gradient[0].square().sum(0).sqrt()


def draw(state: FeatureState) -> Figure:
    """The image with the place, the level's map with its cell, and what of the image moves that cell.

    ValueError for a level or channel that does not exist, or a place outside the image.
    """
    if not 0 <= state.level < len(state.maps):
        raise ValueError(f"level must be 0 to {len(state.maps) - 1}; got {state.level}")
    feature = state.maps[state.level]
    C, h, w = feature.shape
    if state.channel is not None and not 0 <= state.channel < C:
        raise ValueError(f"{state.names[state.level]} has channels 0 to {C - 1}; got {state.channel}")
    row, column = cell_at(state.image.shape[1:], (h, w), state.place)
    figure = Figure(figsize=(10, 3.1) if state.weight is not None else (7, 3.1), layout="constrained")
    panels = figure.subplots(1, 2 if state.weight is None else 3)

    picture(panels[0], state.image)
    panels[0].plot(*state.place, "+", color=level_colour(state.level), markersize=14, mew=3, path_effects=ON_PHOTO)
    panels[0].set_title("drag the point", fontsize=9)
    shown = _map(panels[1], feature, state.channel)
    panels[1].add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor="white", linewidth=2.5))
    panels[1].add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor="black", linewidth=1))
    frame(panels[1], state.level)
    label_axes(panels[1], "x (cells)", "y (cells)")
    panels[1].set_title(f"{state.names[state.level]}, {h} x {w}: {shown}\ncell row {row}, column {column}", fontsize=9)
    figure.alt = f"{state.names[state.level]}, {shown}, with its cell in row {row}, column {column} marked."
    if state.weight is not None:
        figure.alt += " " + _seen(panels[2], state)
    return figure


def _map(axes: Axes, feature: Tensor, channel: int | None) -> str:
    C, h, w = feature.shape
    if channel is None:
        axes.imshow(map_colours(feature), extent=(0, w, h, 0))
        return f"{C} channels as colours"
    values = feature[channel].detach()
    bound = float(values.abs().max()) or 1.0
    drawn = axes.imshow(values, cmap="PuOr", vmin=-bound, vmax=bound, extent=(0, w, h, 0))
    axes.figure.colorbar(drawn, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    return f"channel {channel} of {C}"


def _seen(axes: Axes, state: FeatureState) -> str:
    picture(axes, state.image, faded=True)
    strength = (state.weight / state.weight.max().clamp(min=1e-12)).sqrt().numpy()
    H, W = strength.shape
    axes.imshow(strength, cmap="inferno", alpha=np.clip(2 * strength, 0, 0.95), extent=(0, W, H, 0))
    side = width_holding(state.weight, state.place)
    x, y = state.place
    square = Rectangle((x - side / 2, y - side / 2), side, side, fill=False, linestyle="dashed", linewidth=2)
    square.set(edgecolor=level_colour(state.level), path_effects=ON_PHOTO)
    axes.add_patch(square)
    axes.set(xlim=(0, W), ylim=(H, 0))
    axes.set_title(f"what moves this cell:\n90% within {side} pixels", fontsize=9)
    return f"Nine tenths of what moves the cell lie within {side} pixels around x {x:.0f}, y {y:.0f}."
