"""Annotations and detections made up for the judge."""

import numpy as np
from toy_data import CATEGORIES, annotation, write_coco

from ddetr.data import CocoDetection

SIDE = 200


def made_up(folder, annotations, categories=CATEGORIES, images=(1,), **options):
    """A data set of grey pictures with these annotations: (image id, category id, [x, y, w, h]), and 1 for crowds."""
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    contents = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in images],
        "annotations": [annotation(n, *values) for n, values in enumerate(annotations, start=1)],
        "categories": categories,
    }
    return CocoDetection(*write_coco(folder, contents, {f"{i}.png": grey for i in images}), **options)


def result(image_id, category_id, bbox, score=0.9):
    return {"image_id": image_id, "category_id": category_id, "bbox": [float(v) for v in bbox], "score": score}


def random_case(folder, seed=0, images=30):
    """Objects, some of them crowds, and detections on, near and far from them, several of the wrong class."""
    rng = np.random.default_rng(seed)
    ids = [category["id"] for category in CATEGORIES]
    annotations, results = [], []
    for image_id in range(1, images + 1):
        for _ in range(int(rng.integers(0, 6))):
            category, crowd = int(rng.choice(ids)), int(rng.random() < 0.15)
            box = [float(v) for v in (*rng.uniform(0, 100, 2), *rng.uniform(10, 100, 2))]
            annotations.append((image_id, category, box, crowd))
            for _ in range(int(rng.integers(0, 4))):
                found = np.array(box) + rng.normal(0, rng.choice([1, 8, 30]), 4)
                label = category if rng.random() < 0.75 else int(rng.choice(ids))
                # Few different scores, so that ties are met as well.
                results.append(result(image_id, label, [*found[:2], *found[2:].clip(2)], round(rng.random(), 1)))
    return made_up(folder, annotations, images=range(1, images + 1)), results
