"""Boxes: formats and overlap."""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """boxes (..., 4) centre and size -> (..., 4) top left and bottom right corner."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """boxes (..., 4) corners -> (..., 4) centre and size."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of boxes a (..., 4), b (..., 4) in corners, which broadcast -> (...) in (-1, 1] (GIoU, algorithm 1).

    Pairs: `generalized_iou(a[:, None], b[None])` gives (N, M). A box without area has an IoU of 0, not NaN.
    """
    inter = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - inter
    tiny = torch.finfo(a.dtype).tiny
    return inter / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    return (bottom_right - top_left).clamp(min=0).prod(-1)
