"""Where a number that is not finite came from."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..models import DeformableDETR
from ..models.finite import not_finite, some_names


def explain_not_finite(model: DeformableDETR, images: list[Tensor]) -> str:
    """Run the images once more and say which tensor was the first, in the order of the forward pass, to break."""
    weights = not_finite(model.state_dict())
    if weights:
        first = f"The weights {some_names(weights)} hold NaN or infinity"
    else:
        first = "All weights are finite; try a lower learning rate"
    for entry in model.trace(images):
        if entry.tensor.is_floating_point() and not entry.tensor.isfinite().all():
            return f"{first}. The first tensor that is not finite is {entry.stage}.{entry.name} {entry.shape}"
    return f"{first}. Every tensor of the forward pass is finite: the loss itself overflows"


def image_ids(targets: list[dict[str, Any]]) -> str:
    """The images' ids, for a sentence."""
    return ", ".join(str(target.get("image_id", "?")) for target in targets)


def not_finite_images(images: list[Tensor], targets: list[dict[str, Any]]) -> str:
    """' (image id ...)' for the images with NaN or infinite pixels, nothing if there are none."""
    bad = [target for image, target in zip(images, targets, strict=True) if not image.isfinite().all()]
    return f" (image id {image_ids(bad)})" if bad else ""


def bad_gradients(model: DeformableDETR) -> str:
    """A clause that names the parameters whose gradient is not finite, from the one nearest to the loss on."""
    bad = [
        name
        for name, parameter in reversed(list(model.named_parameters()))
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    return f"that of {some_names(bad)} is NaN or infinite" if bad else "each parameter's is finite, their sum overflows"
