import pytest
import torch

from ddetr import build_model, load_pretrained
from ddetr.course.ablation import judge, toy_set
from ddetr.data import toy_scene


@pytest.fixture(scope="module")
def tiny():
    return load_pretrained("tiny").eval()


def perfect_output(model, output, scene):
    """Every object by a query of its own, certain of it."""
    labels = {category["id"]: label for label, category in enumerate(model.categories)}
    height, width = scene.image.shape[:2]
    boxes, logits = torch.zeros(1, 50, 4), torch.full((1, 50, len(labels)), -9.0)
    for query, annotation in enumerate(scene.annotations):
        x, y, w, h = annotation["bbox"]
        boxes[0, query] = torch.tensor([(x + w / 2) / width, (y + h / 2) / height, w / width, h / height])
        logits[0, query, labels[annotation["category_id"]]] = 9.0
    return output._replace(pred_boxes=boxes, pred_logits=logits)


@torch.no_grad()
def test_perfect_detections_find_everything_and_the_networks_own_most(tiny):
    scenes, images = toy_set(tiny, [105, 2000])
    outputs = [tiny.forward_raw([image]) for image in images]
    breakdown = judge(tiny, [perfect_output(tiny, *pair) for pair in zip(outputs, scenes, strict=True)], scenes)
    counts = breakdown.object_counts()
    assert counts["correct"] == sum(counts.values()) > 0
    kinds = breakdown.detection_counts()
    assert sum(kinds.values()) == kinds["correct"] + kinds["crowd"]
    own = judge(tiny, outputs, scenes).object_counts()
    assert sum(counts.values()) / 2 <= own["correct"]
    assert not judge(tiny, outputs, scenes, threshold=1.0).detections


@torch.no_grad()
def test_what_cannot_be_judged(tiny):
    scenes, images = toy_set(tiny, [105])
    output = tiny.forward_raw(images)
    with pytest.raises(ValueError, match="each of the 1 scenes"):
        judge(tiny, [output, output], scenes)
    with pytest.raises(ValueError, match="of one image"):
        judge(tiny, [tiny.forward_raw([images[0], images[0]])], scenes)
    with pytest.raises(ValueError, match="load trained weights"):
        judge(build_model("tiny", num_classes=12), [output], [toy_scene(105)])
