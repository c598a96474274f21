"""Real COCO photos, where they are; see `coco_photos` in conftest.py."""

import pytest
import torch

from ddetr import build_model
from ddetr.data import CocoDetection, Resolution, coco_layout, collate, eval_transform, train_transform
from ddetr.engine import coco_metrics


@pytest.mark.parametrize(("split", "images", "objects"), [("train", 90, 794), ("val", 66, 552)])
def test_every_photo_loads_with_its_boxes(coco_photos, split, images, objects):
    dataset = CocoDetection(*coco_layout(coco_photos, split), eval_transform(Resolution.around(128)))
    assert dataset.num_classes == 80
    samples = [dataset[i] for i in range(len(dataset))]
    assert len(samples) == images
    assert sum(len(target["boxes"]) for _, target in samples) == objects
    assert all(image.isfinite().all() for image, _ in samples)


def test_the_annotations_themselves_score_one(coco_photos):
    dataset = CocoDetection(*coco_layout(coco_photos, "val"), lambda *sample: sample)
    results, ids = [], []
    for i in range(len(dataset)):
        _, target = dataset[i]
        found = {"boxes": target["boxes"], "labels": target["labels"], "scores": torch.ones(len(target["labels"]))}
        results += dataset.to_results(found, target)
        ids.append(target["image_id"])
    assert coco_metrics(dataset.coco, results, ids)["AP50"] > 0.999


def test_a_batch_of_photos_trains(coco_photos):
    dataset = CocoDetection(*coco_layout(coco_photos, "train"), train_transform(Resolution.around(128)))
    images, targets = collate([dataset[i] for i in range(4)])
    losses = build_model("tiny_two_stage", num_classes=80).train()(images, targets)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
