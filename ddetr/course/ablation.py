"""What is a part of the network worth? Take it out, and count what the trained detector still finds on toy scenes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from ..data import ToyScene, prepare_image, toy_scene
from ..data.coco import coco_results
from ..data.toycoco import scenes_as_coco
from ..engine.errors import ErrorBreakdown, error_breakdown
from ..models import DeformableDETR
from ..models.outputs import DetrOutput


class ToySet(NamedTuple):
    """Toy scenes, and the same as the model takes them, (3, H, W) each."""

    scenes: list[ToyScene]
    images: list[Tensor]


def toy_set(model: DeformableDETR, seeds: Iterable[int]) -> ToySet:
    """A scene for each seed. The shipped weights were trained on the data set's own seeds, never on these."""
    scenes = [toy_scene(seed) for seed in seeds]
    return ToySet(scenes, [prepare_image(Image.fromarray(scene.image), model.config.test_size) for scene in scenes])


def judge(
    model: DeformableDETR, outputs: Sequence[DetrOutput], scenes: Sequence[ToyScene], threshold: float = 0.3
) -> ErrorBreakdown:
    """What became of every object and of every detection with a score above `threshold`.

    outputs: one for each scene, each of a batch of one image.

    Raises:
        ValueError: not as many outputs as scenes, one of several images, or a model that does not know its categories.
    """
    if model.categories is None:
        raise ValueError("the model does not say what its labels stand for: load trained weights")
    if len(outputs) != len(scenes) or any(len(output.pred_boxes) != 1 for output in outputs):
        raise ValueError(f"judge needs one output, of one image, for each of the {len(scenes)} scenes")
    results = []
    for number, (output, scene) in enumerate(zip(outputs, scenes, strict=True)):
        (found,) = model.postprocess(output, [scene.image.shape[:2]])
        results += coco_results(found, number, model.categories)
    return error_breakdown(scenes_as_coco(scenes, model.categories), results, range(len(scenes)), threshold)
