"""Reading and writing weights: ours, the official code's, mmdetection's and Hugging Face's."""

from .loading import (
    SHIPPED,
    LoadReport,
    change_num_classes,
    copy_encoder,
    infer_config,
    load_into,
    load_pretrained,
    shipped_file,
)
from .reading import Checkpoint, CheckpointError, read_checkpoint
from .saving import save_model, save_training_state

__all__ = [
    "SHIPPED",
    "Checkpoint",
    "CheckpointError",
    "LoadReport",
    "change_num_classes",
    "copy_encoder",
    "infer_config",
    "load_into",
    "load_pretrained",
    "read_checkpoint",
    "save_model",
    "save_training_state",
    "shipped_file",
]
