"""The optimiser's parameter groups and its learning rate over time."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..config import DeformableDETRConfig
from ..data import AUGMENTATIONS
from .muon import Muon

SCHEDULES = ("step", "cosine")


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's (section 5 and appendix A.4); lengths are in optimiser steps.

    Attributes:
        lr: learning rate of the transformer.
        slow_factor: what `lr` is multiplied by for `sampling_offsets` and `reference_points`.
        backbone_factor: what `lr` is multiplied by for the backbone.
        muon_factor: what `lr` is multiplied by for the matrices of the hidden layers, which `Muon` then moves; 0: AdamW
            moves them like the rest, as in the paper.
        clip_norm: largest norm of the whole gradient; 0 for no limit.
        warmup: steps over which the rate rises from 0; the paper has none.
        schedule: "step" falls to a tenth at `drop_at`; "cosine" falls from the full rate to 0 as half a cosine.
        augment: "paper", "light" or "none", see `train_transform`, `light_transform` and `eval_transform`.
        drop_at: "step" only: fraction of the run after which the rate falls: epoch 40 of 50.

    Raises:
        ValueError: no such schedule or augmentation, or a number out of range.
    """

    lr: float = 2e-4
    weight_decay: float = 1e-4
    slow_factor: float = 0.1
    backbone_factor: float = 0.1
    muon_factor: float = 0.0
    clip_norm: float = 0.1
    warmup: int = 0
    augment: str = "paper"
    schedule: str = "step"
    drop_at: float = 0.8

    def __post_init__(self) -> None:
        for name in (
            "lr", "weight_decay", "slow_factor", "backbone_factor", "muon_factor", "clip_norm", "warmup", "drop_at",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number of at least 0; got {getattr(self, name)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}; got {self.schedule!r}")
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {', '.join(AUGMENTATIONS)}; got {self.augment!r}")


PAPER_RECIPE = Recipe()
# From scratch the backbone has everything to learn, so it takes the full rate. Box-refinement models with little data
# learn several times faster at a higher rate, if the first steps are small. Without crops, and at the size of the test,
# the first minutes bring about twice the AP; the drawn data is varied enough.
TINY_RECIPE = Recipe(lr=4e-4, backbone_factor=1.0, warmup=100, augment="light", schedule="cosine")
# Fresh weights have something to learn in more directions than AdamW's steps take: with Muon the same images bring 1.7
# times the AP50 (docs/training.md).
TINY_FROM_SCRATCH = replace(TINY_RECIPE, muon_factor=8.0)


def default_recipe(config: DeformableDETRConfig, from_scratch: bool = False) -> Recipe:
    """What a model of this `config` is trained with: the tiny ones by recipes of their own, the others as in the paper.

    from_scratch: whether its weights are fresh.
    """
    if config.backbone != "resnet10":
        return PAPER_RECIPE
    return TINY_FROM_SCRATCH if from_scratch else TINY_RECIPE


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """The optimiser's groups for `model`, with the rates of `recipe`.

    Each has a `name`: "transformer", "backbone", "slow" for what places the samples. With a `muon_factor` the hidden
    matrices of the first two are groups of their own, "transformer matrices" and "backbone matrices", for `Muon`.

    Every trainable parameter is in exactly one; frozen ones are in none.
    """
    factors = {
        "transformer": 1.0,
        "backbone": recipe.backbone_factor,
        "slow": recipe.slow_factor,
        "transformer matrices": recipe.muon_factor,
        "backbone matrices": recipe.muon_factor * recipe.backbone_factor,
    }
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in factors}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrices = " matrices" if recipe.muon_factor and _is_hidden_matrix(name, parameter) else ""
            groups[_group_of(name) + matrices].append(parameter)
    return [
        {
            "name": name, "params": parameters, "lr": recipe.lr * factors[name], "factor": factors[name],
            "orthogonal": name.endswith("matrices"),
        }
        for name, parameters in groups.items()
        if parameters
    ]  # fmt: skip


def _group_of(name: str) -> str:
    if name.startswith("backbone."):
        return "backbone"
    return "slow" if "sampling_offsets" in name or ".reference_points." in name else "transformer"


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Between other layers: neither the first nor a last one, no embedding, nor what says where to sample."""
    others = ("body.conv1", "class_embed", "level_embed", "query_embed", "reference_points", "sampling_offsets",
        "attention_weights")  # fmt: skip
    gives_boxes = "box_embed" in name and len(parameter) == 4
    return parameter.ndim > 1 and not gives_boxes and not any(part in name for part in others)


def build_optimizer(model: nn.Module, recipe: Recipe) -> Muon:
    """AdamW, and Muon if asked, over the `parameter_groups` of `model` by `recipe`.

    Fused, for a tiny model has many small tensors.
    """
    return Muon(parameter_groups(model, recipe), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, progress: float) -> float:
    """Set each group's rate for this `step` (from 0) and `progress` (0 to 1 of the run); returns the full rate."""
    if recipe.schedule == "cosine":
        rate = recipe.lr * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    else:
        rate = recipe.lr * (0.1 if progress >= recipe.drop_at else 1.0)
    if step < recipe.warmup:
        rate *= (step + 1) / recipe.warmup
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def clip_gradients(parameters: Iterable[nn.Parameter], clip_norm: float) -> float:
    """Scale the gradients down to `clip_norm` if their norm is larger; returns the norm before. 0 only measures.

    If the norm is not finite the gradients are left as they are, for whoever looks for the cause.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_norm and norm.isfinite():
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return float(norm)
