"""Pictures and annotations."""

from .coco import CocoDetection, coco_layout, collate
from .images import DataError, denormalize_image, normalize_image, read_image
from .transforms import (
    PAPER_RESOLUTION,
    TINY_RESOLUTION,
    Resolution,
    default_resolution,
    eval_transform,
    train_transform,
)

__all__ = [
    "PAPER_RESOLUTION",
    "TINY_RESOLUTION",
    "CocoDetection",
    "DataError",
    "Resolution",
    "coco_layout",
    "collate",
    "default_resolution",
    "denormalize_image",
    "normalize_image",
    "read_image",
    "eval_transform",
    "train_transform",
]
