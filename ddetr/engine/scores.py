"""How good detections are, as COCO measures it. pycocotools is the judge; this reads everything out of one verdict."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.coco import coco_of

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve numbers, in COCOeval's order; -1 where there is nothing to measure (no object of that size)."""

SIZES = ("small", "medium", "large")
"""By area in square pixels of the annotated image: up to 32 x 32, up to 96 x 96, and above."""


_RESULT = ("image_id", "category_id", "bbox", "score")


class GroupScore(NamedTuple):
    """Average precision of one category, or of the objects of one size.

    Attributes:
        name: the category's, or one of `SIZES`.
        objects: how many there are, crowds not counted.
        ap, ap50, ap75: average precision over IoU 0.50 to 0.95, at 0.50, at 0.75; -1 where there is no object.
        ar: average recall with 100 detections an image; -1 where there is no object.
        category_id: COCO's id; None for a size.
    """

    name: str
    objects: int
    ap: float
    ap50: float
    ap75: float
    ar: float
    category_id: int | None = None


class PrecisionRecall(NamedTuple):
    """Precision at each recall, for objects of all sizes and 100 detections an image.

    Attributes:
        precision: (T, R, K), the best precision at this recall or a higher one; -1 for categories without objects.
        iou_thresholds: (T,), 0.50 to 0.95.
        recall: (R,), 0 to 1.
        categories: K dicts {"id", "name"}.
    """

    precision: np.ndarray
    iou_thresholds: np.ndarray
    recall: np.ndarray
    categories: list[dict[str, Any]]

    def curve(self, category_id: int | None = None, iou: float | None = None) -> np.ndarray:
        """Precision (R,) of `category_id` at the IoU threshold `iou`; None averages over all of them.

        NaN where there is no object. The mean of a curve is its average precision.

        Raises:
            ValueError: a category or a threshold that was not judged.
        """
        values = self.precision
        if iou is not None:
            chosen = np.isclose(self.iou_thresholds, iou)
            if not chosen.any():
                raise ValueError(
                    f"no curve at IoU {iou}; there are {', '.join(f'{t:.2f}' for t in self.iou_thresholds)}"
                )
            values = values[chosen]
        present = (self.precision > -1).any(axis=(0, 1))
        if category_id is not None:
            ids = np.array([category["id"] for category in self.categories])
            if category_id not in ids:
                raise ValueError(f"no category {category_id}; there are {', '.join(map(str, ids[:20]))}")
            present = present & (ids == category_id)
        if not present.any():
            return np.full(len(self.recall), np.nan)
        return values[:, :, present].mean(axis=(0, 2))


class Evaluation(NamedTuple):
    """What `evaluate` and `score` found.

    Attributes:
        metrics: name -> value, see `METRICS`.
        results: the detections, in COCO's results format.
        image_ids: the images that were looked at.
        per_category: one score for each category of the annotation file, in order of their ids.
        per_size: one score for each of `SIZES`.
        precision_recall: the curves.
    """

    metrics: dict[str, float]
    results: list[dict[str, Any]]
    image_ids: list[int]
    per_category: list[GroupScore]
    per_size: list[GroupScore]
    precision_recall: PrecisionRecall

    @property
    def num_images(self) -> int:
        """How many images were looked at."""
        return len(self.image_ids)


def score(coco: COCO, results: list[dict[str, Any]], image_ids: Sequence[int]) -> Evaluation:
    """Judge box detections, `results` in COCO's format, by the annotations `coco`, on the images of `image_ids` alone.

    `results` are left as they are. ValueError for an image id that `coco` does not have.
    """
    for what, ids in (("a detection", (result["image_id"] for result in results)), ("image_ids", image_ids)):
        strangers = set(ids) - coco.imgs.keys()
        if strangers:
            raise ValueError(f"{what} has image id {min(strangers, key=str)}, which the annotations do not have")
    judge = _judge(coco, results, image_ids)
    precision, recall = (judge.eval[name][..., -1] for name in ("precision", "recall"))  # (T, R, K, A), (T, K, A)
    objects = _count_objects(judge)  # (K, A)
    categories: list[dict[str, Any]] = [
        {"id": int(id), "name": str(coco.cats[id]["name"])} for id in judge.params.catIds
    ]
    per_category = [
        _group(category["name"], objects[k, 0], precision[:, :, k, 0], recall[:, k, 0], category["id"])
        for k, category in enumerate(categories)
    ]
    per_size = [
        _group(name, objects[:, a].sum(), precision[..., a], recall[..., a]) for a, name in enumerate(SIZES, start=1)
    ]
    curves = PrecisionRecall(precision[..., 0], judge.params.iouThrs, judge.params.recThrs, categories)
    metrics = dict(zip(METRICS, (float(value) for value in judge.stats), strict=True))
    return Evaluation(metrics, results, list(image_ids), per_category, per_size, curves)


def coco_metrics(coco: COCO, results: list[dict[str, Any]], image_ids: Sequence[int]) -> dict[str, float]:
    """COCOeval's twelve numbers; `coco`, `results` and `image_ids` as for `score`."""
    return score(coco, results, image_ids).metrics


def format_metrics(metrics: dict[str, float]) -> str:
    """The twelve numbers in `metrics` in two rows, as people quote them; "-" where there was nothing to measure."""
    rows = (METRICS[:6], METRICS[6:])
    return "\n".join("  ".join(f"{name} {format_score(metrics[name])}" for name in row) for row in rows)


def format_groups(groups: Iterable[GroupScore]) -> str:
    """The scores of `groups`, by category or by size, as a table."""
    rows: list[Sequence[str]] = [("", "objects", "AP", "AP50", "AP75", "AR")]
    for group in groups:
        numbers = (format_score(value) for value in (group.ap, group.ap50, group.ap75, group.ar))
        rows.append((printable(group.name), str(group.objects), *numbers))
    return format_table(rows)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns, the first aligned at the left and the others at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def format_score(value: float) -> str:
    """A score as text; COCO's -1 says that there was nothing to measure."""
    return "-" if value < 0 else f"{value:.3f}"


def printable(name: str, longest: int = 32) -> str:
    """A name out of a data set, on one line and without characters that a terminal would obey."""
    name = "".join(letter if letter.isprintable() else " " for letter in str(name))
    name = " ".join(name.split())
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _judge(coco: COCO, results: list[dict[str, Any]], image_ids: Sequence[int]) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        if results:
            # It writes into what it is given, and would take a result with a caption for one without a box.
            found = coco.loadRes([{key: result[key] for key in _RESULT} for result in results])
        else:
            found = coco_of({**coco.dataset, "annotations": []})
        judge = COCOeval(coco, found, "bbox")
        judge.params.imgIds = list(image_ids)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def _count_objects(judge: COCOeval) -> np.ndarray:
    """How many objects were judged, (K, A): by category and by area (all, small, medium, large)."""
    counts = [0 if image is None else np.count_nonzero(image["gtIgnore"] == 0) for image in judge.evalImgs]
    shape = (len(judge.params.catIds), len(judge.params.areaRng), len(judge.params.imgIds))
    return np.array(counts, dtype=np.int64).reshape(shape).sum(axis=2)


def _group(name: str, objects: int, precision: np.ndarray, recall: np.ndarray, id: int | None = None) -> GroupScore:
    """precision (T, R, ...), recall (T, ...), where T runs over IoU 0.50, 0.55, ... 0.95."""
    ap, ap50, ap75, ar = map(_mean, (precision, precision[0], precision[5], recall))
    return GroupScore(name, int(objects), ap, ap50, ap75, ar, id)


def _mean(values: np.ndarray) -> float:
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
