"""The training loop, for the command line and for notebooks."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoints import CheckpointError, save_model, save_training_state
from ..checkpoints.reading import read_torch
from ..data import CocoDetection
from ..models import DeformableDETR
from .batches import mix_seed, train_loader
from .evaluate import evaluate
from .schedule import PAPER_RECIPE, Recipe, build_optimizer, clip_gradients, set_learning_rate


@dataclass(frozen=True)
class TrainOptions:
    """One run. Its length is `epochs`, or `minutes` of training time (evaluation and pauses do not count).

    Raises:
        ValueError: not exactly one of the two, or a number out of range.
    """

    epochs: int | None = None
    minutes: float | None = None
    batch_size: int = 2
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
        length = self.epochs if self.minutes is None else self.minutes
        for name, value in (
            ("epochs or minutes", length),
            ("batch_size", self.batch_size),
            ("log_every", self.log_every),
            ("eval_every", self.eval_every),
            ("keep_every", self.keep_every),
        ):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive; got {value}")


@dataclass
class TrainState:
    """Where a run is. `step` counts finished optimiser steps, `seconds` their training time."""

    model: DeformableDETR
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    num_images: int = 0
    """Images of the data set, so that a run is not resumed on another one."""
    images_seen: int = 0
    stopped: bool = False
    """Whether Ctrl-C (or SIGTERM) ended the run early."""

    def position(self, options: TrainOptions, steps_per_epoch: int) -> float:
        """How far the run is, in the unit of its length: epochs or minutes."""
        return self.step / steps_per_epoch if options.minutes is None else self.seconds / 60

    def progress(self, options: TrainOptions, steps_per_epoch: int) -> float:
        """0 at the start of the run, 1 at its end."""
        length = options.epochs if options.minutes is None else options.minutes
        return self.position(options, steps_per_epoch) / length


def is_due(every: float | None, before: float, now: float) -> bool:
    """Whether a multiple of `every` lies between two positions of a run, the latter included."""
    return every is not None and now // every > before // every


Callback = Callable[[TrainState, dict[str, Any]], None]


def train(
    model: DeformableDETR,
    dataset: CocoDetection,
    options: TrainOptions,
    out: str | Path,
    *,
    val: CocoDetection | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> TrainState:
    """Train `model` in place and write `out`: model.safetensors, checkpoint.pt, metrics.jsonl, and snapshots/ if asked.

    Ctrl-C finishes the step, writes a checkpoint and returns. `resume` goes on from `out`/checkpoint.pt, with the same
    images, augmentation and dropout as if it had never stopped. `callbacks` are called with each line of the log.

    Raises:
        ValueError: bad input to the model; an empty data set.
        FloatingPointError: a loss or gradient became NaN or infinite; nothing was saved after that.
        CheckpointError: `resume` with a checkpoint that is damaged, or of another model or data set.
    """
    if not len(dataset):
        raise ValueError(f"no images to train on in {dataset.annotation_file}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model.train()
    state = TrainState(model, build_optimizer(model, options.recipe), num_images=len(dataset))
    if resume:
        load_training_state(state, out / "checkpoint.pt")
    steps_per_epoch = -(-len(dataset) // options.batch_size)
    last_step = None if options.epochs is None else options.epochs * steps_per_epoch
    loader = train_loader(dataset, options.batch_size, options.seed, options.workers, state.step, last_step)
    log = _Log(out / "metrics.jsonl", state, callbacks, resume)
    saved = started = time.monotonic()

    def evaluate_and_log() -> None:
        metrics = evaluate(model, val, progress=progress, interrupted=stop.is_set).metrics
        log.write("eval", epoch=round(state.step / steps_per_epoch, 4), **metrics)

    if not resume:
        keep_snapshot(state, out, options)
    with _stop_on_interrupt() as stop:
        with _bar(state, options, last_step, progress) as bar:
            for images, targets in loader if state.progress(options, steps_per_epoch) < 1 else ():
                rate = set_learning_rate(
                    state.optimizer, options.recipe, state.step, state.progress(options, steps_per_epoch)
                )
                before = state.position(options, steps_per_epoch)
                losses, norm = train_step(state, images, targets, options)
                state.step += 1
                now = time.monotonic()
                state.seconds, started = state.seconds + now - started, now
                if losses and state.step % options.log_every == 0:
                    log.write("train", epoch=round(state.step / steps_per_epoch, 4), lr=rate, grad_norm=norm, **losses)
                    bar.set_postfix(loss=f"{losses['loss']:.3f}", refresh=False)
                _advance(bar, state, options)

                position = state.position(options, steps_per_epoch)
                if is_due(options.keep_every, before, position):
                    keep_snapshot(state, out, options)
                if stop.is_set() or state.progress(options, steps_per_epoch) >= 1:
                    break
                due = val is not None and is_due(options.eval_every, before, position)
                if due or now - saved > options.save_every:
                    save_run(state, out)
                    saved = now
                if due:
                    with contextlib.suppress(KeyboardInterrupt):  # `stop` ends the run after the next step
                        evaluate_and_log()
                started = time.monotonic()  # saving and evaluating is not training time
        if not state.images_seen and state.step:
            raise ValueError(f"none of the {len(dataset)} images could be read: nothing was learnt")
        save_run(state, out)
        if val is not None and not stop.is_set():
            with contextlib.suppress(KeyboardInterrupt):
                evaluate_and_log()
        state.stopped = stop.is_set()
    return state


def train_step(
    state: TrainState, images: list[Tensor], targets: list[dict[str, Any]], options: TrainOptions
) -> tuple[dict[str, float], float]:
    """One optimiser step: forward, backward, clip, update. Returns the losses, with their sum as `loss`, and the norm.

    A batch whose images were all skipped changes nothing and gives no losses.
    """
    if not images:
        return {}, 0.0
    state.images_seen += len(images)
    torch.manual_seed(mix_seed(options.seed, state.step))  # dropout, as if the run had never been interrupted
    device = state.model.flatten.level_embed.device
    try:
        losses = state.model([image.to(device) for image in images], targets)
    except FloatingPointError as error:
        raise FloatingPointError(f"at step {state.step}, image ids {_image_ids(targets)}: {error}") from error
    total = sum(losses.values())
    numbers = dict(zip(["loss", *losses], torch.stack([total, *losses.values()]).tolist(), strict=True))
    _check_finite(numbers, state.step, targets)
    state.optimizer.zero_grad(set_to_none=True)
    total.backward()
    norm = clip_gradients(state.model.parameters(), options.recipe.clip_norm)
    if not norm < float("inf"):
        raise FloatingPointError(
            f"at step {state.step}, image ids {_image_ids(targets)}: the gradient's norm is {norm}. The weights are "
            "those of the step before; try a lower learning rate"
        )
    state.optimizer.step()
    return numbers, norm


def save_run(state: TrainState, out: Path) -> None:
    """Write model.safetensors (for use) and checkpoint.pt (to go on from), each of them whole or not at all."""
    save_model(state.model, out / "model.safetensors")
    contents = {
        "config": state.model.config.to_dict(),
        "categories": state.model.categories,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
        "num_images": state.num_images,
        "images_seen": state.images_seen,
    }
    save_training_state(contents, out / "checkpoint.pt")


def keep_snapshot(state: TrainState, out: Path, options: TrainOptions) -> None:
    """Write the weights once more under the step's number, if the run keeps any: a time-lapse of what it learns."""
    if options.keep_every is None:
        return
    folder = out / "snapshots"
    folder.mkdir(exist_ok=True)
    save_model(state.model, folder / f"step_{state.step:06d}.safetensors")


def load_training_state(state: TrainState, path: Path) -> None:
    """Put a checkpoint of `save_run` into `state`.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is damaged, of another model, or of other data.
    """
    contents = read_training_state(path)
    config = state.model.config.to_dict()
    changed = [key for key in config if contents["config"].get(key) != config[key]]
    if changed:
        described = ", ".join(f"{key}={contents['config'].get(key)!r}, not {config[key]!r}" for key in changed)
        raise CheckpointError(f"{path} is the checkpoint of another model: {described}")
    if contents["categories"] != state.model.categories or contents["num_images"] != state.num_images:
        raise CheckpointError(
            f"{path} was trained on {contents['num_images']} images; the data now has {state.num_images}, or other "
            "categories: a run is resumed on the same data"
        )
    state.model.load_state_dict(contents["model"])
    state.optimizer.load_state_dict(contents["optimizer"])
    state.step, state.seconds, state.images_seen = contents["step"], contents["seconds"], contents["images_seen"]


def read_training_state(path: Path) -> dict[str, Any]:
    """What `save_run` wrote as checkpoint.pt. FileNotFoundError, or CheckpointError if it is something else."""
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: no {path}")
    contents = read_torch(path)
    needed = {"config", "categories", "model", "optimizer", "step", "seconds", "num_images", "images_seen"}
    if not isinstance(contents, dict) or not needed <= contents.keys():
        raise CheckpointError(f"{path} is no checkpoint of a training run")
    return contents


class _Log:
    """metrics.jsonl, one object a line, and the callbacks that want to hear of it."""

    def __init__(self, path: Path, state: TrainState, callbacks: Sequence[Callback], resume: bool) -> None:
        self.path, self.state, self.callbacks = path, state, callbacks
        kept = ""
        if resume and path.exists():
            # Lines of steps after the checkpoint will be written again; a killed run may have left half a line.
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            lines = [line for line in lines if _step_of(line) <= state.step]
            kept = "".join(line + "\n" for line in lines)
        path.write_text(kept)

    def write(self, kind: str, **values: Any) -> None:
        line = {"kind": kind, "step": self.state.step, "minutes": round(self.state.seconds / 60, 4), **values}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for callback in self.callbacks:
            callback(self.state, line)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _check_finite(losses: dict[str, float], step: int, targets: list[dict[str, Any]]) -> None:
    bad = [name for name, value in losses.items() if not abs(value) < float("inf") and name != "loss"]
    if bad:
        raise FloatingPointError(
            f"at step {step}, image ids {_image_ids(targets)}: {bad[0]} is {losses[bad[0]]}. The last checkpoint's "
            "weights are untouched; try a lower learning rate"
        )


def _image_ids(targets: list[dict[str, Any]]) -> str:
    return ", ".join(str(target.get("image_id", "?")) for target in targets)


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that no step is cut in half. A second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bar(state: TrainState, options: TrainOptions, last_step: int | None, progress: bool) -> tqdm:
    if options.minutes is not None:
        form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} min{postfix}"
        return tqdm(
            total=options.minutes, initial=state.seconds / 60, desc="train", bar_format=form, disable=not progress
        )
    return tqdm(total=last_step, initial=state.step, desc="train", unit="step", disable=not progress)


def _advance(bar: tqdm, state: TrainState, options: TrainOptions) -> None:
    target = state.step if options.minutes is None else min(state.seconds / 60, options.minutes)
    bar.update(target - bar.n)
