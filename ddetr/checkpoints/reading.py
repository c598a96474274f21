"""Weights from files, without running what a file may carry."""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit the model."""


class Checkpoint(NamedTuple):
    """Weights as they lie in a file.

    Attributes:
        state: name -> tensor.
        metadata: what the file says of them: our `config`, the `categories` that labels mean, or only their `names`.
    """

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
    """Read `path`: .safetensors, a PyTorch file (.pth, .pt, .bin) of any of the code bases, or an index of shards.

    Pickled code is never executed: PyTorch's restricted reader builds tensors and plain containers, and objects of any
    other class (training arguments, log buffers) become inert placeholders. A file that would call into Python's
    standard library is refused. An index is the `.index.json` that transformers writes beside a model in several files.

    Raises:
        FileNotFoundError: no such file, or a shard of it is not there.
        CheckpointError: not a checkpoint, damaged, or without weights in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}" + (": that is a folder" if path.is_dir() else ""))
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".json":
        return Checkpoint({k: v for shard in shards(path) for k, v in read_checkpoint(shard).state.items()}, {})
    contents = read_torch(path)
    return Checkpoint(_find_state(contents, path), _find_metadata(contents))


def shards(index: Path) -> list[Path]:
    """The files of a model in several, from its `.index.json`. CheckpointError if that is no index."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of weights in several files") from error
    outside = [name for name in names if not isinstance(name, str) or Path(name).name != name or name.endswith(".json")]
    if outside or not names:
        raise CheckpointError(f"{index} must name weight files beside it; it names {outside[:1] or 'none'}")
    return [index.with_name(name) for name in names]


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    try:
        known = {key: json.loads(metadata[key]) for key in ("config", "categories") if key in metadata}
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: its metadata is not JSON: {error}") from error
    if not _are_categories(known.get("categories")):
        known.pop("categories", None)
    return Checkpoint(state, known)


def read_torch(path: Path) -> Any:
    """What torch.save wrote: tensors, numbers, texts and containers of them. CheckpointError if it cannot be read."""
    names = sorted({_today(name) for name in _named_objects(path)})
    calls = [name for name in names if _is_code(name)]
    if calls:
        raise CheckpointError(f"{path} would call {calls[0]} when it is read, which is refused: weights need no code")
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


def _named_objects(path: Path) -> set[str]:
    """Classes and functions that a file names, as `module.name`; of a newer file, those besides PyTorch's own."""
    try:
        if zipfile.is_zipfile(path):
            return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        names = set()
        with path.open("rb") as file:  # before PyTorch 1.6, and so the official weights: five pickles in a row
            for _ in range(5):
                operations = pickletools.genops(file)
                names |= {str(argument).replace(" ", ".") for code, argument, _ in operations if code.name == "GLOBAL"}
        return names
    except Exception:  # no checkpoint at all, or a damaged one: torch.load says which
        return set()


def _today(name: str) -> str:
    """Pickles keep to Python 2's names of modules."""
    module, _, attribute = name.partition(".")
    renamed = {"__builtin__": "builtins", "commands": "subprocess", "copy_reg": "copyreg"}
    return f"{renamed.get(module, module)}.{attribute}"


# Whatever a checkpoint of honest origin may hold of the standard library, training arguments above all.
_DATA_MODULES = {
    "_codecs", "argparse", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "functools", "logging",
    "numbers", "pathlib", "random", "types", "uuid",
}  # fmt: skip
_CODE_BUILTINS = {"__import__", "breakpoint", "compile", "delattr", "eval", "exec", "input", "open", "setattr"}


def _is_code(name: str) -> bool:
    """Whether this is a call of Python's own that no weights need. Nothing is safe because of it: nothing is run."""
    module, _, attribute = name.partition(".")
    if module == "builtins":
        return attribute in _CODE_BUILTINS
    return module in sys.stdlib_module_names and module not in _DATA_MODULES


def _find_state(contents: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(contents, dict):
        # mmengine swaps the two when it saves: `state_dict` holds the averaged weights, if there are any.
        for key in ("model", "state_dict", "ema_state_dict"):
            if isinstance(contents.get(key), dict):
                contents = contents[key]
                break
        state = {str(name): value for name, value in contents.items() if isinstance(value, Tensor)}
        if state:
            return strip_wrapper(state)
    raise CheckpointError(
        f"{path} holds no weights: no dict of tensors under 'model', 'state_dict' or 'ema_state_dict', nor by itself"
    )


def strip_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers add: `module.` and `_orig_mod.` before names, and the buffers of averaged weights."""
    names = {name: re.sub(r"^((module|_orig_mod)\.)+", "", name) for name in state}
    averaged = re.compile(r"steps|ema_\w+")  # mmengine's counter; mmcv's copies, whose names have no dots
    return {names[name]: tensor for name, tensor in state.items() if not averaged.fullmatch(name)}


def _find_metadata(contents: Any) -> dict[str, Any]:
    """Our config and categories, or the names that mmdetection keeps; nothing of what does not look like them."""
    if not isinstance(contents, dict):
        return {}
    metadata = {}
    if isinstance(contents.get("config"), dict) and "step" in contents:  # a training run's checkpoint.pt
        metadata["config"] = contents["config"]
    if _are_categories(contents.get("categories")):
        metadata["categories"] = contents["categories"]
    meta = contents.get("meta")
    if isinstance(meta, dict):
        meta = meta["dataset_meta"] if isinstance(meta.get("dataset_meta"), dict) else meta
        names = meta.get("classes", meta.get("CLASSES"))
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            metadata["names"] = list(names)
    return metadata


def _are_categories(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(c, dict) and {"id", "name"} <= c.keys() for c in value)
