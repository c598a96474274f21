"""Writing weights, so that a file is either the old one or the new one, never half of either."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..files import replacing
from ..models import DeformableDETR


def save_model(model: DeformableDETR, path: str | Path, *, half: bool = False) -> None:
    """Write weights, config and categories of `model` to `path`, a .safetensors file that `load_pretrained` reads.

    `half` stores float16, half the size, for weights that are only used; they are float32 again when loaded.

    Raises:
        OSError: the file cannot be written; an older one of that name is left as it was.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    metadata = {"format": "pt", "config": json.dumps(model.config.to_dict())}
    if model.categories is not None:
        metadata["categories"] = json.dumps(model.categories)
    with replacing(path) as temporary:
        # Not save_file, which writes a temporary file of its own, and has errors of its own.
        temporary.write_bytes(safetensors.torch.save(state, metadata))


def save_training_state(state: dict[str, Any], path: str | Path) -> None:
    """Write `state`, tensors, numbers, strings and containers of them, to `path` with torch.save, atomically.

    OSError as of `save_model`.
    """
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # PyTorch's writer hides why
            raise OSError(errno.ENOSPC, "PyTorch's writer failed; the disk may be full") from error
