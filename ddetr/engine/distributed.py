"""Several processes that train one model, as torchrun starts them, on PyTorch's DistributedDataParallel.

Every process (rank) holds the whole model and sees its share of each step's images; the gradients are averaged. Rank 0
alone logs, saves and evaluates. Without torchrun everything here is for one process, and does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# The others wait while rank 0 evaluates, so this is longer than any evaluation. A process that dies is noticed at once,
# by its broken connections and by torchrun.
TIMEOUT = timedelta(hours=12)


def world_size() -> int:
    """The number of processes; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that logs, saves and evaluates."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join torchrun's other processes, if it started this one. `device` is where this one's model will be.

    Raises:
        ConnectionError: another process ended in the middle of the run.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Small numbers are exchanged on the host, so that nobody waits for a GPU to agree on when to stop.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "Connection closed by peer" in str(error) or "gloo" in str(error):
            raise ConnectionError(f"process {rank()} stops, because another one has; its error is above") from error
        raise
    dist.destroy_process_group()  # not after an error: the others may never come


def data_parallel(model: nn.Module) -> nn.Module:
    """The model, wrapped so that backward averages the gradients over the processes if there are several."""
    if world_size() == 1:
        return model
    return DistributedDataParallel(model)


def averaging(model: nn.Module, last: bool) -> AbstractContextManager:
    """Around forward and backward: gradients are averaged over the processes in the `last` pass of a step only."""
    return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()


def sum_over_ranks(*values: float) -> list[float]:
    """Each value's sum over all processes; every process must call it."""
    if world_size() == 1:
        return [float(value) for value in values]
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total)
    return total.tolist()
