"""What a run can go on from, exactly as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoints import CheckpointError, save_model, save_training_state
from ..checkpoints.reading import read_torch
from ..config import DeformableDETRConfig
from .run import TrainState
from .scores import printable


def save_run(state: TrainState, out: Path) -> None:
    """Write checkpoint.pt (to go on from) and model.safetensors (for use), each of them whole or not at all."""
    contents = {
        "config": state.model.config.to_dict(),
        "categories": state.model.categories,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
        "num_images": state.num_images,
        "images_per_step": state.images_per_step,
        "images_seen": state.images_seen,
    }
    save_training_state(contents, out / "checkpoint.pt")  # first: weights alone would be taken for a finished run's
    save_model(state.model, out / "model.safetensors")


def snapshot_path(out: Path, step: int) -> Path:
    """Where the weights of a step are kept: a time-lapse of what the run learns."""
    return out / "snapshots" / f"step_{step:06d}.safetensors"


def snapshots(out: Path) -> list[tuple[int, Path]]:
    """(step, file) of the weights that were kept, in order."""
    named = [(path.stem.removeprefix("step_"), path) for path in (out / "snapshots").glob("step_*.safetensors")]
    return sorted((int(number), path) for number, path in named if number.isdigit())


def read_training_state(path: Path) -> dict[str, Any]:
    """What `save_run` wrote as checkpoint.pt. FileNotFoundError, or CheckpointError if it is something else."""
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: no {path}")
    contents = read_torch(path)
    needed = {"config", "categories", "model", "optimizer", "step", "seconds", "num_images", "images_seen"}
    if not isinstance(contents, dict) or not needed <= contents.keys():
        raise CheckpointError(f"{path} is no checkpoint of a training run")
    return contents


def check_resumable(contents: dict[str, Any], state: TrainState) -> None:
    """CheckpointError if a checkpoint is of another model, other data, or other batches than `state`."""
    config = state.model.config.to_dict()
    had_config = DeformableDETRConfig.from_dict(contents["config"]).to_dict()  # a field that is newer has its default
    changed = [key for key in config if had_config[key] != config[key]]
    if changed:
        described = ", ".join(f"{key}={had_config[key]!r}, not {config[key]!r}" for key in changed)
        raise CheckpointError(f"the checkpoint is of another model: {described}")
    if contents["categories"] != state.model.categories:
        raise CheckpointError(
            f"the checkpoint was trained on {_names(contents['categories'])}; the data now has "
            f"{_names(state.model.categories)}: a run is resumed on the same data"
        )
    if contents["num_images"] != state.num_images:
        raise CheckpointError(
            f"the checkpoint was trained on {contents['num_images']} images; the data now has {state.num_images}: "
            "a run is resumed on the same data"
        )
    old, new = contents["optimizer"]["param_groups"], state.optimizer.param_groups
    had, has = muon_factor(old) > 0, muon_factor(new) > 0
    if had != has:
        advice = "leave out muon_factor=0 (--muon-factor 0)" if had else "muon_factor=0 (--muon-factor 0) does"
        raise CheckpointError(
            f"the run moved its matrices with {'Muon' if had else 'AdamW'}, and would not from here on: {advice}"
        )
    if [len(group["params"]) for group in old] != [len(group["params"]) for group in new]:
        raise CheckpointError(
            "the run's optimiser groups the parameters as another version did: --weights RUN/model.safetensors with "
            "another --out starts from what it has learnt"
        )
    before = contents.get("images_per_step", state.images_per_step)  # early checkpoints do not say
    if before != state.images_per_step:
        raise CheckpointError(
            f"the run took {before} images a step, and would now take {state.images_per_step}: processes, batch_size "
            "and accumulate may change, but not their product"
        )


def muon_factor(groups: list[dict[str, Any]]) -> float:
    """The factor that an optimiser of these parameter `groups` was built with; 0 without Muon."""
    return next((group["factor"] for group in groups if group.get("name") == "transformer matrices"), 0.0)


def _names(categories: list[dict[str, Any]] | None) -> str:
    """For a sentence."""
    names = [printable(category["name"]) for category in categories or []]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"the categories {shown}" if names else "unnamed categories"


def load_training_state(state: TrainState, contents: dict[str, Any]) -> None:
    """Put what `read_training_state` read into `state`. CheckpointError if it does not belong there."""
    check_resumable(contents, state)
    state.model.load_state_dict(contents["model"])
    options = [
        {key: group[key] for key in ("factor", "weight_decay", "orthogonal")} for group in state.optimizer.param_groups
    ]
    state.optimizer.load_state_dict(contents["optimizer"])
    for group, own in zip(state.optimizer.param_groups, options, strict=True):
        group.update(own)  # this run's recipe, not the one that it began with
    if contents.get("scaler") and state.scaler.is_enabled():
        state.scaler.load_state_dict(contents["scaler"])
    state.step, state.seconds, state.images_seen = contents["step"], contents["seconds"], contents["images_seen"]


def remove_leftovers(out: Path, step: int) -> None:
    """Remove what a killed process left half-written, and snapshots of steps that will be taken again."""
    for name in ("model.safetensors", "checkpoint.pt", "metrics.jsonl", "settings.json"):
        for path in out.glob(f".{name}.*"):  # see `replacing`
            path.unlink()
    for path in (out / "snapshots").glob(".step_*"):
        path.unlink()
    for number, path in snapshots(out):
        if number > step:
            path.unlink()
