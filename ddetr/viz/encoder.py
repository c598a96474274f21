"""What the encoder's tokens hold, layer by layer: every level as a map, every stage as a row of maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .features import main_colours
from .figures import INK, LINE_STYLES, Figure, frame, halo, label_axes, pixels_of, whole_ticks

LevelSizes = Sequence[tuple[int, int]]


def split_levels(values: Tensor, level_sizes: LevelSizes) -> list[Tensor]:
    """(S, ...) of all tokens -> L maps (h, w, ...). ValueError if the levels do not add up to S."""
    counts = [h * w for h, w in level_sizes]
    if sum(counts) != len(values):
        raise ValueError(f"levels {list(level_sizes)} have {sum(counts)} cells; got {len(values)} tokens")
    parts = values.split(counts)
    return [part.reshape(h, w, *values.shape[1:]) for part, (h, w) in zip(parts, level_sizes, strict=True)]


def token_index(level_sizes: LevelSizes, level: int, x: float, y: float) -> int:
    """The token of `level` whose cell holds the point (x, y), in [0, 1) of the map. ValueError outside of it."""
    if not 0 <= level < len(level_sizes):
        raise ValueError(f"level must be 0 to {len(level_sizes) - 1}; got {level}")
    if not (0 <= x < 1 and 0 <= y < 1):
        raise ValueError(f"x and y must be in [0, 1), a part of the map; got {x} and {y}")
    h, w = level_sizes[level]
    return sum(a * b for a, b in level_sizes[:level]) + int(y * h) * w + int(x * w)


def token_colours(image: Tensor, stages: Mapping[str, Tensor], level_sizes: LevelSizes) -> Figure:
    """Every stage's tokens, each (S, C), as colours: its three main directions as red, green and blue.

    The directions are those of all levels together, each level counting alike: one colour means one kind of token, on
    whichever level. Rows have directions of their own.
    """
    figure, rows = _grid(image, len(stages), len(level_sizes))
    for row, (name, tokens) in zip(rows, stages.items(), strict=True):
        for level, (axes, colours) in enumerate(zip(row, _colours(tokens, level_sizes), strict=True)):
            _map(axes, colours, level, name if level == 0 else "")
    figure.alt = (
        f"Tokens of {len(level_sizes)} levels as maps, similar tokens in similar colours; rows from the top: "
        f"{', '.join(stages)}."
    )
    return figure


class SimilarityState(NamedTuple):
    """What the similarity view shows.

    Attributes:
        image: (3, H, W), as the model takes it.
        stages: name -> (S, C), the tokens at some point of the encoder.
        level_sizes: L pairs (h, w).
        level, x, y: which token is compared: the one of `level` at (x, y), in [0, 1) of the image.
    """

    image: Tensor
    stages: Mapping[str, Tensor]
    level_sizes: LevelSizes
    level: int
    x: float
    y: float


def similarity(state: SimilarityState) -> dict[str, Tensor]:
    """For each stage, the cosine of every token with the chosen one, (S,)."""
    index = token_index(state.level_sizes, state.level, state.x, state.y)
    units = {name: F.normalize(tokens.float(), dim=1) for name, tokens in state.stages.items()}
    return {name: unit @ unit[index] for name, unit in units.items()}


def draw_similarity(state: SimilarityState) -> Figure:
    """Which tokens resemble the chosen one, on every level and at every stage. ValueError for a token that is none."""
    cosines = similarity(state)
    figure, rows = _grid(state.image, len(cosines), len(state.level_sizes), (state.x, state.y))
    sentences = []
    for row, (name, values) in zip(rows, cosines.items(), strict=True):
        maps = split_levels(values, state.level_sizes)
        for level, (axes, cells) in enumerate(zip(row, maps, strict=True)):
            picture = _map(axes, cells.numpy(), level, name if level == 0 else "", cmap="PuOr", vmin=-1, vmax=1)
            if level == state.level:
                _mark_cell(axes, cells.shape, state.x, state.y)
        sentences.append(f"{name}: " + ", ".join(f"level {n} up to {m.max():.2f}" for n, m in enumerate(maps)))
    figure.colorbar(picture, ax=rows[:, -1], label="cosine").ax.tick_params(labelsize=7)
    figure.alt = (
        f"Cosine of every token with the token of level {state.level} at x {state.x:.2f}, y {state.y:.2f} of the "
        f"image. {'; '.join(sentences)}."
    )
    return figure


def draw_reach(
    image: Tensor, reached: Mapping[str, Tensor], level_sizes: LevelSizes, level: int, x: float, y: float
) -> Figure:
    """Which tokens had a say in one token's vector: reached (S,) bool for each row; the token as in `token_index`."""
    token_index(level_sizes, level, x, y)
    figure, rows = _grid(image, len(reached), len(level_sizes), (x, y))
    for row, (name, seen) in zip(rows, reached.items(), strict=True):
        for n, (axes, cells) in enumerate(zip(row, split_levels(seen, level_sizes), strict=True)):
            _map(axes, np.where(cells.numpy(), 1.0, 0.0), n, name if n == 0 else "", cmap="Greys", vmin=0, vmax=1.3)
            if n == level:
                _mark_cell(axes, cells.shape, x, y)
    counts = (f"{name} {int(seen.sum())} of {len(seen)}" for name, seen in reached.items())
    figure.alt = f"Tokens, dark, that reach the token of level {level} at x {x:.2f}, y {y:.2f}: {'; '.join(counts)}."
    return figure


def cost_curves(
    tokens: Sequence[int], panels: Mapping[str, Mapping[str, Sequence[float]]], marks: Mapping[str, int]
) -> Figure:
    """Costs against the number of tokens S, both on logarithmic axes: a panel for each unit, a line for each way.

    panels: unit -> name -> one value for each of `tokens`; marks: name -> S, drawn as vertical lines.
    ValueError for a line of another length.
    """
    figure = Figure(figsize=(9, 3.1), layout="constrained")
    sentences = []
    for axes, (unit, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for (name, values), (colour, line) in zip(lines.items(), LINE_STYLES[1:], strict=False):
            if len(values) != len(tokens):
                raise ValueError(f"{name} has {len(values)} values for {len(tokens)} numbers of tokens")
            axes.loglog(tokens, values, color=colour, linestyle=line, linewidth=2, label=name)
            sentences.append(f"{name} from {values[0]:.3g} to {values[-1]:.3g} {unit}")
        for name, S in marks.items():
            axes.axvline(S, color="#999999", linewidth=1)
            axes.text(S, 0.02, f"{name} ", transform=axes.get_xaxis_transform(), rotation=90, ha="right", fontsize=7)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False, loc="upper left")
        label_axes(axes, "tokens S", unit)
    figure.alt = f"Cost of one layer from {tokens[0]} to {tokens[-1]} tokens: {'; '.join(sentences)}."
    return figure


def _colours(tokens: Tensor, level_sizes: LevelSizes) -> list[np.ndarray]:
    weight = torch.cat([torch.full((h * w, 1), 1 / (h * w)) for h, w in level_sizes]) / len(level_sizes)
    colours = main_colours(tokens.detach().float().cpu(), weight)
    return [cells.numpy() for cells in split_levels(colours, level_sizes)]


def _grid(image: Tensor, rows: int, levels: int, cross: tuple[float, float] | None = None) -> tuple[Figure, np.ndarray]:
    """Axes (rows, levels) beside the image, which may have a cross at (x, y) in [0, 1]."""
    figure = Figure(figsize=(1.8 * (levels + 1), 0.4 + 1.35 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, levels + 1)
    first = figure.add_subplot(grid[:, 0])
    first.imshow(pixels_of(image), extent=(0, image.shape[2], image.shape[1], 0))
    label_axes(first, "x (pixels)", "y (pixels)")
    first.set_title("image", fontsize=8)
    if cross:
        place = (cross[0] * image.shape[2], cross[1] * image.shape[1])
        first.plot(*place, "+", color="#3CFF3C", markersize=13, markeredgewidth=2.5, path_effects=halo(4.5, "black"))
    axes = np.array([[figure.add_subplot(grid[row, n + 1]) for n in range(levels)] for row in range(rows)])
    for level in range(levels):
        axes[0, level].set_title(f"level {level}", fontsize=8)
    return figure, axes


def _map(axes: Axes, cells: np.ndarray, level: int, name: str, **style: object) -> object:
    h, w = cells.shape[:2]
    picture = axes.imshow(cells, extent=(0, w, h, 0), **style)
    frame(axes, level)
    whole_ticks(axes)
    axes.tick_params(labelsize=6)
    axes.set_ylabel(f"{name}\ny (cells)" if name else "y (cells)", fontsize=8)
    axes.set_xlabel("x (cells)", fontsize=8)
    return picture


def _mark_cell(axes: Axes, size: Sequence[int], x: float, y: float) -> None:
    corner = (int(x * size[1]), int(y * size[0]))
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=INK, linewidth=2, path_effects=halo(3)))
