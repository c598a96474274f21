"""What a run leaves behind while it trains: its log, checkpoints, snapshots and evaluations."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..checkpoints import save_model
from ..data import CocoDetection
from .checkpoint import remove_leftovers, save_run, snapshot_path
from .distributed import is_main
from .evaluate import evaluate
from .log import RunLog, peak_memory
from .run import Callback, TrainOptions, TrainState, is_due
from .step import StepReport


class Bookkeeping:
    """The main process's; another process has one that does nothing."""

    def __init__(
        self,
        state: TrainState,
        options: TrainOptions,
        out: Path,
        val: CocoDetection | None,
        callbacks: Sequence[Callback],
        progress: bool,
    ) -> None:
        self.state, self.options, self.out, self.val = state, options, out, val
        self.progress = progress and is_main()
        self.bar = _bar(state, options, self.progress)
        self.before_step = [callback.before_step for callback in callbacks if hasattr(callback, "before_step")]
        if not is_main():
            return
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out, state.step)
        self.log = RunLog(out / "metrics.jsonl", state, callbacks)
        self.saved, self.saved_at = -1, time.monotonic()  # by this process
        self.kept = state.position(options)
        line = self.log.evaluation
        self.evaluated = 0.0 if line is None else line["epoch"] if options.minutes is None else line["minutes"]
        self.logged = (state.images_seen, state.seconds)
        if options.keep_every is not None and not state.step:
            self._keep()
        if state.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(state.device)

    def __enter__(self) -> Bookkeeping:
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()

    def between_steps(self) -> float:
        """Save and evaluate what is due, and let callbacks wait; the seconds that took are no training time."""
        started = time.monotonic()
        if is_main():
            position = self.state.position(self.options)
            evaluation_due = self.val is not None and is_due(self.options.eval_every, self.evaluated, position)
            keep_due = is_due(self.options.keep_every, self.kept, position)
            save_due = started - self.saved_at > self.options.save_every
            if self.state.step > self.saved and (keep_due or evaluation_due or save_due):
                self._save()  # before a snapshot: what is kept can be gone on from
            if keep_due:
                self._keep()
            if self.val and evaluation_due and self.state.progress(self.options) < 1:  # the end has one of its own
                self._evaluate(self.val)
            for before_step in self.before_step:
                before_step(self.state)
        return time.monotonic() - started

    def after_step(self, rate: float, report: StepReport) -> None:
        """Log the step if it is its turn, and move the progress bar."""
        if not is_main():
            return
        state, options = self.state, self.options
        if report.losses and state.step % options.log_every == 0:
            images, seconds = state.images_seen - self.logged[0], state.seconds - self.logged[1]
            self.logged = (state.images_seen, state.seconds)
            memory, scale = peak_memory(state.device), state.scaler.get_scale()
            self.log.write(
                "train",
                epoch=round(state.step / state.steps_per_epoch, 4),
                lr=rate,
                grad_norm=report.grad_norm,
                images_per_second=round(images / max(seconds, 1e-9), 2),
                padded=round(report.padded, 4),
                **({"memory_mib": memory} if memory is not None else {}),
                **({"loss_scale": scale} if state.scaler.is_enabled() else {}),
                **report.losses,
            )
            self.bar.set_postfix(loss=f"{report.losses['loss']:.3f}", refresh=False)
        done = state.step if options.minutes is None else min(state.seconds / 60, options.minutes)
        self.bar.update(done - self.bar.n)

    def finish(self) -> None:
        """The last snapshot, checkpoint and evaluation. ValueError if no image could be read."""
        state = self.state
        if not state.images_seen and state.step:
            raise ValueError(f"none of the {state.num_images} images could be read: nothing was learnt")
        if not is_main():
            return
        if is_due(self.options.keep_every, self.kept, state.position(self.options)):
            self._keep()
        if state.step > self.saved:
            self._save()
        evaluated = self.log.evaluation is not None and self.log.evaluation["step"] == state.step
        if self.val is not None and not state.stopped and not evaluated:
            self._evaluate(self.val)

    def _keep(self) -> None:
        path = snapshot_path(self.out, self.state.step)
        path.parent.mkdir(exist_ok=True)
        save_model(self.state.model, path)
        self.kept = self.state.position(self.options)

    def _save(self) -> None:
        save_run(self.state, self.out)
        self.saved, self.saved_at = self.state.step, time.monotonic()

    def _evaluate(self, val: CocoDetection) -> None:
        state = self.state
        with contextlib.suppress(KeyboardInterrupt):  # `stopped` ends the run
            metrics = evaluate(state.model, val, progress=self.progress, interrupted=lambda: state.stopped).metrics
            self.log.write("eval", epoch=round(state.step / state.steps_per_epoch, 4), **metrics)
            self.evaluated = state.position(self.options)


def _bar(state: TrainState, options: TrainOptions, progress: bool) -> tqdm:
    if options.minutes is not None:
        form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} min{postfix}"
        return tqdm(
            total=options.minutes, initial=state.seconds / 60, desc="train", bar_format=form, disable=not progress
        )
    last_step = options.length * state.steps_per_epoch
    return tqdm(total=last_step, initial=state.step, desc="train", unit="step", disable=not progress)
