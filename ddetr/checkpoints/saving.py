"""Writing weights, so that a file is either the old one or the new one, never half of either."""

from __future__ import annotations

import errno
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
        # Not save_file, which writes a temporary file of its own, and has errors of its own.
        temporary.write_bytes(safetensors.torch.save(state, metadata))


def save_training_state(state: dict[str, Any], path: str | Path) -> None:
    """Write tensors, numbers, strings and containers of them with torch.save, atomically. OSError as above."""
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # PyTorch's writer hides why
            raise OSError(errno.ENOSPC, "PyTorch's writer failed; the disk may be full") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; when the block ends without an error it takes `path`'s place, at once.

    OSError if it cannot be written; what lies at `path` is then left as it was.
    """
    path = Path(path)
    with disk_errors(path):
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


_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A full disk or a missing permission as one sentence that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        kept = "; what was there is left as it was" if path.exists() else ""
        raise type(error)(f"{path} could not be written: {error.strerror}{kept}") from error
