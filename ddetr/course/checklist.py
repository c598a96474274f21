"""What to look at when the loss falls and AP stays 0, or when every image gets the same boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ..data import CocoDetection
from ..engine import score
from ..models import DeformableDETR
from ..models.heads import PRIOR_PROBABILITY
from ..models.modes import evaluating

GOOD_IOU = 0.5


class Finding(NamedTuple):
    """One question, whether the answer is good, and the numbers it rests on."""

    question: str
    good: bool
    found: str


class Detected(NamedTuple):
    """An image's target and the detections on it, in pixels of the transformed image."""

    image: Tensor
    target: dict[str, Tensor]
    detections: dict[str, Tensor]


def why_is_ap_zero(model: DeformableDETR, dataset: CocoDetection, count: int = 8) -> list[Finding]:
    """The usual suspects, in the order in which to rule them out, on the first `count` images.

    ValueError if none of them has an object.
    """
    seen = _detect(model, dataset, count)
    if not any(len(one.target["labels"]) for one in seen):
        raise ValueError(f"the first {count} images of {dataset.annotation_file} have no object to look for")
    return [
        _same_classes(model, dataset),
        _boxes_on_images(seen),
        _pixels(seen),
        _truth_scores_one(dataset, count),
        _scores_leave_the_prior(seen),
        _something_lies_on_each_object(seen),
        _with_the_right_class(seen),
    ]


def as_table(columns: dict[str, list[Finding]]) -> str:
    """Several checklists side by side, title -> findings, as text."""
    titles = list(columns)
    questions = [finding.question for finding in columns[titles[0]]]
    width = max(map(len, questions))
    wide = [max([len(title), *(len(_cell(f)) for f in columns[title])]) for title in titles]
    rows = ["  ".join([" " * width, *(title.ljust(w) for title, w in zip(titles, wide, strict=True))]).rstrip()]
    for n, question in enumerate(questions):
        cells = [_cell(columns[title][n]).ljust(w) for title, w in zip(titles, wide, strict=True)]
        rows.append("  ".join([question.ljust(width), *cells]).rstrip())
    return "\n".join(rows)


@torch.no_grad()
def spread_across_images(model: DeformableDETR, images: Sequence[Tensor]) -> float:
    """How far a query's box moves from image to image: the standard deviation of its cx, cy, w and h, in [0, 1].

    Means over all queries and the four numbers. For one-stage models, whose query q is the same one in every image.
    """
    with evaluating(model):
        boxes = torch.stack([model.forward_raw([image]).pred_boxes[0] for image in images])  # (N, Q, 4)
    return boxes.std(0).mean().item()


@torch.no_grad()
def _detect(model: DeformableDETR, dataset: CocoDetection, count: int) -> list[Detected]:
    samples = [dataset[index] for index in range(min(count, len(dataset)))]
    with evaluating(model):
        return [Detected(image, target, model([image])[0]) for image, target in (s for s in samples if s is not None)]


def _same_classes(model: DeformableDETR, dataset: CocoDetection) -> Finding:
    same = model.config.num_classes == dataset.num_classes and model.categories in (None, dataset.categories)
    return Finding("model and data: the same classes?", same, f"{model.config.num_classes} and {dataset.num_classes}")


def _boxes_on_images(seen: Sequence[Detected]) -> Finding:
    total = good = 0
    for image, target, _ in seen:
        boxes = target["boxes"].as_subclass(Tensor)
        limit = torch.tensor([image.shape[-1], image.shape[-2]]).repeat(2) + 1
        total += len(boxes)
        good += int(((boxes >= -1) & (boxes <= limit)).all(1).logical_and((boxes[:, 2:] > boxes[:, :2]).all(1)).sum())
    return Finding("boxes: x1 y1 x2 y2 pixels, on the image?", good == total, f"{good} of {total}")


def _pixels(seen: Sequence[Detected]) -> Finding:
    pixels = torch.cat([one.image.flatten() for one in seen])
    mean, std = pixels.mean().item(), pixels.std().item()
    return Finding("pixels: normalised?", abs(mean) < 2.5 and 0.2 < std < 3, f"mean {mean:.1f}, std {std:.1f}")


def _truth_scores_one(dataset: CocoDetection, count: int) -> Finding:
    """The way back to COCO's boxes and ids, tried with the truth in place of detections."""
    results, image_ids = [], []
    for index in range(min(count, len(dataset))):
        sample = dataset[index]
        if sample is None:
            continue
        image, target = sample
        h, w = target["orig_size"]
        scale = torch.tensor([w / image.shape[-1], h / image.shape[-2]]).repeat(2)
        boxes = target["boxes"].as_subclass(Tensor) * scale
        found = {"boxes": boxes, "labels": target["labels"], "scores": torch.ones(len(boxes))}
        results += dataset.to_results(found, target)
        image_ids.append(target["image_id"])
    ap = score(dataset.coco, results, image_ids).metrics["AP"]
    return Finding("the truth as detections: AP 1?", ap > 0.95, f"{ap:.2f}")


def _scores_leave_the_prior(seen: Sequence[Detected]) -> Finding:
    best = sum(one.detections["scores"][0].item() for one in seen) / len(seen)
    return Finding("scores: above where they started?", best > 10 * PRIOR_PROBABILITY, f"best {best:.2f}")


def _something_lies_on_each_object(seen: Sequence[Detected]) -> Finding:
    found, total = _found(seen, right_class=False)
    return Finding("boxes: one on each object, of any class?", found > total / 2, f"{found} of {total}")


def _with_the_right_class(seen: Sequence[Detected]) -> Finding:
    found, total = _found(seen, right_class=True)
    return Finding("and of the right class?", found > total / 2, f"{found} of {total}")


def _found(seen: Sequence[Detected], right_class: bool) -> tuple[int, int]:
    """Objects on which one of the 2 N best detections lies, of N objects; and N."""
    found = total = 0
    for _, target, detections in seen:
        labels = target["labels"]
        keep = 2 * len(labels)
        overlap = box_iou(target["boxes"].as_subclass(Tensor).float(), detections["boxes"][:keep])  # (N, 2 N)
        if right_class:
            overlap = overlap * (labels[:, None] == detections["labels"][None, :keep])
        found += int((overlap > GOOD_IOU).any(1).sum())
        total += len(labels)
    return found, total


def _cell(finding: Finding) -> str:
    return f"{'yes' if finding.good else 'NO '} ({finding.found})"
