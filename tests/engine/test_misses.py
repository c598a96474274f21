import pytest
import torch
from toy_data import make_coco

from ddetr import build_model
from ddetr.data import CocoDetection, DataError, eval_transform
from ddetr.engine import error_breakdown
from ddetr.engine.misses import explain_object, open_cases

OBJECT = [0.0, 0.0, 10.0, 10.0]


def logits(*rows):
    return torch.tensor(rows).clamp(1e-4, 1 - 1e-4).logit()


@pytest.mark.parametrize(
    ("scores", "reason", "query"),
    [
        ([[0.9, 0.1], [0.1, 0.1]], "found", 0),
        ([[0.4, 0.1], [0.1, 0.1]], "score too low", 0),
        ([[0.1, 0.2], [0.3, 0.1]], "score too low", 1),
        ([[0.2, 0.4], [0.1, 0.1]], "another class", 0),
    ],
)
def test_the_witness_is_the_surest_of_those_that_fit(scores, reason, query):
    boxes = torch.tensor([[0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    why = explain_object(logits(*scores, [0.99, 0.01]), boxes, OBJECT, 0)
    assert (why.reason, why.query) == (reason, query)
    assert why.score == pytest.approx(scores[query][0])
    assert why.best_score == pytest.approx(max(scores[query]))


def test_without_a_box_that_fits_the_nearest_speaks():
    boxes = torch.tensor([[50.0, 50.0, 60.0, 60.0], [0.0, 0.0, 10.0, 4.0]])
    why = explain_object(logits([0.9, 0.1], [0.2, 0.1]), boxes, OBJECT, 0)
    assert (why.reason, why.query) == ("no box fits", 1)
    assert why.iou == pytest.approx(0.4)


def test_the_threshold_decides_what_is_found():
    boxes = torch.tensor([OBJECT])
    assert explain_object(logits([0.4, 0.1]), boxes, OBJECT, 0, threshold=0.3).reason == "found"


def test_a_label_that_does_not_exist():
    with pytest.raises(ValueError, match=r"label must be 0\.\.1; got 2"):
        explain_object(logits([0.4, 0.1]), torch.tensor([OBJECT]), OBJECT, 2)


def test_cases_are_opened_in_the_image_as_the_model_saw_it(tmp_path):
    folder = make_coco(tmp_path)
    model = build_model("tiny_two_stage", num_classes=3).eval()
    dataset = CocoDetection(
        folder / "val2017", folder / "annotations" / "instances_val2017.json", eval_transform(), limit=2
    )
    breakdown = error_breakdown(dataset.coco, [], dataset.image_ids)
    opened = open_cases(model, dataset, breakdown.objects)
    assert [one.case for one in opened] == breakdown.objects
    for one in opened:
        _, target = dataset[dataset.image_ids.index(one.case.image_id)]
        h, w = one.image.shape[1:]
        assert one.label in target["labels"]
        distance = (target["boxes"] - one.box * torch.tensor([w, h, w, h])).abs().amax(1)
        assert distance.min() < 1
    same_image = [one.trace for one in opened if one.case.image_id == opened[-1].case.image_id]
    assert all(trace is same_image[0] for trace in same_image)


def test_an_image_that_was_skipped_as_damaged_is_named(tmp_path):
    folder = make_coco(tmp_path)
    model = build_model("tiny_two_stage", num_classes=3).eval()
    dataset = CocoDetection(
        folder / "val2017", folder / "annotations" / "instances_val2017.json", skip_bad_images=True, limit=1
    )
    dataset.path(dataset.image_ids[0]).write_bytes(b"no picture")
    breakdown = error_breakdown(dataset.coco, [], dataset.image_ids)
    with pytest.raises(DataError, match=f"image id {dataset.image_ids[0]} cannot be read"):
        open_cases(model, dataset, breakdown.objects)
