"""What the model accepts, checked on the host before any of it is used."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..losses.boxes import xyxy_to_cxcywh
from ..losses.matcher import Target


def check_images(images: Sequence[Tensor], like: Tensor) -> list[Tensor]:
    """The images, moved to the device and dtype of `like`, a parameter of the model.

    Raises:
        ValueError: not a list of (3, H, W) floating-point tensors, no image, an empty one, NaN or infinity in one.
    """
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise ValueError(
                f"images must be a list of (3, H, W) tensors, or one tensor (B, 3, H, W); got {tuple(images.shape)}"
                + (": for one image, give [image]" if images.ndim == 3 else "")
            )
        images = list(images)
    if not isinstance(images, Sequence):
        raise ValueError(f"images must be a list of (3, H, W) tensors; got {type(images).__name__}")
    if not images:
        raise ValueError("images is empty: give at least one (3, H, W) tensor")
    for i, image in enumerate(images):
        _check_image(f"images[{i}]", image)
    images = [image.to(like) for image in images]
    if not torch.compiler.is_compiling():
        _check_pixels(images)
    return images


def _check_image(name: str, image: Tensor) -> None:
    if not isinstance(image, Tensor):
        raise ValueError(f"{name} must be a tensor (3, H, W); got {type(image).__name__}")
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"{name} must be (3, H, W), channels first; got {tuple(image.shape)}")
    if image.shape[1] < 1 or image.shape[2] < 1:
        raise ValueError(f"{name} has no pixels; got {tuple(image.shape)}")
    if not image.is_floating_point():
        raise ValueError(
            f"{name} must hold floating-point numbers, normalised as ImageNet's; got {image.dtype}. "
            "ddetr.data.normalize_image does that for an 8-bit image"
        )


def _check_pixels(images: list[Tensor]) -> None:
    # Lowest and highest of every image in one copy to the host; NaN and infinity show in either.
    ranges = torch.stack([torch.stack(image.detach().aminmax()) for image in images]).float().cpu()
    for i, (low, high) in enumerate(ranges.tolist()):
        if not (low > float("-inf") and high < float("inf")):
            raise ValueError(f"images[{i}] holds NaN or infinite pixels")
    if ranges.abs().max() > 50:
        warnings.warn(
            f"image values from {ranges.min():.3g} to {ranges.max():.3g} are far from ImageNet-normalised ones (about "
            "-2.2 to 2.7): pass the image through ddetr.data.normalize_image",
            stacklevel=3,
        )


def check_targets(
    targets: Sequence[dict[str, Tensor]] | None,
    sizes: Sequence[tuple[int, int]],
    num_classes: int,
    device: torch.device,
) -> list[Target]:
    """Targets in torchvision's convention, {boxes (N, 4) xyxy pixels, labels (N,)} -> what the losses take.

    sizes: each image's (h, w) in pixels.

    Raises:
        ValueError: a target missing or malformed, a box with NaN, without area, outside its image or not in pixels,
            a label outside 0..num_classes - 1. Names the image.
    """
    if targets is None:
        raise ValueError("in training mode the model needs targets: model(images, targets), or model.eval() to predict")
    if not isinstance(targets, Sequence) or len(targets) != len(sizes):
        given = len(targets) if isinstance(targets, Sequence) else type(targets).__name__
        raise ValueError(f"targets must be a list with one dict for each of the {len(sizes)} images; got {given}")
    return [
        _check_target(f"targets[{i}]", target, size, num_classes, device)
        for i, (target, size) in enumerate(zip(targets, sizes, strict=True))
    ]


def _check_target(
    name: str, target: dict[str, Tensor], size: tuple[int, int], num_classes: int, device: torch.device
) -> Target:
    if not isinstance(target, dict) or not {"boxes", "labels"} <= target.keys():
        given = sorted(target) if isinstance(target, dict) else type(target).__name__
        raise ValueError(f"{name} must be a dict with 'boxes' (N, 4) and 'labels' (N,); got {given}")
    boxes, labels = (_as_tensor(f"{name}['{key}']", target[key]) for key in ("boxes", "labels"))
    if boxes.numel() == 0 and labels.numel() == 0:
        boxes, labels = boxes.reshape(0, 4), labels.reshape(0)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: boxes must be (N, 4) as (x1, y1, x2, y2) in pixels; got {tuple(boxes.shape)}")
    _check_labels(name, labels, len(boxes), num_classes)
    _check_boxes(name, boxes.float().cpu(), size)
    h, w = size
    scale = torch.tensor([w, h, w, h], dtype=torch.float32, device=device)
    normalised = xyxy_to_cxcywh(boxes.to(device=device, dtype=torch.float32)) / scale
    return Target(labels.to(device=device, dtype=torch.int64), normalised)


def _as_tensor(name: str, values: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{name} must be a tensor or a list of numbers; got {values!r:.60}") from error
    if tensor.is_complex():
        raise ValueError(f"{name} must hold real numbers; got {tensor.dtype}")
    return tensor


def _check_labels(name: str, labels: Tensor, count: int, num_classes: int) -> None:
    if labels.ndim != 1 or len(labels) != count:
        raise ValueError(
            f"{name}: labels must be (N,) with one label a box; got {tuple(labels.shape)} for {count} boxes"
        )
    if not count:
        return
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"{name}: labels must be integers; got {labels.dtype}")
    labels = labels.to(torch.int64)  # a small integer type could not be compared with num_classes
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ValueError(
            f"{name}: label {wrong[0].item()} is outside 0..{num_classes - 1} (num_classes={num_classes}); "
            "labels count from 0, with no background class, and COCO's category ids must be mapped first"
        )


def _check_boxes(name: str, boxes: Tensor, size: tuple[int, int]) -> None:
    if not len(boxes):
        return
    if not boxes.isfinite().all():
        raise ValueError(f"{name}: boxes hold NaN or infinity")
    h, w = size
    empty = boxes[(boxes[:, 2:] <= boxes[:, :2]).any(1)]
    if len(empty):
        raise ValueError(
            f"{name}: box {_numbers(empty[0])} has no area: boxes are (x1, y1, x2, y2) with x2 > x1 and y2 > y1, "
            "not (x, y, w, h) or (cx, cy, w, h)"
        )
    # A sliver that a crop left in the corner is as small, but it starts at 0.
    if boxes.max() <= 1 and (boxes[:, :2] > 0).all(1).any():
        raise ValueError(
            f"{name}: box {_numbers(boxes[0])} looks normalised; boxes must be in pixels of the image ({w} x {h})"
        )
    outside = boxes[(boxes[:, 0] >= w) | (boxes[:, 1] >= h) | (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)]
    if len(outside):
        raise ValueError(
            f"{name}: box {_numbers(outside[0])} lies outside the image ({w} x {h} pixels, width x height); "
            "were the boxes resized with the image?"
        )


def _numbers(box: Tensor) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in box.tolist()) + ")"
