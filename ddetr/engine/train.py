"""The training loop, for the command line, for notebooks and for torchrun."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..data import CocoDetection
from ..models import DeformableDETR
from ..models.finite import check_weights
from . import distributed
from .batches import train_loader
from .bookkeeping import Bookkeeping
from .checkpoint import load_training_state, read_training_state
from .evaluate import check_classes
from .run import Callback, TrainOptions, TrainState
from .schedule import build_optimizer, set_learning_rate
from .step import train_step


def train(
    model: DeformableDETR,
    dataset: CocoDetection,
    options: TrainOptions,
    out: str | Path,
    *,
    val: CocoDetection | None = None,
    resume: bool | dict[str, Any] = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> TrainState:
    """Train `model` in place on `dataset`, as `options` say, and evaluate it on `val`.

    `out` gets model.safetensors, checkpoint.pt, metrics.jsonl, and snapshots/ if asked; `progress` shows a bar.

    Ctrl-C finishes the step, writes a checkpoint and returns. `resume` goes on from `out`/checkpoint.pt (or from what
    `read_training_state` read), with the same images, augmentation and dropout as if it had never stopped. `callbacks`
    are called with each line of the log, and their `before_step(state)`, if they have one, before each step;
    `state.stopped = True` in one ends the run.

    Raises:
        ValueError: bad input to the model; an empty data set, or one of other categories than the model's.
        FloatingPointError: a loss or gradient became NaN or infinite, or a weight is; nothing was saved after that.
        CheckpointError: `resume` with a checkpoint that is damaged, or of another model or data set.
        OSError: a file could not be written, on a full disk for example; the checkpoint before it is whole.
    """
    if not len(dataset):
        raise ValueError(f"no images to train on in {dataset.annotation_file}")
    check_classes(model, dataset)
    model.train()
    state = start_state(model, len(dataset), options)
    if resume:
        load_training_state(state, read_training_state(Path(out) / "checkpoint.pt") if resume is True else resume)
    check_weights(model)
    state.parallel = distributed.data_parallel(model)

    with stop_on_signals(state), Bookkeeping(state, options, Path(out), val, callbacks, progress) as books:
        started = time.monotonic()
        for images, targets in _batches(dataset, state, options):
            started += books.between_steps()  # saving and evaluating is no training time
            if agree_to_stop(state) or state.progress(options) >= 1:
                break
            rate = set_learning_rate(state.optimizer, options.recipe, state.step, state.progress(options))
            report = train_step(state, images, targets, options)
            state.step += 1
            now = time.monotonic()
            state.seconds, started = state.seconds + now - started, now
            books.after_step(rate, report)
        agree_to_stop(state)
        books.finish()
    return state


def start_state(model: DeformableDETR, num_images: int, options: TrainOptions) -> TrainState:
    """A run before its first step."""
    return TrainState(
        model,
        build_optimizer(model, options.recipe),
        num_images=num_images,
        images_per_step=options.images_per_step,
        scaler=torch.amp.GradScaler(model.flatten.level_embed.device.type, enabled=options.precision == "fp16"),
    )


def agree_to_stop(state: TrainState) -> bool:
    """Whether any process was asked to stop. All go by rank 0's clock, so that all end at the same step."""
    stopped, seconds = distributed.sum_over_ranks(state.stopped, state.seconds if distributed.is_main() else 0.0)
    state.seconds = seconds
    if stopped:
        state.stopped = True
    return stopped > 0  # what all agreed on, not state.stopped: a signal may have come since


def _batches(dataset: CocoDetection, state: TrainState, options: TrainOptions) -> DataLoader:
    last_step = None if options.epochs is None else options.epochs * state.steps_per_epoch
    place = (distributed.rank(), distributed.world_size())
    return train_loader(dataset, state.images_per_step, options.seed, options.workers, state.step, last_step, *place)


@contextmanager
def stop_on_signals(state: TrainState) -> Iterator[None]:
    """Ctrl-C and SIGTERM set `state.stopped`, so that no step is cut in half. A second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: Any) -> None:
        state.stopped = True
        if distributed.world_size() == 1:  # torchrun hands on what the terminal has sent already
            signal.signal(number, before[number])

    for number in before:
        signal.signal(number, request)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
