"""Proposals that overlap a better one wait behind all others, and none is lost."""

import pytest
import torch
from torchvision.ops import box_convert, box_iou

from ddetr.config import get_config
from ddetr.models import build_model
from ddetr.models.two_stage import put_last

BOXES = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.31, 0.3, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2], [0.3, 0.32, 0.2, 0.2]])


def ranking(scores, max_overlap):
    return put_last(torch.tensor([scores]), BOXES[None], max_overlap)[0].argsort(descending=True).tolist()


def test_the_best_of_each_place_first_then_the_others_by_score():
    assert ranking([0.5, 3.0, -1.0, 1.0], 0.6) == [1, 2, 3, 0]


def test_what_overlaps_less_than_the_limit_keeps_its_rank():
    assert ranking([0.5, 3.0, -1.0, 1.0], 0.95) == [1, 3, 0, 2]


def test_images_do_not_see_each_other():
    scores = torch.tensor([[0.5, 3.0, -1.0, 1.0], [3.0, 0.5, -1.0, 1.0]])
    ranked = put_last(scores, BOXES.expand(2, 4, 4), 0.6).argsort(dim=1, descending=True)
    assert ranked.tolist() == [[1, 2, 3, 0], [0, 2, 3, 1]]


def largest_overlap(proposal_nms):
    torch.manual_seed(0)
    model = build_model("tiny_two_stage", num_classes=3, num_queries=100, proposal_nms=proposal_nms).eval()
    with torch.inference_mode():
        trace = model.trace([torch.randn(3, 160, 200)])
    boxes = box_convert(trace["pre_decoder.reference_points"][0], "cxcywh", "xyxy")
    return float((box_iou(boxes, boxes) - torch.eye(100)).max())


def test_the_decoder_starts_from_boxes_that_stand_apart():
    assert largest_overlap(0.1) <= 0.1 < largest_overlap(0.0)


def test_the_paper_s_presets_do_without():
    assert get_config("r50_two_stage").proposal_nms == 0
    with pytest.raises(ValueError, match=r"proposal_nms is an IoU, in \[0, 1\)"):
        get_config("r50_two_stage", proposal_nms=1.5)
