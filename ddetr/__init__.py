"""Deformable DETR, from pixels to boxes: every stage as a module of its own, equal to the reference implementations."""

from .checkpoints import load_pretrained
from .config import PRESETS, DeformableDETRConfig
from .models import DeformableDETR, DetrOutput, build_model

__version__ = "0.1.0"
__all__ = ["PRESETS", "DeformableDETR", "DeformableDETRConfig", "DetrOutput", "build_model", "load_pretrained"]
