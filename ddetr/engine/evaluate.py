"""COCO's average precision, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data import CocoDetection, collate
from ..models import DeformableDETR
from ..models.modes import evaluating

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve numbers, in COCOeval's order; -1 where there is nothing to measure (no object of that size)."""


class Evaluation(NamedTuple):
    """What `evaluate` found.

    Attributes:
        metrics: name -> value, see `METRICS`.
        results: the detections, in COCO's results format.
        num_images: how many images were looked at.
    """

    metrics: dict[str, float]
    results: list[dict[str, Any]]
    num_images: int


def evaluate(
    model: DeformableDETR,
    dataset: CocoDetection,
    *,
    batch_size: int = 1,
    workers: int = 0,
    progress: bool = True,
    interrupted: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Detect on every image and score against the annotations, crowds included. The model's mode is put back.

    An image that `skip_bad_images` left out counts neither for nor against. `interrupted` is asked after each batch.

    Raises:
        ValueError: the model's classes are not the data's, or no image could be read.
        FloatingPointError: the model predicts NaN or infinity; names the image.
        KeyboardInterrupt: `interrupted` said so.
    """
    if model.config.num_classes != dataset.num_classes:
        raise ValueError(
            f"the model has {model.config.num_classes} classes, {dataset.annotation_file} {dataset.num_classes}"
        )
    loader = DataLoader(dataset, batch_size, collate_fn=collate, num_workers=workers)
    results, image_ids = [], []
    with evaluating(model), torch.inference_mode():
        for images, targets in tqdm(loader, desc="evaluate", unit="batch", disable=not progress, leave=False):
            if interrupted():
                raise KeyboardInterrupt
            if not images:
                continue
            # In pixels of the picture as it lies on disk, not as it was resized.
            sizes = [target["orig_size"] for target in targets]
            names = [f"image id {target['image_id']}" for target in targets]
            for detections, target in zip(detect(model, images, sizes, names), targets, strict=True):
                results += dataset.to_results(detections, target)
                image_ids.append(target["image_id"])
    if not image_ids:
        raise ValueError(f"no image of {dataset.annotation_file} could be evaluated")
    return Evaluation(coco_metrics(dataset.coco, results, image_ids), results, len(image_ids))


def detect(
    model: DeformableDETR, images: Sequence[Tensor], sizes: list[tuple[int, int]], names: Sequence[str]
) -> list[dict[str, Tensor]]:
    """Detections in pixels of pictures of `sizes` (h, w). FloatingPointError, with the image's name, for NaN ones."""
    output = model.forward_raw(images)
    for name, logits, boxes in zip(names, output.pred_logits, output.pred_boxes, strict=True):
        # COCOeval would take a box of NaN for a perfect one: no overlap with it is below any threshold.
        if not (logits.isfinite().all() and boxes.isfinite().all()):
            raise FloatingPointError(f"the model predicts NaN or infinity on {name}: are its weights finite?")
    return model.postprocess(output, sizes)


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
