"""Page 05: sampling offsets and attention weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops import sampling_locations, softmax_weights
from . import Case, Exercise, Mistake


def _logit_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(6)

    def case(label: str, *shape: int, scale: float = 1.0) -> Case:
        return Case(f"{label}, logits {shape}", (scale * torch.randn(*shape, generator=generator),))

    return [
        case("one query, two heads, two levels of two points", 1, 1, 2, 2, 2),
        case("two images, three levels of four points", 2, 3, 2, 3, 4),
        case("one head", 1, 4, 1, 4, 2),
        case("large logits", 1, 2, 3, 2, 4, scale=200.0),
    ]


def _shifted_exponentials(logits: Tensor) -> Tensor:
    powers = logits.exp()
    return powers / powers.sum((-2, -1), keepdim=True)


ATTENTION_WEIGHTS = Exercise(
    "05.attention_weights",
    "Write attention_weights(logits): (B, Q, M, L, P) -> the same shape, positive, summing to 1 over all points of all "
    "levels of a head.",
    _logit_cases,
    softmax_weights,
    (
        Mistake(
            lambda logits: logits.softmax(-1),
            "Your points of one level add up to 1, so a head's add up to L. Levels compete too: flatten both axes "
            "first.",
        ),
        Mistake(
            lambda logits: logits.softmax(-2),
            "Your softmax runs over levels alone. It is over levels and points together.",
        ),
        Mistake(
            lambda logits: logits.softmax(2),
            "Your softmax runs over heads. Each head shares out a whole 1 of its own.",
        ),
        Mistake(
            lambda logits: logits.flatten(2).softmax(-1).view_as(logits),
            "All heads share one 1. Each has its own: flatten levels and points, but not heads.",
        ),
        Mistake(
            lambda logits: logits.flatten(-2).softmax(-1),
            "The right numbers, flattened: give them back their levels and points, (B, Q, M, L, P).",
        ),
        Mistake(
            lambda logits: logits.sigmoid(),
            "A sigmoid lets every point take all it wants. Points compete for one whole: softmax.",
        ),
        Mistake(
            _shifted_exponentials,
            "exp of a large logit is infinite, and infinity by infinity is no number. torch's softmax subtracts the "
            "largest first.",
        ),
    ),
    "A softmax can never look at nothing: a head whose points all lie outside the map still gives its whole 1 away, to "
    "zeros.",
)


def _point_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(7)

    def case(label: str, shape: tuple[int, int, int, int], sizes: list[tuple[int, int]]) -> Case:
        B, Q, M, P = shape
        reference = torch.rand(B, Q, len(sizes), 2, generator=generator)
        offsets = 3 * torch.randn(B, Q, M, len(sizes), P, 2, generator=generator)
        return Case(label, (reference, offsets, torch.tensor(sizes)))

    return [
        case("two square levels of two points", (1, 1, 1, 2), [(4, 4), (2, 2)]),
        case("wide levels of 3 x 5 and 2 x 3", (1, 2, 2, 2), [(3, 5), (2, 3)]),
        case("two images, three tall levels", (2, 3, 2, 3), [(9, 4), (5, 2), (3, 1)]),
        case("one level of 6 x 7, one point", (2, 2, 4, 1), [(6, 7)]),
    ]


def _centres(reference: Tensor) -> Tensor:
    return reference[:, :, None, :, None, :2]  # (B, Q, 1, L, 1, 2)


def _sides(shapes: Tensor) -> Tensor:
    return shapes.flip(-1)[:, None]  # (L, 1, 2) as (w, h)


SAMPLING_LOCATIONS = Exercise(
    "05.sampling_locations",
    "Write sampling_locations(reference_points, offsets, spatial_shapes): (B, Q, L, 2) as (x, y) in [0, 1], (B, Q, M, "
    "L, P, 2) in cells and (L, 2) as (h, w) -> (B, Q, M, L, P, 2) in [0, 1].",
    _point_cases,
    sampling_locations,
    (
        Mistake(
            lambda reference, offsets, shapes: sampling_locations(reference, offsets, shapes.flip(-1)),
            "Right on square maps only: offsets are (x, y), so they are divided by (w, h). spatial_shapes are (h, w).",
        ),
        Mistake(
            lambda reference, offsets, shapes: _centres(reference) + offsets,
            "Your offsets are still in cells. Divide them by (w, h) of the level that they look into.",
        ),
        Mistake(
            lambda reference, offsets, shapes: _centres(reference) + offsets / shapes.flip(-1),
            "Your (L, 2) meets the axis of points, not of levels: that runs without an error where L = P, as in the "
            "paper. Make it (L, 1, 2).",
        ),
        Mistake(
            lambda reference, offsets, shapes: _centres(reference[:, :, :1]) + offsets / _sides(shapes),
            "You look from level 0's reference point on all levels. Each level has its own: the axis L.",
        ),
        Mistake(
            lambda reference, offsets, shapes: _centres(reference) * _sides(shapes) + offsets,
            "Those are places in cells. The operator takes [0, 1]: divide by (w, h).",
        ),
        Mistake(
            lambda reference, offsets, shapes: _centres(reference) + (offsets - 0.5) / _sides(shapes),
            "The half pixel is in the reference point already, and the operator takes it off. Here it has no place.",
        ),
        Mistake(
            lambda reference, offsets, shapes: _centres(reference) + offsets / shapes.amax(1)[:, None, None],
            "You divide both by the longer side. x is divided by w, y by h.",
        ),
        Mistake(
            lambda reference, offsets, shapes: sampling_locations(reference, offsets, shapes).clamp(0, 1),
            "You hold the points inside the map. They may leave it, and read zero there.",
        ),
    ),
    "Offsets in cells make one network fit any image: one cell of level 3 is about 64 pixels, whatever the size.",
)


def _box_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(8)

    def case(label: str, B: int, Q: int, M: int, L: int, P: int) -> Case:
        boxes = torch.rand(B, Q, L, 4, generator=generator) * 0.8 + 0.1
        return Case(label, (boxes, 3 * torch.randn(B, Q, M, L, P, 2, generator=generator)))

    return [
        case("one box, one head, one level, four points", 1, 1, 1, 1, 4),
        case("two images, three heads, two levels, four points", 2, 3, 3, 2, 4),
        case("one point", 1, 2, 2, 3, 1),
    ]


def _box_locations(boxes: Tensor, offsets: Tensor) -> Tensor:
    return sampling_locations(boxes, offsets, [])


def _in_box(boxes: Tensor, offsets: Tensor, parts: float, share: float) -> Tensor:
    return _centres(boxes) + offsets / parts * boxes[:, :, None, :, None, 2:] * share


BOX_LOCATIONS = Exercise(
    "05.box_locations",
    "Write box_locations(boxes, offsets): (B, Q, L, 4) as (cx, cy, w, h) in [0, 1] and (B, Q, M, L, P, 2) -> (B, Q, M, "
    "L, P, 2), where an offset of P reaches the border of the box.",
    _box_cases,
    _box_locations,
    (
        Mistake(
            lambda boxes, offsets: _in_box(boxes, offsets, offsets.shape[4], 1),
            "Your star ends a whole box side from the centre. The border is half a side away: times 0.5.",
        ),
        Mistake(
            lambda boxes, offsets: _in_box(boxes, offsets, 1, 0.5),
            "You forget the number of points: an offset of P should reach the border, so divide by P.",
        ),
        Mistake(
            lambda boxes, offsets: _in_box(boxes, offsets, offsets.shape[2], 0.5),
            "You divide by the number of heads, the third axis. Points are the axis before the last.",
        ),
        Mistake(
            lambda boxes, offsets: _in_box(boxes, offsets, offsets.shape[3], 0.5),
            "You divide by the number of levels, which is P in the paper by chance. Points are the axis before the "
            "last.",
        ),
        Mistake(
            lambda boxes, offsets: _box_locations(boxes[..., [0, 1, 3, 2]], offsets),
            "You take the box's sides as (h, w). They are (w, h), as offsets are (x, y).",
        ),
        Mistake(
            lambda boxes, offsets: _box_locations(boxes, offsets) - boxes[:, :, None, :, None, 2:] / 2,
            "You start from the top left corner. A box is (cx, cy, w, h): its first two numbers are the centre.",
        ),
        Mistake(
            lambda boxes, offsets: _centres(boxes) + offsets / offsets.shape[4] / boxes[:, :, None, :, None, 2:] * 0.5,
            "You divide by the box's sides. An offset is a part of them: multiply.",
        ),
    ),
    "There is no map size in it: with boxes, a large object is looked at widely and a small one closely, on every "
    "level alike.",
)

EXERCISES = (ATTENTION_WEIGHTS, SAMPLING_LOCATIONS, BOX_LOCATIONS)
