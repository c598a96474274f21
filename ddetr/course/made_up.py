"""Pictures that are not there: a few boxes, judged by pycocotools as if they were a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..data.coco import coco_of
from ..engine import Evaluation, score


class Thing(NamedTuple):
    """An object of a made-up picture: its box [x, y, w, h] in pixels, and whether it is a crowd."""

    bbox: Sequence[float]
    crowd: bool = False


class Found(NamedTuple):
    """A detection on it: its box [x, y, w, h] in pixels, and its score."""

    bbox: Sequence[float]
    score: float


def judge(things: Sequence[Thing], found: Sequence[Found]) -> Evaluation:
    """COCO's verdict on one made-up picture, whose things are all of one category."""
    annotations = [
        {
            "id": number, "image_id": 1, "category_id": 1, "bbox": list(thing.bbox),
            "area": thing.bbox[2] * thing.bbox[3], "iscrowd": int(thing.crowd),
        }
        for number, thing in enumerate(things, start=1)
    ]  # fmt: skip
    categories = [{"id": 1, "name": "thing"}]
    coco = coco_of({"images": [{"id": 1}], "annotations": annotations, "categories": categories})
    results = [{"image_id": 1, "category_id": 1, "bbox": list(box), "score": score} for box, score in found]
    return score(coco, results, [1])
