"""Which images each step sees. Everything drawn depends on the seed and the step alone, so a run can go on anywhere."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import CocoDetection, collate

GROUP = 8
"""Batches whose images are sorted by aspect ratio among one another: few enough that each batch is a random one."""


class StepBatches:
    """A batch sampler that starts at any step: each epoch is a new order of all images, the last batch may be short.

    Images of like shape share a batch, since what one is narrower than another is padding: a sixth of the area in
    batches of two at random, a third in batches of four, 3 and 5 % so (ToyCOCO).

    Of `world_size` processes each takes its share of the same batch, as equal as can be; in a short one it may be none.
    `aspect_ratios` has width / height of each image.
    """

    def __init__(
        self,
        aspect_ratios: Sequence[float],
        batch_size: int,
        seed: int,
        first_step: int,
        last_step: int | None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.aspect_ratios = torch.tensor(aspect_ratios, dtype=torch.float64)
        self.batch_size, self.seed = batch_size, seed
        self.first_step, self.last_step = first_step, last_step
        self.rank, self.world_size = rank, world_size
        self.per_epoch = math.ceil(len(aspect_ratios) / batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Batches of (epoch, index)."""
        step, batches, epoch_of_batches = self.first_step, [torch.empty(0)], -1
        while self.last_step is None or step < self.last_step:
            epoch, batch = divmod(step, self.per_epoch)
            if epoch != epoch_of_batches:
                batches, epoch_of_batches = self._batches(epoch), epoch
            yield [(epoch, index) for index in batches[batch][self.rank :: self.world_size].tolist()]
            step += 1

    def _batches(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        order = torch.randperm(len(self.aspect_ratios), generator=generator)
        batches: list[Tensor] = []
        for some in order.split(GROUP * self.batch_size):
            batches += some[self.aspect_ratios[some].argsort(stable=True)].split(self.batch_size)
        full = len(order) // self.batch_size
        return [batches[i] for i in torch.randperm(full, generator=generator)] + batches[full:]


class SeededDataset(Dataset):
    """Draws an image's augmentation from (seed, epoch, index), in whichever process it is loaded."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix_seed(self.seed, epoch, index))
            return self.dataset[index]


def mix_seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers, in which neighbours have nothing in common (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state >> 1


def train_loader(
    dataset: CocoDetection,
    batch_size: int,
    seed: int,
    workers: int,
    first_step: int,
    last_step: int | None,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """Batches (images, targets) of the steps from `first_step` on; endless if `last_step` is None."""
    steps = StepBatches(dataset.aspect_ratios, batch_size, seed, first_step, last_step, rank, world_size)
    return DataLoader(
        SeededDataset(dataset, seed), batch_sampler=steps, collate_fn=collate, num_workers=workers,
        worker_init_fn=leave_ctrl_c_to_the_main_process,
    )  # fmt: skip


def leave_ctrl_c_to_the_main_process(worker: int) -> None:
    """For a DataLoader's processes: a terminal and a notebook send the interrupt to all, but one alone decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
