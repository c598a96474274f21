"""How a box comes about: from a token's proposal through every decoder layer. Pure functions: data in, figure out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from ..models.heads import inverse_sigmoid
from .figures import INK, LINE_STYLES, Figure, dark_edge, label_axes, level_colour, pixels_of, plain_text

TRUTH = {"edgecolor": "white", "linestyle": (0, (1, 1.5)), "linewidth": 1.4}
BOX = {"edgecolor": "#F0E442", "linestyle": "solid", "linewidth": 2.0}


class RefinementState(NamedTuple):
    """What the view shows.

    Attributes:
        image: (3, H, W), as the model takes it.
        stages: a name and the boxes (N, 4) of the N objects there, for each stage, first to last.
        truth: (N, 4); like all boxes (cx, cy, w, h) in [0, 1] of the image.
        names: what each object is.
        objects: which of them to draw, a row each; none: all.
    """

    image: Tensor
    stages: Sequence[tuple[str, Tensor]]
    truth: Tensor
    names: Sequence[str]
    objects: Sequence[int] = ()


def overlaps(state: RefinementState) -> Tensor:
    """IoU with the truth, (stages, N). ValueError for boxes of another number than the truth's."""
    for name, boxes in state.stages:
        if boxes.shape != state.truth.shape:
            raise ValueError(
                f"stage {name!r} needs a box for each object, {tuple(state.truth.shape)}; got {tuple(boxes.shape)}"
            )
    truth = box_convert(state.truth, "cxcywh", "xyxy")
    return torch.stack([box_iou(box_convert(boxes, "cxcywh", "xyxy"), truth).diagonal() for _, boxes in state.stages])


def draw(state: RefinementState) -> Figure:
    """Each object, close up, with its box at every stage and the IoU with the truth.

    ValueError for no stage, for an object that is not there, or for boxes of another number than the truth's.
    """
    if not state.stages:
        raise ValueError("there is nothing to draw: no stage was given")
    objects = list(state.objects) or list(range(len(state.truth)))
    for i in objects:
        if not 0 <= i < len(state.truth):
            raise ValueError(f"there is no object {i}: the scene has {len(state.truth)}, counted from 0")
    iou = overlaps(state)
    pixels = pixels_of(state.image)
    H, W = pixels.shape[:2]
    scale = torch.tensor([W, H, W, H])
    rows, columns = len(objects), len(state.stages)
    figure = Figure(figsize=(1.85 * columns, 2.1 * rows + 0.3), layout="constrained")
    sentences = []
    for row, i in zip(figure.subplots(rows, columns, squeeze=False), objects, strict=True):
        boxes = torch.stack([boxes[i] for _, boxes in state.stages])
        view = _view(torch.cat([boxes, state.truth[i : i + 1]]) * scale)
        for axes, box, (stage, _), value in zip(row, boxes, state.stages, iou[:, i].tolist(), strict=True):
            _picture(axes, pixels, view)
            _box(axes, state.truth[i] * scale, **TRUTH)
            _box(axes, box * scale, **BOX)
            axes.set_title(f"{stage}\nIoU {value:.2f}", fontsize=8)
        label_axes(row[0], "", f"{plain_text(state.names[i])}\ny (pixels)")
        steps = ", ".join(f"{name} {v:.2f}" for (name, _), v in zip(state.stages, iou[:, i].tolist(), strict=True))
        sentences.append(f"{state.names[i]}: {steps}")
    figure.supxlabel("x (pixels)", fontsize=8)
    _legend(figure)
    figure.alt = f"Objects close up, IoU of their box with the truth by stage. {'; '.join(sentences)}."
    return figure


def proposals(
    image: Tensor, level_sizes: Sequence[tuple[int, int]], boxes: Tensor, valid: Tensor, chosen: Tensor
) -> Figure:
    """Where proposals start, level by level, and which of them became queries.

    image (3, H, W) without padding, boxes (S, 4) as (cx, cy, w, h) in [0, 1], valid (S,) bool, chosen (Q,) token
    indices. Each level shows its cells' centres, the start of one box, and rings around the chosen.
    """
    sizes = [h * w for h, w in level_sizes]
    if len(boxes) != sum(sizes):
        raise ValueError(f"levels {list(level_sizes)} have {sum(sizes)} tokens; got {len(boxes)} boxes")
    pixels = pixels_of(image)
    H, W = pixels.shape[:2]
    ringed = torch.zeros(len(boxes), dtype=torch.bool).index_fill(0, chosen, True)
    figure = Figure(figsize=(2.5 * len(sizes), 2.6), layout="constrained")
    panels, sentences = figure.subplots(1, len(sizes), squeeze=False)[0], []
    for level, (axes, own, ok, ring) in enumerate(
        zip(panels, boxes.split(sizes), valid.split(sizes), ringed.split(sizes), strict=True)
    ):
        own, colour = own * torch.tensor([W, H, W, H]), level_colour(level)
        _picture(axes, pixels, (0, 0, W, H), alpha=0.45)
        axes.scatter(*own[ok, :2].T.numpy(), s=6, color=colour)
        axes.scatter(*own[~ok, :2].T.numpy(), s=14, color=INK, marker="x", linewidth=0.8)
        axes.scatter(*own[ring, :2].T.numpy(), s=60, facecolor="none", edgecolor=INK, linewidth=1.3)
        h, w = level_sizes[level]
        _box(axes, own[h // 2 * w + w // 2], edgecolor=colour, linestyle="solid", linewidth=2.5)
        axes.set_title(f"level {level}: {h} x {w}\nside {boxes.split(sizes)[level][0, 2]:.2g} of the image", fontsize=8)
        label_axes(axes, "x (pixels)", "y (pixels)" if level == 0 else "")
        sentences.append(f"level {level}, {h} x {w}: {int(ok.sum())} valid, {int(ring.sum())} chosen")
    figure.alt = f"Proposals' centres on each level, one box as it starts, the chosen ringed. {'; '.join(sentences)}."
    return figure


def offset_curves(references: Sequence[float], widest: float = 4.0) -> Figure:
    """What an offset does to a coordinate: added in inverse-sigmoid space, and added as it is, for comparison."""
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    axes = figure.subplots()
    delta = torch.linspace(-widest, widest, 161)
    axes.axhspan(0, 1, color="#eeeeee")
    for i, reference in enumerate(references):
        colour, line = LINE_STYLES[i + 1]
        moved = (delta + inverse_sigmoid(torch.tensor(reference))).sigmoid()
        axes.plot(delta, moved, color=colour, linestyle=line, label=f"reference {reference:g}")
        axes.plot(delta, reference + delta, color=colour, linewidth=0.6, alpha=0.8)
        axes.plot(0, reference, "o", color=colour, markersize=5)
    axes.set(ylim=(-0.25, 1.25))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    label_axes(axes, "offset that the head answers", "place in the image, [0, 1] grey")
    names = ", ".join(f"{reference:g}" for reference in references)
    figure.alt = (
        f"References {names} moved by an offset. In inverse-sigmoid space the curves bend and stay between 0 and 1; "
        "added as it is, thin straight lines leave the image."
    )
    return figure


def box_panels(image: Tensor, groups: dict[str, Tensor]) -> Figure:
    """The same picture with each group's boxes (n, 4), (cx, cy, w, h) in [0, 1]; image (3, H, W)."""
    pixels = pixels_of(image)
    H, W = pixels.shape[:2]
    figure = Figure(figsize=(3.2 * len(groups), 2.6), layout="constrained")
    sentences = []
    for axes, (title, boxes) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        _picture(axes, pixels, (0, 0, W, H))
        for i, box in enumerate(boxes):
            colour, line = LINE_STYLES[i % len(LINE_STYLES)]
            _box(axes, box * torch.tensor([W, H, W, H]), edgecolor=colour, linestyle=line, linewidth=1.6)
        axes.set_title(title, fontsize=9)
        label_axes(axes, "x (pixels)", "y (pixels)")
        width, height = boxes[:, 2:].mean(0).tolist() if len(boxes) else (0, 0)
        sentences.append(f"{title}: {len(boxes)} boxes, {width:.2f} x {height:.2f} of the image on average")
    figure.alt = "; ".join(sentences) + "."
    return figure


def _view(boxes: Tensor) -> tuple[float, float, float, float]:
    """A square in pixels around all the boxes (n, 4), (cx, cy, w, h) in pixels."""
    corners = box_convert(boxes, "cxcywh", "xyxy")
    low, high = corners[:, :2].amin(0), corners[:, 2:].amax(0)
    (x, y), half = ((low + high) / 2).tolist(), 0.56 * float((high - low).max())
    return x - half, y - half, x + half, y + half


def _picture(axes: Axes, pixels: np.ndarray, view: tuple[float, float, float, float], alpha: float = 1.0) -> None:
    H, W = pixels.shape[:2]
    axes.set_facecolor("#bbbbbb")
    if alpha < 1:  # a backdrop: few shades, which makes a small file
        pixels = pixels // 16 * 16 + 8
    axes.imshow(pixels, extent=(0, W, H, 0), alpha=alpha, interpolation="nearest")
    x1, y1, x2, y2 = view
    axes.set(xlim=(x1, x2), ylim=(y2, y1), aspect="equal")
    axes.tick_params(labelsize=7)


def _box(axes: Axes, box: Tensor, **style: object) -> None:
    x, y, w, h = box.tolist()
    axes.add_patch(
        Rectangle((x - w / 2, y - h / 2), w, h, fill=False, path_effects=dark_edge(float(style["linewidth"])), **style)
    )


def _legend(figure: Figure) -> None:
    lines = [
        Line2D([], [], path_effects=dark_edge(style["linewidth"]), color=style["edgecolor"], **_line(style))
        for style in (TRUTH, BOX)
    ]
    figure.legend(lines, ["truth", "box"], loc="outside upper center", ncols=2, fontsize=8, frameon=False)


def _line(style: dict[str, object]) -> dict[str, object]:
    return {key: style[key] for key in ("linestyle", "linewidth")}
