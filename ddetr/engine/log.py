"""A run's log: one JSON object a line, for people and programs; TensorBoard for those who like it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import disk_errors, write_text
from .run import Callback, TrainState


class RunLog:
    """metrics.jsonl, and the callbacks that want to hear of each line.

    A log that is there already keeps its lines up to `state.step`: later ones will be written again. A killed run may
    have left half a line, which is dropped.

    Attributes:
        evaluation: the last line of kind "eval", or None.
    """

    def __init__(self, path: Path, state: TrainState, callbacks: Sequence[Callback]) -> None:
        self.path, self.state, self.callbacks = path, state, callbacks
        self.evaluation: dict[str, Any] | None = None
        kept = []
        if path.exists() and state.step:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= state.step]
            evaluations = [parsed for line in kept if (parsed := json.loads(line)).get("kind") == "eval"]
            self.evaluation = evaluations[-1] if evaluations else None
        write_text(path, "".join(line + "\n" for line in kept))

    def write(self, kind: str, **values: Any) -> None:
        """Append a line with `kind`, `step`, `minutes` and the values; numbers that are not finite become null."""
        line = {"kind": kind, "step": self.state.step, "minutes": round(self.state.seconds / 60, 4), **values}
        line = {name: value if _is_json(value) else None for name, value in line.items()}
        with disk_errors(self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if kind == "eval":
            self.evaluation = line
        for callback in self.callbacks:
            callback(self.state, line)


def _is_json(value: Any) -> bool:
    return not isinstance(value, float) or abs(value) < float("inf")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def peak_memory(device: torch.device) -> int | None:
    """Most memory that was in use, in MiB: PyTorch's on a GPU, otherwise the whole process's; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 2**20 if sys.platform == "darwin" else peak // 2**10  # bytes there, KiB elsewhere


def tensorboard(folder: Path) -> Callable[[TrainState, dict[str, Any]], None]:
    """A callback that writes each number of the log for TensorBoard. ValueError if the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            'TensorBoard is not installed: pip install "ddetr[tensorboard]", or go without; metrics.jsonl has the same '
            "numbers"
        ) from error
    writers: list[SummaryWriter] = []

    def write(state: TrainState, line: dict[str, Any]) -> None:
        if not writers:  # now it is known where a resumed run goes on, and what it will write again
            writers.append(SummaryWriter(str(folder), purge_step=state.step))
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                group = "loss" if name.startswith("loss") else line["kind"]
                writers[0].add_scalar(f"{group}/{name}", value, state.step)
        writers[0].flush()

    return write
