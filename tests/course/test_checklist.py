"""The checklist names what is broken, and memory is counted as a real step would need it."""

import copy

import pytest
import torch

from ddetr import build_model
from ddetr.checkpoints import load_pretrained
from ddetr.course import bad_runs, checklist, memory
from ddetr.data import CocoDetection, Resolution, coco_layout, eval_transform, make_toycoco


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    toy = tmp_path_factory.mktemp("checklist") / "toy"
    make_toycoco(toy, train=1, val=4, seed=15, workers=1, progress=False)
    return CocoDetection(*coco_layout(toy, "val"), eval_transform(Resolution.around(160)))


@pytest.fixture(scope="module")
def shipped():
    return load_pretrained("tiny_two_stage")


def answers(model, dataset):
    return [finding.good for finding in checklist.why_is_ap_zero(model, dataset)]


def test_a_trained_model_passes(shipped, dataset):
    assert answers(shipped, dataset) == [True] * 7


def test_a_fresh_model_fails_where_predictions_begin(dataset):
    torch.manual_seed(0)
    assert answers(build_model("tiny_two_stage", num_classes=12), dataset) == [True] * 4 + [False] * 3


def test_classes_off_by_one_show_in_the_last_row_alone(shipped, dataset):
    slipped = copy.deepcopy(shipped)
    for name, parameter in slipped.named_parameters():
        if "class_embed" in name:
            parameter.data = parameter.data.roll(1, 0)
    assert answers(slipped, dataset) == [True] * 6 + [False]


def test_other_classes_show_in_the_first_row(shipped, dataset):
    other = copy.copy(dataset)
    other.categories = dataset.categories[::-1]
    assert not answers(shipped, other)[0]


def test_boxes_in_another_form_show_in_the_second_row_and_the_truth_no_longer_scores_one(shipped, dataset):
    class WidthHeight(CocoDetection):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            boxes = target["boxes"].as_subclass(torch.Tensor)
            return image, {**target, "boxes": torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)}

    wrong = copy.copy(dataset)
    wrong.__class__ = WidthHeight
    found = answers(shipped, wrong)
    assert found[:4] == [True, False, True, False]


def test_pixels_that_nobody_normalised_show_in_the_third_row(shipped, dataset):
    def stretched(image, target):
        image, target = dataset.transform(image, target)
        return 10 * image, target

    raw = copy.copy(dataset)
    raw.transform = stretched
    assert not answers(shipped, raw)[2]


def test_images_without_objects_are_refused(shipped, dataset):
    empty = copy.copy(dataset)
    empty.image_ids = []
    with pytest.raises(ValueError, match="no object to look for"):
        checklist.why_is_ap_zero(shipped, empty)


def test_columns_side_by_side():
    findings = [checklist.Finding("a?", True, "1 of 1"), checklist.Finding("longer?", False, "0")]
    text = checklist.as_table({"one": findings, "other": findings[::-1]})
    assert text.splitlines() == [
        "         one           other",
        "a?       yes (1 of 1)  NO  (0)",
        "longer?  NO  (0)       yes (1 of 1)",
    ]


def test_boxes_of_a_fresh_one_stage_model_are_the_same_everywhere(tiny):
    images = [torch.randn(3, 64, 80) for _ in range(3)]
    assert checklist.spread_across_images(tiny, images) < 1e-6
    with torch.no_grad():
        tiny.heads.box_embed[0][-1].weight.normal_()
    assert checklist.spread_across_images(tiny, images) > 1e-3
    assert tiny.training


def test_memory_is_what_a_real_forward_pass_keeps():
    estimate = memory.training_memory("tiny", 2, 64, 96)
    torch.manual_seed(0)
    model = build_model("tiny").train()
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.forward_raw([torch.randn(3, 64, 96)] * 2)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert output.pred_boxes.requires_grad
    assert estimate.activations == pytest.approx(real, rel=0.1)
    assert estimate.weights == pytest.approx(16 * sum(p.numel() for p in model.parameters()), rel=1e-6)
    twice = memory.training_memory("tiny", 4, 64, 96)
    assert twice.activations == pytest.approx(2 * estimate.activations, rel=0.1)
    assert twice.weights == estimate.weights
    with pytest.raises(ValueError, match="take one without"):
        memory.training_memory("tiny_two_stage", 1, 64, 96)


def test_the_five_runs_are_what_they_are_called():
    logs = bad_runs.bad_runs()
    assert list(logs) == list(bad_runs.RUNS)
    named = {bad_runs.RUNS[letter].diagnosis: lines for letter, lines in logs.items()}
    loss = {name: [line["loss"] for line in lines if line["kind"] == "train"] for name, lines in named.items()}
    ap = {name: [line["AP"] for line in lines if line["kind"] == "eval"] for name, lines in named.items()}
    assert max(ap, key=lambda name: ap[name][-1]) == "healthy"
    assert min(loss, key=lambda name: loss[name][-1]) == "overfitting"
    assert ap["overfitting"][-1] < ap["healthy"][-1] / 2
    assert max(ap["diverging"]) > 10 * ap["diverging"][-1]
    assert min(loss["diverging"]) < loss["diverging"][-1] < loss["diverging"][0]
    assert max(ap["rate too high"]) < 0.001
    assert loss["rate too low"][-1] == pytest.approx(loss["rate too low"][0], rel=0.2)
