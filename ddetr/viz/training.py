"""Figures of a training run, out of its metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from ..data import DataError
from .figures import INK, LINE_STYLES, Figure, label_axes, plain_text

MARKERS = "osD^vPX*"
_LOSSES = {"loss": "sum", "loss_class": "class", "loss_bbox": "box, L1", "loss_giou": "box, GIoU"}


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's log, in order; `path` is metrics.jsonl or the run's folder.

    A line that is not whole, as a run that is still writing or was killed leaves it, is left out. DataError if there
    is no such file.
    """
    path = Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise DataError(f"no log of a training run at {path}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    lines = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and entry.get("kind") in ("train", "eval"):
            lines.append(entry)
    return lines


def training_curves(lines: Sequence[dict[str, Any]], x: str = "minutes") -> Figure:
    """Losses, learning rate and AP of a run; x is "minutes" or "step". The sum is of all layers, its parts of the last.

    Losses are drawn twice, each line of the log faintly and their running mean on top.
    """
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    plot_curves(figure.subplots(1, 3), lines, x)
    return figure


def plot_curves(
    panels: Sequence[Axes], lines: Sequence[dict[str, Any]], x: str, scored_on: str = "held-out images"
) -> None:
    """`training_curves` into three axes that are there already; `scored_on`: which images AP is measured on."""
    train, evaluations = (_of_kind(lines, kind) for kind in ("train", "eval"))
    losses, rate, precision = panels
    at = _column(train, x)
    for (key, name), (colour, style) in zip(_LOSSES.items(), LINE_STYLES, strict=False):
        values = _column(train, key)
        if np.isfinite(values).any():
            losses.plot(at, values, color=colour, linewidth=0.5, alpha=0.35)
            losses.plot(at, _running_mean(values), color=colour, linestyle=style, linewidth=1.6, label=name)
    rate.plot(at, _column(train, "lr"), color=INK, linewidth=1.4)
    rate.ticklabel_format(axis="y", style="scientific", scilimits=(0, 0))
    for key, (colour, style), marker in zip(("AP", "AP50"), LINE_STYLES, MARKERS, strict=False):
        if evaluations:
            values = _scores(evaluations, key)
            at = _column(evaluations, x)
            precision.plot(at, values, color=colour, linestyle=style, marker=marker, label=key, clip_on=False)
    for axes, title, there in (
        (losses, "loss (no unit, log scale)", train),
        (rate, "learning rate", train),
        (precision, f"average precision on {scored_on}", evaluations),
    ):
        axes.set_title(title, fontsize=9)
        _finish(axes, x, there, "no evaluation yet" if axes is precision else "no step logged yet")
    if train and (_column(train, "loss") > 0).any():
        losses.set_yscale("log")
        losses.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))  # "20": 2 x 10^1 has no room
        losses.tick_params(which="minor", labelsize=7)
    precision.set_ylim(0, 1.02)


def runs_side_by_side(runs: Mapping[str, Sequence[dict[str, Any]]]) -> Figure:
    """A column for each run, name -> lines: its loss and AP over steps, on the same scales."""
    figure = Figure(figsize=(1.9 * max(len(runs), 1) + 0.6, 3.4), layout="constrained")
    grid = figure.subplots(2, max(len(runs), 1), squeeze=False, sharex="col", sharey="row")
    rows = (("train", "loss", "loss", "log"), ("eval", "AP", "AP", "linear"))
    sentences = []
    for column, (name, lines) in enumerate(runs.items()):
        told = []
        for axes, (kind, key, label, scale) in zip(grid[:, column], rows, strict=True):
            there = _of_kind(lines, kind)
            values = _scores(there, key) if kind == "eval" else _column(there, key)
            values = np.where(values > 0, values, np.nan) if scale == "log" else values
            axes.plot(
                _column(there, "step"), values, color=INK, linewidth=1.3, marker="o" if kind == "eval" else "",
                markersize=3,
            )  # fmt: skip
            axes.set_yscale(scale)
            axes.grid(color="#e8e8e8", linewidth=0.6)
            label_axes(axes, "optimiser step" if kind == "eval" else "", label if column == 0 else "")
            finite = values[np.isfinite(values)]
            if len(finite):
                told.append(f"{label} {finite[0]:.3g} to {finite[-1]:.3g}, at most {finite.max():.3g}")
        grid[0, column].set_title(f"run {plain_text(name)}", fontsize=10)
        sentences.append(f"run {name}: {', '.join(told)}")
    grid[1, 0].set_ylim(bottom=0)
    figure.alt = f"Loss on the training images and AP on held-out images. {'; '.join(sentences)}."
    return figure


def _finish(axes: Axes, x: str, there: Any, otherwise: str) -> None:
    if not there:
        axes.text(0.5, 0.5, otherwise, ha="center", va="center", fontsize=9, transform=axes.transAxes)
    label_axes(axes, "training time (minutes)" if x == "minutes" else "optimiser step", "")
    axes.set_xlim(left=0)
    axes.grid(color="#e8e8e8", linewidth=0.6)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


def _of_kind(lines: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("kind") == kind]


def _column(lines: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """The numbers called `key`; NaN, which leaves a gap in a curve, where a line has none."""
    values = (line.get(key) for line in lines)
    return np.array([value if isinstance(value, int | float) else np.nan for value in values], dtype=float)


def _scores(lines: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    values = _column(lines, key)
    return np.where(values < 0, np.nan, values)  # COCO's -1: nothing to measure


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Each value's mean with its neighbours, over a twentieth of the run; NaN and infinity are left out."""
    window = max(1, len(values) // 20)
    finite = np.isfinite(values)
    kernel = np.ones(window)
    sums, counts = (np.convolve(part, kernel, "same") for part in (np.where(finite, values, 0), finite.astype(float)))
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
