"""One optimiser step: forward, backward, clip, update."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import distributed
from .batches import mix_seed
from .diagnose import bad_gradients, explain_not_finite, image_ids, not_finite_images
from .run import PRECISIONS, TrainOptions, TrainState
from .schedule import clip_gradients

Targets = list[dict[str, Any]]


class StepReport(NamedTuple):
    """What a step did, over all processes.

    Attributes:
        losses: each term and their sum, as `loss`; empty if there was no image.
        grad_norm: norm of the whole gradient before it was clipped; not finite where fp16 overflowed, and the step was
            left out.
        num_images: images of the step.
        padded: share of the batches' area that was padding.
    """

    losses: dict[str, float]
    grad_norm: float
    num_images: int
    padded: float


def train_step(state: TrainState, images: list[Tensor], targets: Targets, options: TrainOptions) -> StepReport:
    """One optimiser step on this process's `images` and `targets`, in parts of `options.batch_size`.

    `state.step` is left to the caller.

    All losses are divided by the number of objects in the whole step, whatever part or process they are in, so that
    the gradient is that of one big batch. What is not the same: a part is padded to its own largest image, and dropout
    draws anew. A step whose images were all skipped changes nothing.

    Raises:
        ValueError: images or targets that the model does not take; names the image ids.
        FloatingPointError: a loss or gradient that is NaN or infinite; the weights are those of the step before.
    """
    own_boxes = sum(len(target["labels"]) for target in targets)
    num_images, num_boxes = distributed.sum_over_ranks(len(images), own_boxes)
    if not num_images:
        return StepReport({}, 0.0, 0, 0.0)
    state.images_seen += int(num_images)
    # Dropout, as if the run had never been interrupted, and another one in each process.
    torch.manual_seed(mix_seed(options.seed, state.step, distributed.rank()))
    state.optimizer.zero_grad(set_to_none=True)
    divisor = max(num_boxes, 1) / distributed.world_size()  # gradients are averaged over the processes
    parts = _parts(images, targets, options.batch_size) if images else [_blank()]
    numbers: dict[str, float] = {}
    for n, part in enumerate(parts, start=1):
        with distributed.averaging(state.parallel or state.model, last=n == len(parts)):
            with autocast(state.device, options.precision):
                losses = _losses(state, *part, divisor)
            if not images:
                losses = {name: loss * 0 for name, loss in losses.items()}
            state.scaler.scale(losses["loss"]).backward()
        for name, value in _to_host(losses).items():
            numbers[name] = numbers.get(name, 0.0) + value / distributed.world_size()
    norm = _update(state, targets, options)
    *means, used, area = distributed.sum_over_ranks(*numbers.values(), *_areas(parts if images else []))
    return StepReport(dict(zip(numbers, means, strict=True)), norm, int(num_images), 1 - used / area)


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The network's precision in a `with` block; parameters, optimiser, matching and losses stay float32."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _parts(images: list[Tensor], targets: Targets, size: int) -> list[tuple[list[Tensor], Targets]]:
    return [(images[i : i + size], targets[i : i + size]) for i in range(0, len(images), size)]


def _blank() -> tuple[list[Tensor], Targets]:
    """What a process without an image runs, because it must take part in averaging; its losses count nothing."""
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "image_id": "none"}
    return [torch.zeros(3, 64, 64)], [nothing]


def _losses(state: TrainState, images: list[Tensor], targets: Targets, divisor: float) -> dict[str, Tensor]:
    """The sum, as `loss`, and each term; all finite."""
    where = f"at step {state.step}, image ids {image_ids(targets)}"
    images = [image.to(state.device) for image in images]
    try:
        losses = (state.parallel or state.model)(images, targets, divisor)
    except FloatingPointError as error:
        raise FloatingPointError(f"{where}: {error}. {explain_not_finite(state.model, images)}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}{not_finite_images(images, targets)}") from error
    bad = {name: value for name, value in _to_host(losses).items() if not abs(value) < float("inf")}
    if bad:
        name, value = next(iter(bad.items()))
        raise FloatingPointError(f"{where}: {name} is {value}. {explain_not_finite(state.model, images)}")
    return {"loss": sum(losses.values()), **losses}


def _to_host(losses: dict[str, Tensor]) -> dict[str, float]:
    return dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))  # one wait for the GPU


def _update(state: TrainState, targets: Targets, options: TrainOptions) -> float:
    """Clip and take the optimiser's step; returns the gradient's norm."""
    state.scaler.unscale_(state.optimizer)
    norm = clip_gradients(state.model.parameters(), options.recipe.clip_norm)
    # In fp16 the scaler leaves such a step out and halves its scale; at 1 there is nothing left to blame on fp16.
    if not norm < float("inf") and state.scaler.get_scale() <= 1:
        raise FloatingPointError(
            f"at step {state.step}, image ids {image_ids(targets)}: the gradient's norm is {norm}: "
            f"{bad_gradients(state.model)}. The weights are those of the step before; try a lower learning rate"
        )
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return norm


def _areas(parts: list[tuple[list[Tensor], Targets]]) -> tuple[int, int]:
    """Pixels of the images, and of the padded batches that hold them."""
    sizes = [[(image.shape[-2], image.shape[-1]) for image in images] for images, _ in parts]
    used = sum(h * w for part in sizes for h, w in part)
    area = sum(len(part) * max(h for h, _ in part) * max(w for _, w in part) for part in sizes)
    return used, area
