"""Small tables of numbers as pictures: who hears whom, who resembles whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from .figures import Figure, label_axes, level_colour


def dependence(tables: dict[str, np.ndarray], outputs: Sequence[str], inputs: Sequence[str]) -> Figure:
    """Which input each output is made from: a table (len(outputs), len(inputs)) of bool for each title."""
    figure = Figure(figsize=(3.4 * len(tables), 0.9 + 0.4 * len(outputs)), layout="constrained")
    sentences = []
    for axes, (title, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        coloured = np.ones((*table.shape, 3))
        coloured[table] = (0.0, 0.447, 0.698)
        _cells(axes, coloured, outputs, inputs)
        for row, column in np.argwhere(table):
            axes.text(column, row, "yes", ha="center", va="center", color="white", fontsize=8)
        axes.set_title(title, fontsize=9)
        heard = (f"{name} from {' and '.join(np.array(inputs)[row])}" for name, row in zip(outputs, table, strict=True))
        sentences.append(f"{title}: {', '.join(heard)}")
    figure.alt = "; ".join(sentences) + "."
    return figure


def similarity(table: Tensor, names: Sequence[str], title: str) -> Figure:
    """Cosines between n vectors, table (n, n) in [-1, 1]."""
    figure = Figure(figsize=(3.6, 2.9), layout="constrained")
    axes = figure.subplots()
    picture = _cells(axes, table.numpy(), names, names, cmap="PuOr", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(table.numpy()):
        axes.text(
            column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if value > 0.7 else "black"
        )
    axes.set_title(title, fontsize=9)
    figure.colorbar(picture, ax=axes).ax.tick_params(labelsize=7)
    rows = (f"{name} {', '.join(f'{v:.2f}' for v in row)}" for name, row in zip(names, table.tolist(), strict=True))
    figure.alt = f"{title}: {'; '.join(rows)}."
    return figure


def spread(before: dict[str, Tensor], after: dict[str, Tensor]) -> Figure:
    """How large the numbers of each map are: a box for each map's channels, before the neck and after it.

    before, after: name -> (C,), the root mean square of each channel.
    """
    figure = Figure(figsize=(7.5, 2.4), layout="constrained")
    sentences = []
    left, right = figure.subplots(1, 2)
    for axes, values, title in ((left, before, "before the neck"), (right, after, "after it")):
        boxes = axes.boxplot([v.numpy() for v in values.values()], whis=(5, 95), showfliers=False, patch_artist=True)
        for level, (box, median) in enumerate(zip(boxes["boxes"], boxes["medians"], strict=True)):
            box.set_facecolor(level_colour(level))
            median.set_color("black")
        axes.set_xticks(range(1, len(values) + 1), list(values))
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=9)
        label_axes(axes, "", "size of a channel (RMS)")
        medians = ", ".join(f"{n} {v.median():.2f}" for n, v in values.items())
        sentences.append(f"{title}: {medians}")
    figure.alt = f"Median size of a channel (root mean square), {'; '.join(sentences)}."
    return figure


def _cells(axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], **style: object) -> object:
    picture = axes.imshow(values, aspect="auto", **style)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="#888888", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    return picture
