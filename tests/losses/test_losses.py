import itertools

import pytest
import torch
import torchvision

from ddetr import DeformableDETRConfig
from ddetr.losses import (
    Criterion,
    HungarianMatcher,
    Target,
    cxcywh_to_xyxy,
    generalized_iou,
    sigmoid_focal_loss,
    xyxy_to_cxcywh,
)
from ddetr.models.outputs import DetrOutput, LayerOutput


def random_boxes(*shape):
    return torch.cat([torch.rand(*shape, 2) * 0.6 + 0.2, torch.rand(*shape, 2) * 0.3 + 0.02], dim=-1)


def test_box_formats_are_inverse():
    boxes = random_boxes(5, 3)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)
    assert cxcywh_to_xyxy(torch.tensor([0.5, 0.5, 0.2, 0.4])).tolist() == pytest.approx([0.4, 0.3, 0.6, 0.7])


def test_giou_is_torchvisions():
    a, b = cxcywh_to_xyxy(random_boxes(20)), cxcywh_to_xyxy(random_boxes(15))
    torch.testing.assert_close(
        generalized_iou(a[:, None], b[None]), torchvision.ops.generalized_box_iou(a, b), rtol=1e-5, atol=1e-6
    )


def test_giou_by_hand():
    a, b = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 3.0, 2.0])
    assert generalized_iou(a, b).item() == pytest.approx(2 / 6)  # the hull is the union
    far = torch.tensor([3.0, 0.0, 5.0, 2.0])
    assert generalized_iou(a, far).item() == pytest.approx(0 - (10 - 8) / 10)


def test_giou_of_boxes_without_area_is_finite_in_value_and_gradient():
    box = torch.zeros(4, requires_grad=True)
    value = generalized_iou(box, torch.zeros(4))
    value.backward()
    assert value == 0
    assert box.grad.isfinite().all()


def test_focal_loss_is_torchvisions():
    logits, onehot = torch.randn(4, 7, 5), (torch.rand(4, 7, 5) < 0.2).float()
    torch.testing.assert_close(
        sigmoid_focal_loss(logits, onehot), torchvision.ops.sigmoid_focal_loss(logits, onehot, reduction="none")
    )


def test_matching_is_the_cheapest_of_all_assignments():
    matcher = HungarianMatcher(DeformableDETRConfig(num_classes=5))
    logits, boxes = torch.randn(6, 5), random_boxes(6)
    target = Target(torch.tensor([0, 3, 3]), random_boxes(3))
    cost = matcher.cost(logits, boxes, target)
    match = matcher(logits[None], boxes[None], [target])[0]
    cheapest = min(
        sum(cost[q, t].item() for t, q in enumerate(chosen)) for chosen in itertools.permutations(range(6), 3)
    )
    assert cost[match.query, match.target].sum().item() == pytest.approx(cheapest)
    assert match.query.tolist() == sorted(match.query.tolist())


def test_more_objects_than_queries_leave_some_unmatched():
    matcher = HungarianMatcher(DeformableDETRConfig(num_classes=5))
    target = Target(torch.arange(5), random_boxes(5))
    match = matcher(torch.randn(1, 2, 5), random_boxes(1, 2), [target])[0]
    assert len(match.query) == 2


def test_nan_predictions_are_said_plainly():
    matcher = HungarianMatcher(DeformableDETRConfig(num_classes=5))
    logits = torch.full((1, 2, 5), float("nan"))
    with pytest.raises(FloatingPointError, match="image 0 in the batch"):
        matcher(logits, random_boxes(1, 2), [Target(torch.tensor([0]), random_boxes(1))])


def make_output(logits, boxes, **more):
    return DetrOutput(logits, boxes, [], torch.zeros(0), torch.zeros(0), [], **more)


def test_a_perfect_prediction_costs_almost_nothing():
    criterion = Criterion(DeformableDETRConfig(num_classes=3))
    boxes = random_boxes(1, 4)
    logits = torch.full((1, 4, 3), -12.0)
    logits[0, 2, 1] = 12.0
    losses = criterion(make_output(logits, boxes), [Target(torch.tensor([1]), boxes[0, 2:3])])
    assert sum(losses.values()) < 1e-3
    wrong = criterion(make_output(-logits, boxes), [Target(torch.tensor([1]), boxes[0, 2:3])])
    assert wrong["loss_class"] > 10


@pytest.mark.parametrize("num_boxes", [0, -1.0, float("nan")])
def test_losses_are_not_divided_by_nothing(num_boxes):
    criterion = Criterion(DeformableDETRConfig(num_classes=3))
    with pytest.raises(ValueError, match="num_boxes divides the losses"):
        criterion(make_output(torch.zeros(1, 4, 3), random_boxes(1, 4)), [], num_boxes)


def test_losses_are_divided_by_the_number_of_objects_in_the_batch():
    criterion = Criterion(DeformableDETRConfig(num_classes=3))
    logits, boxes = torch.randn(1, 4, 3), random_boxes(1, 4)
    target = Target(torch.tensor([1, 2]), random_boxes(2))
    empty = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    alone = criterion(make_output(logits, boxes), [target])
    twice = criterion(make_output(logits.repeat(2, 1, 1), boxes.repeat(2, 1, 1)), [target, target])
    for name in alone:
        torch.testing.assert_close(alone[name], twice[name])
    nothing = criterion(make_output(logits, boxes), [empty])
    background = 2 * sigmoid_focal_loss(logits, torch.zeros_like(logits)).sum()
    torch.testing.assert_close(nothing["loss_class"], background)  # divided by 1, not by 0


def test_every_layer_is_matched_on_its_own():
    criterion = Criterion(DeformableDETRConfig(num_classes=3))
    target = Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    near, far = torch.tensor([0.5, 0.5, 0.2, 0.2]), torch.tensor([0.1, 0.1, 0.05, 0.05])
    logits = torch.zeros(1, 2, 3)
    output = make_output(logits, torch.stack([near, far])[None])
    output = output._replace(aux=[LayerOutput(logits, torch.stack([far, near])[None])])
    losses = criterion(output, [target])
    assert losses["loss_bbox"] == 0
    assert losses["loss_bbox_0"] == 0


def test_the_encoder_learns_object_or_not():
    criterion = Criterion(DeformableDETRConfig(num_classes=3))
    target = Target(torch.tensor([2]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    logits = torch.full((1, 2, 3), -12.0)
    logits[0, 0, 0] = 12.0  # class 0, whatever the label
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]])
    output = make_output(logits, boxes, enc_logits=logits, enc_boxes=boxes)
    losses = criterion(output, [target])
    assert losses["loss_class_enc"] < 1e-3
    assert losses["loss_class"] > 1


@pytest.mark.parametrize("times", [1, 2, 5])
def test_several_of_the_encoders_proposals_learn_from_one_object(times):
    criterion = Criterion(DeformableDETRConfig(num_classes=3, proposals_per_object=times))
    target = Target(torch.tensor([2]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    logits = torch.full((1, 3, 3), -12.0)
    logits[0, :2, 0] = 12.0
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.4, 0.2], [0.1, 0.1, 0.1, 0.1]]])
    output = make_output(logits, boxes, enc_logits=logits, enc_boxes=boxes)
    losses = criterion(output, [target])
    # The best, then the one beside it, then all that there are; averaged over the matches that were asked for.
    wrong = {1: 0.0, 2: 0.2, 5: 0.2 + 2 * 0.4 + 2 * 0.1}[times]
    assert losses["loss_bbox_enc"] == pytest.approx(5 * wrong / times)
    assert (losses["loss_class_enc"] < 1e-3) == (times == 2)
    once = Criterion(DeformableDETRConfig(num_classes=3))(output, [target])
    assert losses["loss_bbox"] == once["loss_bbox"]  # the decoder's layers match one to one


def test_every_object_has_a_proposal_before_one_has_several():
    criterion = Criterion(DeformableDETRConfig(num_classes=3, proposals_per_object=4))
    wanted = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]])
    boxes = torch.tensor([[[0.2, 0.2, 0.2, 0.2]] * 4 + [[0.6, 0.6, 0.2, 0.2]]])  # most are better for the first
    logits = torch.zeros(1, 5, 3)
    output = make_output(logits, boxes, enc_logits=logits, enc_boxes=boxes)
    losses = criterion(output, [Target(torch.tensor([1, 2]), wanted)])
    near_the_second = 2 * 0.2
    second_to_first = 2 * 0.6
    assert losses["loss_bbox_enc"] == pytest.approx(5 * (near_the_second + second_to_first) / (2 * 4))


@pytest.mark.parametrize("num_boxes", [2.0, torch.tensor(2.0)])
def test_an_image_without_objects_beside_one_with_several_proposals(num_boxes):
    criterion = Criterion(DeformableDETRConfig(num_classes=3, proposals_per_object=2))
    targets = [Target(torch.tensor([2]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))]
    targets.append(Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)))
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.4, 0.2]]).expand(2, 2, 4)
    logits = torch.full((2, 2, 3), -12.0)
    losses = criterion(make_output(logits, boxes, enc_logits=logits, enc_boxes=boxes), targets, num_boxes)
    assert losses["loss_bbox_enc"] == pytest.approx(5 * 0.2 / (2 * 2))
