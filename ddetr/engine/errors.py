"""Why detections are wrong and objects missed: each put into exactly one bin, so that a reader can open its cases."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO

from .scores import format_table

CORRECT, POOR_BOX, WRONG_CLASS, BOTH_WRONG, DUPLICATE, BACKGROUND, MISSED, CROWD = (
    "correct", "poor box", "wrong class", "both wrong", "duplicate", "background", "missed", "crowd",
)  # fmt: skip
DETECTION_KINDS = (CORRECT, POOR_BOX, WRONG_CLASS, BOTH_WRONG, DUPLICATE, BACKGROUND, CROWD)
OBJECT_KINDS = (CORRECT, POOR_BOX, WRONG_CLASS, BOTH_WRONG, MISSED)

FOUND_IOU = 0.5
"""From this overlap on a detection has found an object."""
SEEN_IOU = 0.1
"""Below this overlap a detection has nothing to do with an object."""


class Outcome(NamedTuple):
    """A detection, or an object, and what became of it.

    Attributes:
        is_detection: False for an object.
        kind: one of `DETECTION_KINDS` or of `OBJECT_KINDS`.
        image_id, category_id: its own, COCO's.
        bbox: its own [x, y, w, h] in pixels, as the annotation file has them.
        score: the detection's; for an object that of its detection, None if it has none.
        other_bbox, other_category_id: of a detection, the object it is held against; of an object, the detection that
            found it or came nearest. None if there is none.
        iou: overlap of the two, 0 if there is no other.
    """

    is_detection: bool
    kind: str
    image_id: int
    category_id: int
    bbox: list[float]
    score: float | None = None
    other_bbox: list[float] | None = None
    other_category_id: int | None = None
    iou: float = 0.0


class ErrorBreakdown(NamedTuple):
    """What `error_breakdown` found: an outcome for each detection with a score above `threshold` and each object."""

    threshold: float
    detections: list[Outcome]
    objects: list[Outcome]

    def detection_counts(self) -> dict[str, int]:
        """How many detections of each kind; they sum to all of them."""
        counts = Counter(outcome.kind for outcome in self.detections)
        return {kind: counts[kind] for kind in DETECTION_KINDS}

    def object_counts(self) -> dict[str, int]:
        """How many objects of each kind; they sum to all of them."""
        counts = Counter(outcome.kind for outcome in self.objects)
        return {kind: counts[kind] for kind in OBJECT_KINDS}


def error_breakdown(
    coco: COCO, results: list[dict[str, Any]], image_ids: Sequence[int], threshold: float = 0.5
) -> ErrorBreakdown:
    """Put every detection with a score above `threshold`, and every object, into exactly one kind.

    coco: the annotations; results: the detections in COCO's format; image_ids: the images that count.

    After the idea of TIDE (Bolya et al., ECCV 2020), with its two thresholds on IoU. Detections are first matched to
    objects of their class as COCO matches at IoU 0.5: by descending score, each to the best object that is still free.
    A detection is then, by the first of these that holds:

    * correct: it was matched.
    * crowd: half of it or more lies on a crowd of its class, and it counts neither for nor against.
    * duplicate: IoU >= 0.5 with an object of its class, which a detection of higher score has taken.
    * wrong class: IoU >= 0.5 with an object of another class.
    * poor box: 0.1 <= IoU < 0.5 with an object of its class.
    * both wrong: 0.1 <= IoU < 0.5 with an object of another class.
    * background: nothing there.

    An object that was not matched takes the kind of the detection of the largest IoU among the poor boxes, wrong
    classes and those with both wrong that are held against it; without any it is missed. So correct detections are
    COCO's true positives at IoU 0.5, and all others but crowd its false positives. (COCO drops detections of one class
    after the first hundred of an image; here they count.)

    Crowds are no objects here. Detections of a category that the annotations do not have are left out.
    """
    grouped: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        if result["score"] > threshold and result["category_id"] in coco.cats:
            grouped[result["image_id"]].append(result)
    detections, objects = [], []
    for image_id in image_ids:
        found = sorted(grouped[image_id], key=lambda result: -result["score"])  # stable, as COCO's
        image_detections, image_objects = _compare(found, coco.imgToAnns[image_id])
        detections += image_detections
        objects += image_objects
    return ErrorBreakdown(threshold, detections, objects)


def format_errors(breakdown: ErrorBreakdown) -> str:
    """`breakdown` as a table of how many detections and objects are of each kind."""
    detections, objects = breakdown.detection_counts(), breakdown.object_counts()
    rows: list[Sequence[str]] = [("", "detections", "objects")]
    for kind in dict.fromkeys(DETECTION_KINDS[:-1] + OBJECT_KINDS + (CROWD,)):
        if kind != CROWD or detections[CROWD]:
            rows.append((kind, *(str(counts[kind]) if kind in counts else "" for counts in (detections, objects))))
    rows.append(("all", str(sum(detections.values())), str(sum(objects.values()))))
    return f"Detections with a score above {breakdown.threshold:g}, and objects:\n{format_table(rows)}"


def _compare(found: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> tuple[list[Outcome], list[Outcome]]:
    """Outcomes of one image's D detections, best first, and of its G annotations without the crowds."""
    crowd = np.array([annotation["iscrowd"] for annotation in annotations], dtype=bool)  # (G,)
    classes = (np.array([entry["category_id"] for entry in entries]) for entries in (found, annotations))
    same = np.equal.outer(*classes)  # (D, G)
    iou = _overlaps(found, annotations)  # (D, G); of crowds, the share of the detection that lies on one
    matched = _match(np.where(same & ~crowd, iou, 0))  # (D,)
    best_same, same_at = _best(iou, same & ~crowd)
    best_other, other_at = _best(iou, ~same & ~crowd)
    best_crowd, _ = _best(iou, same & crowd)
    conditions = [
        matched >= 0, best_crowd >= FOUND_IOU, best_same >= FOUND_IOU,
        best_other >= FOUND_IOU, best_same >= SEEN_IOU, best_other >= SEEN_IOU,
    ]  # fmt: skip
    kinds = np.select(conditions, [CORRECT, CROWD, DUPLICATE, WRONG_CLASS, POOR_BOX, BOTH_WRONG], BACKGROUND)
    nobody = np.full(len(found), -1)
    partners = np.select(conditions, [matched, nobody, same_at, other_at, same_at, other_at], -1)

    near = [d for d, kind in enumerate(kinds) if kind in (POOR_BOX, WRONG_CLASS, BOTH_WRONG)]
    nearest = {int(partners[d]): d for d in sorted(near, key=lambda d: iou[d, partners[d]])}  # the last, best one stays
    nearest |= {int(g): d for d, g in enumerate(matched) if g >= 0}
    detections = []
    for d, (result, g) in enumerate(zip(found, partners.tolist(), strict=True)):
        held_against = (None, 0) if g < 0 else (annotations[g], iou[d, g])
        detections.append(_outcome(True, result, str(kinds[d]), result["score"], *held_against))
    objects = []
    for g in np.flatnonzero(~crowd).tolist():
        by = nearest.get(g)
        near_by = (MISSED, None, None, 0) if by is None else (str(kinds[by]), found[by]["score"], found[by], iou[by, g])
        objects.append(_outcome(False, annotations[g], *near_by))
    return detections, objects


def _match(iou: np.ndarray) -> np.ndarray:
    """Which object each detection takes, (D,), -1 for none; iou (D, G) is 0 where the two cannot match."""
    matched, free = np.full(len(iou), -1), np.ones(iou.shape[1], dtype=bool)
    for d in np.flatnonzero((iou >= FOUND_IOU).any(axis=1)):
        overlap = np.where(free, iou[d], 0)
        g = len(overlap) - 1 - overlap[::-1].argmax()  # the last of equals, as COCO's
        if overlap[g] >= FOUND_IOU:
            matched[d], free[g] = g, False
    return matched


def _best(iou: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest overlap of each detection, (D,), among the allowed ones, and whose it is; 0 and -1 without any."""
    candidates = np.concatenate([np.where(allowed, iou, 0), np.zeros((len(iou), 1))], axis=1)
    best, at = candidates.max(axis=1), candidates.argmax(axis=1)
    return best, np.where(best > 0, at, -1)


def _overlaps(found: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> np.ndarray:
    if not found or not annotations:
        return np.zeros((len(found), len(annotations)))
    boxes = (np.array([entry["bbox"] for entry in entries], dtype=np.float64) for entries in (found, annotations))
    return mask.iou(*boxes, [annotation["iscrowd"] for annotation in annotations])


def _outcome(
    is_detection: bool,
    entry: dict[str, Any],
    kind: str,
    score: float | None,
    other: dict[str, Any] | None,
    iou: float,
) -> Outcome:
    own = (is_detection, kind, entry["image_id"], entry["category_id"], list(entry["bbox"]), score)
    return Outcome(*own) if other is None else Outcome(*own, list(other["bbox"]), other["category_id"], float(iou))
