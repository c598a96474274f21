"""What one head of one query reads: its points and logits in; the softmax, the sampled values and their sum out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ..ops import ms_deform_attn, sampling_locations, softmax_weights
from .dashboard import backdrop, scatter_points
from .figures import INK, Figure, label_axes, level_colour


class AttentionState(NamedTuple):
    """One query before an attention module, on a batch of one. Offsets and logits may be tensors or nested lists.

    Attributes:
        picture: (H, W, 3) uint8, without padding.
        value: (S, M, D), the tokens after `value_proj`.
        level_sizes: (h, w) of each level.
        reference: (L, 2) as (x, y), or (L, 4) as (cx, cy, w, h), in [0, 1].
        offsets: (M, L, P, 2) as (x, y): in cells, or with boxes in half sides divided by P.
        logits: (M, L, P).
        head: which head is looked at.
    """

    picture: np.ndarray
    value: Tensor
    level_sizes: Sequence[tuple[int, int]]
    reference: Tensor
    offsets: Any
    logits: Any
    head: int = 0


class Reading(NamedTuple):
    """What follows from a state, for its head: locations (L, P, 2) in [0, 1], weights (L, P) with a sum of 1, samples
    (L, P, D), the values found there, and output (D,), their weighted sum: what `output_proj` gets from this head."""

    locations: Tensor
    weights: Tensor
    samples: Tensor
    output: Tensor


def read(state: AttentionState) -> Reading:
    """By the package's own operator. ValueError for shapes that do not fit each other, or a head that is not there."""
    offsets, logits = _checked(state)
    _, L, P = logits.shape
    own = slice(state.head, state.head + 1)
    locations = sampling_locations(state.reference[None, None].float(), offsets[None, None], state.level_sizes)
    weights = softmax_weights(logits[None, None])
    shapes = torch.tensor(state.level_sizes)
    value = state.value[None, :, own].float()  # (1, S, 1, D)
    here = locations[:, :, own]  # (1, 1, 1, L, P, 2)
    output = ms_deform_attn(value, shapes, None, here, weights[:, :, own])[0, 0]
    # Each point by itself: a query for each, with all its weight there.
    alone = torch.eye(L * P).view(1, L * P, 1, L, P)
    samples = ms_deform_attn(value, shapes, None, here.expand(-1, L * P, -1, -1, -1, -1).contiguous(), alone)[0]
    return Reading(here[0, 0, 0], weights[0, 0, state.head], samples.view(L, P, -1), output)


def draw(state: AttentionState, before: Tensor | None = None) -> Figure:
    """The head's points on the picture; each point's weight and the value that it reads; below, the weighted sum.

    `before`: another output (D,) to compare with, outlined. ValueError as `read`.
    """
    reading = read(state)
    figure = Figure(figsize=(9.4, 3.8))  # a fixed layout: it is drawn often
    place = {"left": 0.05, "right": 0.985, "top": 0.91, "bottom": 0.11, "wspace": 0.16, "hspace": 0.55}
    grid = figure.add_gridspec(2, 3, width_ratios=(2.2, 1, 2.2), height_ratios=(2.3, 1), **place)
    _draw_points(figure.add_subplot(grid[:, 0]), state, reading)
    bars = figure.add_subplot(grid[0, 1])
    _draw_weights(bars, reading)
    _draw_samples(figure.add_subplot(grid[0, 2], sharey=bars), reading)
    _draw_output(figure.add_subplot(grid[1, 1:]), reading, before)
    figure.alt = _in_words(state, reading, before)
    return figure


def _checked(state: AttentionState) -> tuple[Tensor, Tensor]:
    offsets, logits = (torch.as_tensor(given, dtype=torch.float32) for given in (state.offsets, state.logits))
    if logits.ndim != 3 or offsets.shape != (*logits.shape, 2):
        raise ValueError(
            f"offsets must be (M, L, P, 2) and logits (M, L, P); got {tuple(offsets.shape)}, {tuple(logits.shape)}"
        )
    M, L, _ = logits.shape
    cells = sum(h * w for h, w in state.level_sizes)
    if not len(state.level_sizes) == len(state.reference) == L:
        raise ValueError(
            f"level_sizes, reference and logits must be of the same levels; got {len(state.level_sizes)} level_sizes, "
            f"{len(state.reference)} reference points, logits of {L} levels"
        )
    if state.value.shape[:2] != (cells, M):
        raise ValueError(f"value must be (S, M, D) with S = {cells}, M = {M}; got {tuple(state.value.shape)}")
    if state.head not in range(M):
        raise ValueError(f"head must be 0 to {M - 1}; got {state.head!r}")
    if not (offsets.isfinite().all() and logits.isfinite().all()):
        raise ValueError("offsets and logits must be finite")
    return offsets, logits


def _colours(L: int, P: int) -> list[str]:
    return [level_colour(level) for level in range(L) for _ in range(P)]


def _draw_points(axes: Axes, state: AttentionState, reading: Reading) -> None:
    H, W = state.picture.shape[:2]
    backdrop(axes, state.picture)
    x, y = state.reference[0, :2].tolist()
    axes.plot(x * W, y * H, "+", color=INK, markersize=11, markeredgewidth=2.2)
    scatter_points(axes, (reading.locations * torch.tensor([W, H]))[None].numpy(), reading.weights[None].numpy(), 160)
    axes.set_title(f"head {state.head}: where it reads, by weight", fontsize=9)
    label_axes(axes, "x (pixels)", "y (pixels)")


def _draw_weights(axes: Axes, reading: Reading) -> None:
    L, P = reading.weights.shape
    rows = np.arange(L * P)
    axes.barh(rows, reading.weights.flatten().numpy(), color=_colours(L, P))
    axes.set_yticks(rows, [f"{level}.{point}" for level in range(L) for point in range(P)])
    axes.set(ylim=(L * P - 0.5, -0.5), xlim=(0, max(0.5, 1.05 * reading.weights.max().item())))
    axes.set_title("softmax", fontsize=9)
    label_axes(axes, "weight", "level.point")
    axes.tick_params(axis="y", labelsize=6, length=0)


def _draw_samples(axes: Axes, reading: Reading) -> None:
    rows = reading.samples.flatten(0, 1).numpy()
    reach = max(float(np.abs(rows).max()), 1e-6)
    axes.imshow(rows, cmap="PuOr", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
    axes.set_title(f"the values read, orange -{reach:.2g} to violet {reach:.2g}", fontsize=9)
    label_axes(axes, "", "")
    axes.tick_params(labelleft=False, length=0)


def _draw_output(axes: Axes, reading: Reading, before: Tensor | None) -> None:
    channels = np.arange(len(reading.output))
    axes.bar(channels, reading.output.numpy(), color="#0072B2", label="weighted sum")
    if before is not None:
        axes.bar(
            channels, before.numpy(), facecolor="none", edgecolor=INK, linewidth=0.9, linestyle="dashed",
            label="the network's",
        )  # fmt: skip
        axes.legend(fontsize=7, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 0.98), frameon=False)
    axes.axhline(0, color="#888888", linewidth=0.6)
    axes.set_xlim(-0.6, len(channels) - 0.4)
    axes.set_title("output of the head", fontsize=9, loc="left")
    label_axes(axes, "channel", "")


def _in_words(state: AttentionState, reading: Reading, before: Tensor | None) -> str:
    level, point = divmod(int(reading.weights.argmax()), reading.weights.shape[1])
    x, y = reading.locations[level, point].tolist()
    outside = int(((reading.locations < 0) | (reading.locations > 1)).any(-1).sum())
    shares = ", ".join(f"{share:.3f}" for share in reading.weights.sum(1).tolist())
    sentences = [
        f"Head {state.head}: weight by level {shares}; heaviest is point {point} of level {level}, "
        f"{reading.weights.max():.3f}, at ({x:.3f}, {y:.3f}) of the map; {outside} points outside",
        f"Output of length {reading.output.norm():.3f}",
    ]
    if before is not None:
        sentences[-1] += f", {(reading.output - before).norm():.3f} from the network's"
    return ". ".join(sentences) + "."
