"""Page 12: average precision by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Case, Exercise, Mistake


def _envelope_cases() -> list[Case]:
    return [
        Case("the five boxes", (torch.tensor([1, 1 / 2, 2 / 3, 1 / 2, 3 / 5]),)),
        Case("a first detection that is wrong", (torch.tensor([0, 1 / 2, 2 / 3, 3 / 4]),)),
        Case("three right ones, then none", (torch.tensor([1, 1, 1, 3 / 4, 3 / 5]),)),
        Case("one detection", (torch.tensor([1.0]),)),
    ]


def _envelope(precision: Tensor) -> Tensor:
    return precision.flip(0).cummax(0).values.flip(0)


ENVELOPE = Exercise(
    "12.envelope",
    "Write envelope(precision): (D,), the precision after each detection -> (D,), at each place the best precision "
    "from there on.",
    _envelope_cases,
    _envelope,
    (
        Mistake(
            lambda precision: precision.cummax(0).values,
            "You remember the best so far. A detection more can only cost precision; look ahead instead: the best at "
            "this recall or a higher one.",
        ),
        Mistake(
            lambda precision: precision.flip(0).cummax(0).values,
            "Right numbers, in reverse: flip them back.",
        ),
        Mistake(
            lambda precision: precision.max().expand_as(precision),
            "You give the best of all everywhere. At recall r only what comes at r or later counts.",
        ),
        Mistake(
            lambda precision: precision.cummin(0).values,
            "You cut the peaks. The envelope fills the dips: precision may never rise from left to right, so lift what "
            "lies before a rise.",
        ),
        Mistake(
            lambda precision: torch.cat([_envelope(precision)[1:], precision.new_zeros(1)]),
            "You look only behind each place. Its own precision counts as well.",
        ),
    ),
    "It is why a curve of COCO's never rises: at any recall, you could have chosen the better threshold further on.",
)


def _match_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(12)

    def drawn(detections: int, objects: int) -> tuple[Tensor, Tensor, float]:
        iou = torch.rand(detections, objects, generator=generator)
        return iou, torch.rand(detections, generator=generator), 0.5

    two = torch.tensor([[0.9, 0.7], [0.95, 0.6]])
    return [
        Case("two on one object: the first also overlaps another", (two, torch.tensor([0.9, 0.8]), 0.5)),
        Case("two on one object, the higher score last", (torch.tensor([[0.9], [0.8]]), torch.tensor([0.3, 0.8]), 0.5)),
        Case("an overlap of exactly the threshold", (torch.tensor([[0.5, 0.0]]), torch.tensor([0.7]), 0.5)),
        Case(
            "two that both like the second object best",
            (torch.tensor([[0.6, 0.9], [0.1, 0.8]]), torch.tensor([0.9, 0.8]), 0.5),
        ),
        Case("seven detections, four objects", drawn(7, 4)),
        Case("the same kind, threshold 0.75", (*drawn(9, 5)[:2], 0.75)),
        Case("three detections, no object", (torch.zeros(3, 0), torch.tensor([0.9, 0.5, 0.1]), 0.5)),
    ]


def _match(
    iou: Tensor,
    scores: Tensor,
    threshold: float,
    in_order: bool = True,
    once: bool = True,
    only_best: bool = False,
    strict: bool = False,
) -> Tensor:
    """COCO's greedy matching, with its choices open for the typical mistakes."""
    is_true = torch.zeros(len(scores), dtype=torch.bool)
    free = torch.ones(iou.shape[1], dtype=torch.bool)
    for d in scores.argsort(descending=True).tolist() if in_order else range(len(scores)):
        overlap = iou[d] if only_best or not once else iou[d].where(free, -1.0)
        if not len(overlap):
            continue
        best = int(overlap.argmax())
        enough = overlap[best] > threshold if strict else overlap[best] >= threshold
        if enough and (free[best] or not once):
            is_true[d], free[best] = True, False
    return is_true


def _first_that_fits(iou: Tensor, scores: Tensor, threshold: float) -> Tensor:
    is_true = torch.zeros(len(scores), dtype=torch.bool)
    free = torch.ones(iou.shape[1], dtype=torch.bool)
    for d in scores.argsort(descending=True).tolist():
        fits = ((iou[d] >= threshold) & free).nonzero()
        if len(fits):
            is_true[d], free[fits[0, 0]] = True, False
    return is_true


MATCH = Exercise(
    "12.match",
    "Write match(iou, scores, threshold): overlaps (D, G) of detections with objects, scores (D,) -> (D,) true or "
    "false, in the order given: by falling score, each detection takes the free object that it overlaps most, if by "
    "the threshold or more.",
    _match_cases,
    _match,
    (
        Mistake(
            lambda *args: _match(*args, once=False),
            "An object may be taken once. The second detection on it is a duplicate, and false.",
        ),
        Mistake(
            lambda *args: _match(*args, in_order=False),
            "Whoever scores higher chooses first: go through the detections by falling score, not as they come.",
        ),
        Mistake(
            lambda *args: _match(*args, only_best=True),
            "If its favourite is taken, a detection may have the best of those that are still free.",
        ),
        Mistake(
            lambda *args: _match(*args, strict=True),
            "An overlap of exactly the threshold is enough: >=, not >.",
        ),
        Mistake(
            lambda iou, scores, threshold: _match(iou, scores, threshold)[scores.argsort(descending=True)],
            "You return them by falling score. Put each verdict back to its own detection.",
        ),
        Mistake(
            _first_that_fits,
            "You take the first object that fits. Take the one with the largest overlap.",
        ),
    ),
    "Greedy, not optimal: a detection of high score may take the only object of another. The Hungarian matcher of "
    "training (page 10) would not; a judge must not depend on what would have been best.",
)


def _ap_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(1)

    def drawn(detections: int, share: float) -> tuple[Tensor, Tensor]:
        scores = torch.randperm(detections, generator=generator) / detections
        return scores, torch.rand(detections, generator=generator) < share

    five = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.4])
    right = torch.tensor([True, False, True, False, True])
    shuffled = torch.tensor([3, 0, 4, 1, 2])
    return [
        Case("the five boxes, four objects", (five, right, 4)),
        Case("the same, in another order", (five[shuffled], right[shuffled], 4)),
        Case("all found, after a false alarm", (five, ~right | torch.tensor([0, 0, 0, 0, 1]).bool(), 3)),
        Case("forty detections, thirty objects", (*drawn(40, 0.5), 30)),
        Case("none is right", (five, torch.zeros(5, dtype=torch.bool), 4)),
    ]


def _average_precision(
    scores: Tensor,
    is_true: Tensor,
    num_objects: int,
    ordered: bool = True,
    envelope: bool = True,
    places: int = 101,
    beyond: bool = True,
) -> float:
    """Interpolated average precision, with its choices open for the typical mistakes."""
    right = is_true[scores.argsort(descending=True)] if ordered else is_true
    hits = right.cumsum(0).double()
    precision, recall = hits / torch.arange(1, len(hits) + 1), hits / max(num_objects, 1)
    best = _envelope(precision) if envelope else precision
    read = [best[recall >= place - 1e-9] for place in torch.linspace(0, 1, places, dtype=torch.float64)]
    values = [float(rest[0]) if len(rest) else 0.0 for rest in read if beyond or len(rest)]
    return sum(values) / max(len(values), 1)


def _mean_at_hits(scores: Tensor, is_true: Tensor, num_objects: int) -> float:
    right = is_true[scores.argsort(descending=True)]
    precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
    return float((precision * right).sum() / num_objects)


AVERAGE_PRECISION = Exercise(
    "12.average_precision",
    "Write average_precision(scores, is_true, num_objects): scores and true or false, (D,) each, in any order -> a "
    "number: the mean of the envelope's precision at recall 0, 0.01, ... 1.",
    _ap_cases,
    _average_precision,
    (
        Mistake(
            lambda *args: _average_precision(*args, ordered=False),
            "Sort by falling score first: precision and recall grow with the detections that you are willing to show.",
        ),
        Mistake(
            lambda *args: _average_precision(*args, envelope=False),
            "The envelope is missing: at each recall take the best precision at that recall or a higher one.",
        ),
        Mistake(
            lambda *args: _average_precision(*args, places=11),
            "You read 11 places, as Pascal VOC did in 2007. COCO reads 101.",
        ),
        Mistake(
            lambda *args: _average_precision(*args, beyond=False),
            "Recalls that are never reached count, with precision 0. All 101 places share in the mean.",
        ),
        Mistake(
            lambda scores, is_true, num_objects: _average_precision(scores, is_true, int(is_true.sum())),
            "You divide by the objects that were found. Recall is of all objects, the missed ones included.",
        ),
        Mistake(
            lambda scores, is_true, num_objects: _average_precision(scores, is_true, len(scores)),
            "You divide by the number of detections. Recall is of objects.",
        ),
        Mistake(
            _mean_at_hits,
            "That is the precision at each hit, averaged over the objects: without envelope, and without COCO's 101 "
            "places.",
        ),
    ),
    "COCO does this for each category and ten IoU thresholds, and takes the mean. Scores matter only by their order: "
    "halve them all, and AP stays.",
)

EXERCISES = (ENVELOPE, MATCH, AVERAGE_PRECISION)
