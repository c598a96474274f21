"""Pictures and annotations."""

from .coco import CocoDetection, coco_layout, collate
from .images import DataError, denormalize_image, normalize_image, read_image
from .transforms import (
    PAPER_RESOLUTION,
    Resolution,
    eval_transform,
    prepare_image,
    train_transform,
)

__all__ = [
    "PAPER_RESOLUTION",
    "CocoDetection",
    "DataError",
    "Resolution",
    "coco_layout",
    "collate",
    "denormalize_image",
    "eval_transform",
    "normalize_image",
    "prepare_image",
    "read_image",
    "train_transform",
]
