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
from .naming import NAMINGS, their_state


def save_model(model: DeformableDETR, path: str | Path, *, half: bool = False) -> None:
    """Write weights, config and categories of `model` to `path`, a .safetensors file that `load_pretrained` reads.

    `half` stores float16, half the size, for weights that are only used; they are float32 again when loaded.

    Raises:
        OSError: the file cannot be written; an older one of that name is left as it was.
    """
    state = their_state(model, "ddetr")
    if half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    metadata = {"format": "pt", "config": json.dumps(model.config.to_dict())}
    if model.categories is not None:
        metadata["categories"] = json.dumps(model.categories)
    with replacing(path) as temporary:
        # Not save_file, which writes a temporary file of its own, and has errors of its own.
        temporary.write_bytes(safetensors.torch.save(state, metadata))


def save_official(model: DeformableDETR, path: str | Path) -> None:
    """Write `model` to `path`, a .pth file that the official code loads (`--resume`); it passes over `categories`.

    Raises:
        ValueError: the official model has no counterpart of `backbone_norm="group"` or `proposal_nms`.
        OSError: the file cannot be written; an older one of that name is left as it was.
    """
    check_writable(model, "official")
    contents: dict[str, Any] = {"model": their_state(model, "official")}
    if model.categories is not None:
        contents["categories"] = model.categories
    save_training_state(contents, path)


def save_mmdet(model: DeformableDETR, path: str | Path) -> None:
    """Write `model` to `path`, a .pth file that mmdetection loads, the categories' names as its `dataset_meta`.

    A model with `neck_bias` needs `neck=dict(bias=True)` in mmdetection's config. Raises as `save_official`, and a
    ValueError for `dilation`, which is another one there.
    """
    check_writable(model, "mmdet")
    contents: dict[str, Any] = {"state_dict": their_state(model, "mmdet"), "meta": {}}
    if model.categories is not None:
        contents["meta"]["dataset_meta"] = {"classes": tuple(category_names(model) or ())}
        contents["categories"] = model.categories
    save_training_state(contents, path)


def check_writable(model: DeformableDETR, naming: str) -> None:
    """ValueError for what the other code base's model lacks, and which would change its predictions."""
    config, whose = model.config, NAMINGS[naming].title
    if config.backbone_norm == "group":
        raise ValueError(f"{whose} backbone has batch norm only; this model's has backbone_norm='group'")
    if config.dilation and naming == "mmdet":
        raise ValueError(
            f"{whose} dilated backbone also dilates the last stage's first block: dilation=True is lost there"
        )
    if config.proposal_nms:
        raise ValueError(
            f"{whose} model ranks proposals without proposal_nms, which is {config.proposal_nms} here and would be "
            "lost; load the model with proposal_nms=0.0 if it may be"
        )


def category_names(model: DeformableDETR) -> list[str] | None:
    """What each label is called, or None if nobody has said."""
    return None if model.categories is None else [str(category["name"]) for category in model.categories]


def save_training_state(state: dict[str, Any], path: str | Path) -> None:
    """Write `state`, tensors, numbers, strings and containers of them, to `path` with torch.save, atomically.

    OSError as of `save_model`.
    """
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # PyTorch's writer hides why
            raise OSError(errno.ENOSPC, "PyTorch's writer failed; the disk may be full") from error
