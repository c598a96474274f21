"""Pictures and annotations."""

from .coco import CocoDetection, coco_layout, collate
from .coco_download import COCO_SERVER, download_subset
from .coco_subset import Subset, carve_subset
from .images import DataError, denormalize_image, normalize_image, read_image
from .toycoco import HELD_OUT_CATEGORIES, TOY_CATEGORIES, ToyScene, make_toycoco, toy_scene
from .transforms import (
    AUGMENTATIONS,
    PAPER_RESOLUTION,
    Resolution,
    eval_transform,
    light_transform,
    prepare_image,
    train_transform,
)

__all__ = [
    "AUGMENTATIONS",
    "COCO_SERVER",
    "HELD_OUT_CATEGORIES",
    "PAPER_RESOLUTION",
    "TOY_CATEGORIES",
    "CocoDetection",
    "DataError",
    "Resolution",
    "Subset",
    "ToyScene",
    "carve_subset",
    "coco_layout",
    "collate",
    "denormalize_image",
    "download_subset",
    "eval_transform",
    "light_transform",
    "make_toycoco",
    "normalize_image",
    "prepare_image",
    "read_image",
    "toy_scene",
    "train_transform",
]
