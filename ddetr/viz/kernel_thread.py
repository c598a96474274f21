"""What one thread of the attention kernel reads and writes, step by step, as a pure function of its state."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle
from torch import Tensor

from ..ops.validate import level_starts
from .corners import corners
from .figures import INK, LEVEL_COLOURS, Figure, frame, label_axes, level_colour, whole_ticks

FORWARD, BACKWARD = "forward", "backward"
READ, WRITE = INK, "#D55E00"
QUERY_MARKERS = "os^Dv*PX"
CORNER_NAMES = ("top left", "top right", "bottom left", "bottom right")


class ThreadState(NamedTuple):
    """What the view shows: one thread's head of one query, and how far it has come.

    Attributes:
        level_sizes: L pairs (h, w).
        locations: (L, P, 2), a tensor or nested lists, (x, y) in [0, 1] of the padded map.
        weights: (L, P).
        point: the step, 0 to L * P - 1, levels first; earlier points are done.
        direction: "forward" or "backward".
        query, head: whose thread it is.
        channels: the first of its channels, and the first that is not.
    """

    level_sizes: Sequence[tuple[int, int]]
    locations: Tensor | Sequence[Any]
    weights: Tensor | Sequence[Any]
    point: int = 0
    direction: str = FORWARD
    query: int = 0
    head: int = 0
    channels: tuple[int, int] = (0, 4)


class Read(NamedTuple):
    """One of the four cells around a point: `weight` is what it counts, `token` None where it lies outside."""

    row: int
    column: int
    weight: float
    token: int | None


def corners_of(location: Sequence[float], size: tuple[int, int], start: int = 0) -> list[Read]:
    """The four cells that a location (x, y) in [0, 1] is read from, on a map (h, w) whose first token is `start`."""
    (x, y), (h, w) = location, size
    return [
        Read(c.row, c.column, c.weight, start + c.row * w + c.column if c.inside else None)
        for c in corners(x * w - 0.5, y * h - 0.5, size)
    ]


def draw(state: ThreadState) -> Figure:
    """The maps with the cells it has read, the four of the present point close up, and what happens to them.

    ValueError for a step, a direction or shapes that do not fit.
    """
    locations, weights = _checked(state)
    L, P, _ = locations.shape
    starts = level_starts(state.level_sizes)
    steps = [
        corners_of(locations[i // P, i % P].tolist(), state.level_sizes[i // P], starts[i // P])
        for i in range(state.point + 1)
    ]
    level, weight = state.point // P, weights.flatten()[state.point].item()
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    rows = figure.add_gridspec(3, 1, height_ratios=(3, 0.4, 2.8))
    maps = rows[0].subgridspec(1, L).subplots(squeeze=False)[0]
    for n, (axes, size) in enumerate(zip(maps, state.level_sizes, strict=True)):
        done = [corner for i, corners in enumerate(steps) if i // P == n for corner in corners]
        _map(axes, n, size, done, locations[n, : max(0, min(P, state.point + 1 - n * P))], weights[n])
    _outline(maps[level], steps[-1], state.direction)
    strip = figure.add_subplot(rows[1])
    _memory(strip, state, starts, steps)
    close, words = rows[2].subgridspec(1, 2, width_ratios=(1, 2.6)).subplots()
    _close_up(close, locations[level, state.point % P].tolist(), steps[-1], state, level)
    lines = _words(state, steps[-1], weight)
    words.axis("off")
    words.text(0, 1, "\n".join(lines), va="top", fontsize=8.5, family="monospace", transform=words.transAxes)
    read = [str(c.token) if c.token is not None else "outside" for c in steps[-1]]
    figure.alt = (
        f"A thread of query {state.query}, head {state.head}, {state.direction}, at point {state.point} of {L * P}, "
        f"level {level}. Its four corners are tokens {', '.join(read)}; they count "
        f"{', '.join(f'{weight * c.weight:.3g}' for c in steps[-1])}. "
        + ("It adds to each one's gradient." if state.direction == BACKWARD else "It adds them to its sum.")
    )
    return figure


def scatter(
    size: tuple[int, int],
    start: int,
    locations: Mapping[int, Tensor],
    weights: Mapping[int, Tensor],
    level: int = 0,
    head: int = 0,
) -> Figure:
    """Backward on one map (h, w) whose first token is `start`: how many threads add to each cell, and which of them
    meet in the busiest one.

    locations: query -> (P, 2), its points on this map as (x, y) in [0, 1]; weights: query -> (P,). Up to eight queries.
    ValueError if all points lie outside.
    """
    additions = defaultdict(list)  # cell -> what is added to it
    for query, places in locations.items():
        for p, place in enumerate(places.tolist()):
            for corner in corners_of(place, size, start):
                if corner.token is not None:
                    additions[corner.row, corner.column].append((query, p, corner))
    if not additions:
        raise ValueError("no point reads anything on this map, so nothing is added to it")
    threads = {cell: len({query for query, _, _ in added}) for cell, added in additions.items()}
    total = {cell: sum(weights[q][p].item() * c.weight for q, p, c in added) for cell, added in additions.items()}
    busiest = max(additions, key=lambda cell: (threads[cell], total[cell]))
    markers = dict(zip(locations, QUERY_MARKERS, strict=False))
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    _map(left, level, size, [], torch.empty(0, 2), torch.empty(0))
    left.set_title(f"level {level}: how many of {len(locations)} threads add to each cell", fontsize=9)
    for (row, column), count in threads.items():
        shade = 0.12 + 0.6 * count / max(threads.values())
        left.add_patch(Rectangle((column, row), 1, 1, facecolor=level_colour(level), alpha=shade))
        left.text(column + 0.08, row + 0.08, count, fontsize=8, va="top")
    middle = (busiest[1] + 0.5, busiest[0] + 0.5)
    for query, p, _ in additions[busiest]:
        x, y = locations[query][p].tolist()
        arrow = {"arrowstyle": "->", "color": WRITE, "linewidth": 1.2}
        left.annotate("", middle, (x * size[1], y * size[0]), arrowprops=arrow)
    for query, places in locations.items():
        x, y = places.T.tolist()
        left.plot(
            [value * size[1] for value in x], [value * size[0] for value in y], markers[query], color=INK,
            markerfacecolor="white", markersize=5, linestyle="none", label=f"query {query}",
        )  # fmt: skip
    left.add_patch(Rectangle(busiest[::-1], 1, 1, fill=False, edgecolor=WRITE, linewidth=2.2))
    left.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    _meeting(right, additions[busiest], weights, markers, head)
    token = additions[busiest][0][2].token
    met = sorted({query for query, _, _ in additions[busiest]})
    figure.alt = (
        f"Level {level}, head {head}: each cell with the number of threads that add to its gradient. In the busiest, "
        f"token {token}, {len(met)} meet with {len(additions[busiest])} additions: queries {', '.join(map(str, met))}."
    )
    return figure


def _meeting(
    axes: Axes,
    added: Sequence[tuple[int, int, Read]],
    weights: Mapping[int, Tensor],
    markers: Mapping[int, str],
    head: int,
) -> None:
    """Everything that is added to one cell, as arrows into one number."""
    axes.axis("off")
    axes.set(xlim=(0, 10), ylim=(len(added) + 0.5, -1))
    axes.set_title("what the threads add to the framed cell, for one channel d", fontsize=9)
    centre = len(added) / 2 - 0.5
    for i, (query, p, corner) in enumerate(added):
        axes.plot(0.2, i, markers[query], color=INK, markerfacecolor="white", markersize=5)
        share = f"{weights[query][p].item():.4f} * {corner.weight:.2f}"
        axes.text(0.5, i, f"+= {share} * grad_out[b, {query}, {head}, d]", va="center", fontsize=8, family="monospace")
        axes.annotate("", (7, centre), (5.2, i), arrowprops={"arrowstyle": "->", "color": WRITE, "linewidth": 1.2})
    axes.text(
        7.1, centre, f"grad_value\n[b, {added[0][2].token}, {head}, d]", va="center", fontsize=9, family="monospace",
        bbox={"boxstyle": "square", "facecolor": "white", "edgecolor": WRITE, "linewidth": 2},
    )  # fmt: skip


def collisions(counts: Sequence[Tensor], title: str) -> Figure:
    """How many additions each cell's gradient receives: counts L of (h, w), whole numbers."""
    figure = Figure(figsize=(2.7 * len(counts), 2.5), layout="constrained")
    panels = figure.subplots(1, len(counts), squeeze=False)[0]
    most = max(int(count.max()) for count in counts)
    for level, (axes, count) in enumerate(zip(panels, counts, strict=True)):
        h, w = count.shape
        picture = axes.imshow(count.numpy(), cmap="magma", norm=PowerNorm(0.5, 0, most), extent=(0, w, h, 0))
        axes.set_title(f"level {level}: up to {int(count.max())}", fontsize=9)
        whole_ticks(axes)
        frame(axes, level, width=2)
        label_axes(axes, "x (cells)", "y (cells)")
    bar = figure.colorbar(picture, ax=panels)
    bar.set_label("additions to a cell", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=9)
    busiest = (f"level {level} {int(count.max())}" for level, count in enumerate(counts))
    figure.alt = f"{title}: additions to each cell, at most {', '.join(busiest)}."
    return figure


def warp_reads(layouts: dict[str, Sequence[int]], bytes_each: int = 4, sector: int = 32) -> Figure:
    """What a warp's reads fetch: a box for each sector of memory that is touched, filled where a byte is used.

    layouts: the byte addresses of the numbers read, each `bytes_each` wide, for each title.
    """
    used = {title: _sectors(addresses, bytes_each, sector) for title, addresses in layouts.items()}
    columns = 32
    rows = [math.ceil(len(sectors) / columns) for sectors in used.values()]
    figure = Figure(figsize=(9, 0.3 * sum(rows) + 0.4 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0]
    for axes, (title, sectors) in zip(panels, used.items(), strict=True):
        for i, places in enumerate(sectors.values()):
            x, y = i % columns, i // columns
            axes.add_patch(Rectangle((x, y), 0.9, 0.8, facecolor="#eeeeee", edgecolor="#888888", linewidth=0.5))
            for place in places:
                part = 0.9 * bytes_each / sector
                axes.add_patch(Rectangle((x + 0.9 * place / sector, y), part, 0.8, facecolor=LEVEL_COLOURS[0]))
        axes.set(xlim=(-0.2, columns + 0.2), ylim=(math.ceil(len(sectors) / columns), -0.1))
        axes.axis("off")
        axes.set_title(f"{title}: {_share(sectors, bytes_each, sector)}", fontsize=9, loc="left")
    figure.alt = (
        "; ".join(f"{title}: {_share(sectors, bytes_each, sector)}" for title, sectors in used.items())
        + ". Each sector is a box, its used part filled."
    )
    return figure


def _sectors(addresses: Sequence[int], bytes_each: int, sector: int) -> dict[int, list[int]]:
    """Sector -> where in it the numbers lie."""
    found: dict[int, list[int]] = {}
    for address in sorted(addresses):
        found.setdefault(address // sector, []).append(address % sector)
    return found


def _share(sectors: dict[int, list[int]], bytes_each: int, sector: int) -> str:
    wanted = bytes_each * sum(map(len, sectors.values()))
    return f"{len(sectors)} sectors of {sector} bytes fetched for {wanted} bytes"


def _checked(state: ThreadState) -> tuple[Tensor, Tensor]:
    locations = torch.as_tensor(state.locations, dtype=torch.float64).detach().cpu()
    weights = torch.as_tensor(state.weights, dtype=torch.float64).detach().cpu()
    L = len(state.level_sizes)
    if locations.ndim != 3 or locations.shape[0] != L or locations.shape[2] != 2:
        raise ValueError(f"locations must be (L, P, 2) with L = {L}; got {tuple(locations.shape)}")
    if weights.shape != locations.shape[:2]:
        raise ValueError(f"weights must be (L, P) = {tuple(locations.shape[:2])}; got {tuple(weights.shape)}")
    if not locations.isfinite().all():
        raise ValueError("locations hold NaN or infinity")
    if not 0 <= state.point < weights.numel():
        raise ValueError(f"point is {state.point}; the thread's points are 0 to {weights.numel() - 1}")
    if state.direction not in (FORWARD, BACKWARD):
        raise ValueError(f"direction is {state.direction!r}; it is 'forward' or 'backward'")
    return locations, weights


def _map(axes: Axes, level: int, size: tuple[int, int], done: list[Read], points: Tensor, weights: Tensor) -> None:
    h, w = size
    axes.set(xlim=(-0.5, w + 0.5), ylim=(h + 0.5, -0.5), aspect="equal")
    for x in range(w + 1):
        axes.plot([x, x], [0, h], color="#cccccc", linewidth=0.4)
    for y in range(h + 1):
        axes.plot([0, w], [y, y], color="#cccccc", linewidth=0.4)
    whole_ticks(axes)
    for corner in done:
        if corner.token is not None:
            cell = Rectangle((corner.column, corner.row), 1, 1, facecolor=level_colour(level), alpha=0.45)
            axes.add_patch(cell)
    for (x, y), weight in zip(points.tolist(), weights.tolist(), strict=False):
        axes.plot(x * w, y * h, "o", markersize=2 + 8 * abs(weight) ** 0.5, color=INK, markerfacecolor="none")
    axes.set_title(f"level {level}: {h} x {w}", fontsize=8)
    frame(axes, level, width=2)
    label_axes(axes, "x (cells)", "y (cells)")


def _outline(axes: Axes, corners: list[Read], direction: str) -> None:
    colour = WRITE if direction == BACKWARD else READ
    for corner in corners:
        if corner.token is not None:
            axes.add_patch(Rectangle((corner.column, corner.row), 1, 1, fill=False, edgecolor=colour, linewidth=1.8))


def _memory(axes: Axes, state: ThreadState, starts: list[int], steps: list[list[Read]]) -> None:
    """The tokens in one row, as they lie in memory, with those read so far."""
    total = sum(h * w for h, w in state.level_sizes)
    for level, (start, (h, w)) in enumerate(zip(starts, state.level_sizes, strict=True)):
        axes.barh(0, h * w, left=start, height=1, color=level_colour(level), alpha=0.35)
    earlier = [c.token for corners in steps[:-1] for c in corners if c.token is not None]
    now = [c.token for c in steps[-1] if c.token is not None]
    axes.vlines([t + 0.5 for t in earlier], -0.5, 0.5, color="#777777", linewidth=0.7)
    colour = WRITE if state.direction == BACKWARD else READ
    axes.vlines([t + 0.5 for t in now], -0.5, 0.5, color=colour, linewidth=2)
    axes.set(xlim=(0, total), ylim=(-0.5, 0.5), yticks=[])
    label_axes(axes, "token index in value (levels one after the other)", "")


def _close_up(axes: Axes, location: Sequence[float], corners: list[Read], state: ThreadState, level: int) -> None:
    (h, w), (row, column) = state.level_sizes[level], corners[0][:2]
    colour = WRITE if state.direction == BACKWARD else READ
    for r in range(row - 1, row + 3):
        for c in range(column - 1, column + 3):
            inside = 0 <= r < h and 0 <= c < w
            face = "white" if inside else "#dddddd"
            axes.add_patch(Rectangle((c, r), 1, 1, facecolor=face, edgecolor="#aaaaaa", hatch="" if inside else "///"))
    x, y = location[0] * w, location[1] * h
    for corner in corners:
        centre = (corner.column + 0.5, corner.row + 0.5)
        if corner.token is not None:
            cell = Rectangle(
                (corner.column, corner.row), 1, 1, facecolor=level_colour(level), alpha=0.15 + 0.7 * corner.weight
            )
            axes.add_patch(cell)
            axes.add_patch(Rectangle(cell.get_xy(), 1, 1, fill=False, edgecolor=colour, linewidth=1.8))
        axes.plot(*centre, ".", color=INK, markersize=3)
        axes.text(
            centre[0], centre[1] + (0.42 if corner.row > row else -0.42), f"{corner.weight:.2f}", ha="center",
            va="bottom" if corner.row > row else "top", fontsize=7,
        )  # fmt: skip
        axes.plot([x, centre[0]], [y, centre[1]], color=INK, linewidth=0.7, linestyle="dotted")
    axes.plot(x, y, "x", color=INK, markersize=8, markeredgewidth=2)
    axes.set(xlim=(column - 1, column + 3), ylim=(row + 3, row - 1), aspect="equal")
    whole_ticks(axes)
    axes.set_title(f"point {state.point}, close up", fontsize=8)
    label_axes(axes, "x (cells)", "y (cells)")


def _words(state: ThreadState, corners: list[Read], weight: float) -> list[str]:
    first, end = state.channels
    points = torch.as_tensor(state.weights).shape[1]
    level, p = divmod(state.point, points)
    part = f"{state.head}, {first}:{end}]"
    backward = state.direction == BACKWARD
    what = "reads again and adds to" if backward else "reads"
    array = "grad_value" if backward else "value"
    lines = [
        f"{state.direction}: query {state.query}, head {state.head}, channels {first} to {end - 1}",
        "",
        f"it {what}",
    ]
    for corner, name in zip(corners, CORNER_NAMES, strict=True):
        if corner.token is None:
            lines.append(f"  {name:12}  outside: zero, nothing to {'write' if backward else 'read'}")
            continue
        product = f"{corner.weight:.2f} * {weight:.3f} = {corner.weight * weight:.4f}"
        lines.append(f"  {name:12}  {array}[b, {corner.token:4}, {part}   {product}")
    if backward:
        lines += [
            f"  += that * grad_out[b, {state.query}, {part}, atomically:",
            "  another query's thread may be adding to the same number",
            "",
            "the head's threads add up grad_out * value over all channels;",
            "one of them writes the point's gradients, once:",
            f"  grad_locations[b, {state.query}, {state.head}, {level}, {p}]  (2 numbers)",
            f"  grad_weights[b, {state.query}, {state.head}, {level}, {p}]",
        ]
    else:
        last = state.point == len(state.level_sizes) * points - 1
        lines += ["", f"  sum[{end - first}] += that * value, {end - first} channels at a time", ""]
        lines += [f"{'now' if last else 'at the end'} it writes  out[b, {state.query}, {part}  once"]
    return lines
