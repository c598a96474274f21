"""How images of different sizes share a batch: the padding sandbox, as a pure function of its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from ..models.image_batch import pad_images
from ..models.multi_scale import get_valid_ratio, level_mask
from .figures import INK, LEVEL_COLOURS, Figure, frame, label_axes

STRIDES = (8, 16, 32, 64)


class PaddingState(NamedTuple):
    """What the sandbox shows: the images of a batch, each (h, w) in pixels."""

    sizes: Sequence[tuple[int, int]]


def draw(state: PaddingState) -> Figure:
    """Each image in its batch, and its padding on each of the four levels with the valid ratios.

    ValueError for a batch without images.
    """
    if not state.sizes:
        raise ValueError("a batch needs at least one image; got none")
    batch = pad_images([torch.zeros(3, h, w) for h, w in state.sizes])
    B, _, H, W = batch.images.shape
    level_sizes = [(-(-H // stride), -(-W // stride)) for stride in STRIDES]
    masks = [level_mask(batch.mask, size) for size in level_sizes]
    figure = Figure(figsize=(11, 2.3 * B), layout="constrained")
    sentences = []
    for b, row in enumerate(figure.subplots(B, 5, squeeze=False)):
        _image(row[0], state.sizes[b], (H, W), b)
        ratios = []
        for level, (axes, mask) in enumerate(zip(row[1:], masks, strict=True)):
            ratio_w, ratio_h = get_valid_ratio(mask)[b].tolist()
            _level(axes, mask[b], level)
            axes.set_title(
                f"level {level}: {mask.shape[1]} x {mask.shape[2]}\nw {ratio_w:.4f}, h {ratio_h:.4f}", fontsize=8
            )
            ratios.append(f"level {level} w {ratio_w:.4f} h {ratio_h:.4f}")
        h, w = state.sizes[b]
        sentences.append(f"image {b}, {h} x {w}, in a batch of {H} x {W}: valid ratios {', '.join(ratios)}")
    figure.alt = f"Padding on each level. {'; '.join(sentences)}."
    return figure


def curves(encoding: Tensor, channels: Sequence[int], title: str) -> Figure:
    """Some channels of a position encoding along a row of cells; encoding (C, w)."""
    figure = Figure(figsize=(7.5, 2.4), layout="constrained")
    axes = figure.subplots()
    lines = ("solid", "dashed", "dotted", "dashdot")
    for i, channel in enumerate(channels):
        axes.plot(
            encoding[channel].numpy(),
            label=f"channel {channel}",
            color=(*LEVEL_COLOURS, INK)[i % 5],
            linestyle=lines[i % 4],
        )
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set_title(title, fontsize=9)
    label_axes(axes, "column (cells)", "encoding")
    figure.alt = f"{title}: channels {', '.join(map(str, channels))} against the column, from fast waves to slow ones."
    return figure


def channel_images(encoding: Tensor, channels: Sequence[int]) -> Figure:
    """Some channels of a position encoding (C, h, w), each as a picture."""
    figure = Figure(figsize=(2.2 * len(channels), 2.2), layout="constrained")
    panels = figure.subplots(1, len(channels), squeeze=False)[0]
    for axes, channel in zip(panels, channels, strict=True):
        picture = axes.imshow(encoding[channel].numpy(), cmap="PuOr", vmin=-1, vmax=1)
        axes.set_title(f"channel {channel}", fontsize=9)
        label_axes(axes, "x (cells)", "y (cells)")
    figure.colorbar(picture, ax=panels, label="encoding").ax.tick_params(labelsize=7)
    figure.alt = f"Channels {', '.join(map(str, channels))} of the position encoding as pictures, from -1 to 1."
    return figure


def _image(axes: Axes, size: tuple[int, int], batch: tuple[int, int], b: int) -> None:
    (h, w), (H, W) = size, batch
    axes.add_patch(Rectangle((0, 0), W, H, facecolor="#666666", hatch="///", edgecolor="#888888"))
    axes.add_patch(Rectangle((0, 0), w, h, facecolor="#cfe3f2", edgecolor=INK))
    axes.text(w / 2, h / 2, f"{h} x {w}", ha="center", va="center", fontsize=8)
    axes.set(xlim=(0, W), ylim=(H, 0), aspect="equal")
    axes.set_title(f"image {b}\nin {H} x {W} pixels", fontsize=8)
    label_axes(axes, "x (pixels)", "y (pixels)")


def _level(axes: Axes, mask: Tensor, level: int) -> None:
    h, w = mask.shape
    axes.imshow(np.where(mask.numpy(), 1.0, 0.0), cmap="Greys", vmin=0, vmax=1.4, extent=(0, w, h, 0))
    axes.set(xlim=(-0.02 * w, 1.02 * w), ylim=(1.02 * h, -0.02 * h))  # the frame hides no column
    frame(axes, level)
    label_axes(axes, "x (cells)", "y (cells)")
