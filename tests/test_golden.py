"""Both reference implementations, number for number. `pytest tests/test_golden.py -s` prints the largest deviations."""

import golden_values as golden
import numpy as np
import pytest
import torch

CASES = [("official", variant, "") for variant in golden.VARIANTS] + [
    ("mmdet", variant, mode) for variant in ("base", "refine", "two_stage") for mode in ("/pad", "/same")
]


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case).replace("/", "") for case in CASES])
def run(request):
    """One forward and backward pass of a variant, and the golden values for it."""
    reference, variant, mode = request.param
    model, report = golden.golden_model(reference, variant)
    model.train()
    images, targets = golden.inputs(reference, same_size=mode == "/same")
    output = model.forward_raw(images)
    losses = model(images, targets)
    sum(losses.values()).backward()
    prefix = f"{variant}{mode}/"
    wanted = {k[len(prefix) :]: v for k, v in golden.values(reference).items() if k.startswith(prefix)}
    return Run(reference, model, report, images, targets, output, losses, wanted)


class Run:
    def __init__(self, reference, model, report, images, targets, output, losses, wanted):
        self.reference, self.model, self.report = reference, model, report
        self.images, self.targets = images, targets
        self.output, self.losses, self.wanted = output, losses, wanted


def deviation(ours: torch.Tensor, wanted: np.ndarray) -> float:
    ours = ours.detach().numpy()
    assert ours.shape == wanted.shape
    return float(np.abs(ours - wanted).max() / np.abs(wanted).max())


def test_weights_fit_completely(run):
    assert run.report.complete
    assert run.report.naming == run.reference


def test_arrays(run):
    output, wanted = run.output, run.wanted
    boxes = torch.stack([layer.pred_boxes for layer in output.aux] + [output.pred_boxes])
    arrays = {"pred_logits": output.pred_logits, "pred_boxes": output.pred_boxes}
    if run.reference == "official":
        logits_mean = torch.stack([layer.pred_logits.mean((1, 2)) for layer in output.aux])
        arrays |= {"aux_boxes": boxes[:-1], "memory_first8": output.memory[..., :8], "aux_logits_mean": logits_mean}
        arrays["init_reference"] = output.reference_points[0]
    else:
        arrays["all_boxes"] = boxes
    deviations = {name: deviation(tensor, wanted[name]) for name, tensor in arrays.items()}
    print({name: f"{value:.1e}" for name, value in deviations.items()}, end=" ")
    assert max(deviations.values()) < 1e-4


def test_losses(run):
    compared = 0
    for name, value in run.wanted.items():
        ours = our_loss_name(name, run.reference)
        if ours is not None:
            weight = loss_weight(ours, run.model.config) if run.reference == "official" else 1.0
            assert run.losses[ours].item() == pytest.approx(weight * value.item(), rel=1e-4), name
            compared += 1
    assert compared == len(run.losses)
    assert sum(run.losses.values()).item() == pytest.approx(run.wanted["loss_total"].item(), rel=1e-5)


def test_gradient_norms(run):
    parameters = dict(run.model.named_parameters())
    ours_of = {their: ours for ours, source in run.report.source.items() for their in source.split(", ")}
    compared = {}
    for name, value in run.wanted.items():
        if name.startswith("gradnorm/"):
            ours = ours_of[name.removeprefix("gradnorm/")]
            compared[ours] = (parameters[ours].grad.norm().item(), value.item())
    assert compared.keys() == {name for name, p in parameters.items() if p.grad is not None}
    worst = max(abs(ours - wanted) / max(wanted, 1e-8) for ours, wanted in compared.values())
    print(f"gradient norms of {len(compared)} tensors: {worst:.1e}", end=" ")
    assert worst < 5e-3


def test_detections(run):
    run.model.eval()
    with torch.no_grad():
        detections = run.model(run.images)
    for i, found in enumerate(detections):
        scores, labels, boxes = (run.wanted[f"post{i}_{name}"] for name in ("scores", "labels", "boxes"))
        assert np.abs(found["scores"].numpy() - scores).max() < 1e-4
        # Near-ties may change places, so each wanted detection is looked for among ours of nearly its score.
        for score, label, box in zip(scores[:90], labels[:90], boxes[:90], strict=True):
            near = (found["scores"] - float(score)).abs() < 1e-4
            same = near & (found["labels"] == int(label))
            distance = (found["boxes"][same] - torch.from_numpy(box)).abs().amax(1)
            assert len(distance)
            assert distance.min() < 0.05


def test_matches(run):
    if run.reference != "official":
        pytest.skip("mmdetection's golden file holds no matches")
    from ddetr.models.inputs import check_targets

    sizes = [tuple(image.shape[1:]) for image in run.images]
    targets = check_targets(run.targets, sizes, 91, torch.device("cpu"))
    matches = run.model.criterion.matcher(run.output.pred_logits, run.output.pred_boxes, targets)
    for i, match in enumerate(matches):
        wanted = set(zip(run.wanted[f"match{i}_query"].tolist(), run.wanted[f"match{i}_target"].tolist(), strict=True))
        assert set(zip(match.query.tolist(), match.target.tolist(), strict=True)) == wanted


def our_loss_name(name: str, reference: str) -> str | None:
    kinds = {"loss_ce": "loss_class", "loss_cls": "loss_class", "loss_bbox": "loss_bbox"}
    kinds |= {"loss_giou": "loss_giou", "loss_iou": "loss_giou"}
    if not name.startswith("loss/"):
        return None
    name = name.removeprefix("loss/")
    if reference == "mmdet":
        layer, _, kind = name.rpartition(".")
        if name.startswith("enc_"):
            return kinds[name.removeprefix("enc_")] + "_enc"
        return kinds[kind] + (f"_{layer[1:]}" if layer else "")
    stem = next((kind for kind in kinds if name == kind or name.startswith(kind + "_")), None)
    return None if stem is None else kinds[stem] + name[len(stem) :]


def loss_weight(name: str, config) -> float:
    # The official golden losses are before weighting.
    kind = name.split("_")[1]
    return {"class": config.class_weight, "bbox": config.bbox_weight, "giou": config.giou_weight}[kind]
