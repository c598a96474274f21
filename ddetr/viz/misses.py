"""A missed object opened up: what the query nearest to it saw, layer by layer. A pure function of its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.ops import box_convert

from ..engine.misses import Opened
from .figures import INK, Figure, dark_edge, label_axes, pixels_of, plain_text

TRUTH, FIRST, LAST = "#F0E442", "#9ec9e8", "#0072B2"


class MissState(NamedTuple):
    """One object and one query.

    Attributes:
        image: (3, H, W) as the model takes it.
        truth: (4,) the object's box, xyxy pixels of that image.
        boxes: (N, 4) the query's boxes in the same pixels, first (its proposal, for example) to last.
        scores: (K,) its last scores.
        names: K names of classes.
        label: the object's class.
        threshold: from which score on a detection counts.
    """

    image: Tensor
    truth: Tensor
    boxes: Tensor
    scores: Tensor
    names: Sequence[str]
    label: int
    threshold: float = 0.5

    @classmethod
    def of(cls, opened: Opened, names: Sequence[str]) -> MissState:
        """An opened case with its witness; the boxes are its proposal, if the model is two-stage, and each layer's."""
        h, w = opened.image.shape[1:]
        scale = torch.tensor([w, h, w, h])
        trace, query = opened.trace, opened.why.query
        steps = trace["heads.boxes"][:, 0, query]  # (N, 4)
        start = trace["pre_decoder.reference_points"][:, query]  # (1, 2 | 4)
        if start.shape[-1] == 4:
            steps = torch.cat([start, steps])
        boxes = box_convert(steps, "cxcywh", "xyxy") * scale
        scores = trace["heads.logits"][-1, 0, query].sigmoid()
        return cls(opened.image, opened.box * scale, boxes, scores, names, opened.label)


def draw(states: Sequence[MissState], most: int = 4) -> Figure:
    """Each miss in a column: the boxes around the object, and the query's `most` highest scores beside its own class's.

    ValueError without a miss, or for names that do not fit the scores.
    """
    if not states:
        raise ValueError("nothing to draw: no miss given")
    figure = Figure(figsize=(max(2.9 * len(states), 5), 4.6), layout="constrained")
    grid = figure.subplots(2, len(states), squeeze=False, height_ratios=(2.6, 1))
    sentences = []
    for column, state in enumerate(states):
        if len(state.names) != len(state.scores) or not 0 <= state.label < len(state.names):
            raise ValueError(f"{len(state.scores)} scores, {len(state.names)} names, label {state.label} do not fit")
        _surroundings(grid[0, column], state)
        sentences.append(_scores(grid[1, column], state, most))
    roles = (("truth", TRUTH, (0, (4, 2)), 2.2), ("query, first to last but one", FIRST, "solid", 1.2),
             ("query, last", LAST, "solid", 2.2))  # fmt: skip
    lines = [
        Line2D([], [], color=c, linestyle=s, linewidth=w, path_effects=dark_edge(w), label=n) for n, c, s, w in roles
    ]
    figure.legend(handles=lines, loc="outside upper center", ncols=3, fontsize=8, frameon=False, handlelength=4)
    figure.compact = True
    figure.alt = "Missed objects, each with the nearest query's boxes and scores. " + "; ".join(sentences) + "."
    return figure


def _surroundings(axes: Axes, state: MissState) -> None:
    axes.imshow(pixels_of(state.image))
    _rectangle(axes, state.truth.tolist(), TRUTH, (0, (4, 2)), 2.2)
    for number, box in enumerate(state.boxes.tolist()):
        last = number == len(state.boxes) - 1
        _rectangle(axes, box, LAST if last else FIRST, "solid", 2.2 if last else 1)
    corners = torch.cat([state.boxes, state.truth[None]])
    (left, top), (right, bottom) = corners[:, :2].amin(0).tolist(), corners[:, 2:].amax(0).tolist()
    half = max(right - left, bottom - top) / 2 + 6
    x, y = (left + right) / 2, (top + bottom) / 2
    axes.set(xlim=(x - half, x + half), ylim=(y + half, y - half), facecolor="#dddddd")
    axes.set_title(f"missed: {plain_text(state.names[state.label])}", fontsize=9)
    label_axes(axes, "x (pixels)", "y (pixels)")


def _scores(axes: Axes, state: MissState, most: int) -> str:
    best = state.scores.argsort(descending=True)[:most].tolist()
    rows = best if state.label in best else [*best[:-1], state.label]
    for row, label in enumerate(rows):
        axes.barh(row, state.scores[label].item(), height=0.6, color="#E69F00" if label == state.label else "#bbbbbb")
        axes.text(state.scores[label].item() + 0.01, row, f"{state.scores[label]:.2f}", va="center", fontsize=8)
    axes.axvline(state.threshold, color=INK, linestyle="dashed", linewidth=1)
    axes.set_yticks(range(len(rows)), [plain_text(state.names[label], 16) for label in rows], fontsize=8)
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
    label_axes(axes, "score of the query", "")
    said = ", ".join(f"{state.names[label]} {state.scores[label]:.2f}" for label in rows)
    return f"a {state.names[state.label]}, scored {said}"


def _rectangle(axes: Axes, box: Sequence[float], colour: str, line: object, width: float) -> None:
    x1, y1, x2, y2 = box
    axes.add_patch(
        Rectangle(
            (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=line, linewidth=width,
            path_effects=dark_edge(width),
        )
    )  # fmt: skip
