"""Augmentation and resizing, on torchvision.transforms.v2: boxes follow the image by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .images import normalize_image, upright_rgb

Sample = tuple[Tensor, dict[str, Any]]
Transform = Callable[[Any, dict[str, Any]], Sample]
"""From a picture, PIL or tensor, and its target to what the model takes."""


@dataclass(frozen=True)
class Resolution:
    """Sizes in pixels of the shorter side; the longer is at most `max_size`, the aspect ratio is kept."""

    train_sizes: tuple[int, ...]
    test_size: int
    max_size: int

    @classmethod
    def around(cls, test_size: int) -> Resolution:
        """The paper's sizes for a `test_size` of 800 (480 to 800 in steps of 32, at most 1333); in proportion."""
        sizes = tuple(max(1, round(test_size * fraction / 25)) for fraction in range(15, 26))
        return cls(sizes, test_size, round(test_size * 5 / 3))


PAPER_RESOLUTION = Resolution.around(800)


class ResizeShortest(v2.RandomShortestSize):
    """torchvision's resize of the shorter side to one of `min_size`, for pictures as thin as one pixel too."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The new (h, w): at least one pixel each."""
        params = super().make_params(flat_inputs)
        return {**params, "size": tuple(max(1, side) for side in params["size"])}


class RandomSizeCrop(v2.Transform):
    """Cut out a window whose sides are drawn, each on its own, between `min_size` and `max_size` pixels (DETR, A.4)."""

    def __init__(self, min_size: int, max_size: int) -> None:
        super().__init__()
        self.min_size, self.max_size = min_size, max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Where to cut: top, left, height, width."""
        H, W = F.get_size(flat_inputs[0])
        h, w = (self._draw(side) for side in (H, W))
        return {"top": _randint(0, H - h), "left": _randint(0, W - w), "height": h, "width": w}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut an image or boxes; boxes are clipped to the window."""
        return self._call_kernel(F.crop, inpt, **params)

    def _draw(self, side: int) -> int:
        return _randint(min(self.min_size, side), min(self.max_size, side))


def train_transform(resolution: Resolution = PAPER_RESOLUTION) -> Transform:
    """The paper's augmentation: flip, then a resize, or a resize, a crop and another resize, each half of the time.

    resolution: the sizes that are drawn from.
    """
    resize = ResizeShortest(list(resolution.train_sizes), resolution.max_size)
    scale = resolution.test_size / 800
    before_crop = ResizeShortest([max(1, round(size * scale)) for size in (400, 500, 600)])
    crop = RandomSizeCrop(max(1, round(384 * scale)), max(1, round(600 * scale)))
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomChoice([resize, v2.Compose([before_crop, crop, resize])]),
            _Finish(),
        ]
    )


def light_transform(resolution: Resolution = PAPER_RESOLUTION) -> Transform:
    """A flip and the resize of the test: for data that is plentiful, and for runs too short to get bored of it.

    Of `resolution` only the test's size counts.
    """
    return v2.Compose([v2.RandomHorizontalFlip(), ResizeShortest(resolution.test_size, resolution.max_size), _Finish()])


def eval_transform(resolution: Resolution = PAPER_RESOLUTION) -> Transform:
    """One resize to `resolution.test_size` for the shorter side, nothing drawn."""
    return v2.Compose([ResizeShortest(resolution.test_size, resolution.max_size), _Finish()])


def prepare_image(picture: Image.Image, test_size: int) -> Tensor:
    """`picture` as the model takes it, (3, H, W), upright and resized as `eval_transform` resizes a data set's.

    test_size: the shorter side in pixels, such as `model.config.test_size`.
    """
    resolution = Resolution.around(test_size)
    resized = ResizeShortest(resolution.test_size, resolution.max_size)(F.pil_to_tensor(upright_rgb(picture)))
    return normalize_image(resized)


class _Finish(torch.nn.Module):
    """Normalise the image, and drop the boxes that a crop left without area, with their labels."""

    def forward(self, image: Tensor, target: dict[str, Any]) -> Sample:
        boxes = target["boxes"].as_subclass(Tensor)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
        target = {**target, "boxes": boxes[keep], "labels": target["labels"][keep]}
        return normalize_image(image.as_subclass(Tensor)), target


def _randint(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))


def as_boxes(boxes: Tensor, size: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    """Boxes (N, 4) xyxy pixels of an image of `size` (h, w), in the form that transforms recognise."""
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)


AUGMENTATIONS = {"paper": train_transform, "light": light_transform, "none": eval_transform}
"""By name, for the command line and for `Recipe`."""
