"""Data sets as people bring them: category ids of every kind, boxes and pictures of every size, nothing to learn."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from toy_data import annotation, make_coco, write_coco

from ddetr import build_model, load_pretrained
from ddetr.cli import main
from ddetr.data import CocoDetection, Resolution, coco_layout, eval_transform, prepare_image, train_transform
from ddetr.engine import TINY_RECIPE, TrainOptions, coco_metrics, evaluate, train

SMALL = {"encoder_layers": 1, "decoder_layers": 2, "num_queries": 10, "test_size": 64}
W, H = 80, 60


def dataset(folder, category_ids, boxes, **options):
    """Three images with one box of each category in turn; categories in the order given."""
    images = [{"id": number, "file_name": f"{number}.png", "width": W, "height": H} for number in range(3)]
    annotations = [
        annotation(number + 1, number % 3, category_ids[number % len(category_ids)], box)
        for number, box in enumerate(boxes)
    ]
    categories = [{"id": number, "name": f"thing {number}"} for number in category_ids]
    pixels = {f"{number}.png": np.full((H, W, 3), 90, np.uint8) for number in range(3)}
    contents = {"images": images, "annotations": annotations, "categories": categories}
    return CocoDetection(*write_coco(folder, contents, pixels), **options)


def truth_as_detections(data):
    """Every object, found exactly, as COCO results."""
    results = []
    for index in range(len(data)):
        image, target = data[index]
        h, w = target["orig_size"]
        scale = torch.tensor([w / image.shape[2], h / image.shape[1]]).repeat(2)
        found = {"boxes": target["boxes"] * scale, "labels": target["labels"]}
        results += data.to_results(found | {"scores": torch.ones(len(target["labels"]))}, target)
    return results


CATEGORY_IDS = {
    "from 1": [1, 2, 3],
    "from 0": [0, 1, 2],
    "in no order": [90, 3, 17],
    "above 90": [91, 4000, 2**40],
    "one": [1],
    "one, 0": [0],
    "negative": [-1, 5],
}


@pytest.mark.parametrize("ids", CATEGORY_IDS.values(), ids=CATEGORY_IDS)
def test_category_ids_of_every_kind(tmp_path, ids):
    """They become 0..K-1 in their order, and come back; a training step and an evaluation take them."""
    boxes = [[5, 5, 30, 40], [20, 10, 50, 40], [0, 0, 20, 20], [40, 30, 40, 30]]
    data = dataset(tmp_path, ids, boxes, transform=eval_transform(Resolution.around(64)))
    assert [c["id"] for c in data.categories] == sorted(ids)
    labels = [label for index in range(3) for label in data[index][1]["labels"].tolist()]
    assert set(labels) == set(range(len(ids)))
    results = truth_as_detections(data)
    assert sorted(result["category_id"] for result in results) == sorted(ids[n % len(ids)] for n in range(4))
    assert coco_metrics(data.coco, results, data.image_ids)["AP"] == pytest.approx(1)
    model = build_model("tiny", num_classes=data.num_classes, **SMALL)
    options = TrainOptions(epochs=1, batch_size=3, recipe=TINY_RECIPE)
    state = train(model, data, options, tmp_path / "run", val=data, progress=False)
    assert state.step == 1
    assert {result["category_id"] for result in evaluate(model, data, progress=False).results} <= set(ids)


def test_a_model_of_other_classes_is_not_trained_or_scored(tmp_path):
    """With fewer labels than the model's classes nothing would stop, and every label would mean something else."""
    data = dataset(tmp_path, [1, 2, 3], [[5, 5, 30, 40]])
    with_91 = build_model("tiny", num_classes=91, **SMALL)
    named_otherwise = build_model("tiny", num_classes=3, **SMALL)
    named_otherwise.categories = [{"id": n, "name": f"thing {n}"} for n in (0, 1, 2)]
    for model, message in (
        (with_91, "the model has 91 classes, .*json 3: .*change_num_classes"),
        (named_otherwise, r"label 0 is thing 0 \(id 0\) to the model, but thing 1 \(id 1\) in .*change_num_classes"),
    ):
        with pytest.raises(ValueError, match=message):
            train(model, data, TrainOptions(epochs=1), tmp_path / "run", progress=False)
        with pytest.raises(ValueError, match=message):
            evaluate(model, data, progress=False)
    assert not (tmp_path / "run").exists()


BORDERS = [[0, 0, W, H], [0, 0, 1, 1], [W - 1, H - 1, 1, 1], [0, H - 1, W, 1], [W - 1, 0, 1, H], [-50, -50, 500, 500],
           [0.25, 0.25, 0.5, 0.5], [W - 0.5, 0, 9, H], [10, 10, 1, 1]]  # fmt: skip
"""On all borders at once, of one pixel in each corner, on each side, larger than the image, within one pixel."""


def test_boxes_on_borders_of_a_pixel_and_larger_than_the_image(tmp_path):
    """All stay inside, none is lost, evaluation finds them again, and losses and gradients are finite."""
    data = dataset(tmp_path, [7], BORDERS, transform=eval_transform(Resolution.around(64)))
    targets = [data[index] for index in range(3)]
    assert sum(len(target["boxes"]) for _, target in targets) == len(BORDERS)
    for image, target in targets:
        limit = torch.tensor([image.shape[2], image.shape[1]]).repeat(2) + 1e-3
        assert (target["boxes"] >= 0).all()
        assert (target["boxes"] <= limit).all()
    assert coco_metrics(data.coco, truth_as_detections(data), data.image_ids)["AP"] == pytest.approx(1)
    for preset in ("tiny", "tiny_two_stage"):
        model = build_model(preset, num_classes=1, **SMALL)
        sum(model([image for image, _ in targets], [target for _, target in targets]).values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_papers_augmentation_keeps_such_boxes_inside(tmp_path):
    data = dataset(tmp_path, [7], BORDERS, transform=train_transform(Resolution.around(64)))
    for seed in range(10):
        torch.manual_seed(seed)
        batch = [data[index] for index in range(3)]
        for image, target in batch:
            boxes, (h, w) = target["boxes"], image.shape[1:]
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([w, h, w, h]) + 1e-3).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 8000), (8000, 1), (8000, 2000), (3, 2)], ids=str)
def test_pictures_of_one_pixel_and_of_thousands(tmp_path, size):
    """As files, through the loader and the model, at the size that the model is made for."""
    Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "a.jpg")
    record = {"id": 1, "file_name": "a.jpg", "width": size[0], "height": size[1]}
    whole = annotation(1, 1, 1, [0, 0, *size])
    contents = {"images": [record], "annotations": [whole], "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "a.json").write_text(json.dumps(contents))
    data = CocoDetection(tmp_path, tmp_path / "a.json", eval_transform(Resolution.around(64)))
    image, target = data[0]
    assert max(image.shape[1:]) <= 107
    assert target["boxes"].tolist() == [pytest.approx([0, 0, image.shape[2], image.shape[1]], abs=0.01)]
    model = build_model("tiny_two_stage", num_classes=1, **SMALL)
    assert sum(model([image], [target]).values()).isfinite()
    found = evaluate(model, data, progress=False).results
    assert found
    assert all(np.isfinite(result["bbox"]).all() for result in found)


@pytest.mark.parametrize("width", [32, 64])
def test_a_map_of_one_cell_in_a_batch_of_one(width):
    """Where each channel has a group of its own there would be nothing to normalise, and PyTorch refuses."""
    model = build_model("tiny", num_classes=1, embed_dim=width, num_heads=4, **SMALL)
    losses = model([torch.randn(3, 20, 20)], [{"boxes": [[0, 0, 9, 9]], "labels": [0]}])
    assert sum(losses.values()).isfinite()
    with torch.no_grad():
        assert len(model.eval()([torch.randn(3, 1, 1)])[0]["boxes"])


def test_a_long_image_given_to_the_model_as_it_is():
    model = load_pretrained("tiny_two_stage")
    with torch.no_grad():
        found = model([torch.randn(3, 8000, 32), torch.randn(3, 40, 48)])
    assert all(detections["boxes"].isfinite().all() for detections in found)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (124, 116, 104)])
@pytest.mark.parametrize("preset", ["tiny", "tiny_two_stage"])
def test_images_of_one_colour(preset, colour):
    """No variance to divide by, in any norm."""
    image = prepare_image(Image.new("RGB", (90, 70), colour), 64)
    for norm in ("group", "batch"):
        model = build_model(preset, num_classes=2, backbone_norm=norm, **SMALL)
        sum(model([image] * 2, [{"boxes": [[4, 4, 30, 30]], "labels": [1]}] * 2).values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        with torch.no_grad():
            assert model.eval()([image])[0]["scores"].isfinite().all()


def test_an_epoch_of_images_without_objects(tmp_path, capsys):
    """Trains (there is nothing anywhere: that can be learnt), and evaluation has no score instead of a wrong one."""
    folder = make_coco(tmp_path / "toy")
    for split in ("train", "val"):
        file = folder / "annotations" / f"instances_{split}2017.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    out = tmp_path / "run"
    assert main(["train", "--data", str(folder), "--out", str(out), "--epochs", "3", "--size", "64", "--log-every", "1",
                 "--set", "encoder_layers=1"]) == 0  # fmt: skip
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if line["kind"] == "train"]
    assert 0 < losses[-1] < losses[0]
    assert log[-1]["AP"] == -1
    assert "AP -" in capsys.readouterr().out
    data = CocoDetection(*coco_layout(folder, "val"), eval_transform(Resolution.around(64)))
    assert len(data) == 4
    assert evaluate(load_pretrained(out), data, progress=False).metrics["AP"] == -1
