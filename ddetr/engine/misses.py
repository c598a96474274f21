"""Why an object was missed: what the queries nearest to it thought."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from ..data import CocoDetection, DataError
from ..models import DeformableDETR
from ..models.trace import Trace
from .errors import FOUND_IOU, Outcome

FOUND, LOW_SCORE, OTHER_CLASS, POOR_BOX = "found", "score too low", "another class", "no box fits"
REASONS = (FOUND, LOW_SCORE, OTHER_CLASS, POOR_BOX)


class Explanation(NamedTuple):
    """One object, and the query that comes nearest to saying it.

    Attributes:
        reason: one of `REASONS`.
        query: its index.
        iou: overlap of its box with the object.
        score: what it gives the object's own class.
        best_label, best_score: the class that it scores highest, and that score.
    """

    reason: str
    query: int
    iou: float
    score: float
    best_label: int
    best_score: float


def explain_object(
    logits: Tensor, boxes: Tensor, box: Tensor | Sequence[float], label: int, threshold: float = 0.5
) -> Explanation:
    """What the Q queries make of one object.

    logits (Q, K) and boxes (Q, 4) of one image, `box` (4,) the object's: all xyxy, in one unit. Among the queries whose
    box has an IoU of 0.5 or more with the object's, the one that scores the object's class highest is the witness. Its
    score is above `threshold` (found); or that class is its best, with too low a score; or it rather says another
    class. If no box fits, the witness is the query of the largest IoU.

    ValueError for a label outside 0..K-1.
    """
    if not 0 <= label < logits.shape[-1]:
        raise ValueError(f"label must be 0..{logits.shape[-1] - 1}; got {label}")
    iou = box_iou(boxes, torch.as_tensor(box, dtype=boxes.dtype).view(1, 4))[:, 0]  # (Q,)
    scores = logits.sigmoid()
    fits = iou >= FOUND_IOU
    witness = int(scores[:, label].where(fits, -1.0).argmax()) if fits.any() else int(iou.argmax())
    own, best_label = float(scores[witness, label]), int(scores[witness].argmax())
    if not fits.any():
        reason = POOR_BOX
    elif own > threshold:
        reason = FOUND
    else:
        reason = LOW_SCORE if best_label == label else OTHER_CLASS
    return Explanation(reason, witness, float(iou[witness]), own, best_label, float(scores[witness, best_label]))


class Opened(NamedTuple):
    """An object of a data set, and what one forward pass on its image thought of it.

    Attributes:
        case: the object, out of an `ErrorBreakdown`.
        image: (3, H, W) as the model took it.
        trace: that pass, of this image alone.
        box: (4,) the object's, xyxy in [0, 1] of the image.
        label: the object's class.
        why: see `explain_object`.
    """

    case: Outcome
    image: Tensor
    trace: Trace
    box: Tensor
    label: int
    why: Explanation


def open_cases(
    model: DeformableDETR, dataset: CocoDetection, cases: Iterable[Outcome], threshold: float = 0.5
) -> list[Opened]:
    """Run `model` once on each image that `cases`, objects of `dataset`, lie on, and explain each of them.

    DataError for an image that cannot be read.
    """
    passes: dict[int, tuple[Tensor, dict, Trace]] = {}
    opened = []
    for case in cases:
        if case.image_id not in passes:
            sample = dataset[dataset.image_ids.index(case.image_id)]
            if sample is None:  # skip_bad_images
                raise DataError(f"image id {case.image_id} cannot be read, so nothing on it can be explained")
            image, target = sample
            passes[case.image_id] = image, target, model.trace([image])
        image, target, trace = passes[case.image_id]
        h, w = target["orig_size"]
        pixels = box_convert(torch.tensor([case.bbox], dtype=torch.float32), "xywh", "xyxy")
        box = target["orientation"].apply(pixels, (h, w))[0] / torch.tensor([w, h, w, h])
        boxes = box_convert(trace["heads.boxes"][-1, 0], "cxcywh", "xyxy")
        label = dataset.label_of[case.category_id]
        why = explain_object(trace["heads.logits"][-1, 0], boxes, box, label, threshold)
        opened.append(Opened(case, image, trace, box, label, why))
    return opened
