"""Weights trained on COCO, for readers who have them or a network: `DDETR_WEIGHTS` says where."""

from __future__ import annotations

import os
from pathlib import Path

from ..checkpoints import CheckpointError, load_pretrained
from ..models import DeformableDETR

VARIABLE = "DDETR_WEIGHTS"


def real_weights() -> tuple[DeformableDETR | None, str]:
    """The model that `DDETR_WEIGHTS` names, if it does, and one sentence on what was found.

    A file of the official code, of mmdetection, Hugging Face or ours; a folder; or a model's name on the Hugging Face
    hub, which is downloaded there. Without it, or if it cannot be had, None, and the sentence says why.
    """
    source = os.environ.get(VARIABLE, "").strip()
    if not source:
        return None, (
            f"{VARIABLE} is not set. With it, this cell prints the five surest detections of a network trained on "
            f"COCO, on the portrait: set it to a checkpoint's path or a hub name, and start Jupyter again."
        )
    try:
        return load_pretrained(source), f"{VARIABLE}: {Path(source).name}"
    except (OSError, CheckpointError) as error:
        reason = " ".join(str(error).split())[:160]
        return None, f"{VARIABLE} cannot be used ({type(error).__name__}: {reason})"
