"""Pictures and annotations."""

from .coco import CocoDetection, coco_layout, collate
from .coco_download import COCO_SERVER, download_subset
from .coco_subset import Subset, carve_subset
from .images import DataError, denormalize_image, normalize_image, read_image
from .transforms import (
    PAPER_RESOLUTION,
    Resolution,
    eval_transform,
    prepare_image,
    train_transform,
)

__all__ = [
    "COCO_SERVER",
    "PAPER_RESOLUTION",
    "CocoDetection",
    "DataError",
    "Resolution",
    "Subset",
    "carve_subset",
    "coco_layout",
    "collate",
    "denormalize_image",
    "download_subset",
    "eval_transform",
    "normalize_image",
    "prepare_image",
    "read_image",
    "train_transform",
]
