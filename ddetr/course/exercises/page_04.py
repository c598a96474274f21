"""Page 04: reference points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...models.reference_points import decoder_reference_points, encoder_reference_points
from . import Case, Exercise, Mistake

Pair = tuple[float, float]
Sizes = Sequence[tuple[int, int]]
Corners = list[tuple[int, int, float]]


def _place_cases() -> list[Case]:
    return [
        Case("in the middle of a map of 4 x 4, between cells", ((0.5625, 0.4), (4, 4))),
        Case("on a map of 3 x 7", ((0.31, 0.62), (3, 7))),
        Case("close to the left border of a map of 5 x 2", ((0.05, 0.43), (5, 2))),
        Case("beyond the corner of a map of 6 x 4", ((1.04, 1.1), (6, 4))),
    ]


def _four_corners(
    place: Pair,
    size: tuple[int, int],
    half: float = 0.5,
    align_corners: bool = False,
    towards_zero: bool = False,
    reverse: bool = False,
) -> Corners:
    """The corners with their choices open, for the typical mistakes."""
    h, w = size
    x, y = (place[0] * w - half, place[1] * h - half)
    if align_corners:
        x, y = place[0] * (w - 1), place[1] * (h - 1)
    left, top = (int(x), int(y)) if towards_zero else (math.floor(x), math.floor(y))
    dx, dy = x - left, y - top
    if reverse:
        dx, dy = 1 - dx, 1 - dy
    return [
        (top, left, (1 - dx) * (1 - dy)),
        (top, left + 1, dx * (1 - dy)),
        (top + 1, left, (1 - dx) * dy),
        (top + 1, left + 1, dx * dy),
    ]


def _inside_only(place: Pair, size: tuple[int, int]) -> Corners:
    return [corner for corner in _four_corners(place, size) if 0 <= corner[0] < size[0] and 0 <= corner[1] < size[1]]


def _clamped(place: Pair, size: tuple[int, int]) -> Corners:
    (h, w), corners = size, _four_corners(place, size)
    return [(min(max(row, 0), h - 1), min(max(column, 0), w - 1), weight) for row, column, weight in corners]


FOUR_CORNERS = Exercise(
    "04.four_corners",
    "Write four_corners(place, size): place (x, y) in [0, 1] of a map of size (h, w) -> a list of four (row, column, "
    "weight): top left, top right, bottom left, bottom right.",
    _place_cases,
    _four_corners,
    (
        Mistake(
            lambda place, size: _four_corners(place, size, half=0),
            "The half pixel is missing: a cell's value sits at its centre. Subtract 0.5 before you round down.",
        ),
        Mistake(
            lambda place, size: _four_corners(place, size, align_corners=True),
            "You stretch by w - 1: that is align_corners=True. [0, 1] runs over whole cells: times w, less 0.5.",
        ),
        Mistake(
            lambda place, size: _four_corners(place, size[::-1]),
            "Right on square maps only: x counts columns, so it goes with w; shapes are (h, w).",
        ),
        Mistake(
            lambda place, size: _four_corners(place[::-1], size),
            "You take the place as (y, x). It is (x, y): the second number gives the row.",
        ),
        Mistake(
            lambda place, size: _four_corners(place, size, reverse=True),
            "Your weights are the wrong way round: the nearer a cell's centre, the more it counts.",
        ),
        Mistake(
            lambda place, size: _four_corners(place, size, towards_zero=True),
            "int() rounds towards zero: left of the first centre the cell is -1, not 0. Take math.floor.",
        ),
        Mistake(
            _inside_only,
            "You leave out cells beyond the map. Keep them: they are corners that read zero, which is page 05's topic.",
        ),
        Mistake(
            _clamped,
            "You move cells beyond the map onto its border. The operator reads zero there: keep their true row and "
            "column.",
        ),
    ),
    "The four weights always add up to 1, and (column + 0.5) averaged with them is x * w again: bilinear reading loses "
    "no place.",
)


def _token_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(4)
    padded = torch.tensor([[[1.0, 0.75], [1.0, 1.0]], [[0.6, 1.0], [2 / 3, 1.0]]])
    three = 0.4 + 0.6 * torch.rand(2, 3, 2, generator=generator)
    return [
        Case("two square levels, one image, no padding", ([(4, 4), (2, 2)], torch.ones(1, 2, 2))),
        Case("levels of 3 x 5 and 2 x 3, no padding", ([(3, 5), (2, 3)], torch.ones(1, 2, 2))),
        Case("levels of 4 x 5 and 2 x 3, two images, both padded", ([(4, 5), (2, 3)], padded)),
        Case("three tall levels, two images, padded on both sides", ([(9, 4), (5, 2), (3, 1)], three)),
    ]


def _token_points(
    level_sizes: Sizes,
    valid_ratios: Tensor,
    half: float = 0.5,
    swapped: bool = False,
    square: bool = False,
    by_column: bool = False,
    divide: bool = True,
    multiply: bool = True,
    ends: bool = False,
) -> Tensor:
    """The reference points with their choices open, for the typical mistakes."""
    places = []
    for level, (h, w) in enumerate(level_sizes):
        y, x = (torch.arange(h) + half) / (w if square else h), (torch.arange(w) + half) / (h if square else w)
        if ends:
            y, x = torch.linspace(0, 1, h), torch.linspace(0, 1, w)
        y, x = torch.meshgrid(y, x, indexing="ij")
        grid = torch.stack([y, x] if swapped else [x, y], -1)  # (h, w, 2)
        grid = (grid.transpose(0, 1) if by_column else grid).reshape(1, -1, 2)
        places.append(grid / valid_ratios[:, level, None] if divide else grid.expand(len(valid_ratios), -1, -1))
    points = torch.cat(places, 1)[:, :, None]
    return points * (valid_ratios[:, None] if multiply else torch.ones_like(valid_ratios[:, None]))


def _the_other_way_round(level_sizes: Sizes, valid_ratios: Tensor) -> Tensor:
    points = _token_points(level_sizes, valid_ratios, divide=False, multiply=False)
    own = torch.cat([valid_ratios[:, n, None].expand(-1, h * w, -1) for n, (h, w) in enumerate(level_sizes)], 1)
    return points * own[:, :, None] / valid_ratios[:, None]


ENCODER_REFERENCE_POINTS = Exercise(
    "04.encoder_reference_points",
    "Write encoder_reference_points(level_sizes, valid_ratios): L pairs (h, w) and (B, L, 2) as (w, h) -> (B, S, L, 2) "
    "as (x, y), each token's centre on the padded map of each level.",
    _token_cases,
    encoder_reference_points,
    (
        Mistake(
            lambda sizes, ratios: _token_points(sizes, ratios, half=0),
            "All your points sit half a cell towards the top left: cell centres are at 0.5, 1.5, ...",
        ),
        Mistake(
            lambda sizes, ratios: _token_points(sizes, ratios, ends=True),
            "Your first point is 0 and your last is 1: the map's edges. Centres start at 0.5 / w.",
        ),
        Mistake(
            lambda sizes, ratios: _token_points(sizes, ratios, swapped=True),
            "The last axis is (x, y). You stack (y, x).",
        ),
        Mistake(
            lambda sizes, ratios: _token_points(sizes, ratios, square=True),
            "Right on square maps, wrong on (3, 5): x is divided by w, y by h.",
        ),
        Mistake(
            lambda sizes, ratios: _token_points(sizes, ratios, by_column=True),
            "Your tokens go column by column. The maps were flattened row by row: x moves first.",
        ),
        Mistake(
            lambda sizes, ratios: _token_points(sizes, ratios, divide=False, multiply=False),
            "Padding forgotten: right for images that fill the batch, but a token has one place for all levels.",
        ),
        Mistake(
            lambda sizes, ratios: _token_points(sizes, ratios, multiply=False),
            "You divide and stop: those are places of the image. The operator wants the padded map: multiply by the "
            "ratio of the level looked into.",
        ),
        Mistake(
            lambda sizes, ratios: _token_points(sizes, ratios, divide=False),
            "You multiply without dividing: the token's own cell already counts the padded map. Divide by its own "
            "level's ratio first.",
        ),
        Mistake(
            _the_other_way_round,
            "You multiply by the token's own ratio and divide by the other level's. It is the other way round.",
        ),
        Mistake(
            lambda sizes, ratios: encoder_reference_points(sizes, ratios.flip(-1)),
            "valid_ratios are (w, h), and so are points (x, y): nothing needs to be turned round.",
        ),
    ),
    "On a token's own level the two ratios cancel, so it always looks from its own centre. They only matter between "
    "levels.",
)


def _query_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(5)

    def case(label: str, queries: int, size: int, ratios: Tensor) -> Case:
        return Case(label, (torch.rand(len(ratios), queries, size, generator=generator), ratios))

    padded = torch.tensor([[[1.0, 0.7], [1.0, 0.75]], [[0.8, 1.0], [0.9, 1.0]]])
    three = 0.4 + 0.6 * torch.rand(3, 3, 2, generator=generator)
    return [
        case("points, one image without padding", 3, 2, torch.ones(1, 2, 2)),
        case("points, two images padded on different sides", 2, 2, padded),
        case("boxes, two images", 5, 4, padded),
        case("boxes, three images, three levels", 4, 4, three),
    ]


def _scaled(points: Tensor, scale: Tensor) -> Tensor:
    return points[:, :, None] * scale[:, None]


def _sides_kept(points: Tensor, ratios: Tensor) -> Tensor:
    ones = torch.ones_like(ratios) if points.shape[-1] == 4 else ratios[..., :0]
    return _scaled(points, torch.cat([ratios, ones], -1))


DECODER_REFERENCE_POINTS = Exercise(
    "04.decoder_reference_points",
    "Write decoder_reference_points(reference_points, valid_ratios): (B, Q, 2) as (x, y) or (B, Q, 4) as (cx, cy, w, "
    "h) of the image, and (B, L, 2) as (w, h) -> (B, Q, L, 2 or 4) of each level's padded map.",
    _query_cases,
    decoder_reference_points,
    (
        Mistake(
            _sides_kept,
            "You scale the centre of a box and leave its sides. They are lengths on the same map: (w, h) scale too.",
        ),
        Mistake(
            lambda points, ratios: _scaled(points, ratios.repeat_interleave(points.shape[-1] // 2, -1)),
            "Right for points. For a box (cx, cy, w, h) the ratios are (w, h, w, h): repeat, not repeat_interleave.",
        ),
        Mistake(
            lambda points, ratios: 1 / _scaled(1 / points, ratios.repeat(1, 1, points.shape[-1] // 2)),
            "You divide. The points are of the image already; onto the padded map they are multiplied.",
        ),
        Mistake(
            lambda points, ratios: decoder_reference_points(points, ratios.flip(-1)),
            "valid_ratios are (w, h), and so are points (x, y): nothing needs to be turned round.",
        ),
        Mistake(
            lambda points, ratios: decoder_reference_points(points, ratios).transpose(1, 2),
            "Your levels come before your queries. It is (B, Q, L, ...), as the encoder has (B, S, L, 2).",
        ),
        Mistake(
            lambda points, ratios: decoder_reference_points(points, ratios.mean(1, keepdim=True).expand_as(ratios)),
            "You take one ratio for all levels. Each level rounds the padding in its own way and has its own.",
        ),
        Mistake(
            lambda points, ratios: decoder_reference_points(points, torch.ones_like(ratios)),
            "Padding forgotten: right for an image that fills its batch, elsewhere the points land too far down or "
            "right.",
        ),
    ),
    "A query's points are kept as places of the image, so a box that is read off them needs no ratio: pred_boxes are "
    "of the image too.",
)

EXERCISES = (FOUR_CORNERS, ENCODER_REFERENCE_POINTS, DECODER_REFERENCE_POINTS)
