"""What a call costs: its time, and the memory of the tensors that it makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Cost(NamedTuple):
    """Of one call: the fastest of a few runs, and the most bytes of new tensors alive at once."""

    seconds: float
    peak_bytes: int


def measure(run: Callable[[], Any], repeats: int = 3) -> Cost:
    """Run it once to count memory, which also warms up, then `repeats` times against the clock."""
    peak = peak_bytes(run)
    return Cost(min(seconds(run) for _ in range(repeats)), peak)


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most bytes that tensors made by `run` hold at once, its backward passes and its result included.

    Counted tensor by tensor, so the same on every machine; what a kernel needs inside one operation is not seen.
    """
    with _TensorCounter() as counter:
        result = run()
    del result
    return counter.peak


def seconds(run: Callable[[], Any]) -> float:
    """How long one call takes, a GPU's work included."""
    _wait()
    started = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    """A GPU works on after the call has returned."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class _TensorCounter(TorchDispatchMode):
    """Sees each operation's arguments and results, and forgets those whose memory has been given back."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}  # what was there before counts 0 bytes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self._note((args, kwargs), made=False)
        result = func(*args, **(kwargs or {}))
        self._note(result, made=True)
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self._alive.values()))
        return result

    def _note(self, tree: Any, made: bool) -> None:
        for tensor in tree_leaves(tree):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                entry = (StorageWeakRef(storage), storage.nbytes() if made else 0)
                self._alive.setdefault(storage._cdata, entry)
