"""COCO's average precision, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data import CocoDetection, collate
from ..models import DeformableDETR

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve numbers, in COCOeval's order; -1 where there is nothing to measure (no object of that size)."""


class Evaluation(NamedTuple):
    """metrics: name -> value, see `METRICS`. results: the detections, in COCO's results format."""

    metrics: dict[str, float]
    results: list[dict[str, Any]]


def evaluate(
    model: DeformableDETR, dataset: CocoDetection, *, batch_size: int = 1, workers: int = 0, progress: bool = True
) -> Evaluation:
    """Detect on every image and score against the annotations, crowds included. The model's mode is put back.

    An image that `skip_bad_images` left out counts neither for nor against.
    """
    loader = DataLoader(dataset, batch_size, collate_fn=collate, num_workers=workers)
    results, image_ids = [], []
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for images, targets in tqdm(loader, desc="evaluate", unit="batch", disable=not progress, leave=False):
                if not images:
                    continue
                # Detections in pixels of the picture as it lies on disk, not as it was resized.
                output = model.forward_raw(images)
                for detections, target in zip(
                    model.postprocess(output, [target["orig_size"] for target in targets]), targets, strict=True
                ):
                    results += dataset.to_results(detections, target)
                    image_ids.append(target["image_id"])
    finally:
        model.train(was_training)
    return Evaluation(coco_metrics(dataset.coco, results, image_ids), results)


def coco_metrics(coco: COCO, results: list[dict[str, Any]], image_ids: Sequence[int]) -> dict[str, float]:
    """COCOeval's twelve numbers for box detections on `image_ids`."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        found = coco.loadRes(results) if results else COCO()
        if not results:
            found.dataset = {**coco.dataset, "annotations": []}
            found.createIndex()
        judge = COCOeval(coco, found, "bbox")
        judge.params.imgIds = list(image_ids)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return dict(zip(METRICS, (float(value) for value in judge.stats), strict=True))


def format_metrics(metrics: dict[str, float]) -> str:
    """The twelve numbers in two rows, as people quote them."""
    return "\n".join("  ".join(f"{name} {metrics[name]:.3f}" for name in row) for row in (METRICS[:6], METRICS[6:]))
