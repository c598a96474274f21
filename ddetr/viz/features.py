"""What a feature map holds, and what part of the image it comes from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .figures import Figure, frame, halo, label_axes, level_colour, pixels_of

ON_PHOTO = halo(3.5)


def map_colours(feature: Tensor) -> np.ndarray:
    """A map (C, h, w) as colours (h, w, 3) in [0, 1]: its three main directions as red, green and blue.

    Cells of one colour hold similar features. Each direction's sign is fixed, so that a map always looks the same.
    """
    C, h, w = feature.shape
    cells = feature.detach().float().cpu().reshape(C, h * w).T
    return main_colours(cells, torch.full((h * w, 1), 1 / (h * w))).reshape(h, w, 3).numpy()


def main_colours(cells: Tensor, weight: Tensor) -> Tensor:
    """(N, C) -> (N, 3) in [0, 1]: the main directions of all cells; weight (N, 1), how much each counts, sums to 1."""
    centred = cells - (cells * weight).sum(0)
    _, _, directions = torch.linalg.svd((centred * weight).T @ centred)
    directions = directions[:3] * directions[:3].sum(1, keepdim=True).sign()  # fixed, so that it always looks the same
    parts = centred @ directions.T  # (N, 3)
    low, high = parts.quantile(0.02, 0), parts.quantile(0.98, 0)
    return ((parts - low) / (high - low + 1e-9)).clamp(0, 1)


def feature_colours(image: Tensor, maps: Sequence[Tensor], names: Sequence[str]) -> Figure:
    """An image (3, H, W) beside its maps, each (C, h, w), in the colours of `map_colours`, framed by level."""
    figure = Figure(figsize=(2.5 * (len(maps) + 1), 2.7), layout="constrained")
    first, *others = figure.subplots(1, len(maps) + 1)
    picture(first, image)
    first.set_title(f"image\n3 x {image.shape[1]} x {image.shape[2]}", fontsize=8)
    for level, (axes, feature, name) in enumerate(zip(others, maps, names, strict=True)):
        C, h, w = feature.shape
        axes.imshow(map_colours(feature), extent=(0, w, h, 0))
        axes.set_title(f"{name}\n{C} x {h} x {w}", fontsize=8)
        frame(axes, level)
        label_axes(axes, "x (cells)", "y (cells)")
    figure.alt = (
        f"An image and its feature maps {', '.join(names)}, from fine to coarse; cells with similar features have "
        "similar colours."
    )
    return figure


def receptive_fields(
    image: Tensor, weights: Sequence[Tensor], widths: Sequence[int], place: tuple[float, float], names: Sequence[str]
) -> Figure:
    """How strongly each pixel moves one cell of each level: bright where much.

    image (3, H, W); weights L of (H, W), at least 0; widths: how many pixels the cell can see, in theory;
    place (x, y) in pixels, the cell's centre. The dashed square holds nine tenths of the weight.
    """
    figure = Figure(figsize=(3.1 * len(weights), 3.1), layout="constrained")
    x, y = place
    found = []
    for level, (axes, weight, width) in enumerate(zip(figure.subplots(1, len(weights)), weights, widths, strict=True)):
        picture(axes, image, faded=True)
        strength = (weight / weight.max()).sqrt().numpy()
        axes.imshow(strength, cmap="inferno", alpha=np.clip(2 * strength, 0, 0.95), extent=(0, *weight.shape[::-1], 0))
        inner = width_holding(weight, place)
        for side, line in ((width, "solid"), (inner, "dashed")):
            axes.add_patch(
                Rectangle(
                    (x - side / 2, y - side / 2), side, side, fill=False, edgecolor=level_colour(level),
                    linestyle=line, linewidth=2, path_effects=ON_PHOTO,
                )
            )  # fmt: skip
        axes.set(xlim=(0, image.shape[2]), ylim=(image.shape[1], 0))
        axes.set_title(f"{names[level]}: sees {width} pixels,\n90% of it in {inner}", fontsize=9)
        found.append(f"{names[level]} can see {width} pixels, nine tenths of the weight lie within {inner}")
    figure.alt = f"What one cell at x {x:.0f}, y {y:.0f} sees of the image. {'; '.join(found)}."
    return figure


def width_holding(weight: Tensor, place: tuple[float, float], share: float = 0.9) -> int:
    """The side in pixels of the square around `place` (x, y) that holds `share` of the weight (H, W)."""
    H, W = weight.shape
    dx = (torch.arange(W) + 0.5 - place[0]).abs()
    dy = (torch.arange(H) + 0.5 - place[1]).abs()
    distance = torch.maximum(dx[None], dy[:, None]).flatten()
    order = distance.argsort()
    held = weight.flatten()[order].cumsum(0) / weight.sum()
    first = int((held >= share).nonzero()[0])
    return round(2 * distance[order[first]].item())


def stage_parameters(counts: dict[str, tuple[int, bool]]) -> Figure:
    """A bar for each stage: how many parameters, and (True) whether they are trained."""
    figure = Figure(figsize=(7, 0.6 + 0.3 * len(counts)), layout="constrained")
    axes = figure.subplots()
    names = list(counts)
    millions = [count / 1e6 for count, _ in counts.values()]
    bars = axes.barh(names, millions, color=["#0072B2" if trained else "#bbbbbb" for _, trained in counts.values()])
    words = ["trained" if trained else "frozen" for _, trained in counts.values()]
    axes.bar_label(bars, [f" {m:.2f} M, {word}" for m, word in zip(millions, words, strict=True)], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(millions))
    label_axes(axes, "parameters (millions)", "")
    for bar, word in zip(bars, words, strict=True):
        bar.set_hatch("///" if word == "frozen" else "")
    figure.alt = "Parameters of each stage: " + "; ".join(
        f"{name} {m:.2f} million, {word}" for name, m, word in zip(names, millions, words, strict=True)
    )
    return figure


def picture(axes: Axes, image: Tensor, faded: bool = False) -> None:
    """An image (3, H, W) as the background of `axes`, in pixels; `faded` to draw over it."""
    pixels = pixels_of(image)
    if faded:
        grey = pixels.mean(-1, keepdims=True).repeat(3, -1)
        pixels = (0.4 * grey).astype(np.uint8)
    axes.imshow(pixels, extent=(0, image.shape[2], image.shape[1], 0))
    label_axes(axes, "x (pixels)", "y (pixels)")
