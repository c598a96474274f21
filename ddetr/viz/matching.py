"""The matching playground: boxes, scores and weights in; costs, assignment and losses out. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from ..config import DeformableDETRConfig
from ..losses import Criterion, HungarianMatcher, Target
from ..models.heads import inverse_sigmoid
from .figures import INK, LINE_STYLES, Figure, halo, label_axes, plain_text

Box = Sequence[float]
TERMS = ("class", "L1", "GIoU")


class MatchingState(NamedTuple):
    """What the playground shows: plain values, so that a control can change any of them.

    Attributes:
        boxes: Q boxes (cx, cy, w, h) in [0, 1] of the image, what the queries predict.
        scores: Q lists of K scores in [0, 1].
        target_boxes: N boxes, the truth.
        target_labels: N labels in 0..K-1.
        classes: K names.
        weights: of the class, L1 and GIoU terms, in costs and losses alike.
        picture: (H, W, 3) uint8 to draw the boxes on, or None.
        queries: Q names of the queries; none: counted from 0.
    """

    boxes: Sequence[Box]
    scores: Sequence[Sequence[float]]
    target_boxes: Sequence[Box]
    target_labels: Sequence[int]
    classes: Sequence[str]
    weights: tuple[float, float, float] = (2.0, 5.0, 2.0)
    picture: np.ndarray | None = None
    queries: Sequence[str] = ()


class Matching(NamedTuple):
    """What follows from a state.

    Attributes:
        costs: the class, L1 and GIoU cost, weighted, (3, Q, N).
        pairs: (query, object), by query; the lowest sum of costs.
        losses: each loss, weighted and divided by the number of objects, by what causes it.
    """

    costs: Tensor
    pairs: list[tuple[int, int]]
    losses: dict[str, float]

    @property
    def total(self) -> Tensor:
        """The whole cost, (Q, N)."""
        return self.costs.sum(0)


def solve(state: MatchingState) -> Matching:
    """Costs, assignment and losses, by the package's own matcher and criterion.

    ValueError for lists of different lengths, or a label that is no class.
    """
    _check(state)
    config = DeformableDETRConfig(
        num_classes=len(state.classes),
        **dict(zip(("class_weight", "bbox_weight", "giou_weight"), map(float, state.weights), strict=True)),
    )
    matcher, criterion = HungarianMatcher(config), Criterion(config)
    boxes = torch.tensor(state.boxes, dtype=torch.float32).view(-1, 4)
    logits = inverse_sigmoid(torch.tensor(state.scores, dtype=torch.float32), 1e-7)  # (Q, K)
    target = Target(
        torch.tensor(state.target_labels, dtype=torch.int64),
        torch.tensor(state.target_boxes, dtype=torch.float32).view(-1, 4),
    )
    terms = (
        matcher.class_cost(logits, target.labels),
        matcher.bbox_cost(boxes, target.boxes),
        matcher.giou_cost(boxes, target.boxes),
    )
    costs = torch.stack([weight * term for weight, term in zip(state.weights, terms, strict=True)])
    match = matcher(logits[None], boxes[None], [target])[0]
    count = max(len(target.labels), 1)
    losses = criterion.layer_losses(logits[None], boxes[None], [target], count)
    free = torch.ones(len(boxes), dtype=torch.bool).index_fill(0, match.query, False)
    nothing = [Target(target.labels[:0], target.boxes[:0])]
    unmatched = criterion.layer_losses(logits[None, free], boxes[None, free], nothing, count)["loss_class"]
    return Matching(
        costs,
        list(zip(match.query.tolist(), match.target.tolist(), strict=True)),
        {
            "class, matched": float(losses["loss_class"] - unmatched),
            "class, unmatched": float(unmatched),
            "L1": float(losses["loss_bbox"]),
            "GIoU": float(losses["loss_giou"]),
        },
    )


def draw(state: MatchingState) -> Figure:
    """The boxes, the cost of each query for each object with the assignment framed, and each loss.

    ValueError as `solve`.
    """
    matching = solve(state)
    names, objects = _query_names(state), _object_names(state)
    rows, columns = len(names), max(len(objects), 1)
    figure = Figure(figsize=(11, max(3.2, 0.9 + 0.3 * rows)), layout="constrained")
    picture, table, bars = figure.subplots(1, 3, width_ratios=(4.2, 1.0 + 0.75 * columns, 2.2))
    _draw_boxes(picture, state, matching, names)
    _draw_costs(table, matching, names, objects)
    table.set_title("cost of query for object\n(framed: the assignment)", fontsize=9)
    _draw_losses(bars, matching)
    pairs = "; ".join(f"query {names[q]} for {objects[t]}, cost {matching.total[q, t]:.2f}" for q, t in matching.pairs)
    losses = ", ".join(f"{name} {value:.2f}" for name, value in matching.losses.items())
    weights = ", ".join(f"{term} {weight:g}" for term, weight in zip(TERMS, state.weights, strict=True))
    figure.alt = f"Weights {weights}. Assignment: {pairs or 'none'}. Losses: {losses}."
    return figure


def draw_terms(state: MatchingState) -> Figure:
    """The three weighted costs and their sum, side by side, the assignment framed in each. ValueError as `solve`."""
    matching = solve(state)
    names, objects = _query_names(state), _object_names(state)
    figure = Figure(figsize=(11, 1.2 + 0.27 * len(names)), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    titles = [f"{weight:g} x {term}" for term, weight in zip(TERMS, state.weights, strict=True)] + ["sum"]
    for axes, title, cost in zip(panels, titles, [*matching.costs, matching.total], strict=True):
        _draw_costs(axes, matching._replace(costs=cost[None]), names, objects)
        axes.set_title(title, fontsize=9)
        axes.set_ylabel("query" if title == titles[0] else "", fontsize=8)
    terms = list(zip(titles, [*matching.costs, matching.total], strict=True))
    pairs = "; ".join(
        f"query {names[q]} for {objects[t]}: " + ", ".join(f"{title} {cost[q, t]:.2f}" for title, cost in terms)
        for q, t in matching.pairs
    )
    figure.alt = f"Costs of {len(names)} queries for {len(objects)} objects. {pairs}."
    return figure


def _check(state: MatchingState) -> None:
    if len(state.boxes) != len(state.scores):
        raise ValueError(f"each query needs a box and scores; got {len(state.boxes)} boxes, {len(state.scores)} scores")
    if len(state.target_boxes) != len(state.target_labels):
        raise ValueError(
            f"each object needs a box and a label; got {len(state.target_boxes)} boxes, "
            f"{len(state.target_labels)} labels"
        )
    if not state.boxes:
        raise ValueError("there is nothing to match: no query was given")
    K = len(state.classes)
    if any(len(row) != K for row in state.scores):
        raise ValueError(f"each query needs a score for each of the {K} classes")
    for label in state.target_labels:
        if not 0 <= label < K:
            raise ValueError(f"label {label} is outside 0..{K - 1}, the classes given")
    if state.queries and len(state.queries) != len(state.boxes):
        raise ValueError(f"{len(state.boxes)} queries have {len(state.queries)} names")


def _query_names(state: MatchingState) -> list[str]:
    return [plain_text(str(name)) for name in state.queries or range(len(state.boxes))]


def _object_names(state: MatchingState) -> list[str]:
    """Names of the objects, numbered where a class comes more than once."""
    labels, seen, names = list(state.target_labels), {}, []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        number = f" {seen[label]}" if labels.count(label) > 1 else ""
        names.append(plain_text(str(state.classes[label])) + number)
    return names


def _draw_boxes(axes: Axes, state: MatchingState, matching: Matching, names: list[str]) -> None:
    H, W = (1.0, 1.0) if state.picture is None else state.picture.shape[:2]
    if state.picture is not None:
        # Few shades and no smoothing: a backdrop, in a tenth of the bytes.
        axes.imshow(state.picture // 16 * 16 + 8, extent=(0, W, H, 0), alpha=0.6, interpolation="nearest")
    for box in state.target_boxes:
        _box(axes, box, (W, H), edgecolor="white", linestyle=(0, (1, 1.5)), linewidth=1.4)
    taken = dict(matching.pairs)
    for q, box in enumerate(state.boxes):
        colour = LINE_STYLES[1 + taken[q] % 6][0] if q in taken else "#777777"
        _box(axes, box, (W, H), edgecolor=colour, linestyle="solid" if q in taken else "dashed", linewidth=1.8)
        cx, cy, w, h = box
        axes.text(
            (cx - w / 2) * W, (cy - h / 2) * H, names[q], fontsize=7, va="bottom", clip_on=True, color="white",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes.set(xlim=(0, W), ylim=(H, 0), aspect="equal")
    axes.set_title("truth dotted, predictions numbered\n(grey: matched to nothing)", fontsize=9)
    unit = "image" if state.picture is None else "pixels"
    label_axes(axes, f"x ({unit})", f"y ({unit})")


def _draw_costs(axes: Axes, matching: Matching, names: list[str], objects: list[str]) -> None:
    """The costs summed over the first axis: light is cheap."""
    cost = matching.total.numpy()
    if not objects:
        axes.text(0.5, 0.5, "no object,\nnothing to assign", ha="center", va="center", fontsize=9)
        axes.axis("off")
        return
    low, high = float(cost.min()), float(cost.max())
    axes.imshow(cost, cmap="Blues", vmin=low, vmax=high + 1e-9, aspect="auto")
    middle = (low + high) / 2
    for (row, column), value in np.ndenumerate(cost):
        colour = "white" if value > middle + (high - low) * 0.1 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    for row, column in matching.pairs:
        colour = LINE_STYLES[1 + column % 6][0]
        axes.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=2.6, clip_on=False, zorder=3,
                path_effects=halo(4),
            )
        )  # fmt: skip
    axes.set_xticks(range(len(objects)), objects, fontsize=7, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.tick_params(length=0)
    axes.set_ylabel("query", fontsize=8)


def _draw_losses(axes: Axes, matching: Matching) -> None:
    values = list(matching.losses.values())
    positions = range(len(values))
    axes.barh(positions, values, color=["#0072B2", "#56B4E9", "#E69F00", "#009E73"])
    for y, value in zip(positions, values, strict=True):
        axes.text(value, y, f" {value:.2f}", va="center", fontsize=8)
    axes.set_yticks(positions, list(matching.losses), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(*values, 1e-3))
    axes.set_title(f"loss, in all {math.fsum(values):.2f}", fontsize=9)
    axes.set_xlabel("weighted, per object", fontsize=8)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _box(axes: Axes, box: Box, size: tuple[float, float], **style: object) -> None:
    (cx, cy, w, h), (W, H) = box, size
    axes.add_patch(
        Rectangle(
            ((cx - w / 2) * W, (cy - h / 2) * H), w * W, h * H, fill=False,
            path_effects=halo(float(style["linewidth"]) + 1, INK), **style,
        )
    )  # fmt: skip
