"""One run: what was asked for, and where it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from ..models import DeformableDETR
from . import distributed
from .schedule import PAPER_RECIPE, Recipe

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainOptions:
    """One run. Its length is `epochs`, or `minutes` of training time (evaluation and pauses do not count).

    Raises:
        ValueError: not exactly one of the two, or a number out of range.
    """

    epochs: int | None = None
    minutes: float | None = None
    batch_size: int = 2
    """Images of one forward pass, in each process."""
    accumulate: int = 1
    """Forward passes whose gradients make one optimiser step, as if their images had been one batch."""
    precision: str = "fp32"
    """Of the network: "fp32", or "bf16" or "fp16" by autocast. Matching and losses are always float32."""
    recipe: Recipe = PAPER_RECIPE
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    save_every: float = 60.0
    """Seconds between two checkpoints."""
    eval_every: float | None = None
    """Epochs, or in a run of so many minutes minutes, between two evaluations; None: only at the end."""
    keep_every: float | None = None
    """In the same unit: how often the weights are kept as snapshots/step_NNNNNN.safetensors, the fresh ones first."""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.minutes is None):
            raise ValueError(f"give either epochs or minutes; got epochs={self.epochs}, minutes={self.minutes}")
        for name in ("epochs", "minutes", "batch_size", "accumulate", "log_every", "eval_every", "keep_every"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite; got {value}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")

    @property
    def length(self) -> float:
        """In epochs or minutes."""
        return cast(float, self.epochs if self.minutes is None else self.minutes)

    @property
    def images_per_step(self) -> int:
        """Images that one optimiser step sees, in all processes together; fewer in the last step of an epoch."""
        return self.batch_size * self.accumulate * distributed.world_size()


@dataclass
class TrainState:
    """Where a run is. `step` counts finished optimiser steps, `seconds` their training time."""

    model: DeformableDETR
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    num_images: int = 0
    """Images of the data set, so that a run is not resumed on another one."""
    images_per_step: int = 1
    images_seen: int = 0
    """By all processes together."""
    stopped: bool = False
    """Whether the run ends early. Ctrl-C and SIGTERM set it, and a callback may: the run ends after its step."""
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    """Keeps float16's small gradients from becoming zero; does nothing in other precisions."""
    parallel: nn.Module | None = None
    """`model` as its forward pass is called: wrapped by DistributedDataParallel if there are several processes."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.flatten.level_embed.device

    @property
    def steps_per_epoch(self) -> int:
        """The last of them may have fewer images."""
        return math.ceil(self.num_images / self.images_per_step)

    def position(self, options: TrainOptions) -> float:
        """How far the run is, in the unit of the length in `options`: epochs or minutes."""
        return self.step / self.steps_per_epoch if options.minutes is None else self.seconds / 60

    def progress(self, options: TrainOptions) -> float:
        """0 at the start of the run, 1 at the end that `options` give it."""
        return self.position(options) / options.length


Callback = Callable[[TrainState, dict[str, Any]], None]
"""Called with each line of the log: `line["kind"]` is "train" (losses, lr, ...) or "eval" (AP, ...).

If it has a method `before_step(state)`, that is called before each step as well; its time is no training time.
"""


def is_due(every: float | None, before: float, now: float) -> bool:
    """Whether a multiple of `every` lies between two positions of a run, the latter included."""
    if every is None:
        return False
    # Without the small number 1.0 would hold nine times 0.1, and a run's end would not be due.
    return math.floor(now / every + 1e-9) > math.floor(before / every + 1e-9)
