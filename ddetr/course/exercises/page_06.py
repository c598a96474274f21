"""Page 06: the attention operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...ops import bilinear_sample
from . import Case, Exercise, Mistake


def _corners(
    x: float, y: float, half: float = 0.5, swapped: bool = False, floor: Callable[[float], int] = math.floor
) -> Iterator[tuple[int, int, float]]:
    """(row, column, weight) of the four cells around a place, with the choices open for the typical mistakes."""
    if swapped:
        x, y = y, x
    left, top = floor(x - half), floor(y - half)
    dx, dy = x - half - left, y - half - top
    for row, share_y in ((top, 1 - dy), (top + 1, dy)):
        for column, share_x in ((left, 1 - dx), (left + 1, dx)):
            yield row, column, share_y * share_x


def _inside(row: int, column: int, h: int, w: int) -> bool:
    return 0 <= row < h and 0 <= column < w


def _sample_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(60)
    cases = {
        "a place between four cells": (3, 5, 1.7, 1.2),
        "a tall map": (6, 2, 1.1, 4.3),
        "exactly the centre of a cell": (3, 4, 2.5, 1.5),
        "half outside, at the left": (4, 3, 0.2, 2.4),
        "over the top left corner": (4, 3, -0.3, -0.1),
        "at the right edge": (2, 4, 4.3, 1.0),
        "far away": (3, 3, -5.0, 9.0),
    }
    return [
        Case(f"{label}: ({x}, {y}) on {h} x {w}", (torch.randn(h, w, 3, generator=generator), x, y))
        for label, (h, w, x, y) in cases.items()
    ]


def _sample(image: Tensor, x: float, y: float, clamp: bool = False, **choices: object) -> Tensor:
    h, w, channels = image.shape
    out = torch.zeros(channels)
    for row, column, weight in _corners(x, y, **choices):
        if clamp:
            row, column = min(max(row, 0), h - 1), min(max(column, 0), w - 1)
        if _inside(row, column, h, w):
            out = out + weight * image[row, column]
    return out


def _nearest(image: Tensor, x: float, y: float) -> Tensor:
    row, column = math.floor(y), math.floor(x)
    return image[row, column] if _inside(row, column, *image.shape[:2]) else torch.zeros(image.shape[2])


def _weights_turned(image: Tensor, x: float, y: float) -> Tensor:
    h, w, channels = image.shape
    corners = list(_corners(x, y))
    out = torch.zeros(channels)
    for (row, column, _), (_, _, weight) in zip(corners, reversed(corners), strict=True):
        if _inside(row, column, h, w):
            out = out + weight * image[row, column]
    return out


def _wrapped(image: Tensor, x: float, y: float) -> Tensor:
    h, w, _ = image.shape
    return sum(weight * image[row % h, column % w] for row, column, weight in _corners(x, y))


BILINEAR_SAMPLE = Exercise(
    "06.bilinear_sample",
    "Write bilinear_sample(image, x, y): image (h, w, D), a place in cells from the map's top left corner -> (D,), the "
    "mean of the four cells around it, the nearer the more; cells outside read zero.",
    _sample_cases,
    bilinear_sample,
    (
        Mistake(
            lambda image, x, y: _sample(image, x, y, half=0.0),
            "The half cell is missing: a cell's value sits at its centre, so the first one is at 0.5, not at 0.",
        ),
        Mistake(
            lambda image, x, y: _sample(image, x, y, swapped=True),
            "You swap x and y: image[row, column] is image[y, x].",
        ),
        Mistake(
            lambda image, x, y: _sample(image, x, y, clamp=True),
            "You repeat the border. Outside reads zero here: leave such corners out.",
        ),
        Mistake(
            lambda image, x, y: _sample(image, x, y, floor=int),
            "Right except just above or left of the map: int() rounds -0.8 to 0, floor to -1.",
        ),
        Mistake(
            _weights_turned,
            "Your weights are turned around: the nearer cell counts more, so the left one gets 1 - dx.",
        ),
        Mistake(_nearest, "You take the cell that the place falls into. Mix the four nearest, or nothing has a slope."),
        Mistake(
            _wrapped,
            "You read around the edge: row -1 is the last row to Python. A kernel would read somebody else's memory.",
        ),
    ),
    "It is linear in x between two centres, so its gradient is a difference of two cells: the offsets learn from the "
    "four cells that they touch, and from nothing else.",
)


def _scatter_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(61)
    cases = {
        "one point": (3, 5, [(1.7, 1.2)]),
        "two points that share two cells": (4, 6, [(2.2, 1.9), (3.1, 1.7)]),
        "three points in the same place, a tall map": (7, 2, [(1.2, 3.4)] * 3),
        "a point half outside": (3, 3, [(-0.2, 0.3), (1.4, 2.0)]),
        "a point far away": (2, 3, [(8.0, 1.0), (1.0, 1.0)]),
    }
    return [
        Case(f"{label}, on {h} x {w}", (torch.randn(len(places), 3, generator=generator), torch.tensor(places), (h, w)))
        for label, (h, w, places) in cases.items()
    ]


def _scatter(
    grads: Tensor, places: Tensor, size: tuple[int, int], add: bool = True, share: float | None = None,
    check: bool = True, **choices: object,
) -> Tensor:  # fmt: skip
    """The gradient of the map, with the choices open."""
    h, w = size
    out = torch.zeros(h, w, grads.shape[1])
    for grad, (x, y) in zip(grads, places.tolist(), strict=True):
        for row, column, weight in _corners(x, y, **choices):
            if check and not _inside(row, column, h, w):
                continue
            step = (weight if share is None else share) * grad
            row, column = row % h, column % w
            out[row, column] = out[row, column] + step if add else step
    return out


def _gathered(grads: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    out = torch.zeros(*size, grads.shape[1])
    cells = places.floor().long()
    for grad, (column, row) in zip(grads, cells.tolist(), strict=True):
        if _inside(row, column, *size):
            out[row, column] += grad
    return out


SCATTER = Exercise(
    "06.scatter",
    "Write scatter(grads, places, size): the gradients (N, D) of what was read at N places (N, 2) as (x, y) in cells "
    "-> (h, w, D), the gradient of the map that was read.",
    _scatter_cases,
    _scatter,
    (
        Mistake(
            lambda *args: _scatter(*args, add=False),
            "You write where you should add: two points that read one cell both change it. This is the lost update.",
        ),
        Mistake(
            lambda *args: _scatter(*args, check=False),
            "A corner outside the map gets a share on the other side: Python takes row -1 for the last. Leave it out.",
        ),
        Mistake(
            lambda *args: _scatter(*args, share=1.0),
            "Each corner gets the whole gradient. It gets as much as it counted in the forward pass: its weight.",
        ),
        Mistake(
            lambda *args: _scatter(*args, share=0.25),
            "You share out evenly. A corner gets what it counted in the forward pass: near ones more than far ones.",
        ),
        Mistake(lambda *args: _scatter(*args, half=0.0), "The half cell is missing: centres sit at 0.5, 1.5, ..."),
        Mistake(
            lambda *args: _scatter(*args, swapped=True), "You swap x and y: a place is (x, y), a cell [row, column]."
        ),
        Mistake(_gathered, "Only the cell that the point falls into gets something. Four were read, so four are owed."),
    ),
    "The transpose of the forward pass: a cell sums over the points that read it. Every gather has a scatter for its "
    "gradient, an embedding table too.",
)


def _address_cases() -> list[Case]:
    cases = {
        "the first block": (0, 37, 256, 10, 8, 16),
        "another block": (3, 5, 256, 10, 8, 16),
        "32 channels": (7, 200, 256, 9, 4, 32),
        "the second image of a batch": (21, 99, 128, 5, 8, 32),
        "an odd number of everything": (11, 17, 64, 7, 3, 5),
    }
    return [Case(f"{label}: block {args[0]}, thread {args[1]}", args) for label, args in cases.items()]


def _address(block: int, thread: int, block_size: int, Q: int, M: int, D: int) -> tuple[int, int, int, int]:
    return _split(block * block_size + thread, Q, M, D)


def _split(index: int, Q: int, M: int, D: int) -> tuple[int, int, int, int]:
    return index // D // M // Q, index // D // M % Q, index // D % M, index % D


def _heads_first(block: int, thread: int, block_size: int, Q: int, M: int, D: int) -> tuple[int, int, int, int]:
    b, m, q, d = _split(block * block_size + thread, M, Q, D)
    return b, q, m, d


def _channels_first(block: int, thread: int, block_size: int, Q: int, M: int, D: int) -> tuple[int, int, int, int]:
    index = block * block_size + thread
    return index // (D * M * Q), index % Q, index // Q % M, index // Q // M % D


def _one_image(block: int, thread: int, block_size: int, Q: int, M: int, D: int) -> tuple[int, int, int, int]:
    b, q, m, d = _address(block, thread, block_size, Q, M, D)
    return 0, b * Q + q, m, d


THREAD_ADDRESS = Exercise(
    "06.thread_address",
    "Write thread_address(block, thread, block_size, Q, M, D): the (b, q, m, d) of a kernel with one thread for each "
    "number of the output (B, Q, M, D), numbers in the order of memory.",
    _address_cases,
    _address,
    (
        Mistake(
            lambda block, thread, size, *rest: _split(thread, *rest),
            "You forgot the block: each starts its threads at 0 again. The index is block * block_size + thread.",
        ),
        Mistake(
            _heads_first,
            "You have (b, m, q, d), the order of grid_sample's B * M images. The output is (B, Q, M, D).",
        ),
        Mistake(
            _channels_first,
            "You give neighbouring threads neighbouring queries. The last axis, d, changes fastest in memory.",
        ),
        Mistake(
            _one_image,
            "Right for one image: q grows past Q in the next ones. Take the rest of a division by Q, and b is the "
            "quotient.",
        ),
        Mistake(
            lambda block, thread, size, *rest: _split(thread * size + block, *rest),
            "You have block and thread the wrong way round: a block is a run of neighbouring threads.",
        ),
        Mistake(
            lambda block, thread, size, *rest: _split(block + thread, *rest),
            "A block has block_size threads before the next one starts: multiply.",
        ),
    ),
    "This is the official kernel's arithmetic. Its D threads of one head each work out the same sixteen places; ours "
    "share the work and hand the results round.",
)


def _grid_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(62)
    shapes = {
        "a square map": ((4, 4), (5,)), "a wide map": ((3, 8), (2, 3)), "a tall map": ((9, 2), (4,)),
        "level 0 of the portrait": ((60, 69), (2, 2, 2)),
    }  # fmt: skip
    return [
        Case(f"{label}, {size[0]} x {size[1]}", (1.4 * torch.rand(*shape, 2, generator=generator) - 0.2, size))
        for label, (size, shape) in shapes.items()
    ]


def _grid(locations: Tensor, size: tuple[int, int], half: float = 0.5, less: int = 1, flip: bool = True) -> Tensor:
    width_height = torch.tensor(size[::-1] if flip else size)
    return 2 * (locations * width_height - half) / (width_height - less) - 1


GRID = Exercise(
    "06.grid",
    "Write grid(locations, size): locations (..., 2) as (x, y) in [0, 1] of a map (h, w) -> what "
    "F.grid_sample(..., align_corners=True) must be given to read there.",
    _grid_cases,
    _grid,
    (
        Mistake(
            lambda locations, size: 2 * locations - 1,
            "That is the bug itself: it is right for align_corners=False, where -1 and 1 are the outer edges.",
        ),
        Mistake(
            lambda locations, size: _grid(locations, size, flip=False),
            "Right on square maps: locations are (x, y) and size is (h, w). Turn one of them around.",
        ),
        Mistake(
            lambda locations, size: _grid(locations, size, half=0.0),
            "The half cell is missing: -1 is the centre of the first cell, which lies half a cell in.",
        ),
        Mistake(
            lambda locations, size: _grid(locations, size, less=0),
            "Your last cell is out of reach: from the first centre to the last there are w - 1 cells, not w.",
        ),
        Mistake(
            lambda locations, size: (_grid(locations, size) + 1) / 2,
            "You stop at [0, 1]. grid_sample counts from -1 to 1: twice that, minus one.",
        ),
        Mistake(
            lambda locations, size: _grid(locations, size, half=-0.5),
            "You add the half cell; the first centre is at 0.5, so take it off.",
        ),
    ),
    "On a map of one row it divides by zero: with align_corners=True, -1 and 1 are the same place. One more reason for "
    "the other convention.",
)

EXERCISES = (BILINEAR_SAMPLE, THREAD_ADDRESS, SCATTER, GRID)
