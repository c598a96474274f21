"""Figures of scores and errors. Pure functions: what `ddetr.engine` found in, figure out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ..engine import ErrorBreakdown, GroupScore, PrecisionRecall
from ..engine.errors import CORRECT, CROWD
from ..engine.scores import format_score
from .figures import INK, LINE_STYLES, Figure, label_axes, plain_text

_THRESHOLDS = {None: "0.50 to 0.95", 0.5: "0.50", 0.75: "0.75"}


def precision_recall_curves(curves: PrecisionRecall, iou: float | None = 0.5, most: int = 12) -> Figure:
    """Precision against recall: the mean of the categories at three IoU thresholds, and each category at `iou`.

    `iou` None averages over 0.50 to 0.95. The legend gives the area under each curve, its average precision. Of more
    than `most` categories the best and the worst have names, the others are thin lines.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    mean, each = figure.subplots(1, 2, sharey=True)
    sentences = []
    for (threshold, name), style in zip(_THRESHOLDS.items(), LINE_STYLES, strict=False):
        sentences.append(_curve(mean, curves.recall, curves.curve(iou=threshold), f"IoU {name}", style))
    by_category = {category["id"]: curves.curve(category["id"], iou) for category in curves.categories}
    ranked = sorted(curves.categories, key=lambda category: -np.nan_to_num(by_category[category["id"]].mean(), nan=-1))
    ranked = [category for category in ranked if not np.isnan(by_category[category["id"]]).any()]
    half = most // 2
    named = ranked if len(ranked) <= most else ranked[:half] + ranked[-half:]
    for category in ranked:
        if category not in named:
            each.plot(curves.recall, by_category[category["id"]], color="#bbbbbb", linewidth=0.6)
    for i, category in enumerate(named):
        style = LINE_STYLES[i % len(LINE_STYLES)]
        sentences.append(
            _curve(each, curves.recall, by_category[category["id"]], plain_text(category["name"], 20), style)
        )
    mean.set_title("mean of all categories", fontsize=9)
    each.set_title(f"each category at IoU {'0.50 to 0.95' if iou is None else f'{iou:.2f}'}", fontsize=9)
    for axes in (mean, each):
        label_axes(axes, "recall (share of objects found)", "")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(color="#e8e8e8", linewidth=0.6)
    mean.set_ylabel("precision (share of detections right)", fontsize=8)
    mean.legend(fontsize=8, loc="lower left")
    if named:
        each.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=3)
    else:
        each.text(0.5, 0.5, "no objects", ha="center", fontsize=9)
    figure.alt = f"Precision against recall, and the area under each curve: {'; '.join(sentences)}."
    return figure


def score_bars(groups: Sequence[GroupScore]) -> Figure:
    """AP of categories or sizes as bars, in the order given, AP50 as a diamond, and how many objects there are.

    Of more than thirty, those without objects are only counted.
    """
    left_out = sum(not group.objects for group in groups) if len(groups) > 30 else 0
    groups = [group for group in groups if group.objects or not left_out]
    figure = Figure(figsize=(8, 1.1 + 0.27 * max(len(groups), 1)), layout="constrained")
    axes = figure.subplots()
    sentences = []
    for row, group in enumerate(groups):
        if group.objects:
            axes.barh(row, group.ap, height=0.6, color="#0072B2")
            axes.plot(group.ap50, row, "D", color="#E69F00", markeredgecolor=INK, markersize=6, clip_on=False)
        else:
            axes.text(0.005, row, "-", va="center", fontsize=9)
        noun = "object" if group.objects == 1 else "objects"
        numbers = f"{format_score(group.ap)} / {format_score(group.ap50)}   {group.objects} {noun}"
        axes.text(1.03, row, numbers, va="center", fontsize=8, color=INK)
        sentences.append(f"{plain_text(group.name)} {numbers}")
    axes.set_yticks(range(len(groups)), [plain_text(group.name) for group in groups])
    axes.set(xlim=(0, 1), ylim=(max(len(groups), 1) - 0.4, -0.6))
    more = f"; {left_out} more without objects" if left_out else ""
    label_axes(axes, f"average precision: bar AP (IoU 0.50 to 0.95), diamond AP50{more}", "")
    axes.grid(axis="x", color="#e8e8e8", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.alt = f"Average precision, AP / AP50: {'; '.join(sentences) or 'no groups'}{more}."
    return figure


def error_bars(breakdown: ErrorBreakdown) -> Figure:
    """How many detections and objects are of each kind; see `error_breakdown` for what the kinds mean."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    detections, objects = figure.subplots(1, 2)
    _count_bars(detections, breakdown.detection_counts(), f"detections with a score above {breakdown.threshold:g}")
    _count_bars(objects, breakdown.object_counts(), "objects")
    figure.alt = "; ".join(
        f"{what}: {', '.join(f'{kind} {count}' for kind, count in counts.items())}"
        for what, counts in (("Detections", breakdown.detection_counts()), ("objects", breakdown.object_counts()))
    )
    return figure


def _count_bars(axes: Axes, counts: dict[str, int], what: str) -> None:
    total = sum(counts.values())
    counts = {kind: count for kind, count in counts.items() if count or kind != CROWD}
    for row, (kind, count) in enumerate(counts.items()):
        colour, hatch = ("#0072B2", None) if kind == CORRECT else ("#F3C88A", "///")
        axes.barh(row, count, height=0.65, color=colour, hatch=hatch, edgecolor="white" if hatch is None else "#8A5A00")
        axes.text(count, row, f" {count} ({count / max(total, 1):.0%})", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(counts)), counts)
    axes.set(xlim=(0, 1.3 * max(*counts.values(), 1)), ylim=(len(counts) - 0.4, -0.6))
    axes.set_title(f"{total} {what}", fontsize=9)
    label_axes(axes, "count", "")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _curve(axes: Axes, recall: np.ndarray, precision: np.ndarray, name: str, style: tuple[str, str]) -> str:
    """Draw a curve; its name and area."""
    area = format_score(-1 if np.isnan(precision).any() else precision.mean())
    colour, line = style
    axes.plot(recall, precision, linewidth=1.6, color=colour, linestyle=line, label=f"{name}: {area}")
    return f"{name} {area}"
