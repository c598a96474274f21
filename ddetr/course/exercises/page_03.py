"""Page 03: masks, valid ratios, position encoding, flattening."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...models.multi_scale import get_valid_ratio
from ...models.position_encoding import SCALE, encode_coordinate, sine_position_encoding
from ...ops.validate import level_starts
from . import Case, Exercise, Mistake

Sizes = Sequence[tuple[int, int]]


def _mask(size: tuple[int, int], *valid: tuple[int, int]) -> Tensor:
    """(B, h, w) bool, True where padding; image b fills valid[b] rows and columns."""
    mask = torch.ones(len(valid), *size, dtype=torch.bool)
    for b, (h, w) in enumerate(valid):
        mask[b, :h, :w] = False
    return mask


def _mask_cases() -> list[Case]:
    return [
        Case("two images on a map of 4 x 5, padded below and at the right", (_mask((4, 5), (4, 3), (2, 5)),)),
        Case("one image of 7 x 3, no padding", (_mask((7, 3), (7, 3)),)),
        Case("three images, one padded on both sides", (_mask((6, 9), (6, 9), (3, 2), (1, 9)),)),
    ]


def _mean_of_mask(mask: Tensor) -> Tensor:
    share = (~mask).float().mean((1, 2))
    return torch.stack([share, share], -1)


def _divided_by_the_other_side(mask: Tensor) -> Tensor:
    _, h, w = mask.shape
    return get_valid_ratio(mask) * torch.tensor([w / h, h / w])


VALID_RATIOS = Exercise(
    "03.valid_ratios",
    "Write valid_ratios(mask): mask (B, h, w), True where padding -> (B, 2) floats, what part of the width and of the "
    "height is image.",
    _mask_cases,
    get_valid_ratio,
    (
        Mistake(
            lambda mask: get_valid_ratio(mask).flip(-1),
            "Width first: valid_ratios multiply points (x, y), so they are (w, h), although shapes are (h, w).",
        ),
        Mistake(
            lambda mask: get_valid_ratio(~mask),
            "You measure the padding. The mask is True where there is no image: invert it before you count.",
        ),
        Mistake(
            lambda mask: get_valid_ratio(mask) * torch.tensor([mask.shape[2], mask.shape[1]]),
            "You count cells. Divide by the width and the height of the map.",
        ),
        Mistake(
            _mean_of_mask,
            "You take the share of the area. Width and height are measured apart: along the first row and the first "
            "column.",
        ),
        Mistake(
            _divided_by_the_other_side,
            "Right on square maps only: you divide the width by h and the height by w.",
        ),
        Mistake(
            lambda mask: get_valid_ratio(mask)[0],
            "One image only: each image of the batch has its own ratios, (B, 2).",
        ),
    ),
    "The first row and the first column are enough because padding is only ever at the right and below. With padding "
    "at the left, as some other detectors have it, the same function would say 0.",
)


def _starts_cases() -> list[Case]:
    sizes = {
        "a square image": [(8, 8), (4, 4), (2, 2), (1, 1)],
        "the portrait": [(60, 69), (30, 35), (15, 18), (8, 9)],
        "three levels, a tall image": [(9, 4), (5, 2), (3, 1)],
        "one level": [(15, 18)],
    }
    return [Case(f"{label}, {levels}", (torch.tensor(levels),)) for label, levels in sizes.items()]


def _areas(shapes: Tensor) -> Tensor:
    return shapes.prod(1)


LEVEL_START_INDEX = Exercise(
    "03.level_start_index",
    "Write level_start_index(spatial_shapes): (L, 2) whole numbers, (h, w) of each level -> (L,), where each level's "
    "first token stands in the sequence.",
    _starts_cases,
    lambda shapes: torch.tensor(level_starts(shapes.tolist())),
    (
        Mistake(
            lambda shapes: _areas(shapes).cumsum(0),
            "Your numbers say where each level ends. The first level starts at 0; the last end is S, and is no start.",
        ),
        Mistake(
            lambda shapes: torch.cat([torch.zeros(1, dtype=torch.long), _areas(shapes).cumsum(0)]),
            "One number too many: L levels have L starts. The last, S, is where a next level would begin.",
        ),
        Mistake(
            _areas,
            "You count each level's tokens. A level starts after all the tokens of those before it: add them up.",
        ),
        Mistake(
            lambda shapes: torch.cat([torch.zeros(1, dtype=torch.long), _areas(shapes)[:-1]]),
            "You remember only the level before. The third starts after the first and the second together.",
        ),
        Mistake(
            lambda shapes: torch.cat([torch.zeros(1, dtype=torch.long), shapes.sum(1).cumsum(0)[:-1]]),
            "You add h and w. A level of h rows and w columns has h * w tokens.",
        ),
    ),
    "It can be worked out from spatial_shapes, and still travels along: a CUDA thread that handles one point has no "
    "time to add up areas.",
)


def _sine_cases() -> list[Case]:
    return [
        Case("8 channels, a map of 3 x 5 without padding", (_mask((3, 5), (3, 5)), 8)),
        Case("two images, the second padded", (_mask((4, 6), (4, 6), (2, 3)), 16)),
        Case("a tall map, padded on both sides", (_mask((9, 4), (7, 3)), 32)),
    ]


def _sine(
    mask: Tensor,
    channels: int,
    shift: float = 0.5,
    scale: float = SCALE,
    padding: bool = True,
    x_first: bool = False,
    halves: bool = False,
) -> Tensor:
    """The encoding with its choices open, for the typical mistakes."""
    valid = (~mask).float() if padding else torch.ones_like(mask, dtype=torch.float32)
    y, x = valid.cumsum(1), valid.cumsum(2)
    y = (y - shift) / (y[:, -1:] + 1e-6)
    x = (x - shift) / (x[:, :, -1:] + 1e-6)
    axes = [encode_coordinate(axis * scale / SCALE, channels // 2) for axis in ((x, y) if x_first else (y, x))]
    if halves:  # all sines, then all cosines
        axes = [torch.cat([axis[..., 0::2], axis[..., 1::2]], -1) for axis in axes]
    return torch.cat(axes, -1).permute(0, 3, 1, 2)


SINE_ENCODING = Exercise(
    "03.sine_encoding",
    "Write sine_encoding(mask, channels): mask (B, h, w) -> (B, channels, h, w), the sine encoding of each cell's "
    "place in the valid part, y in the first half of the channels, x in the second.",
    _sine_cases,
    sine_position_encoding,
    (
        Mistake(
            lambda mask, channels: _sine(mask, channels, shift=0),
            "The half cell is missing: you encode the far edge of each cell. Centres are at 0.5, 1.5, ...: subtract "
            "0.5.",
        ),
        Mistake(
            lambda mask, channels: _sine(mask, channels, padding=False),
            "Padding forgotten: you divide by the map's size. Divide by the valid part's, so that the image ends at 1.",
        ),
        Mistake(
            lambda mask, channels: _sine(mask, channels, x_first=True),
            "Your halves are swapped: y comes first, then x.",
        ),
        Mistake(
            lambda mask, channels: _sine(mask, channels, scale=1.0),
            "The factor 2 pi is missing: a coordinate from 0 to 1 should take the fastest channel once around.",
        ),
        Mistake(
            lambda mask, channels: _sine(mask, channels, halves=True),
            "You put all sines before all cosines. They alternate: channel 2i is a sine, 2i + 1 its cosine.",
        ),
        Mistake(
            lambda mask, channels: _sine(~mask, channels),
            "You count padding instead of image: the mask is True where there is none.",
        ),
    ),
    "DETR had no half cell; Deformable DETR added it, because reference points are cell centres too. mmdetection calls "
    "it offset=-0.5.",
)

EXERCISES = (VALID_RATIOS, LEVEL_START_INDEX, SINE_ENCODING)
