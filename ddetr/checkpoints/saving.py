"""Writing weights, so that a file is either the old one or the new one, never half of either."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..models import DeformableDETR


def save_model(model: DeformableDETR, path: str | Path) -> None:
    """Write weights, config and categories as one .safetensors file, which `load_pretrained` reads.

    Raises:
        OSError: the file cannot be written; an older one of that name is left as it was.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"format": "pt", "config": json.dumps(model.config.to_dict())}
    if model.categories is not None:
        metadata["categories"] = json.dumps(model.categories)
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(state, temporary, metadata)
        except safetensors.SafetensorError as error:
            raise _not_written(path, error) from error


def save_training_state(state: dict[str, Any], path: str | Path) -> None:
    """Write tensors, numbers, strings and containers of them with torch.save, atomically. OSError as above."""
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # PyTorch's writer does not say OSError
            raise _not_written(path, error) from error


def _not_written(path: str | Path, error: Exception) -> OSError:
    reason = str(error).strip().splitlines()[0]
    return OSError(f"{path} could not be written ({reason}): is the disk full? An older file there is left as it was")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; when the block ends without an error it takes `path`'s place, at once."""
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are private; a result is not
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
