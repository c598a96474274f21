"""The clinic: broken detectors, healthy ones beside them, and what a doctor needs to tell the two apart.

`patient(3)` hides what is wrong with it, `with_fault(name)` does not. All have trained weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from ..checkpoints import load_pretrained
from ..config import did_you_mean
from ..data import ToyScene, prepare_image, toy_scene
from ..data.coco import coco_results
from ..data.toycoco import scenes_as_coco
from ..engine import Evaluation, detect, score
from ..models import DeformableDETR
from ..models.trace import Trace
from .faults import FAULTS

SCENE_SEEDS = (105, 7, 3, 11, 23, 42, 64, 77, 88, 101)
"""Ten scenes of several sizes."""
SIZE = 160
"""Their shorter side, in pixels, as the detectors take them."""


class Patient(NamedTuple):
    """Which weights, and what is wrong with the code around them."""

    fault: str
    weights: str = "tiny_two_stage"


PATIENTS = (
    Patient("boxes read as corners"),
    Patient("labels off by one"),
    Patient("no inverse sigmoid"),
    Patient("mask inverted", "tiny"),
    Patient("padding not masked"),
    Patient("valid_ratios forgotten"),
    Patient("red and blue swapped"),
    Patient("no level embedding"),
    Patient("align_corners=True"),
    Patient("offsets divided by (h, w)"),
)


class Look(NamedTuple):
    """What a detector finds on some scenes: detections in pixels of the scenes' pictures, as the model gives them."""

    scenes: list[ToyScene]
    detections: list[dict[str, Tensor]]
    categories: list[dict[str, Any]]


class Change(NamedTuple):
    """A tensor of two traces that is not the same in both: its name, and by how much it differs at most."""

    name: str
    largest: float


def patient(number: int) -> DeformableDETR:
    """Patient 1, 2, ... ValueError for a number that nobody has."""
    if number not in range(1, len(PATIENTS) + 1):
        raise ValueError(f"patients are 1 to {len(PATIENTS)}; got {number!r}")
    return with_fault(*PATIENTS[number - 1])


def healthy(weights: str = "tiny_two_stage") -> DeformableDETR:
    """The same weights in code that is right."""
    return load_pretrained(weights)


def with_fault(name: str, weights: str = "tiny_two_stage") -> DeformableDETR:
    """A trained detector, broken in one way of `FAULTS`. ValueError, with the nearest name, for any other."""
    if name not in FAULTS:
        raise ValueError(f"no suspect {name!r}{did_you_mean(str(name), list(FAULTS))}")
    model = load_pretrained(weights)
    FAULTS[name].infect(model)
    return model


def suspects() -> str:
    """Every fault with its meaning, a line each."""
    width = max(map(len, FAULTS))
    return "\n".join(f"{name.ljust(width)}  {fault.meaning}" for name, fault in FAULTS.items())


def look(model: DeformableDETR, count: int = 10) -> Look:
    """Show the first `count` of the ten scenes to `model`, one by one."""
    scenes = list(_ward()[:count])
    found = [_detect(model, scene) for scene in scenes]
    return Look(scenes, found, model.categories)


def in_company(model: DeformableDETR, count: int = 10) -> Look:
    """The same, each scene in a batch with a blank that is larger in both directions, so that it gets padding."""
    scenes = list(_ward()[:count])
    found = [_detect(model, scene, blank=torch.zeros(3, 288, 288)) for scene in scenes]
    return Look(scenes, found, model.categories)


def truth(model: DeformableDETR, count: int = 10) -> Look:
    """What is really there, as if it had been detected, with a score of 1. Crowds are left out."""
    scenes = list(_ward()[:count])
    return Look(scenes, [_as_detections(scene, model.categories) for scene in scenes], model.categories)


def variation(model: DeformableDETR, names: Sequence[str]) -> dict[str, float]:
    """How much two scenes differ in each tensor of the trace: the difference's root mean square over that of one.

    Both scenes are stretched to one size, so that the tensors have the same shape. 0 for a tensor that does not depend
    on the image. KeyError for a name that the trace does not have.
    """
    images = [F.interpolate(image[None], size=(SIZE, SIZE), mode="bilinear")[0] for image in pair()]
    one, other = (model.trace([image]) for image in images)
    return {name: float((one[name] - other[name]).norm() / one[name].norm().clamp(min=1e-9)) for name in names}


def judge(seen: Look) -> Evaluation:
    """COCO's verdict on what was seen."""
    results = []
    for number, found in enumerate(seen.detections):
        results += coco_results(found, number, seen.categories)
    return score(scenes_as_coco(seen.scenes, seen.categories), results, range(len(seen.scenes)))


def first_difference(ours: Trace, theirs: Trace, tolerance: float = 1e-3) -> Change | None:
    """The first tensor, in the order of the forward pass, that differs by more than rounding; None if none does.

    ValueError for traces of different models or images: other names, or other shapes.
    """
    if [(e.stage, e.name, e.shape) for e in ours] != [(e.stage, e.name, e.shape) for e in theirs]:
        raise ValueError("these traces do not have the same tensors: trace the same kind of model on the same images")
    for a, b in zip(ours, theirs, strict=True):
        difference = (a.tensor.double() - b.tensor.double()).abs().nan_to_num(nan=0.0)  # infinite in both
        if difference.numel() and difference.max() > tolerance * (1 + _size(b.tensor)):
            return Change(f"{a.stage}.{a.name}", float(difference.max()))
    return None


@lru_cache(maxsize=64)
def symptom(fault: str, weights: str, company: bool) -> str:
    """The name of the first tensor in which a detector with this fault differs from a healthy one, or "none".

    On one scene alone, or with `company` on two of different sizes in one batch.
    """
    images = pair()[: 2 if company else 1]
    change = first_difference(with_fault(fault, weights).trace(images), _healthy_trace(weights, company))
    return change.name if change else "none"


@lru_cache(maxsize=4)
def _healthy_trace(weights: str, company: bool) -> Trace:
    return healthy(weights).trace(pair()[: 2 if company else 1])


def pair(test_size: int = SIZE) -> list[Tensor]:
    """The first two scenes as the tiny models take them: one lying, one standing."""
    return [prepare_image(Image.fromarray(scene.image), test_size) for scene in _ward()[:2]]


def square(test_size: int = SIZE) -> list[Tensor]:
    """A square piece of the first scene, as the tiny models take it."""
    picture = Image.fromarray(_ward()[0].image)
    return [prepare_image(picture.crop((0, 0, picture.height, picture.height)), test_size)]


@lru_cache(maxsize=1)
def _ward() -> tuple[ToyScene, ...]:
    return tuple(toy_scene(seed) for seed in SCENE_SEEDS)


def _detect(model: DeformableDETR, scene: ToyScene, blank: Tensor | None = None) -> dict[str, Tensor]:
    images, sizes = [prepare_image(Image.fromarray(scene.image), SIZE)], [scene.image.shape[:2]]
    if blank is not None:
        images, sizes = [*images, blank], [*sizes, blank.shape[1:]]
    with torch.inference_mode():
        return detect(model, images, sizes, ["the scene", "the blank"][: len(images)])[0]


def _as_detections(scene: ToyScene, categories: list[dict[str, Any]]) -> dict[str, Tensor]:
    label_of = {category["id"]: label for label, category in enumerate(categories)}
    objects = [annotation for annotation in scene.annotations if not annotation["iscrowd"]]
    boxes = torch.tensor([annotation["bbox"] for annotation in objects], dtype=torch.float32).view(-1, 4)
    return {
        "boxes": box_convert(boxes, "xywh", "xyxy"),
        "scores": torch.ones(len(objects)),
        "labels": torch.tensor([label_of[annotation["category_id"]] for annotation in objects], dtype=torch.int64),
    }


def _size(tensor: Tensor) -> float:
    finite = tensor.double().abs()
    finite = finite[finite.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0
