"""Page 09: heads, refinement, proposals."""

from __future__ import annotations

import torch
from torch import Tensor

from ...losses import cxcywh_to_xyxy
from ...models.heads import decode_box, inverse_sigmoid
from ...models.two_stage import BASE_SIZE, token_proposals
from . import Case, Exercise, Mistake

EPS = 1e-5


def _sigmoid_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(9)
    return [
        Case("five places inside the image", (torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]),)),
        Case("boxes of two images (2, 3, 4)", (torch.rand(2, 3, 4, generator=generator) * 0.9 + 0.05,)),
        Case("the borders, 0 and 1", (torch.tensor([[0.0, 0.3], [1.0, 0.7]]),)),
        Case("very near the left border", (torch.tensor([2e-5, 4e-5, 1e-4]),)),
        Case("padding, where references lie outside [0, 1]", (torch.tensor([1.2, -0.1, 0.5]),)),
    ]


INVERSE_SIGMOID = Exercise(
    "09.inverse_sigmoid",
    "Write inverse_sigmoid(x): log(x / (1 - x)), with x held in [0, 1] first, and then x and 1 - x each at least 1e-5.",
    _sigmoid_cases,
    inverse_sigmoid,
    (
        Mistake(
            lambda x: torch.log(x / (1 - x)),
            "Not clamped: a reference at 0 or 1 becomes infinite, and outside it becomes NaN. Hold x and 1 - x at 1e-5 "
            "or more.",
        ),
        Mistake(
            lambda x: torch.log(x.clamp(0, 1).clamp(min=EPS) / (1 - x.clamp(0, 1))),
            "Half clamped: x = 1 still divides by zero. 1 - x needs the same floor as x.",
        ),
        Mistake(
            lambda x: torch.log(x.clamp(min=EPS) / (1 - x).clamp(min=EPS)),
            "Right inside the image. Outside it x must be held in [0, 1] first, or 1.2 goes further than 1 does.",
        ),
        Mistake(
            lambda x: torch.log((x.clamp(0, 1) + EPS) / (1 - x.clamp(0, 1) + EPS)),
            "You add 1e-5 to everything. Clamp instead: values inside must stay exactly what they are.",
        ),
        Mistake(
            lambda x: -inverse_sigmoid(x),
            "Upside down: it is log(x / (1 - x)), which rises with x.",
        ),
        Mistake(
            lambda x: x.clamp(0, 1).clamp(min=EPS) / (1 - x.clamp(0, 1)).clamp(min=EPS),
            "The logarithm is missing: x / (1 - x) alone are the odds.",
        ),
        Mistake(
            torch.sigmoid,
            "That is the sigmoid itself. Its inverse takes a place in [0, 1] back to the whole number line.",
        ),
    ),
    "The clamp is a wall as well: from 0 the inverse is -11.5, and a head would have to answer +11.5 to bring the box "
    "back to the middle.",
)


def _decode_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(10)

    def case(label: str, batch: int, queries: int, width: int) -> Case:
        delta = torch.randn(batch, queries, 4, generator=generator)
        return Case(label, (delta, torch.rand(batch, queries, width, generator=generator) * 0.8 + 0.1))

    border = torch.tensor([[[0.0, 1.0, 0.2, 0.4], [1.0, 0.5, 0.1, 0.1]]])
    return [
        case("points as references, one image", 1, 3, 2),
        case("boxes as references, one image", 1, 3, 4),
        case("points, two images", 2, 5, 2),
        case("boxes, two images", 2, 4, 4),
        Case("boxes at the border", (torch.full((1, 2, 4), 0.5), border)),
    ]


def _only_points(delta: Tensor, reference: Tensor) -> Tensor:
    return decode_box(delta, reference[..., :2])


def _padded(delta: Tensor, reference: Tensor, fill: float) -> Tensor:
    if reference.shape[-1] == 2:
        reference = torch.cat([reference, torch.full_like(reference, fill)], -1)
    return decode_box(delta, reference)


def _sizes_shifted(delta: Tensor, reference: Tensor) -> Tensor:
    if reference.shape[-1] == 4:
        return decode_box(delta, reference)
    return decode_box(delta.roll(2, -1), reference).roll(-2, -1)


def _repeated(reference: Tensor) -> Tensor:
    return reference if reference.shape[-1] == 4 else torch.cat([reference, torch.full_like(reference, 0.5)], -1)


def _added_as_it_is(delta: Tensor, reference: Tensor) -> Tensor:
    shift = reference if reference.shape[-1] == 4 else torch.cat([reference, torch.zeros_like(reference)], -1)
    return (delta + shift).sigmoid()


DECODE_BOX = Exercise(
    "09.decode_box",
    "Write decode_box(delta, reference): delta (B, Q, 4), reference (B, Q, 2) or (B, Q, 4) in [0, 1] -> boxes "
    "(B, Q, 4) as (cx, cy, w, h), corrected in inverse-sigmoid space.",
    _decode_cases,
    decode_box,
    (
        Mistake(
            _added_as_it_is,
            "The reference is added as it is. Take its inverse sigmoid first: delta lives on the whole number line, "
            "the reference in [0, 1].",
        ),
        Mistake(
            _only_points,
            "Right for points. A reference with four numbers has a size as well: delta corrects all four.",
        ),
        Mistake(
            lambda delta, reference: _padded(delta, reference, 0.0),
            "You fill the missing size with 0, and its inverse sigmoid is -11.5: every box is a dot. A point adds "
            "nothing to the size.",
        ),
        Mistake(
            _sizes_shifted,
            "The reference point goes to (w, h). The centre comes first: delta[..., :2].",
        ),
        Mistake(
            lambda delta, reference: delta + inverse_sigmoid(_repeated(reference)),
            "The last step is missing: the sigmoid, which brings the sum back into [0, 1].",
        ),
        Mistake(
            lambda delta, reference: _repeated(reference) + delta,
            "You correct in [0, 1] itself: nothing keeps the box in the image. Go to inverse-sigmoid space, add, come "
            "back.",
        ),
        Mistake(
            lambda delta, reference: cxcywh_to_xyxy(decode_box(delta, reference)),
            "Your boxes are corners. The heads speak in (cx, cy, w, h); corners come with the detections.",
        ),
    ),
    "One function, both models: whether a query has a point or a box is all that tells refinement from none.",
)


def _proposal_cases() -> list[Case]:
    def mask(size: tuple[int, int], *valid: tuple[int, int]) -> Tensor:
        padding = torch.ones(len(valid), *size, dtype=torch.bool)
        for b, (h, w) in enumerate(valid):
            padding[b, :h, :w] = False
        return padding

    return [
        Case("level 0, a map of 2 x 4", (mask((2, 4), (2, 4)), 0)),
        Case("level 2, a tall map of 5 x 3", (mask((5, 3), (5, 3)), 2)),
        Case("level 1, two images, the second padded", (mask((4, 6), (4, 6), (3, 2)), 1)),
        Case("level 3, padded on both sides", (mask((3, 4), (2, 3)), 3)),
    ]


def _proposals(
    mask: Tensor, level: int, shift: float = 0.5, padding: bool = True, factor: float = 0.0, columns: bool = False
) -> Tensor:
    """The grid with its choices open, for the typical mistakes."""
    B, h, w = mask.shape
    known = mask if padding else torch.zeros_like(mask)
    boxes = token_proposals(known.flatten(1), [(h, w)], B)[0].view(B, h, w, 4)
    valid = ~known
    size = torch.stack([valid[:, 0].sum(-1), valid[:, :, 0].sum(-1)], -1).view(B, 1, 1, 2)
    centres = boxes[..., :2] + (shift - 0.5) / size
    boxes = torch.cat([centres, torch.full_like(centres, BASE_SIZE * (factor or 2**level))], -1)
    return (boxes.transpose(1, 2) if columns else boxes).reshape(B, h * w, 4)


def _grid_swapped(mask: Tensor, level: int) -> Tensor:
    boxes = _proposals(mask, level)
    return torch.cat([boxes[..., :2].flip(-1), boxes[..., 2:]], -1)


def _in_cells(mask: Tensor, level: int) -> Tensor:
    boxes, valid = _proposals(mask, level), ~mask
    size = torch.stack([valid[:, 0].sum(-1), valid[:, :, 0].sum(-1)], -1)[:, None]
    return torch.cat([boxes[..., :2] * size, boxes[..., 2:]], -1)


PROPOSALS = Exercise(
    "09.proposals",
    "Write proposals(mask, level): mask (B, h, w) of that level, True where padding -> (B, h * w, 4) as (cx, cy, w, "
    "h): a box around each cell's centre, in [0, 1] of the valid image, of side 0.05 * 2**level.",
    _proposal_cases,
    _proposals,
    (
        Mistake(
            lambda mask, level: _proposals(mask, level, shift=0.0),
            "The half cell is missing: your boxes sit on the corners of cells. Centres are at 0.5, 1.5, ...",
        ),
        Mistake(
            lambda mask, level: _proposals(mask, level, padding=False),
            "Padding forgotten: divide by the number of valid columns and rows, not by the map's.",
        ),
        Mistake(
            _grid_swapped,
            "Your centres are (y, x). Boxes are (cx, cy, w, h), although maps are (h, w).",
        ),
        Mistake(
            lambda mask, level: _proposals(mask, level, columns=True),
            "You go down the columns. Tokens run row by row: x changes fastest.",
        ),
        Mistake(
            lambda mask, level: _proposals(mask, level, factor=1.0),
            "All levels get the same side. It doubles with each level, as the stride does.",
        ),
        Mistake(
            lambda mask, level: _proposals(mask, level, factor=level + 1.0),
            "Your side grows by 0.05 a level. It doubles: 0.05, 0.1, 0.2, 0.4.",
        ),
        Mistake(
            _in_cells,
            "Your centres are in cells. Divide them by the valid width and height.",
        ),
    ),
    "All proposals are squares in [0, 1]: in a wide image they are wide. The shape of an object is left to the "
    "correction.",
)

EXERCISES = (INVERSE_SIGMOID, DECODE_BOX, PROPOSALS)
