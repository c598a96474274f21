"""Reading and writing weights: ours, the official code's, mmdetection's and Hugging Face's."""

from .finding import SHIPPED, shipped_file
from .huggingface import save_hf
from .inferring import infer_config
from .loading import ENCODER, LoadReport, change_num_classes, copy_encoder, load_into, load_pretrained
from .reading import Checkpoint, CheckpointError, read_checkpoint
from .saving import save_mmdet, save_model, save_official, save_training_state

__all__ = [
    "ENCODER",
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
    "save_hf",
    "save_mmdet",
    "save_model",
    "save_official",
    "save_training_state",
    "shipped_file",
]
