"""What a detector finds on some scenes, beside what is there. A pure function: looks in, figure out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from ..data import ToyScene
from .figures import Figure, plain_text
from .scenes import Mark, Scene, draw_scenes

FOUND_IOU = 0.5


def draw(looks: Mapping[str, Any], threshold: float = 0.3, most: int = 3) -> Figure:
    """A row of scenes for each look (see `ddetr.course.clinic.Look`), under its name; detections above the threshold.

    ValueError if the looks are of different numbers of scenes, or of none.
    """
    counts = {len(look.scenes[:most]) for look in looks.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"each look must show the same scenes; got {sorted(counts) or 'none'} of them")
    panels = [
        Scene(scene.image, _marks(scene, found, look.categories, threshold), plain_text(name))
        for name, look in looks.items()
        for scene, found in zip(look.scenes[:most], look.detections, strict=False)
    ]
    return draw_scenes(panels, columns=counts.pop())


def _marks(scene: ToyScene, found: dict[str, Tensor], categories: list[dict[str, Any]], threshold: float) -> list[Mark]:
    """Every object and every detection, right or wrong, best score first: an object is found once."""
    objects = [annotation for annotation in scene.annotations if not annotation["iscrowd"]]
    boxes = torch.tensor([annotation["bbox"] for annotation in objects], dtype=torch.float32).view(-1, 4)
    boxes = box_convert(boxes, "xywh", "xyxy")
    free = torch.ones(len(objects), dtype=torch.bool)
    detections = []
    for box, label, score in zip(found["boxes"], found["labels"].tolist(), found["scores"].tolist(), strict=True):
        if score <= threshold:
            continue
        name = categories[label]["name"]
        same = torch.tensor([annotation["category_id"] == categories[label]["id"] for annotation in objects]).bool()
        fits = box_iou(box[None], boxes)[0].where(same.view(-1) & free, 0.0)
        right = bool(len(objects)) and float(fits.max()) >= FOUND_IOU
        if right:
            free[fits.argmax()] = False
        detections.append(Mark("hit" if right else "false alarm", box.tolist(), f"{name} {score:.2f}"))
    truth = [Mark("miss" if left else "truth", box) for left, box in zip(free.tolist(), boxes.tolist(), strict=True)]
    return truth + detections
