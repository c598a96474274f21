"""Average precision by hand: who takes which object, and the area under what comes of it. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle

from .figures import INK, Figure, label_axes

TRUE, FALSE = "#0072B2", "#D55E00"


def matching(iou: np.ndarray, taken: Sequence[int], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Overlaps (D, G) of detections, best score first, with objects; framed where a detection took an object.

    taken: D column numbers, -1 where a detection took none.

    ValueError if the numbers of rows, columns and taken do not fit the overlaps.
    """
    if iou.shape != (len(rows), len(columns)) or len(taken) != len(rows):
        raise ValueError(
            f"overlaps {iou.shape} do not fit {len(rows)} rows, {len(columns)} columns, {len(taken)} taken"
        )
    figure = Figure(figsize=(0.85 * len(columns) + 3.2, 0.38 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.imshow(iou, cmap="Greys", vmin=0, vmax=1.6, aspect="auto")
    for (row, column), value in np.ndenumerate(iou):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8)
    sentences = []
    for row, column in enumerate(taken):
        if column >= 0:
            axes.add_patch(
                Rectangle((column - 0.46, row - 0.42), 0.92, 0.84, fill=False, edgecolor=TRUE, linewidth=2.5)
            )
        verdict = f"takes {columns[column]}" if column >= 0 else "takes none"
        colour = TRUE if column >= 0 else FALSE
        axes.text(len(columns) - 0.4, row, verdict, va="center", fontsize=8, color=colour)
        sentences.append(f"{rows[row]} {verdict}")
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xlabel("overlap (IoU) with each object", fontsize=8)
    figure.alt = f"Overlaps of detections with objects; {'; '.join(sentences)}."
    return figure


def staircase(is_true: Sequence[bool], num_objects: int) -> Figure:
    """Precision and recall as detections are added, best score first; the envelope, and the 101 places read from it.

    ValueError without detections or objects, or for more true ones than objects.
    """
    hits = np.cumsum(np.asarray(is_true, dtype=bool))
    if not len(hits) or num_objects < 1 or hits[-1] > num_objects:
        raise ValueError(f"need detections, and of {num_objects} objects as many as true ones; got {list(is_true)}")
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / num_objects
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.linspace(0, 1, 101)
    at = np.searchsorted(recall, places)
    read = np.where(at < len(recall), np.append(envelope, 0)[np.minimum(at, len(recall))], 0)
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(places, read, width=0.006, color="#9ec9e8", label="101 places")
    edges, heights = np.append(0, recall), np.append(envelope[0], envelope)
    axes.step(edges, heights, where="pre", color=TRUE, linewidth=1.8, label="envelope")
    axes.plot(recall, precision, color="#888888", linewidth=1, linestyle="dotted", label="after each detection")
    for number, (x, y, right) in enumerate(zip(recall, precision, is_true, strict=True), start=1):
        axes.plot(x, y, "o" if right else "X", color=TRUE if right else FALSE, markersize=8, markeredgecolor="white")
        # The first of one recall stands above the others, which have no room but beside it.
        axes.annotate(str(number), (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8, color=INK)
    axes.set(xlim=(-0.02, 1.02), ylim=(0, 1.12))
    axes.set_title(f"mean of the 101: {read.mean():.4f}", fontsize=9)
    label_axes(axes, "recall (share of objects found)", "precision (share of detections right)")
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    steps = "; ".join(
        f"{number} {'true' if right else 'false'}, precision {y:.2f}, recall {x:.2f}"
        for number, (x, y, right) in enumerate(zip(recall, precision, is_true, strict=True), start=1)
    )
    figure.alt = f"Precision against recall after each detection: {steps}. Mean of the envelope: {read.mean():.4f}."
    return figure
