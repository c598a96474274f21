"""Weights from files, without running what a file may carry."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit the model."""


class Checkpoint(NamedTuple):
    """Weights as they lie in a file: state (name -> tensor), and `metadata` (this package's config and categories)."""

    state: dict[str, Tensor]
    metadata: dict[str, Any]


class _Inert:
    """Stands in for every class that a checkpoint names and weights do not need: it takes anything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _inert_class(name: str) -> type:
    module, _, qualified = name.rpartition(".")
    return type(qualified, (_Inert,), {"__module__": module})


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read `path`: .safetensors, or a PyTorch file (.pth, .pt) as the official code and mmdetection write them.

    Pickled code is never executed: PyTorch's restricted reader builds tensors and plain containers, and objects of any
    other class (training arguments, log buffers) become inert placeholders.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a checkpoint, damaged, or without weights in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}" + (": that is a folder" if path.is_dir() else ""))
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    contents = read_torch(path)
    own = isinstance(contents, dict) and isinstance(contents.get("config"), dict) and "step" in contents
    metadata = {key: contents[key] for key in ("config", "categories") if contents.get(key)} if own else {}
    return Checkpoint(_find_state(contents, path), metadata)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    try:
        return Checkpoint(
            state, {key: json.loads(metadata[key]) for key in ("config", "categories") if key in metadata}
        )
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: its metadata is not JSON: {error}") from error


def read_torch(path: Path) -> Any:
    """What torch.save wrote: tensors, numbers, texts and containers of them. CheckpointError if it cannot be read."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an older, unzipped file, or none at all: torch.load below says which
        names = []
    try:
        with torch.serialization.safe_globals([_inert_class(name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message goes on to recommend unsafe loading, so it is not passed on.
        raise CheckpointError(
            f"{path} is not a PyTorch checkpoint, or needs code of its own to be run, which is refused"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged: {error}") from error


def _find_state(contents: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(contents, dict):
        for key in ("model", "state_dict"):
            if isinstance(contents.get(key), dict):
                contents = contents[key]
                break
        state = {str(name): value for name, value in contents.items() if isinstance(value, Tensor)}
        if state:
            return strip_wrapper(state)
    raise CheckpointError(f"{path} holds no weights: no dict of tensors under 'model' or 'state_dict', nor by itself")


def strip_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the `module.` that DistributedDataParallel puts before every name."""
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state
