"""Models on the Hugging Face hub, by their names (organisation/model), through huggingface_hub and its cache."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .huggingface import read_config
from .reading import CheckpointError, shards

logger = logging.getLogger(__name__)


def is_hub_name(text: str) -> bool:
    """Whether this could be a name on the hub and is no weight file's."""
    weights = (".pth", ".pt", ".bin", ".safetensors", ".json")
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text, re.ASCII)) and not text.endswith(weights)


def download(name: str, weight_files: Sequence[str]) -> Path:
    """A model's weights, in huggingface_hub's cache, with their configuration beside them.

    Only what is not in the cache is fetched; without a network the cache alone serves. `weight_files` are tried in
    turn. The configuration comes first, so that another kind of model is refused before its weights are fetched.

    Raises:
        FileNotFoundError: there is no such model, or it has no weights.
        OSError: no network, no access, or a transfer that broke off.
        CheckpointError: another kind of model, or huggingface_hub is not installed.
    """
    logger.info("asking the Hugging Face hub for %s", name)
    config = _fetch(name, "config.json")
    if config is None:
        raise FileNotFoundError(f"{name} on the Hugging Face hub is no model of transformers: it has no config.json")
    read_config(config)
    commit = config.parent.name  # all files of one state of the repository
    _fetch(name, "preprocessor_config.json", commit)
    for file in weight_files:
        weights = _fetch(name, file, commit)
        if weights is None:
            continue
        if weights.suffix == ".json":
            for shard in shards(weights):
                if _fetch(name, shard.name, commit) is None:
                    raise FileNotFoundError(f"{name} on the Hugging Face hub lacks {shard.name}, a part of its weights")
        return weights
    raise FileNotFoundError(
        f"{name} on the Hugging Face hub has no weights that can be had: {', '.join(weight_files)} are not in its "
        "repository, or not in the cache while the hub cannot be reached"
    )


def _fetch(name: str, file: str, commit: str | None = None) -> Path | None:
    """One file of a repository, or None if it is not in it; with a `commit`, also None if that cannot be asked."""
    try:
        from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache
    except ImportError as error:
        raise CheckpointError(
            f"there is no file or folder {name}; if it is a model of the Hugging Face hub, that needs "
            'huggingface_hub: pip install "ddetr[hf]"'
        ) from error
    try:
        cached = try_to_load_from_cache(name, file, revision=commit) if commit else None
        if cached is not None:  # a path, or a mark that this commit has no such file: no need to ask
            return Path(cached) if isinstance(cached, str) else None
        with _without_remarks():
            return Path(hf_hub_download(name, file, revision=commit))
    except Exception as error:  # whatever the network's libraries raise, of several versions
        no_network = isinstance(error, errors.LocalEntryNotFoundError) and _status(error) is None
        if isinstance(error, errors.EntryNotFoundError) and (commit if no_network else _status(error) in (None, 404)):
            return None
        raise _explained(error, name, file, no_network) from error


@contextmanager
def _without_remarks() -> Iterator[None]:
    """huggingface_hub tells of every try, in two places; what came of them is one sentence here."""
    theirs = logging.getLogger("huggingface_hub")
    level = theirs.level
    theirs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        theirs.setLevel(level)


def _status(error: BaseException) -> int | None:
    """The server's answer, which may be the cause of the error; None if there was none."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return getattr(response, "status_code", None)


def _explained(error: Exception, name: str, file: str, no_network: bool) -> OSError:
    """Why a file could not be had, and what to do, in one sentence."""
    from huggingface_hub import constants, errors

    if no_network:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        return OSError(
            f"there is no file or folder {name}, and as a model of the Hugging Face hub it cannot be had: {why}, "
            "and it is not in the cache"
        )
    if isinstance(error, errors.GatedRepoError) or _status(error) == 403:
        return OSError(
            f"{name} on the Hugging Face hub is gated: ask for access on its page there, then log in "
            "(`hf auth login`, or HF_TOKEN in the environment)"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or _status(error) in (401, 404):
        return FileNotFoundError(
            f"there is no file or folder {name}, nor a model of that name on the Hugging Face hub, unless it is a "
            "private one (`hf auth login`)"
        )
    answer = f"its server answers {_status(error)}" if _status(error) else str(error).strip().partition("\n")[0]
    return OSError(f"{file} of {name} could not be fetched from the Hugging Face hub, try again: {answer}")
