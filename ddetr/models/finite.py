"""NaN and infinity, in weights and in predictions: said as soon as they can be seen, not passed on as an answer."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the floating-point tensors that hold NaN or infinity."""
    return [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]


def some_names(names: Sequence[str]) -> str:
    """For a sentence: the first three, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_weights(model: nn.Module) -> None:
    """FloatingPointError if a weight is NaN or infinite.

    Predictions do not always show it: where a sampling offset is NaN the operator reads nothing, and of scores that are
    all NaN some are still the best.
    """
    bad = not_finite(model.state_dict())
    if bad:
        raise FloatingPointError(f"the model's weights {some_names(bad)} hold NaN or infinity: load them afresh")


def check_predictions(logits: Tensor, boxes: Tensor, names: Sequence[str]) -> None:
    """FloatingPointError if logits (B, Q, K) or boxes (B, Q, 4) are not finite; says on which of the images `names`.

    COCOeval would take a box of NaN for a perfect one: no overlap with it is below any threshold.
    """
    finite = logits.isfinite().flatten(1).all(1) & boxes.isfinite().flatten(1).all(1)
    bad = [name for name, fine in zip(names, finite.tolist(), strict=True) if not fine]
    if bad:
        half = "; float16 ends at 65504, bfloat16 does not" if logits.dtype == torch.float16 else ""
        raise FloatingPointError(f"the model predicts NaN or infinity on {bad[0]}: are its weights finite?{half}")
